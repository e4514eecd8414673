//! The agent of a node: started here, or by the agent before it.

use std::{
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    process::{Child, ExitStatus},
};

use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};

/// A process that can be asked whether it runs.
#[derive(Debug)]
pub(super) enum Agent {
    /// A child of this process.
    Child(Child),
    /// Somebody else's.
    Other {
        /// Its process id.
        pid: u32,
        /// Refers to it.
        pidfd: OwnedFd,
    },
}

impl Agent {
    /// The agent that another one has started.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let pidfd = berth_sys::process::pidfd_open(i32::try_from(pid)?)
            .with_context(|| format!("no process {pid}"))?;
        Ok(Self::Other { pid, pidfd })
    }

    pub(super) fn id(&self) -> u32 {
        match self {
            Self::Child(child) => child.id(),
            Self::Other { pid, .. } => *pid,
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.id())?), signal)?)
    }

    /// Whether it has ended, and how: of one that is not a child success is assumed.
    pub(super) fn state(&self) -> Result<Option<ExitStatus>> {
        use std::os::fd::AsFd as _;
        let pid = Pid::from_raw(i32::try_from(self.id())?);
        if let Self::Other { pidfd, .. } = self {
            let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            let ended = poll(&mut polled, PollTimeout::ZERO)? > 0;
            return Ok(ended.then(|| ExitStatus::from_raw(0)));
        }
        // Left for the owner of the child to reap.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        Ok(match waitid(Id::Pid(pid), flags)? {
            WaitStatus::Exited(_, code) => Some(ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(_, signal, _) => Some(ExitStatus::from_raw(signal as i32)),
            _ => None,
        })
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) -> Result<()> {
        match self {
            Self::Child(child) => child.kill().context("kill an agent"),
            Self::Other { .. } => self.signal(Signal::SIGKILL),
        }
    }

    /// Waits for its end.
    pub(super) fn wait(self) -> Result<()> {
        use std::os::fd::AsFd as _;
        match self {
            Self::Child(mut child) => drop(child.wait()?),
            Self::Other { pidfd, .. } => {
                let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                poll(&mut polled, PollTimeout::NONE)?;
            }
        }
        Ok(())
    }
}
