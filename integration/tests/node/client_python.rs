//! The same steps, driven by another gRPC implementation in another language,
//! which learns the messages from the agent's own reflection service.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};
use berth_integration::{Node, image, registry::Registry};

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_drives_a_pod_from_pull_to_removal() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/count", "1", &image::demo()?);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("client/steps.py");
    let group = node.pod_group("python")?;
    let output = node.netns().enter(|| {
        Command::new("/usr/bin/python3")
            .arg(&script)
            .arg(node.endpoint())
            .arg(&reference)
            .arg(node.home().join("logs"))
            .arg(&group)
            .output()
            .context("run python3 (packages python3-grpcio and python3-protobuf)")
    })?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("all steps done"), "{out}");
    node.finish().await
}
