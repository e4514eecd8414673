//! The old agent's side.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    process::Stdio,
    time::Duration,
};

use berth_sys::message;
use tokio::process::{Child, Command};

use super::{Inventory, MARK, Word, channel::Channel};
use crate::{
    config::Config,
    error::{Error, Result},
};

/// How long a new agent may read its configuration and look at the machine.
const PREPARE: Duration = Duration::from_secs(20);
/// How long recovery may take; a thousand containers take a second.
const SERVE: Duration = Duration::from_secs(60);

/// Of systemd's, for this process and no other.
const OURS_ALONE: [&str; 5] = [
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
];

/// The agent that is to take this one's place.
#[derive(Debug)]
pub(crate) struct Successor {
    channel: Channel,
    child: Child,
}

impl Successor {
    /// Starts `program` with this process's own arguments and waits until it says that
    /// it could start.
    ///
    /// # Errors
    /// Internal if it could not, with what is known; it is dead then.
    pub(crate) async fn start(program: &Path, config: &Config) -> Result<Self> {
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        let failed = |error| Error::io("start another agent", error);
        let (ours, theirs) = message::pair().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env(MARK, "1")
            .stdin(Stdio::from(theirs));
        for name in OURS_ALONE {
            command.env_remove(name);
        }
        let child = command.spawn().map_err(failed)?;
        // It keeps the other end of the channel.
        drop(command);
        let channel = Channel::new(ours).map_err(failed)?;
        let mut this = Self { channel, child };
        match this.prepared(config).await {
            Ok(version) => {
                tracing::info!(pid = this.child.id(), version, "another agent is prepared");
                Ok(this)
            }
            Err(error) => {
                this.give_up().await;
                Err(error)
            }
        }
    }

    async fn prepared(&mut self, config: &Config) -> Result<String> {
        match self.hear("prepare itself", PREPARE).await? {
            Word::Prepared {
                root,
                run_dir,
                version,
            } if root == config.root && run_dir == config.run_dir => Ok(version),
            Word::Prepared { root, run_dir, .. } => Err(Error::precondition(format!(
                "the new configuration has other directories ({} and {}): that takes a stop \
                 and a start",
                root.display(),
                run_dir.display()
            ))),
            other => Err(Error::internal(format!("another agent says {other:?}"))),
        }
    }

    /// Gives it all and waits until it serves.
    ///
    /// # Errors
    /// Internal if it does not; it is dead then.
    pub(crate) async fn hand_over(&mut self, inventory: &Inventory) -> Result<()> {
        let given = async {
            let list = inventory
                .list()
                .map_err(|error| Error::io("list what is handed over", error))?;
            let mut fds: Vec<BorrowedFd<'_>> = vec![list.as_fd()];
            fds.extend(inventory.descriptors());
            let sent = self.channel.send(&Word::Yours, &fds).await;
            sent.map_err(|error| Error::io("hand over", error))?;
            match self.hear("serve", SERVE).await? {
                Word::Serving => Ok(()),
                other => Err(Error::internal(format!("another agent says {other:?}"))),
            }
        };
        let given = given.await;
        if given.is_err() {
            self.give_up().await;
        }
        given
    }

    async fn hear(&mut self, what: &str, limit: Duration) -> Result<Word> {
        match tokio::time::timeout(limit, self.channel.receive()).await {
            Ok(Ok(Some((word, _)))) => Ok(word),
            Ok(Ok(None)) => Err(Error::internal(format!(
                "another agent did not {what}; it has said why"
            ))),
            Ok(Err(error)) => Err(Error::io("listen to another agent", error)),
            Err(_elapsed) => Err(Error::internal(format!(
                "another agent did not {what} within {} s",
                limit.as_secs()
            ))),
        }
    }

    /// Kills it, so that it can touch nothing any more.
    pub(crate) async fn give_up(&mut self) {
        match self.child.kill().await {
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
                tracing::error!(%error, "another agent could not be killed");
            }
            _ => {}
        }
    }

    /// Waits until it tells this one to end; for ever if it has ended itself.
    pub(crate) async fn stop(self) {
        let Self { channel, child } = self;
        // Reaped by the runtime whenever it ends.
        drop(child);
        loop {
            match channel.receive().await {
                Ok(Some((Word::Stop, _))) => return,
                Ok(Some(_)) => {}
                // A crash; streams have nothing to do with it.
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
    }
}
