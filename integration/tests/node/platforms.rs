//! Images of several platforms as a whole: in, out and back, with every digest as it was.

use std::fs;

use anyhow::Result;
use berth_integration::{
    Node,
    distribution::{Distribution, Wants, skopeo},
    image::{self, Entry, Image, Layer},
    registry::Registry,
};
use serde_json::{Value, json};

use crate::fixture::{ctl, ok};

const FOREIGN: &str = "s390x";

/// An index of two platforms, and the image of the foreign one.
fn index() -> Result<(Image, Image)> {
    let layer = |text: &str| Layer::gzip(&[Entry::file("foreign", 0o644, text)]);
    let foreign = Image::for_platform(&[layer("a")?, layer("b")?], json!({}), FOREIGN)?;
    let own = image::busybox()?;
    let index = Image::index(&[(FOREIGN, foreign.clone()), (image::architecture(), own)])?;
    Ok((index, foreign))
}

fn raw_digest(node: &Node, place: &str) -> Result<String> {
    let raw = skopeo(
        node.netns(),
        &["inspect", "--tls-verify=false", "--raw", place],
    )?;
    Ok(image::digest(raw.as_bytes()))
}

/// Blobs that the store of the node has as files.
fn blobs(node: &Node) -> Result<usize> {
    Ok(fs::read_dir(node.home().join("root/images/blobs/sha256"))?.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_goes_to_another_registry_and_back_with_all_its_platforms() -> Result<()> {
    let node = Node::start().await?;
    let from = Registry::start(node.netns())?;
    let (whole, foreign) = index()?;
    let reference = from.add("test/index", "1", &whole);
    let there = Distribution::start(node.netns(), 5000, Wants::default()).await?;
    let to = format!("{}/team/index:1", there.host());

    let pulled = ok(&node, &["pull", "--all-platforms", &reference])?;
    assert!(pulled.out.contains(&whole.digest()), "{}", pulled.out);
    assert_eq!(
        node.image_status(&reference).await?.map(|image| image.id),
        Some(whole.id.clone())
    );
    ok(&node, &["tag", &reference, &to])?;
    let pushed = ok(&node, &["push", &to])?;
    assert!(pushed.out.contains(&whole.digest()), "{}", pushed.out);
    assert!(!pushed.err.contains("note"), "{}", pushed.err);
    assert_eq!(
        raw_digest(&node, &format!("docker://{to}"))?,
        whole.digest()
    );
    let by_digest = format!("docker://{}/team/index@{}", there.host(), foreign.digest());
    assert_eq!(raw_digest(&node, &by_digest)?, foreign.digest());

    // Another client copies it, all of it, into a layout and into a repository.
    let layout = node.home().join("layout");
    let copy = format!("{}/by/skopeo:1", there.host());
    for target in [
        format!("oci:{}:1", layout.display()),
        format!("docker://{copy}"),
    ] {
        let arguments = [
            "copy",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            &format!("docker://{to}"),
            &target,
        ];
        skopeo(node.netns(), &arguments)?;
    }
    assert_eq!(
        raw_digest(&node, &format!("docker://{copy}"))?,
        whole.digest()
    );

    // What it has made comes back whole, from both.
    ok(&node, &["rmi", &reference, &to])?;
    assert_eq!(blobs(&node)?, 0);
    let name = "loaded:1";
    ok(&node, &["import", &layout.display().to_string(), name])?;
    let again = format!("{}/team/again:1", there.host());
    ok(&node, &["tag", name, &again])?;
    assert!(ok(&node, &["push", &again])?.out.contains(&whole.digest()));
    ok(&node, &["rmi", name, &again])?;
    ok(&node, &["pull", "--all-platforms", &copy])?;

    // And through an archive of ours.
    let archive = node.home().join("index.tar").display().to_string();
    ok(&node, &["save", "-o", &archive, &copy])?;
    ok(&node, &["rmi", &copy])?;
    assert_eq!(blobs(&node)?, 0);
    ok(&node, &["load", "-i", &archive])?;
    let last = format!("{}/team/last:1", there.host());
    ok(&node, &["tag", &copy, &last])?;
    assert!(ok(&node, &["push", &last])?.out.contains(&whole.digest()));
    // One platform alone, if that is what is asked for.
    ok(&node, &["rmi", &copy, &last])?;
    ok(
        &node,
        &[
            "load",
            "--platform",
            &format!("linux/{FOREIGN}"),
            "-i",
            &archive,
        ],
    )?;
    let status = node.image_status(&copy).await?;
    assert_eq!(status.map(|image| image.id), Some(foreign.id));

    fs::remove_file(archive)?;
    fs::remove_dir_all(layout)?;
    drop(there);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_platforms_image_is_pulled_by_its_name_and_nonsense_is_refused() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let (whole, foreign) = index()?;
    let reference = registry.add("test/index", "1", &whole);
    let own = format!("linux/{FOREIGN}");
    ok(&node, &["pull", "--platform", &own, &reference])?;
    let status = node.image_status(&reference).await?;
    assert_eq!(status.map(|image| image.id), Some(foreign.id));
    for (platform, word) in [
        ("linux/riscv64", "linux/s390x"),
        ("riscv64", "OS/ARCHITECTURE"),
        ("linux/../x", "OS/ARCHITECTURE"),
    ] {
        let refused = ctl(&node, &["pull", "--platform", platform, &reference])?;
        assert_eq!(refused.code, 1, "{platform}");
        assert!(refused.err.contains(word), "{platform}: {}", refused.err);
    }
    // Something of another platform's image is missing: all or nothing.
    let broken = registry.add("test/broken", "1", &whole);
    registry.rule(berth_integration::registry::Rule::on(
        &foreign.layers[1],
        berth_integration::registry::Act::status(404),
    ));
    ok(&node, &["rmi", &reference])?;
    let refused = ctl(&node, &["pull", "--all-platforms", &broken])?;
    assert!(refused.err.contains(&foreign.layers[1]), "{}", refused.err);
    assert!(node.list_images().await?.is_empty());
    // What was complete of it stays for the next try, or goes with the next collection.
    registry.clear_rules();
    ok(&node, &["pull", &reference])?;
    ok(&node, &["rmi", &reference])?;
    assert_eq!(blobs(&node)?, 0);
    node.finish().await
}

/// The same image through two manifests: what each of its names stands for stays.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_came_through_two_manifests_keeps_both() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let image = image::busybox()?;
    let first = registry.add("test/one", "1", &image);
    let mut annotated: Value = serde_json::from_slice(&image.manifest)?;
    annotated["annotations"] = json!({"of": "the second"});
    let other = Image {
        manifest: serde_json::to_vec(&annotated)?,
        ..image.clone()
    };
    let second = registry.add("test/two", "1", &other);
    for reference in [&first, &second] {
        assert_eq!(node.pull(reference).await?, image.id);
    }
    let status = node.image_status(&first).await?.unwrap_or_default();
    let mut digests = status.repo_digests;
    digests.sort();
    let host = registry.address();
    let expect = [
        format!("{host}/test/one@{}", image.digest()),
        format!("{host}/test/two@{}", other.digest()),
    ];
    assert_eq!(digests, expect);

    let there = Distribution::start(node.netns(), 5000, Wants::default()).await?;
    for (from, digest) in [(&first, image.digest()), (&second, other.digest())] {
        let to = format!("{}/team/both:{}", there.host(), &digest[7..15]);
        ok(&node, &["tag", from, &to])?;
        let pushed = ok(&node, &["push", &to])?;
        assert!(pushed.out.contains(&digest), "{from}: {}", pushed.out);
        assert_eq!(raw_digest(&node, &format!("docker://{to}"))?, digest);
        let archive = node.home().join("one.tar");
        ok(&node, &["save", "-o", &archive.display().to_string(), from])?;
        let mut members = tar::Archive::new(fs::File::open(&archive)?);
        let index = members.entries()?.find_map(|entry| {
            let entry = entry.ok()?;
            let named = entry.path().is_ok_and(|path| path.ends_with("index.json"));
            named.then(|| serde_json::from_reader::<_, Value>(entry).ok())?
        });
        assert_eq!(index.unwrap_or_default()["manifests"][0]["digest"], digest);
        fs::remove_file(archive)?;
    }
    drop(there);
    node.finish().await
}
