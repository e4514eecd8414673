//! One group in every hierarchy.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use nix::libc;

use crate::{Error, GroupPath, Layout, file, layout};

/// The directory of a group in one hierarchy.
#[derive(Debug)]
pub struct Dir {
    /// As the kernel names them; empty for v2.
    pub controllers: String,
    /// Whether it is in the v2 hierarchy.
    pub v2: bool,
    /// The directory.
    pub fd: OwnedFd,
}

/// One group: its directory in every hierarchy.
#[derive(Debug)]
pub struct Group {
    pub(crate) dirs: Vec<Dir>,
}

impl Group {
    /// Of directories that somebody else opened.
    #[must_use]
    pub fn from_dirs(dirs: Vec<Dir>) -> Self {
        Self { dirs }
    }

    /// Opens a group that exists. Hierarchies in which it does not are left out.
    ///
    /// # Errors
    /// [`Error::System`] if it exists in none.
    pub fn open(layout: &Layout, path: &GroupPath) -> Result<Self, Error> {
        let mut dirs = Vec::new();
        let mut failure = io::Error::from_raw_os_error(libc::ENOENT);
        for hierarchy in layout.hierarchies() {
            let opened = std::fs::File::open(&hierarchy.mount)
                .and_then(|mount| file::open_dir(&mount, path.as_str()));
            match opened {
                Ok(fd) => dirs.push(Dir {
                    controllers: hierarchy.controllers.clone(),
                    v2: hierarchy.v2,
                    fd,
                }),
                Err(error) => failure = error,
            }
        }
        if dirs.is_empty() {
            return Err(Error::system(format!("opening cgroup {path}"))(failure));
        }
        Ok(Self { dirs })
    }

    /// Its directories, to be passed on.
    #[must_use]
    pub fn dirs(&self) -> &[Dir] {
        &self.dirs
    }

    /// Gives the directories away.
    #[must_use]
    pub fn into_dirs(self) -> Vec<Dir> {
        self.dirs
    }

    /// The directory in which `controller` is, v1 or v2.
    pub(crate) fn with(&self, controller: &str) -> Option<&Dir> {
        self.dirs
            .iter()
            .find(|dir| !dir.v2 && layout::has(&dir.controllers, controller))
            .or_else(|| {
                self.dirs.iter().find(|dir| {
                    // The files of a controller are there only where it is enabled.
                    dir.v2 && file::open(&dir.fd, v2_file(controller), libc::O_PATH).is_ok()
                })
            })
    }

    /// The directory in the v2 hierarchy (CLONE_INTO_CGROUP, `cgroup.kill`).
    #[must_use]
    pub fn v2_fd(&self) -> Option<BorrowedFd<'_>> {
        self.dirs
            .iter()
            .find(|dir| dir.v2)
            .map(|dir| dir.fd.as_fd())
    }

    /// Files through which a process moves itself in by writing "0".
    ///
    /// # Errors
    /// The errno of opening one.
    pub fn join_files(&self) -> io::Result<Vec<OwnedFd>> {
        self.dirs
            .iter()
            .map(|dir| file::open(&dir.fd, join_name(dir.v2), libc::O_WRONLY))
            .collect()
    }
}

/// v1's `tasks` moves one thread, and a freshly cloned process has but one; its
/// `cgroup.procs` would wait for a grace period.
pub(crate) fn join_name(v2: bool) -> &'static str {
    if v2 { "cgroup.procs" } else { "tasks" }
}

fn v2_file(controller: &str) -> &'static str {
    match controller {
        "memory" => "memory.current",
        "cpu" => "cpu.weight",
        "cpuset" => "cpuset.cpus",
        "pids" => "pids.max",
        "cpuacct" => "cpu.stat",
        "hugetlb" => "hugetlb.2MB.max",
        "freezer" => "cgroup.freeze",
        _ => "cgroup.no-such-file",
    }
}
