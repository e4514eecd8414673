//! Drives shims: starts the launcher, makes pods' namespaces, starts shims and
//! speaks their protocol.
//!
//! The entry points are [`Launcher`] (one per agent) and [`Shim`] (one per
//! container). Every call has a limit; a shim that does not answer costs its
//! caller that limit and nobody else anything.

mod connection;
mod detached;
mod error;
mod launcher;
mod program;
mod record;
mod shim;

pub use connection::{Connection, Event, trace_by};
pub use detached::{DetachedExec, DetachedTarget, Holder, exec_detached, launch_detached};
pub use error::Error;
pub use launcher::{Launcher, PodDescriptors, PodRequest, Users};
pub use program::{Program, ProgramSource};
pub use record::read_exit_record;
pub use shim::{CreatedContainer, ExecStreams, Listener, Shim, ShimProcess};
