//! Control groups: v1, hybrid and v2.
//!
//! [`Layout`] finds the hierarchies, [`Group`] is one group in all of them:
//! limits, statistics, events, freezing and killing. A group is a set of open
//! directories; everything is done by `openat` below them, so that the agent can
//! pass a group to a shim that sees no cgroup file system at all.
//!
//! Linked into the shim: no JSON, no tracing, nothing that is not needed there.
//!
//! What this crate does *not* do: it never writes another process's pid into a
//! group (that waits 6-10 ms for a grace period), it kills nobody unless told to,
//! it enables v2 controllers only where a group is made, and it speaks no D-Bus
//! (that client would be linked into every shim).

mod apply;
mod block;
mod cpulist;
mod create;
mod details;
mod device_program;
mod devices;
mod error;
mod exec;
mod file;
mod freeze;
mod group;
mod kill;
mod layout;
mod limits;
mod oom;
mod path;
mod remove;
mod resources;
mod stats;
mod tree;

pub use apply::Previous;
pub use block::{BlockIo, BlockThrottle, BlockWeight, Throttle};
pub use details::{Details, DeviceIo, HugepageUse};
pub use devices::{DeviceKind, DeviceRule};
pub use error::Error;
pub use exec::ExecGroup;
pub use group::{Dir, Group};
pub use layout::{Hierarchy, Layout, Mode};
pub use path::GroupPath;
pub use remove::{list_children, remove_if_empty};
pub use resources::{Hugepage, Resources};
pub use stats::{Pressure, Stall, Stats};
