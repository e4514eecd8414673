//! Another agent in the place of this one, without a broken stream.
//!
//! What an open stream is made of (TLS, SPDY and HTTP/2 state) cannot travel with a
//! descriptor, so the old agent stays for its streams and hands over the rest:
//!
//! ```text
//! old                                   new
//! SIGUSR2
//! starts the program on disk ────────►  reads the configuration, looks whether it could start
//!                    ◄──── Prepared ──
//! ends or undoes operations
//! closes the store
//! ──── sockets, unopened URLs ───────►  opens the store, recovers as after a crash
//!                    ◄──── Serving ───  is systemd's main process
//! serves its streams to their end
//!                    ◄──── Stop ──────  is told to stop: all are
//! ```
//!
//! Until Serving has come the old agent can go back: it kills the new one, opens the
//! store again and serves on the sockets that it never closed.

mod channel;
mod inventory;
mod predecessor;
mod successor;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use inventory::Inventory;
pub(crate) use predecessor::{Predecessor, stop_all};
pub(crate) use successor::Successor;

/// Says to a program that standard input is the channel to the agent before it.
const MARK: &str = "BERTH_TAKES_OVER";

/// What the two say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    /// From the new one: it could start.
    Prepared {
        /// Its directories, which must be those of the old one.
        root: PathBuf,
        run_dir: PathBuf,
        version: String,
    },
    /// From the old one, with the descriptors of [`Inventory`].
    Yours,
    /// From the new one: there is no way back.
    Serving,
    /// From the new one, at its own end.
    Stop,
}
