//! The ledger of owners: which object owns which effect on the node.
//!
//! An effect is entered *before* it is made and struck out after it is undone,
//! so that what a crash leaves has an owner. Undoing must therefore bear that
//! the effect was never made. Whatever carries its owner's id in its own name
//! below the agent's directories needs no entry: the name is the entry.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

#[cfg(test)]
use super::Durability;

/// Something outside the store that somebody owns.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Effect {
    /// The pinned namespaces of a pod, held by the launcher under the owner's id.
    PodPin,
    /// A pod's directory with the files that the runtime provides.
    PodDir {
        /// Absolute.
        path: String,
    },
    /// A link on the node whose peer is in a pod.
    Veth {
        /// Name of the node's end.
        host_interface: String,
        /// The bridge that it is a port of; empty for none.
        #[serde(default)]
        bridge: String,
    },
    /// An address taken from the built-in network.
    Address {
        /// The address.
        ip: IpAddr,
    },
    /// Network plugins were called, or are about to be.
    Cni {
        /// Name of the network; its cached configuration and result lie under the owner's id.
        network: String,
    },
    /// A cgroup, in every hierarchy that is in use.
    CgroupPath {
        /// From the hierarchy's root.
        path: String,
    },
    /// A cgroup above the owner's that did not exist before and goes when it is empty.
    CreatedCgroupAncestor {
        /// From the hierarchy's root.
        path: String,
    },
    /// A transient systemd unit.
    Unit {
        /// With its suffix.
        name: String,
    },
    /// A shim's run directory, and the shim that listens there.
    ShimDir {
        /// Absolute.
        path: String,
    },
    /// A container's writable layer.
    WritableLayer {
        /// Absolute.
        path: String,
    },
    /// A log file that goes with its owner. (A kubelet deletes those it named itself.)
    LogFile {
        /// Absolute.
        path: String,
    },
    /// A mount in the node's own table.
    Mount {
        /// Mount point.
        path: String,
    },
}

impl Effect {
    /// The stable name of its kind.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::PodPin => "pod_pin",
            Self::PodDir { .. } => "pod_dir",
            Self::Veth { .. } => "veth",
            Self::Address { .. } => "address",
            Self::Cni { .. } => "cni",
            Self::CgroupPath { .. } => "cgroup_path",
            Self::CreatedCgroupAncestor { .. } => "created_cgroup_ancestor",
            Self::Unit { .. } => "unit",
            Self::ShimDir { .. } => "shim_dir",
            Self::WritableLayer { .. } => "writable_layer",
            Self::LogFile { .. } => "log_file",
            Self::Mount { .. } => "mount",
        }
    }

    /// What tells it apart from other effects of its kind.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::PodPin => String::new(),
            Self::Veth { host_interface, .. } => host_interface.clone(),
            Self::Address { ip } => ip.to_string(),
            Self::Cni { network } => network.clone(),
            Self::Unit { name } => name.clone(),
            Self::PodDir { path }
            | Self::CgroupPath { path }
            | Self::CreatedCgroupAncestor { path }
            | Self::ShimDir { path }
            | Self::WritableLayer { path }
            | Self::LogFile { path }
            | Self::Mount { path } => path.clone(),
        }
    }

    /// What its entry must outlive: what lies on disk is still there after a
    /// power cut, what the kernel holds is not.
    #[cfg(test)]
    pub(crate) fn durability(&self) -> Durability {
        match self {
            Self::WritableLayer { .. } | Self::LogFile { .. } => Durability::Synced,
            // Plugins keep reservations on disk, in places of their own.
            Self::Cni { .. } => Durability::Synced,
            Self::PodPin
            | Self::PodDir { .. }
            | Self::Veth { .. }
            | Self::Address { .. }
            | Self::CgroupPath { .. }
            | Self::CreatedCgroupAncestor { .. }
            | Self::Unit { .. }
            | Self::ShimDir { .. }
            | Self::Mount { .. } => Durability::Soon,
        }
    }
}

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Id of the sandbox, container or image that owns the effect.
    pub(crate) owner: String,
    /// What it owns.
    pub(crate) effect: Effect,
    /// When it was entered, in Unix nanoseconds.
    pub(crate) created_at: i64,
}
