//! Images on their way out: archives and pushes. Against Debian's
//! docker-registry, with skopeo as the witness.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Result, ensure};
use berth_integration::{
    Node,
    distribution::{Distribution, PASSWORD, Wants, skopeo},
    image::{self, Image},
    registry::{Act, Registry, Rule},
    wait,
};
use serde_json::{Value, json};

use crate::{
    fixture::{ctl, ctl_from, ok},
    login::{login, secure},
};

/// The digest under which a registry has an image, as skopeo sees it.
fn digest_there(node: &Node, reference: &str, more: &[&str]) -> Result<String> {
    let mut arguments = vec!["inspect", "--format", "{{.Digest}}"];
    arguments.extend(more);
    let reference = format!("docker://{reference}");
    arguments.push(&reference);
    skopeo(node.netns(), &arguments)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_to_another_registry_and_back_without_changing() -> Result<()> {
    // Small enough that the larger layers go in several requests.
    let (node, there) = secure("push_chunk_bytes = 300_000\n").await?;
    let here = Distribution::start(node.netns(), 5000, Wants::default()).await?;
    let image = image::busybox()?;
    let address = here.host().parse()?;
    image::push(&image, node.netns(), address, "test/shell", "1").await?;
    let from = format!("{}/test/shell:1", here.host());
    let to = format!("{}/team/app:1", there.host());
    ok(&node, &["pull", &from])?;
    ok(&node, &["tag", &from, &to])?;

    let refused = ctl(&node, &["push", &to])?;
    assert_eq!(refused.code, 1);
    for word in [
        "127.0.0.1",
        "team/app",
        "anonymous",
        "berthctl login 127.0.0.1:5443",
    ] {
        assert!(
            refused.err.contains(word),
            "{word} is not in: {}",
            refused.err
        );
    }
    assert_eq!(login(&node, there.host(), PASSWORD)?.code, 0);
    let pushed = ok(&node, &["push", &to])?;
    let expect = format!(
        "1: digest: {} size: {}",
        image.digest(),
        image.manifest.len()
    );
    assert_eq!(pushed.out, expect, "{}", pushed.err);
    let certificates = there.authority().display().to_string();
    let secure = ["--cert-dir", &certificates, "--creds", "me:pa55:word"];
    assert_eq!(digest_there(&node, &to, &secure)?, image.digest());
    // Again: nothing is sent.
    let again = ok(&node, &["push", &to])?;
    assert!(
        again.err.contains("is there") && !again.err.contains("sent"),
        "{}",
        again.err
    );
    // The registry has it in a repository already: nothing is sent to the next one either.
    let second = format!("{}/team/copy:1", there.host());
    ok(&node, &["tag", &to, &second])?;
    let mounted = ok(&node, &["push", &second])?;
    assert!(
        mounted.err.contains("from team/app") && !mounted.err.contains("sent"),
        "{}",
        mounted.err
    );

    let gone = ok(&node, &["rmi", &from, &to, &second])?.out;
    let mut told: Vec<_> = gone.lines().collect();
    told.sort_unstable();
    let all = told.len();
    told.dedup();
    assert_eq!(told.len(), all, "something went twice: {gone}");
    assert!(node.list_images().await?.is_empty());
    ok(&node, &["pull", &to])?;
    let digests = node
        .image_status(&to)
        .await?
        .unwrap_or_default()
        .repo_digests;
    assert_eq!(
        digests,
        [format!("{}/team/app@{}", there.host(), image.digest())]
    );

    // Another client takes it from there, and ours takes what that one has made.
    let copy = format!("docker://{}/by/skopeo:1", here.host());
    skopeo(
        node.netns(),
        &[
            "copy",
            "--preserve-digests",
            "--src-cert-dir",
            &certificates,
            "--src-creds",
            "me:pa55:word",
            "--dest-tls-verify=false",
            &format!("docker://{to}"),
            &copy,
        ],
    )?;
    let copy = format!("{}/by/skopeo:1", here.host());
    assert_eq!(
        digest_there(&node, &copy, &["--tls-verify=false"])?,
        image.digest()
    );
    assert!(ok(&node, &["pull", &copy])?.out.contains(&image.digest()));

    drop((here, there));
    fs::remove_dir_all(node.home().join(".docker"))?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_read_by_others_and_brings_the_image_back() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let image = image::busybox()?;
    let reference = registry.add("test/shell", "1", &image);
    ok(&node, &["pull", &reference])?;
    ok(&node, &["tag", &reference, "shell:2"])?;
    let other = registry.add("test/overlaying", "1", &Image::overlaying()?);
    ok(&node, &["pull", &other])?;
    let file = node.home().join("images.tar");
    let name = file.display().to_string();
    ok(&node, &["save", "-o", &name, &reference, "shell:2", &other])?;

    let names: Value = serde_json::from_str(&skopeo(
        node.netns(),
        &[
            "inspect",
            "--config",
            "--raw",
            &format!("docker-archive:{name}:shell:2"),
        ],
    )?)?;
    assert_eq!(
        names["rootfs"]["diff_ids"].as_array().map(Vec::len),
        Some(image.layers.len())
    );
    // The layout in it has the manifest as it was in the registry.
    let unpacked = node.home().join("layout");
    fs::create_dir(&unpacked)?;
    tar::Archive::new(fs::File::open(&file)?).unpack(&unpacked)?;
    let layout = skopeo(
        node.netns(),
        &["inspect", "--raw", &format!("oci:{}:2", unpacked.display())],
    )?;
    assert_eq!(image::digest(layout.as_bytes()), image.digest());

    ok(&node, &["rmi", &reference, "shell:2", &other])?;
    assert!(node.list_images().await?.is_empty());
    let loaded = ok(&node, &["load", "-i", &name])?.out;
    for name in [&reference, "docker.io/library/shell:2", &other] {
        assert!(
            loaded.contains(&format!("Loaded image: {name}")),
            "{loaded}"
        );
    }
    assert_eq!(
        node.image_status("shell:2").await?.map(|found| found.id),
        Some(image.id.clone())
    );
    // What was loaded can be saved again, compressed or not, through pipes.
    let packed = node.home().join("again.tar.gz");
    let script = format!(
        "'{0}/berthctl' -H {1} save shell:2 | gzip > {2}",
        berth_integration::programs::directory()?.display(),
        node.endpoint(),
        packed.display()
    );
    ensure!(
        std::process::Command::new("sh")
            .args(["-c", &script])
            .status()?
            .success()
    );
    ok(&node, &["rmi", &image.id])?;
    let loaded = ctl_from(&node, &["load"], fs::File::open(&packed)?.into())?;
    assert_eq!(
        loaded.out, "Loaded image: docker.io/library/shell:2",
        "{}",
        loaded.err
    );
    for path in [&file, &packed] {
        fs::remove_file(path)?;
    }
    fs::remove_dir_all(unpacked)?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_this_machines_image_is_pushed_and_the_user_is_told() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let own = image::busybox()?;
    let foreign = Image::for_platform(&[], json!({}), "s390x")?;
    let index = Image::index(&[("s390x", foreign), (image::architecture(), own.clone())])?;
    let reference = registry.add("test/index", "1", &index);
    ok(&node, &["pull", &reference])?;
    let to = format!("{}/team/own:1", registry.address());
    ok(&node, &["tag", &reference, &to])?;
    let pushed = ok(&node, &["push", &to])?;
    assert!(pushed.out.contains(&own.digest()), "{}", pushed.out);
    assert!(
        pushed.err.contains("note: ") && pushed.err.contains("1 more"),
        "{}",
        pushed.err
    );
    let digests = node
        .image_status(&to)
        .await?
        .unwrap_or_default()
        .repo_digests;
    let expect = format!("{}/team/own@{}", registry.address(), own.digest());
    assert!(digests.contains(&expect), "{digests:?}");
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_nobody_waits_for_any_more_ends() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/shell", "1", &image::busybox()?);
    ok(&node, &["pull", &reference])?;
    let to = format!("{}/team/slow:1", registry.address());
    ok(&node, &["tag", &reference, &to])?;
    registry.rule(Rule::on(
        "/v2/team/slow/blobs/uploads",
        Act::Delay(Duration::from_secs(60)),
    ));
    registry.rule(Rule::on("/v2/team/slow/blobs/", Act::status(404)));
    let program = berth_integration::programs::directory()?.join("berthctl");
    let mut child = std::process::Command::new(program)
        .args(["-H", &node.endpoint(), "push", &to])
        .env("HOME", node.home())
        .stderr(Stdio::null())
        .spawn()?;
    let pushing = |node: &Node| Ok::<_, anyhow::Error>(ok(node, &["ops"])?.out.contains("push"));
    let limit = Duration::from_secs(10);
    wait::until_true("the push waits for the registry", limit, || {
        Ok(pushing(&node)? && registry.count("uploads") > 0)
    })
    .await?;
    child.kill()?;
    child.wait()?;
    wait::until_true("the push ends", limit, || Ok(!pushing(&node)?)).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tags_of_a_repository_go_at_once() -> Result<()> {
    let node = Node::start().await?;
    let registry = Distribution::start(node.netns(), 5000, Wants::default()).await?;
    let image = image::busybox()?;
    let name = |tag: &str| format!("{}/team/tags:{tag}", registry.host());
    image::push(
        &image,
        node.netns(),
        registry.host().parse()?,
        "team/tags",
        "1",
    )
    .await?;
    ok(&node, &["pull", &name("1")])?;
    for tag in ["2", "latest"] {
        ok(&node, &["tag", &name("1"), &name(tag)])?;
    }
    let repository = format!("{}/team/tags", registry.host());
    let pushed = ok(&node, &["push", "--all-tags", &repository])?.out;
    let tags: Vec<_> = pushed
        .lines()
        .filter_map(|line| line.split(':').next())
        .collect();
    assert_eq!(tags, ["1", "2", "latest"]);
    for tag in tags {
        assert_eq!(
            digest_there(&node, &name(tag), &["--tls-verify=false"])?,
            image.digest()
        );
    }
    drop(registry);
    node.finish().await
}
