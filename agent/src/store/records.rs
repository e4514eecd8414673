//! What the store keeps of one object.
//!
//! A record is JSON, so that fields can be added: every field that is not part
//! of an object's identity has a default. What a caller sent is kept as the
//! bytes of its protobuf message, because it must come back exactly.

use std::{collections::BTreeMap, net::IpAddr};

use berth_proto::cri;
use serde::{Deserialize, Serialize};

use super::Durability;
use crate::{
    container,
    ids::{ContainerId, SandboxId},
    sandbox,
};

/// Who made an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MadeBy {
    /// A caller of the CRI, such as a kubelet. No reboot resumes it.
    #[default]
    Cri,
    /// People, through `berth.v1`; hidden from CRI callers.
    People,
}

impl MadeBy {
    /// What the records of such an object must outlive: what people made
    /// survives a power cut, what a kubelet made is made anew after one.
    pub(crate) fn durability(self) -> Durability {
        match self {
            Self::Cri => Durability::Soon,
            Self::People => Durability::Synced,
        }
    }
}

/// A pod sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    /// Its identifier.
    pub(crate) id: SandboxId,
    /// As it was asked for.
    #[serde(skip)]
    pub(crate) config: cri::PodSandboxConfig,
    /// As it was asked for; empty for the default.
    #[serde(default)]
    pub(crate) runtime_handler: String,
    /// Where it is in its life.
    pub(crate) state: sandbox::state::State,
    /// Unix nanoseconds.
    pub(crate) created_at: i64,
    /// Who made it.
    #[serde(default)]
    pub(crate) made_by: MadeBy,
    /// The cgroup below which its containers are, in effect: a path from the
    /// hierarchy's root, or a slice with the systemd driver.
    #[serde(default)]
    pub(crate) cgroup_parent: String,
    /// Overhead and resources as UpdatePodSandboxResources last gave them.
    #[serde(default)]
    pub(crate) updated: Option<PodResources>,
    /// Its removal has begun and must be finished.
    #[serde(default)]
    pub(crate) removing: bool,
}

/// What a kubelet says of a pod's resources after a resize.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodResources {
    /// What the pod itself costs.
    #[serde(with = "super::message")]
    pub(crate) overhead: cri::LinuxContainerResources,
    /// The sum of its containers.
    #[serde(with = "super::message")]
    pub(crate) resources: cri::LinuxContainerResources,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Its identifier.
    pub(crate) id: ContainerId,
    /// The sandbox that it is in.
    pub(crate) sandbox_id: SandboxId,
    /// As it was asked for.
    #[serde(skip)]
    pub(crate) config: cri::ContainerConfig,
    /// Where it is in its life.
    pub(crate) state: container::state::State,
    /// Unix nanoseconds.
    pub(crate) created_at: i64,
    /// Who made it.
    #[serde(default)]
    pub(crate) made_by: MadeBy,
    /// Digest of the image's configuration.
    #[serde(default)]
    pub(crate) image_id: String,
    /// `repository@digest` where it is known, else the image's id.
    #[serde(default)]
    pub(crate) image_ref: String,
    /// Absolute path of the log file; empty for none.
    #[serde(default)]
    pub(crate) log_path: String,
    /// The container's cgroup: a path from the hierarchy's root, or a scope
    /// with the systemd driver.
    #[serde(default)]
    pub(crate) cgroup: String,
    /// Whom its first process runs as.
    #[serde(default)]
    pub(crate) user: User,
    /// Linux signal number that asks it to stop.
    #[serde(default)]
    pub(crate) stop_signal: i32,
    /// The limits in effect: as asked for, with every update since.
    #[serde(default, with = "super::message")]
    pub(crate) resources: cri::LinuxContainerResources,
    /// In effect.
    #[serde(default)]
    pub(crate) oom_score_adj: i32,
    /// Whether the kernel did not allow what was asked for.
    #[serde(default)]
    pub(crate) oom_score_adj_clamped: bool,
    /// The directories of its image's layers, uppermost first.
    #[serde(default)]
    pub(crate) layers: Vec<String>,
    /// Images mounted as volumes, by id: they must not be removed meanwhile.
    #[serde(default)]
    pub(crate) volume_images: Vec<String>,
    /// Remove container and pod once its exit has been told.
    #[serde(default)]
    pub(crate) remove_after_exit: bool,
    /// Its removal has begun and must be finished.
    #[serde(default)]
    pub(crate) removing: bool,
}

/// A user, resolved in a container's own files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct User {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group id.
    pub(crate) gid: u32,
    /// Supplementary group ids.
    pub(crate) groups: Vec<u32>,
}

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImageRecord {
    /// Digest of its configuration.
    pub(crate) id: String,
    /// Tags (`repository:tag`) and digests (`repository@digest`) that name it.
    /// A name belongs to one image: putting a record takes its names from others.
    #[serde(skip)]
    pub(crate) names: Vec<String>,
    /// Bytes that it occupies.
    pub(crate) size: u64,
    /// The image configuration.
    pub(crate) config: serde_json::Value,
    /// The directories of its layers, lowest first.
    pub(crate) layers: Vec<String>,
    /// What was stored for it beside the layers: manifests, configuration, compressed layers.
    /// Those of the last pull come first; others follow, if the image came through several
    /// manifests.
    pub(crate) blobs: Vec<Blob>,
    /// The manifest or index that each of its names stands for, as far as is known.
    pub(crate) targets: BTreeMap<String, String>,
    /// Whether a kubelet must keep it, since people use it.
    pub(crate) pinned: bool,
    /// Unix nanoseconds.
    pub(crate) pulled_at: i64,
}

impl ImageRecord {
    /// The manifest or index that `name` stands for, if that is known.
    pub(crate) fn target<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let digest = || name.split_once('@').map(|(_, digest)| digest);
        self.targets.get(name).map(String::as_str).or_else(digest)
    }

    /// Forgets what names stood for that are of others now.
    pub(crate) fn forget_targets(&mut self) {
        let names = &self.names;
        self.targets.retain(|name, _| names.contains(name));
    }
}

/// A blob in the content store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Blob {
    /// `algorithm:hex`.
    pub(crate) digest: String,
    /// As the registry named it.
    pub(crate) media_type: String,
    /// Bytes.
    pub(crate) size: u64,
}

/// An address that a sandbox has, or had a short while ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressRecord {
    /// The address.
    pub(crate) ip: IpAddr,
    /// Id of the sandbox.
    pub(crate) owner: String,
    /// Unix nanoseconds since when nobody has it; none while it is in use.
    /// What was freed last is given out last, because neighbours remember.
    #[serde(default)]
    pub(crate) freed_at: Option<i64>,
}
