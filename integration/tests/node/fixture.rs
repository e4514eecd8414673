//! What most tests begin with.

use std::{process::Stdio, time::Duration};

use anyhow::{Result, ensure};
use berth_integration::{Node, image, pod, registry::Registry, wait};
use berth_proto::cri;

/// A node with an image of a shell.
pub struct Shell {
    pub node: Node,
    pub registry: Registry,
    /// The reference that it was pulled by.
    pub image: String,
    /// Its id.
    pub image_id: String,
}

impl Shell {
    pub async fn start() -> Result<Self> {
        Self::on(Node::start().await?).await
    }

    pub async fn on(node: Node) -> Result<Self> {
        let registry = Registry::start(node.netns())?;
        let image = registry.add("test/shell", "1", &image::busybox()?);
        let image_id = node.pull(&image).await?;
        Ok(Self {
            node,
            registry,
            image,
            image_id,
        })
    }

    /// A pod with one running container of `sh -c SCRIPT`.
    pub async fn pod(&self, name: &str, script: &str) -> Result<Pod> {
        let config = pod::sandbox(&self.node, name);
        let id = self.node.run_pod(&config).await?;
        let container = pod::shell("main", &self.image, script);
        let container = self.node.run(&id, &container, &config).await?;
        Ok(Pod {
            config,
            id,
            container,
        })
    }

    /// A container of `sh -c SCRIPT` for [`pod::sandbox`]'s kind of pod.
    pub fn container(&self, name: &str, script: &str) -> cri::ContainerConfig {
        pod::shell(name, &self.image, script)
    }

    pub async fn finish(self) -> Result<()> {
        self.node.finish().await
    }
}

/// A pod with its first container.
pub struct Pod {
    pub config: cri::PodSandboxConfig,
    pub id: String,
    pub container: String,
}

/// Lives until it is stopped, and then ends at once with code 0.
pub const OBEYS: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 100 & wait $!; done";
/// Lives until it is killed.
pub const IGNORES: &str = "trap '' TERM; echo ready; while :; do sleep 100; done";

/// Waits for the line `ready`: process 1 of a PID namespace does not even get a
/// signal that it has no trap for yet.
pub async fn ready(node: &Node, container: &str) -> Result<()> {
    wait::until("the program is ready", Duration::from_secs(10), || async {
        let entries = node.logged(container).await?;
        Ok(entries
            .iter()
            .any(|entry| entry.content == b"ready")
            .then_some(()))
    })
    .await
}

/// Whether a process with this number runs (a zombie does not).
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    !matches!(state, None | Some("Z" | "X"))
}

/// Checks code and words of a refusal: what a person is told must name the
/// thing that is wrong.
pub fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, tonic::Status>,
    codes: &[tonic::Code],
    words: &[&str],
) {
    let status = result.expect_err("this should have been refused");
    assert!(
        codes.contains(&status.code()),
        "{codes:?} wanted: {status:?}"
    );
    let text = status.message().to_lowercase();
    for word in words {
        assert!(
            text.contains(&word.to_lowercase()),
            "no {word:?} in {text:?}"
        );
    }
    // A sentence, not a code or a debug print.
    assert!(text.split_whitespace().count() >= 3, "{text:?}");
    assert!(
        !text.contains("some(") && !text.contains("os { code"),
        "{text:?}"
    );
}

/// What a run of berthctl came to.
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs berthctl to its end.
pub fn ctl(node: &Node, arguments: &[&str]) -> Result<Done> {
    ctl_from(node, arguments, Stdio::null())
}

/// The same with a standard input.
pub fn ctl_from(node: &Node, arguments: &[&str], input: Stdio) -> Result<Done> {
    let output = node.ctl_from(arguments, input)?;
    Ok(Done {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        err: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Runs berthctl, which must succeed.
pub fn ok(node: &Node, arguments: &[&str]) -> Result<Done> {
    let done = ctl(node, arguments)?;
    ensure!(
        done.code == 0,
        "{arguments:?}: {} {}{}",
        done.code,
        done.out,
        done.err
    );
    Ok(done)
}
