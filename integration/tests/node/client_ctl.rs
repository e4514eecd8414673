//! berthctl, as people type it.

use anyhow::Result;
use berth_integration::{Node, image, registry::Registry};

use crate::fixture::{self, ctl};

fn ok(node: &Node, arguments: &[&str]) -> Result<String> {
    Ok(fixture::ok(node, arguments)?.out)
}

async fn node() -> Result<(Node, Registry, String)> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/shell", "1", &image::busybox()?);
    Ok((node, registry, reference))
}

#[tokio::test(flavor = "multi_thread")]
async fn run_passes_output_and_exit_code_through() -> Result<()> {
    let (node, _registry, image) = node().await?;
    ok(&node, &["pull", &image])?;
    let done = ctl(
        &node,
        &[
            "run",
            "--rm",
            &image,
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ],
    )?;
    assert_eq!((done.code, done.out.as_str()), (7, "out"), "{}", done.err);
    assert!(done.err.contains("err"), "{}", done.err);
    berth_integration::wait::until_true(
        "--rm removes it",
        std::time::Duration::from_secs(5),
        || Ok(ok(&node, &["ps", "-a", "-q"])?.is_empty() && ok(&node, &["pods", "-q"])?.is_empty()),
    )
    .await?;
    // A program that has ended before anybody asks for its end.
    for code in 0..20 {
        let script = format!("exit {code}");
        let done = ctl(&node, &["run", "--rm", &image, "sh", "-c", &script])?;
        assert_eq!(done.code, code, "{}{}", done.out, done.err);
    }
    let missing = ctl(&node, &["run", "--rm", &image, "/no/such/program"])?;
    assert_eq!(missing.code, 127, "{}{}", missing.out, missing.err);
    let unknown = ctl(&node, &["run", "--rm", "no-such-image-here:1"])?;
    assert_eq!(unknown.code, 125, "{}{}", unknown.out, unknown.err);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_its_life_by_name() -> Result<()> {
    let (node, _registry, image) = node().await?;
    ok(&node, &["pull", &image])?;
    let script =
        "trap 'exit 5' TERM; i=0; while :; do i=$((i+1)); echo tick $i; usleep 100000; done";
    let id = ok(
        &node,
        &[
            "run", "-d", "--name", "life", "-e", "A=b c", "-w", "/tmp", &image, "sh", "-c", script,
        ],
    )?;
    assert!(ok(&node, &["ps"])?.contains("life"));
    assert!(ok(&node, &["pods"])?.contains("life"));
    assert!(id.starts_with(&ok(&node, &["ps", "-q"])?[..12]));
    assert_eq!(
        ok(&node, &["exec", "life", "sh", "-c", "echo $A; pwd"])?,
        "b c\n/tmp"
    );
    let failed = ctl(&node, &["exec", "life", "sh", "-c", "exit 9"])?;
    assert_eq!(failed.code, 9);
    let logged = ok(&node, &["logs", "--tail", "1", "life"])?;
    assert!(logged.starts_with("tick "), "{logged}");
    let json = ok(&node, &["ps", "-o", "json"])?;
    serde_json::from_str::<serde_json::Value>(&json)?;
    // What people make is not the kubelet's to see.
    assert!(node.list_containers().await?.is_empty());
    ok(&node, &["stop", "life"])?;
    assert!(ok(&node, &["ps", "-a"])?.contains("Exited"));
    ok(&node, &["rm", "life"])?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_is_answered_with_a_sentence_and_a_code() -> Result<()> {
    let (node, _registry, _image) = node().await?;
    for (arguments, code) in [
        (&["stop", "no-such-container"][..], 1),
        (&["logs", "no-such-container"], 1),
        (&["staats"], 2),
        (&["pull", "UPPER/case"], 1),
    ] {
        let done = ctl(&node, arguments)?;
        assert_eq!(done.code, code, "{arguments:?}: {}", done.err);
        assert!(done.err.split_whitespace().count() >= 4, "{}", done.err);
        assert!(!done.err.contains("panicked"), "{}", done.err);
    }
    let nowhere =
        std::process::Command::new(berth_integration::programs::directory()?.join("berthctl"))
            .args(["-H", "unix:///no/such/socket", "ps"])
            .output()?;
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("/no/such/socket"));
    node.finish().await
}
