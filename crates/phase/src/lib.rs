//! The one vocabulary of phases (what an operation is doing) and the failpoints
//! at their boundaries.
//!
//! Every multi-step operation carries a [`Tracker`] and calls
//! [`Tracker::enter`] before each step. That one call is what errors, spans,
//! metrics and the list of operations in flight read, and where a test can
//! kill, fail, delay or stop the process: a step that is not announced cannot
//! be tested, so announcing and being testable are the same thing.

mod failpoint;
mod tracker;

pub use failpoint::{Injected, ParseError, configure, configure_from_env};
pub use tracker::{Observer, Tracker};

macro_rules! phases {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// One step of an operation. The names are stable: they are in errors,
        /// metric labels, span names and failpoints.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Phase { $($(#[$doc])* $variant,)+ }

        impl Phase {
            /// Every phase, in the order of declaration.
            pub const ALL: &'static [Phase] = &[$(Phase::$variant,)+];

            /// The stable lower-case name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Phase::$variant => $name,)+ }
            }
        }
    };
}

phases! {
    /// Checking the request; nothing has changed yet.
    Validate = "validate",
    /// Taking the name and writing down the owner of what follows.
    Reserve = "reserve",
    /// Turning an image reference into a digest.
    Resolve = "resolve",
    /// Receiving a blob.
    Fetch = "fetch",
    /// Extracting a layer.
    Unpack = "unpack",
    /// Comparing digests and sizes.
    Verify = "verify",
    /// Making something complete visible under its final name.
    Publish = "publish",
    /// Sending a blob, to a registry or to a client.
    Send = "send",
    /// Computing the OCI specification and the plan.
    Plan = "plan",
    /// Creating or opening a pod's namespaces.
    Netns = "netns",
    /// Addresses, links, routes and rules of a pod.
    Network = "network",
    /// Creating control groups and writing limits.
    Cgroup = "cgroup",
    /// Preparing the writable layer and the files that the runtime provides.
    Rootfs = "rootfs",
    /// Opening volume sources and mounting.
    Mount = "mount",
    /// Starting the shim.
    Shim = "shim",
    /// Cloning the init and letting it set itself up.
    Clone = "clone",
    /// Letting the program run.
    Exec = "exec",
    /// Sending the stop signal.
    Signal = "signal",
    /// Waiting for the end of a process.
    Wait = "wait",
    /// Killing what is left.
    Kill = "kill",
    /// Undoing the network.
    Unnetwork = "unnetwork",
    /// Dropping namespaces, mounts and groups.
    Teardown = "teardown",
    /// Deleting files.
    Delete = "delete",
    /// Committing a record.
    Record = "record",
    /// Undoing a failed operation.
    Rollback = "rollback",
    /// Bringing records and kernel into agreement after a start.
    Recover = "recover",
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
