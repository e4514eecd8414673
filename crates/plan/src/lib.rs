//! OCI runtime specifications to the flat plan that a shim carries out.
//!
//! Pure: nothing is opened, read or changed here. [`plan()`] turns a specification
//! into a [`berth_proto::shim::Plan`], the list of descriptors that must be opened for
//! it, and the limits that must be written to its control groups. [`seccomp`] compiles
//! profiles and holds the default one.
//!
//! What the specification asks for and the shim cannot do yet is refused: a container
//! that runs with less than was asked for is worse than one that does not run.

pub mod capability;
mod devices;
mod error;
mod hooks;
mod input;
mod limits;
mod mounts;
mod namespaces;
mod numa;
mod options;
mod plan;
mod process;
pub mod seccomp;
pub mod sysctl;

pub use berth_cgroup::{
    DeviceKind, DeviceRule, Hugepage as HugepageLimit, Resources as CgroupLimits,
};

pub use self::{
    capability::{Cap, CapSet},
    error::PlanError,
    hooks::hooks,
    input::{
        Hierarchy, IdMaps, IoInputs, NamespaceKind, POD_SHM, PlanInputs, PlanOutput, RootInputs,
        Slot,
    },
    limits::limits,
    numa::memory_policy,
    options::mount_options,
    plan::plan,
    process::process,
};
