//! What a plan needs beyond the specification, and what comes out.

use std::{
    io,
    path::{Path, PathBuf},
};

use berth_cgroup::Resources as CgroupLimits;
use berth_proto::shim::{IdMapping, Plan};

use crate::{
    capability::CapSet,
    seccomp::{FilterCache, Machine},
};

/// Source of a bind mount that stands for the pod's /dev/shm, wherever that is.
pub const POD_SHM: &str = "berth:pod-shm";

/// What the specification does not say.
pub struct PlanInputs<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Layers and writable layer; the specification's `root.path` is not used.
    pub root: RootInputs,
    /// The container's cgroup directories, one per hierarchy, in the order in which
    /// [`Slot::CgroupDir`] counts them. Also what is mounted at /sys/fs/cgroup: one v2
    /// hierarchy alone is mounted there, else each has its directory.
    pub cgroups: &'a [Hierarchy],
    /// A directory that stands for the pod: the namespace path `DIR/net` (`ipc`,
    /// `uts`, `pid`) and the bind source `DIR/shm` become slots of the pod's own. Such
    /// files need not exist.
    pub pod_dir: Option<&'a Path>,
    /// Linux number of the signal that asks the container to stop.
    pub stop_signal: i32,
    /// Standard streams and log.
    pub io: IoInputs,
    /// The environment where it is not text; replaces the specification's.
    pub env: Option<Vec<Vec<u8>>>,
    /// What the kernel has; others are left out, as the kernel does.
    pub kernel_capabilities: CapSet,
    /// The machine that the filter is for.
    pub machine: Machine,
    /// Where compiled filters are kept.
    pub filters: &'a FilterCache,
    /// Whether a bind mount's source is anything else than a directory. It may block,
    /// so the caller bounds it.
    pub is_file: &'a dyn Fn(&Path) -> io::Result<bool>,
}

impl std::fmt::Debug for PlanInputs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlanInputs")
            .field("id", &self.id)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// Where the root comes from: names relative to the tree in [`Slot::StateTree`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootInputs {
    /// Lower layers, uppermost first.
    pub layers: Vec<String>,
    /// The writable layer; empty for none.
    pub upper: String,
    /// overlayfs' work directory beside it.
    pub work: String,
    /// The writable layer need not survive a crash of the node.
    pub volatile: bool,
}

/// One cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// "cpu,cpuacct", "name=systemd", or "" for v2.
    pub controllers: String,
    /// The v2 hierarchy.
    pub v2: bool,
}

/// Standard streams and log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoInputs {
    /// Whether a [`Slot::LogFile`] is wanted.
    pub log: bool,
    /// Keep stdin open for attach.
    pub stdin: bool,
    /// Close it after the first attach that sent anything has left.
    pub stdin_once: bool,
    /// Longest content of one log line in bytes.
    pub max_line: u32,
    /// The caller's own streams instead of a log: [`Slot::Stream`], and the container
    /// belongs to the caller ([`berth_proto::shim::Plan::detached`]).
    pub given: bool,
    /// With them, this many descriptors from 3 on: [`Slot::Preserved`].
    pub preserved: u32,
}

/// A plan, and what must be opened for it.
#[derive(Clone, Debug)]
pub struct PlanOutput {
    /// What the shim carries out.
    pub plan: Plan,
    /// What each slot must hold. The first is slot 1 of the plan: slot 0 is the memfd
    /// with the plan itself.
    pub slots: Vec<Slot>,
    /// What is written to the container's cgroups.
    pub limits: CgroupLimits,
}

/// How the ids of a mount are mapped (mount_setattr(2), MOUNT_ATTR_IDMAP).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// Users.
    pub uids: Vec<IdMapping>,
    /// Groups.
    pub gids: Vec<IdMapping>,
    /// Of mounts below as well.
    pub recursive: bool,
}

/// What a descriptor must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A detached tree of the directory that [`RootInputs`] is relative to.
    StateTree,
    /// A detached tree of a host directory or file. `propagation` must be set on it,
    /// recursively where the tree is, before it is sent: the shim's step leaves it
    /// alone, because its attributes may be for the top only.
    Bind {
        /// Host path, symlinks followed.
        source: PathBuf,
        /// Cloned with what is mounted below.
        recursive: bool,
        /// MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE.
        propagation: u64,
        /// Mappings of ids that must be set on it before it is sent.
        idmap: Option<IdMaps>,
    },
    /// A detached tree of the pod's /dev/shm.
    PodShm,
    /// A namespace of the pod.
    PodNamespace(NamespaceKind),
    /// A namespace by its path.
    Namespace {
        /// Which.
        kind: NamespaceKind,
        /// Such as `/proc/1/ns/net`.
        path: PathBuf,
    },
    /// The log, open for appending.
    LogFile,
    /// The caller's standard stream of this number.
    Stream(u8),
    /// The caller's descriptor 3 + this number.
    Preserved(u32),
    /// The container's directory in the hierarchy of this number in [`PlanInputs::cgroups`].
    CgroupDir(usize),
    /// A detached tree of that directory, to be mounted where the container has no
    /// cgroup namespace of its own and must not see the groups of others.
    CgroupTree(usize),
}

/// Namespaces that can be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceKind {
    /// Processes.
    Pid,
    /// Network.
    Net,
    /// System V objects and message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Control groups.
    Cgroup,
    /// Users.
    User,
    /// Clocks.
    Time,
    /// Mounts.
    Mount,
}

impl NamespaceKind {
    /// As `/proc/PID/ns` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::User => "user",
            Self::Time => "time",
            // As the kernel abbreviates it.
            Self::Mount => "mnt",
        }
    }
}

/// Slots in the order in which they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Slots(pub(crate) Vec<Slot>);

impl Slots {
    /// Asks for one more and returns its number in the plan.
    pub(crate) fn add(&mut self, slot: Slot) -> u32 {
        self.0.push(slot);
        // Slot 0 is the plan itself. Their number is checked in the end.
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}
