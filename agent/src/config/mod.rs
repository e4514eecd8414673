//! The configuration: flags over files over defaults.
//!
//! `/etc/berth/config.toml` and then `config.d/*.toml` beside it, in the order
//! of their names, are applied to [`Config::default`] key by key; the flags come
//! last. Every mistake of every file is reported at once, with its line. The
//! reference of all keys is `deploy/config.toml`, which ships as the default
//! file; a test keeps it and the code in step.

mod args;
mod command;
mod container;
mod finding;
mod image;
mod load;
mod reader;
mod schema;
mod streaming;
mod telemetry;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use berth_network::NetworkConfig;

pub(crate) use args::{Args, Command, ConfigCommand, DoctorCommand};
pub(crate) use command::run as run_command;
pub(crate) use container::ContainerDefaults;
pub(crate) use finding::{Finding, Findings};
pub(crate) use image::{ImageConfig, Platform, Reserve};
pub(crate) use load::load;
pub(crate) use streaming::StreamingConfig;
pub(crate) use telemetry::{LogFormat, TelemetryConfig};

/// The file that is read when no other is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/berth/config.toml";

/// The default file that ships.
pub(crate) const DEFAULT_TEXT: &str = include_str!("../../../deploy/config.toml");

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// What survives a reboot: records, images, writable layers.
    pub(crate) root: PathBuf,
    /// What does not: sockets, shims, namespaces.
    pub(crate) run_dir: PathBuf,
    /// Endpoints as given; see [`Config::listen`].
    pub(crate) listen: Vec<String>,
    /// Control groups.
    pub(crate) cgroup: CgroupConfig,
    /// Runtime handlers by the name that a RuntimeClass uses.
    pub(crate) runtime_handlers: BTreeMap<String, RuntimeHandler>,
    /// The pods' network.
    pub(crate) network: Network,
    /// Registries and images.
    pub(crate) image: ImageConfig,
    /// What a container gets that does not ask for anything else.
    pub(crate) container: ContainerDefaults,
    /// Streams of exec, attach and port-forward.
    pub(crate) streaming: StreamingConfig,
    /// Metrics, health and logs.
    pub(crate) telemetry: TelemetryConfig,
    /// What a client may use up.
    pub(crate) limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/var/lib/berth"),
            run_dir: PathBuf::from("/run/berth"),
            listen: Vec::new(),
            cgroup: CgroupConfig::default(),
            runtime_handlers: BTreeMap::new(),
            network: Network::default(),
            image: ImageConfig::default(),
            container: ContainerDefaults::default(),
            streaming: StreamingConfig::default(),
            telemetry: TelemetryConfig::default(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// The endpoints to listen on: what is configured, else the agent's socket
    /// in the run directory.
    pub(crate) fn listen(&self) -> Vec<String> {
        if self.listen.is_empty() {
            vec![format!("unix://{}/agent.sock", self.run_dir.display())]
        } else {
            self.listen.clone()
        }
    }

    /// The unix socket of metrics and health.
    pub(crate) fn metrics_socket(&self) -> PathBuf {
        self.run_dir.join("metrics.sock")
    }

    /// Whether pods may name this handler. The empty name is the default one.
    pub(crate) fn has_handler(&self, name: &str) -> bool {
        name.is_empty() || self.runtime_handlers.contains_key(name)
    }

    /// The OCI runtime that handler `name` puts in the place of our own.
    pub(crate) fn other_runtime(&self, name: &str) -> Option<&Path> {
        self.runtime_handlers.get(name)?.path.as_deref()
    }

    /// Every handler, the default one (with the empty name) first.
    pub(crate) fn handler_names(&self) -> impl Iterator<Item = &str> {
        std::iter::once("").chain(self.runtime_handlers.keys().map(String::as_str))
    }

    /// The parent of pods' cgroups where the caller names none.
    pub(crate) fn cgroup_parent(&self) -> &str {
        &self.cgroup.parent
    }

    /// The group that all shims are in, beside that of the pods.
    pub(crate) fn shims_group(&self) -> String {
        format!("{}-shims", self.cgroup.parent.trim_end_matches('/'))
    }

    /// The size of a pod's `/dev/shm` in bytes.
    pub(crate) fn shm_bytes(&self) -> u64 {
        self.container.shm_bytes
    }
}

/// Section `[cgroup]`. Its `driver` is checked and not kept: today there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CgroupConfig {
    /// Parent of pods' groups where the caller names none; absolute.
    pub(crate) parent: String,
}

impl Default for CgroupConfig {
    fn default() -> Self {
        Self {
            parent: "/berth".to_owned(),
        }
    }
}

/// A runtime handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuntimeHandler {
    /// Another OCI runtime that makes the containers; absolute.
    pub(crate) path: Option<PathBuf>,
}

/// Section `[network]`. Its `mode` is checked and not kept: today there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    /// The agent's own bridge.
    pub(crate) builtin: NetworkConfig,
}

/// Section `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Largest gRPC message in bytes, either way. Kubelets accept 16 MiB.
    pub(crate) max_message_bytes: usize,
    /// Calls in flight; more are refused with ResourceExhausted.
    pub(crate) max_concurrent_calls: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 16 << 20,
            max_concurrent_calls: 1024,
        }
    }
}

/// Where the drop-ins of `file` are.
pub(crate) fn drop_in_directory(file: &Path) -> PathBuf {
    file.with_file_name("config.d")
}
