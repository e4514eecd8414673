//! A node with images that are not well-meaning.

use std::path::PathBuf;

use anyhow::Result;
use berth_integration::{
    Node,
    image::{self, Entry},
    pod,
    registry::Registry,
};
use berth_proto::cri;
use serde_json::{Value, json};

use crate::probe;

/// Lives until it is stopped.
pub const LIVES: &str = "trap 'exit 0' TERM; while :; do sleep 100 & wait $!; done";

/// What Kubernetes hides and protects unless it is told otherwise.
pub const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
pub const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub struct Ground {
    pub node: Node,
    pub registry: Registry,
    /// A shell, and the probe as `/bin/probe`.
    pub image: String,
}

impl Ground {
    pub async fn start() -> Result<Self> {
        Self::on(Node::start().await?).await
    }

    pub async fn on(node: Node) -> Result<Self> {
        let registry = Registry::start(node.netns())?;
        let mut ground = Self {
            node,
            registry,
            image: String::new(),
        };
        ground.image = ground.image("shell", &[], json!({})).await?;
        Ok(ground)
    }

    /// Pulls an image with the shell, the probe, `entries` over them and `config`
    /// beside the usual.
    pub async fn image(&self, name: &str, entries: &[Entry], config: Value) -> Result<String> {
        let mut all = vec![Entry::file(
            "bin/probe",
            0o755,
            std::fs::read(probe::program()?)?,
        )];
        all.extend_from_slice(entries);
        let mut whole = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] });
        for (key, value) in config.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        let image = image::busybox_with(&all, whole)?;
        let reference = self.registry.add(&format!("test/{name}"), "1", &image);
        self.node.pull(&reference).await?;
        Ok(reference)
    }

    /// A pod as Kubernetes asks for it.
    pub async fn pod(&self, name: &str) -> Result<Pod<'_>> {
        self.pod_with(pod::sandbox(&self.node, name)).await
    }

    pub async fn pod_with(&self, config: cri::PodSandboxConfig) -> Result<Pod<'_>> {
        let id = self.node.run_pod(&config).await?;
        Ok(Pod {
            ground: self,
            config,
            id,
        })
    }

    /// A container as Kubernetes asks for it: masks and the default filter.
    pub fn container(&self, name: &str, script: &str) -> cri::ContainerConfig {
        self.of_image(&self.image, name, &["sh", "-c", script])
    }

    pub fn of_image(&self, image: &str, name: &str, command: &[&str]) -> cri::ContainerConfig {
        let mut container = pod::program(name, image, command);
        let context = pod::security(&mut container);
        context.masked_paths = MASKED.map(str::to_owned).into();
        context.readonly_paths = READONLY.map(str::to_owned).into();
        context.seccomp = Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
            ..Default::default()
        });
        container
    }

    /// A new directory of the node's.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.node.home().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    pub async fn finish(self) -> Result<()> {
        self.node.finish().await
    }
}

pub struct Pod<'a> {
    pub ground: &'a Ground,
    pub config: cri::PodSandboxConfig,
    pub id: String,
}

impl Pod<'_> {
    pub async fn create(&self, container: &cri::ContainerConfig) -> Result<String, tonic::Status> {
        let node = &self.ground.node;
        node.create(&self.id, container, &self.config).await
    }

    /// Creates and starts.
    pub async fn run(&self, container: &cri::ContainerConfig) -> Result<String, tonic::Status> {
        let node = &self.ground.node;
        node.run(&self.id, container, &self.config).await
    }

    /// Runs `script` as a container of its own to its end: its code and what it printed.
    pub async fn end_of(&self, container: &cri::ContainerConfig) -> Result<(i32, String)> {
        let id = self.run(container).await?;
        let node = &self.ground.node;
        let status = node.exited(&id).await?;
        let mut text = String::new();
        for entry in node.logged(&id).await? {
            text += &String::from_utf8_lossy(&entry.content);
            text.push('\n');
        }
        node.remove_container(&id).await?;
        Ok((status.exit_code, text))
    }
}

/// A bind mount, readable and writable.
pub fn bind(host_path: impl Into<PathBuf>, container_path: &str) -> cri::Mount {
    cri::Mount {
        container_path: container_path.into(),
        host_path: host_path.into().display().to_string(),
        ..Default::default()
    }
}

/// The value of a field of /proc/PID/status.
pub fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim_start_matches(':').trim()
}
