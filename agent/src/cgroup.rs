//! The control group library with the agent's errors. Everything blocks.

use std::{os::fd::OwnedFd, time::Duration};

use berth_cgroup::{Details, Group, GroupPath, Layout, Previous, Resources, Stats};

use crate::error::{Error, Kind, Result};

/// Kills every process in the group at `path`. A group that is not there has none.
///
/// # Errors
/// DeadlineExceeded if a process does not die.
pub(crate) fn kill(layout: &Layout, path: &str, limit: Duration) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    let path = GroupPath::parse(path).map_err(convert)?;
    match Group::open(layout, &path) {
        Ok(group) => group.kill_all(limit).map_err(convert),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(convert(error)),
    }
}

/// Removes the group at `path`. A group that is not there is removed.
///
/// # Errors
/// DeadlineExceeded if a process is left.
pub(crate) fn remove(layout: &Layout, path: &str, limit: Duration) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    let path = GroupPath::parse(path).map_err(convert)?;
    Group::remove(layout, &path, limit).map_err(convert)
}

/// Removes the group at `path` where nobody uses it.
pub(crate) fn remove_if_empty(layout: &Layout, path: &str) {
    if let Ok(path) = GroupPath::parse(path) {
        berth_cgroup::remove_if_empty(layout, &path);
    }
}

/// Files through which a process moves itself into the group at `path`, which is made
/// if it is not there.
///
/// # Errors
/// Internal if the kernel refuses.
pub(crate) fn join_files_of(layout: &Layout, path: &str) -> Result<Vec<OwnedFd>> {
    let path = GroupPath::parse(path).map_err(convert)?;
    let group = match Group::create(layout, &path, &Resources::default()) {
        // Shims of an earlier agent are in it.
        Err(berth_cgroup::Error::Busy { .. }) => Group::open(layout, &path),
        other => other,
    };
    let files = group.map_err(convert)?.join_files();
    files.map_err(|error| Error::io(format!("open the control group {path}"), error))
}

/// Controllers whose files [`stats`] reads.
const COUNTED: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
/// And those that [`details`] reads beyond them.
const COUNTED_IN_DETAIL: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"];

/// What the group at `path` uses; none if it is gone.
pub(crate) fn stats(layout: &Layout, path: &str) -> Option<Stats> {
    let path = GroupPath::parse(path).ok()?;
    Some(Group::open_for(layout, &path, &COUNTED).ok()?.stats())
}

/// All that a group can tell of itself.
#[derive(Debug)]
pub(crate) struct InDetail {
    pub(crate) stats: Stats,
    pub(crate) details: Details,
    pub(crate) processes: Vec<i32>,
    pub(crate) oom_kills: u64,
    /// The most memory at one time, in bytes.
    pub(crate) memory_peak: Option<u64>,
}

/// What the group at `path` uses, in detail; none if it is gone.
pub(crate) fn details(layout: &Layout, path: &str) -> Option<InDetail> {
    let path = GroupPath::parse(path).ok()?;
    let group = Group::open_for(layout, &path, &COUNTED_IN_DETAIL).ok()?;
    Some(InDetail {
        stats: group.stats(),
        details: group.details(),
        processes: group.processes().unwrap_or_default(),
        oom_kills: group.oom_kill_count().unwrap_or(0),
        memory_peak: group.memory_peak(),
    })
}

/// Limits that were changed, and how they were before.
#[derive(Debug)]
pub(crate) struct Changed {
    group: Group,
    previous: Previous,
}

/// Changes the limits that are given, all of them or none.
///
/// # Errors
/// InvalidArgument and FailedPrecondition for limits that cannot be; NotFound is
/// Internal, since whose group it is must know that it is there.
pub(crate) fn update(layout: &Layout, path: &str, limits: &Resources) -> Result<Changed> {
    let path = GroupPath::parse(path).map_err(convert)?;
    let group = Group::open(layout, &path).map_err(convert)?;
    let previous = group.update_revocably(limits).map_err(convert)?;
    Ok(Changed { group, previous })
}

impl Changed {
    /// Every process in the group.
    ///
    /// # Errors
    /// Internal if they cannot be listed.
    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        let list = self.group.processes();
        list.map_err(|error| Error::io("list the processes of a control group", error))
    }

    /// Sets the limits back.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn restore(self) -> Result<()> {
        self.group.restore(self.previous).map_err(convert)
    }
}

/// What went wrong with a group.
pub(crate) fn convert(error: berth_cgroup::Error) -> Error {
    use berth_cgroup::Error as E;
    let kind = match &error {
        E::Invalid { .. } => Kind::InvalidArgument,
        E::NoController { .. } | E::BelowUsage { .. } => Kind::FailedPrecondition,
        E::Busy { .. } => Kind::DeadlineExceeded,
        _ => Kind::Internal,
    };
    Error::new(kind, "control group of the container").with_source(error)
}
