//! The same steps, driven by another gRPC implementation in another language,
//! which learns the messages from the agent's own reflection service.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use berth_integration::{Node, image, registry::Registry};
use berth_proto::cri;

use crate::{
    fixture::{OBEYS, Shell},
    streaming::{ALL, TTY, WEB, exec_url},
};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_streams_over_websocket() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("python", &format!("{WEB}; {OBEYS}")).await?;
    let script = "read a; echo got $a; read b; echo got $b; echo problem >&2; exit 7";
    let mut lines = String::new();
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        let url = exec_url(node, &pod.container, &["sh", "-c", script], ALL).await?;
        lines += &format!("exec {protocol} {url}\n");
        let url = exec_url(node, &pod.container, &["sh"], TTY).await?;
        lines += &format!("terminal {protocol} {url}\n");
    }
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![7000],
    };
    let forwarded = node.runtime()?.port_forward(request).await?.into_inner();
    lines += &format!("forward v4.channel.k8s.io {}\n", forwarded.url);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("client/streams.py");
    let output = node.netns().enter(|| {
        let mut child = Command::new("/usr/bin/python3")
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run python3 (package python3-websockets)")?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(lines.as_bytes())?;
        drop(stdin);
        Ok(child.wait_with_output()?)
    })?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out.matches(" ok").count(), 5, "{out}{err}");
    shell.finish().await
}
