//! Names of images: given, moved and taken away.

use anyhow::Result;
use berth_integration::{
    Node,
    image::{self, Image},
    registry::Registry,
};

use crate::fixture::{ctl, ok};

#[tokio::test(flavor = "multi_thread")]
async fn names_come_and_go_and_the_image_with_the_last_one() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let image = image::busybox()?;
    let reference = registry.add("test/shell", "1", &image);
    ok(&node, &["pull", &reference])?;
    ok(&node, &["tag", &image.id, "one"])?;
    ok(&node, &["tag", "one", "two:2"])?;
    assert_eq!(ctl(&node, &["tag", "one", "UPPER/case"])?.code, 1);
    assert_eq!(ctl(&node, &["tag", "no-such-image", "three"])?.code, 1);

    // A name that is given to another image leaves the first.
    let other = registry.add("test/overlaying", "1", &Image::overlaying()?);
    ok(&node, &["pull", &other])?;
    let moved = ok(&node, &["tag", &other, "two:2"])?;
    assert!(moved.err.contains("named image"), "{}", moved.err);
    let is = async |name: &str| -> Result<Option<String>> {
        Ok(node.image_status(name).await?.map(|image| image.id))
    };
    assert_ne!(is("two:2").await?, Some(image.id.clone()));

    ok(&node, &["untag", "one"])?;
    assert_eq!(is("one").await?, None);
    assert_eq!(is(&reference).await?, Some(image.id.clone()));
    let gone = ok(&node, &["rmi", "two:2"])?.out;
    assert_eq!(gone, "Untagged: docker.io/library/two:2");
    let gone = ok(&node, &["rmi", &other])?.out;
    assert!(gone.contains("Deleted: sha256:"), "{gone}");
    // A name that is the last but not taken with its image leaves it nameless.
    ok(&node, &["tag", &reference, "last"])?;
    ok(&node, &["untag", &reference, "last"])?;
    assert_eq!(is(&image.id).await?, Some(image.id.clone()));

    // An image that a container was made from goes only by force.
    ok(&node, &["tag", &image.id, "used"])?;
    ok(
        &node,
        &[
            "rmi",
            &format!("{}@{}", reference.trim_end_matches(":1"), image.digest()),
        ],
    )?;
    ok(
        &node,
        &["run", "-d", "--name", "user", "used", "sleep", "1000"],
    )?;
    let refused = ctl(&node, &["rmi", "used"])?;
    assert!(
        refused.code == 1 && refused.err.contains("--force"),
        "{}",
        refused.err
    );
    assert_eq!(is("used").await?, Some(image.id.clone()));
    ok(&node, &["rmi", "--force", "used"])?;
    assert_eq!(
        ok(&node, &["exec", "user", "echo", "still here"])?.out,
        "still here"
    );
    // Names outlive the agent.
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_tagged_is_there_after_a_crash() -> Result<()> {
    let mut node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/shell", "1", &image::busybox()?);
    ok(&node, &["pull", &reference])?;
    ok(&node, &["tag", &reference, "kept:1"])?;
    ok(&node, &["untag", &reference])?;
    node.crash_and_restart().await?;
    assert!(node.image_status("kept:1").await?.is_some());
    assert_eq!(node.image_status(&reference).await?, None);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_does_not_take_the_name_of_another_image_unless_told_to() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/shell", "1", &image::busybox()?);
    ok(&node, &["pull", &reference])?;
    ok(&node, &["tag", &reference, "pause:3"])?;
    let other = Image::overlaying()?;
    let file = node.home().join("archive.tar");
    std::fs::write(&file, other.layout_tar("docker.io/library/pause:3")?)?;
    let path = file.display().to_string();
    let before = node.image_status("pause:3").await?;
    let refused = ctl(&node, &["load", "-i", &path])?;
    assert_eq!(refused.code, 1);
    for word in ["docker.io/library/pause:3", "--force"] {
        assert!(refused.err.contains(word), "{}", refused.err);
    }
    assert_eq!(node.image_status("pause:3").await?, before);
    assert_eq!(node.list_images().await?.len(), 1);

    let loaded = ok(&node, &["load", "--force", "-i", &path])?.out;
    assert_eq!(loaded, "Loaded image: docker.io/library/pause:3");
    let now = node.image_status("pause:3").await?.unwrap_or_default();
    assert_eq!(now.id, other.id);
    // Again is the same image, and so is nothing that anybody must be asked about.
    ok(&node, &["load", "-i", &path])?;
    std::fs::remove_file(file)?;
    node.finish().await
}
