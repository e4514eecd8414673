//! A group of its own for each exec'd process, so that it can be killed with all
//! that it started.
//!
//! Only in the v2 hierarchy, which hybrid nodes have too: one more directory
//! there costs 50 µs and no limit is changed by it.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use berth_sys::resolve::{self, Scope};
use nix::libc;

use crate::{Group, file, group::join_name};

fn name(exec_id: &str) -> String {
    format!("exec-{exec_id}")
}

impl Group {
    /// Files through which an exec'd process moves itself in: the container's
    /// groups, and in the v2 hierarchy one of its own.
    ///
    /// # Errors
    /// The errno of making or opening them.
    pub fn exec_join_files(&self, exec_id: &str) -> io::Result<Vec<OwnedFd>> {
        let mut files = Vec::new();
        for dir in &self.dirs {
            if !dir.v2 {
                files.push(file::open(&dir.fd, join_name(false), libc::O_WRONLY)?);
                continue;
            }
            resolve::make_directories(&dir.fd, name(exec_id).as_ref(), 0o755, Scope::Beneath)?;
            let own = file::open_dir(&dir.fd, &name(exec_id))?;
            files.push(file::open(&own, join_name(true), libc::O_WRONLY)?);
        }
        Ok(files)
    }

    /// Kills an exec'd process and all that it started. On plain v1, where it has
    /// no group of its own, the process `pid` and its descendants.
    ///
    /// # Errors
    /// The errno of the kernel's refusal.
    pub fn kill_exec(&self, exec_id: &str, pid: i32) -> io::Result<()> {
        for dir in self.dirs.iter().filter(|dir| dir.v2) {
            match file::open_dir(&dir.fd, &name(exec_id)) {
                Ok(own) => return file::write(&own, "cgroup.kill", "1"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        kill_descendants(pid)
    }

    /// Removes the group of an exec that has ended. If something of it still
    /// runs, the group goes with the container.
    pub fn forget_exec(&self, exec_id: &str) {
        for dir in self.dirs.iter().filter(|dir| dir.v2) {
            rmdir_at(&dir.fd, &name(exec_id)).ok();
        }
    }
}

pub(crate) fn rmdir_at(dir: &OwnedFd, name: &str) -> io::Result<()> {
    std::fs::remove_dir(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

/// Stops each before its children are listed, so that it makes no more.
fn kill_descendants(pid: i32) -> io::Result<()> {
    let mut pending = vec![pid];
    let mut found = Vec::new();
    while let Some(pid) = pending.pop() {
        let Ok(pidfd) = berth_sys::process::pidfd_open(pid) else {
            continue;
        };
        // ESRCH: it has just ended.
        berth_sys::process::pidfd_send_signal(&pidfd, libc::SIGSTOP).ok();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        pending.extend(
            children
                .split_whitespace()
                .filter_map(|c| c.parse::<i32>().ok()),
        );
        found.push(pidfd);
    }
    for pidfd in found {
        match berth_sys::process::pidfd_send_signal(&pidfd, libc::SIGKILL) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
