//! A group of its own, below the container's, for each exec'd process, so that
//! it can be killed with everything it has started.
//!
//! Only the v2 hierarchy has such groups (also on a hybrid node): there a group
//! with processes may have groups below it as long as it passes no controllers
//! on, so no limit and no account changes.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sys::stat::{Mode, mkdirat},
};

use crate::{
    Group, file,
    kill::{direct_pids, kill_dir, signal_below},
    tree,
};

const PREFIX: &str = "berth-exec-";
/// Longest id: with the prefix it must fit in a file name.
const MAX_ID: usize = 128;
/// Rounds of killing before Linux 5.14, each of which sees what forked in the last.
const ROUNDS: usize = 32;
/// Pause between attempts to remove a group whose processes are ending.
const PAUSE: Duration = Duration::from_millis(1);

/// The group of one exec'd process.
#[derive(Debug)]
pub struct ExecGroup {
    parent: OwnedFd,
    dir: OwnedFd,
    name: String,
}

impl ExecGroup {
    /// The file through which the process enters by writing "0".
    ///
    /// # Errors
    /// ENOENT if the group is gone.
    pub fn join_file(&self) -> io::Result<OwnedFd> {
        file::open(&self.dir, "cgroup.procs", OFlag::O_WRONLY)
    }

    /// The directory, for CLONE_INTO_CGROUP.
    #[must_use]
    pub fn fd(&self) -> &OwnedFd {
        &self.dir
    }

    /// Kills every process in the group, without waiting for their end.
    ///
    /// # Errors
    /// The errno of writing or signalling.
    pub fn kill(&self) -> io::Result<()> {
        if kill_dir(self.dir.as_fd())? {
            return Ok(());
        }
        for _ in 0..ROUNDS {
            if direct_pids(self.dir.as_fd())?.is_empty() {
                break;
            }
            signal_below(self.dir.as_fd(), libc::SIGKILL)?;
        }
        Ok(())
    }

    /// Removes the group and what was made below it. Idempotent.
    ///
    /// # Errors
    /// EBUSY if it still has processes after `limit`.
    pub fn remove(&self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            let removed = tree::remove_below(self.dir.as_fd(), end)
                .and_then(|()| tree::remove_one(&self.parent, self.name.as_str()));
            match removed {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => {
                    std::thread::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }
}

impl Group {
    /// Makes (or finds) the group of exec `exec_id`; `None` where there is no v2
    /// directory, or where the container made its group a threaded one, below
    /// which no processes can be.
    ///
    /// Empty groups of earlier execs are removed on the way: what an exec left
    /// running in the background may have ended long after it. Calls for one
    /// container must therefore not overlap until the process has entered.
    ///
    /// # Errors
    /// EINVAL for an id that is no file name; else as mkdirat(2).
    pub fn exec_group(&self, exec_id: &str) -> io::Result<Option<ExecGroup>> {
        let name = group_name(exec_id)?;
        let Some(home) = self.v2() else {
            return Ok(None);
        };
        self.sweep_execs(&name)?;
        match mkdirat(&home.fd, name.as_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let group = ExecGroup {
            dir: file::open_dir(&home.fd, name.as_str())?,
            parent: home.fd.try_clone()?,
            name,
        };
        let kind = file::read_optional(&group.dir, "cgroup.type")?;
        if kind.is_some_and(|kind| kind.trim() != "domain") {
            tree::remove_one(&group.parent, group.name.as_str())?;
            return Ok(None);
        }
        Ok(Some(group))
    }

    /// The `tasks` files of the v1 hierarchies, through which a freshly cloned
    /// process enters by writing "0".
    ///
    /// # Errors
    /// ENOENT if the container's group is gone.
    pub fn tasks_files(&self) -> io::Result<Vec<OwnedFd>> {
        self.dirs
            .iter()
            .filter(|dir| !dir.v2)
            .map(|dir| file::open(&dir.fd, "tasks", OFlag::O_WRONLY))
            .collect()
    }

    /// Kills exec `exec_id` with all that it started, without waiting. Without an
    /// exec group those are `pid` and its descendants.
    ///
    /// # Errors
    /// The errno of writing or signalling.
    pub fn kill_exec(&self, exec_id: &str, pid: i32) -> io::Result<()> {
        match self.find_exec(exec_id)? {
            Some(group) => group.kill(),
            None => self.kill_descendants(pid),
        }
    }

    /// Removes the group of an exec that has ended. What it left running stays
    /// where it is; its group goes with a later exec or with the container.
    pub fn forget_exec(&self, exec_id: &str) {
        if let Ok(Some(group)) = self.find_exec(exec_id) {
            drop(group.remove(Duration::ZERO));
        }
    }

    fn find_exec(&self, exec_id: &str) -> io::Result<Option<ExecGroup>> {
        let name = group_name(exec_id)?;
        let Some(home) = self.v2() else {
            return Ok(None);
        };
        let dir = match file::open_dir(&home.fd, name.as_str()) {
            Err(error) if tree::is_gone(&error) => return Ok(None),
            other => other?,
        };
        let parent = home.fd.try_clone()?;
        Ok(Some(ExecGroup { parent, dir, name }))
    }

    fn sweep_execs(&self, keep: &str) -> io::Result<()> {
        let Some(home) = self.v2() else {
            return Ok(());
        };
        for name in tree::children(&home.fd)? {
            let bytes = name.as_bytes();
            if bytes.starts_with(PREFIX.as_bytes()) && bytes != keep.as_bytes() {
                // EBUSY, the usual answer, means in use.
                drop(tree::remove_one(&home.fd, name.as_c_str()));
            }
        }
        Ok(())
    }
}

fn group_name(exec_id: &str) -> io::Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if exec_id.is_empty() || exec_id.len() > MAX_ID || !exec_id.bytes().all(plain) {
        return Err(Errno::EINVAL.into());
    }
    Ok(format!("{PREFIX}{exec_id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_id_that_is_no_plain_name_is_refused() {
        let long = "x".repeat(MAX_ID + 1);
        for bad in ["", "a/b", "../x", "a b", "ä", "a\n", "a\0", long.as_str()] {
            assert!(group_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(group_name("a-B_1.x").unwrap(), "berth-exec-a-B_1.x");
    }
}
