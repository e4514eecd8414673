//! A container as commands find it: its record, and what the kernel says of it.

use std::{fs, io, os::fd::OwnedFd, path::Path};

use anyhow::{Context as _, Result, bail};
use berth_cgroup::Group;
use berth_sys::process;
use serde_json::{Value, json};

use crate::{
    group,
    record::{Home, Record},
};

/// The flag of field 9 of /proc/PID/stat that says "cloned but did not execute".
const PF_FORKNOEXEC: u64 = 0x40;

/// The specification's states, and the one that callers know beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) home: Home,
    pub(crate) record: Record,
}

impl Container {
    pub(crate) fn find(root: &Path, id: &str) -> Result<Self> {
        let home = Home::find(root, id)?;
        let record = home.load()?;
        Ok(Self { home, record })
    }

    /// The groups; none if they are gone.
    pub(crate) fn group(&self) -> Result<Option<Group>> {
        group::open(&self.record.cgroup)
    }

    pub(crate) fn status(&self) -> Result<Status> {
        if self.record.pid == 0 {
            return Ok(Status::Creating);
        }
        match look(self.record.pid, self.record.start_ticks)? {
            None => Ok(Status::Stopped),
            Some(Look { executed: false }) => Ok(Status::Created),
            Some(Look { executed: true }) => {
                let frozen = match self.group()? {
                    Some(group) => group.is_frozen().context("reading the freezer")?,
                    None => false,
                };
                Ok(if frozen {
                    Status::Paused
                } else {
                    Status::Running
                })
            }
        }
    }

    /// Refers to the init; none if it has ended.
    pub(crate) fn init(&self) -> Result<Option<OwnedFd>> {
        if self.record.pid == 0 {
            return Ok(None);
        }
        let pidfd = match process::pidfd_open(self.record.pid) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(None),
            other => other.context("opening the init")?,
        };
        // Only now can the number not be given to another any more.
        let same = look(self.record.pid, self.record.start_ticks)?.is_some();
        Ok(same.then_some(pidfd))
    }

    /// What `state` prints, and what hooks read.
    pub(crate) fn state(&self, status: Status) -> Value {
        let record = &self.record;
        let mut state = json!({
            "ociVersion": record.oci_version,
            "id": record.id,
            "pid": if status == Status::Stopped { 0 } else { record.pid },
            "status": status.name(),
            "bundle": record.bundle,
            "rootfs": record.rootfs,
            "created": record.created,
            "owner": "",
        });
        if !record.annotations.is_empty() {
            state["annotations"] = json!(record.annotations);
        }
        state
    }

    /// # Errors
    /// If the container is not `running` (nor, if `paused` is allowed, paused).
    pub(crate) fn require_running(&self, paused: bool) -> Result<()> {
        match self.status()? {
            Status::Running => Ok(()),
            Status::Paused if paused => Ok(()),
            Status::Paused => bail!("cannot exec in a paused container (use --ignore-paused)"),
            other => bail!("container not running: it is {}", other.name()),
        }
    }
}

struct Look {
    executed: bool,
}

/// What /proc says of process `pid`; none if it has ended or is another one.
fn look(pid: i32, start_ticks: u64) -> Result<Option<Look>> {
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(nix::libc::ESRCH) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error).context("reading /proc of the init"),
    };
    // The name in parentheses may hold anything, so fields count from the last ')'.
    let start = stat.iter().rposition(|&byte| byte == b')').unwrap_or(0);
    let rest = String::from_utf8_lossy(&stat[start..]).into_owned();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |at: usize| fields.get(at).copied().unwrap_or_default();
    let same = field(20).parse() == Ok(start_ticks);
    if !same || matches!(field(1), "Z" | "X" | "x") {
        return Ok(None);
    }
    let flags: u64 = field(7).parse().unwrap_or(0);
    Ok(Some(Look {
        executed: flags & PF_FORKNOEXEC == 0,
    }))
}
