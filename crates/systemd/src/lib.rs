//! Transient units of systemd, over its own socket or the system bus.
//!
//! systemd owns the control groups on a node where it runs: what is made beside it may
//! be taken apart when it reloads. A container's group is therefore asked for as a scope
//! ([`Manager::start_scope`]) which is delegated, so that systemd leaves it alone, and
//! has its limits as properties too, so that systemd writes what is there already.
//!
//! The client knows as much of D-Bus as these few calls need: blocking, one call at a
//! time, each with a limit.

mod bus;
mod error;
mod manager;
mod name;
mod property;
mod wire;

pub use error::Error;
pub use manager::{Manager, Scope};
pub use name::{check_slice, check_unit, slice_path};
pub use property::{Property, Value};
