//! Control groups on v1, hybrid and v2 nodes: creation, limits, statistics,
//! events, freezing, killing and removal.
//!
//! Everything works below descriptors of directories ([`Group::from_dirs`]), so
//! that a shim, which sees none of the host's paths, uses the same code as the
//! agent. Only [`Layout`], which finds the hierarchies, reads paths.
//!
//! What this crate does *not* do: it never writes another process's pid into a
//! group (that waits 6-10 ms for a grace period; a new process is cloned into
//! its group on v2 and moves itself on v1, see [`Group::join_files`]), it never
//! changes or removes a group that its caller did not name, and it speaks no
//! D-Bus (the systemd driver's client lives with the engine, because this crate
//! is linked into every shim).

mod error;
mod exec;
mod file;
mod freeze;
mod group;
mod kill;
mod oom;
mod path;
mod tree;

pub use error::Error;
pub use exec::ExecGroup;
pub use group::Group;
pub use path::{GroupPath, expand_slice};

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;
