//! One group in every hierarchy.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use nix::{errno::Errno, fcntl::OFlag};

use crate::{Error, GroupPath, Hierarchy, Layout, file, layout, tree};

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

impl Dir {
    pub(crate) fn has(&self, controller: &str) -> bool {
        layout::has(&self.controllers, controller)
    }

    /// Whether v2 has this controller in this group.
    pub(crate) fn offers(&self, controller: &str) -> bool {
        file::read(&self.fd, "cgroup.controllers")
            .is_ok_and(|text| text.split_whitespace().any(|one| one == controller))
    }
}

/// One group: its directory in every hierarchy. Dropping it removes nothing.
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
    /// [`Error::System`] if it exists in none ([`Error::is_not_found`]), or if one
    /// cannot be opened: without it the group would look emptier than it is.
    pub fn open(layout: &Layout, path: &GroupPath) -> Result<Self, Error> {
        Self::open_where(layout, path, |_| true)
    }

    /// As [`Group::open`], of only those v1 hierarchies that have one of `controllers`,
    /// and of v2's: for whoever only reads, and often.
    ///
    /// # Errors
    /// As [`Group::open`].
    pub fn open_for(
        layout: &Layout,
        path: &GroupPath,
        controllers: &[&str],
    ) -> Result<Self, Error> {
        Self::open_where(layout, path, |hierarchy| {
            hierarchy.v2 || controllers.iter().any(|name| hierarchy.has(name))
        })
    }

    fn open_where(
        layout: &Layout,
        path: &GroupPath,
        wanted: impl Fn(&Hierarchy) -> bool,
    ) -> Result<Self, Error> {
        let mut dirs = Vec::new();
        let what = || format!("opening cgroup {path}");
        for hierarchy in layout.hierarchies().iter().filter(|one| wanted(one)) {
            match hierarchy.open_below(path.as_str()) {
                Ok(fd) => dirs.push(Dir {
                    controllers: hierarchy.controllers.clone(),
                    v2: hierarchy.v2,
                    fd,
                }),
                Err(error) if tree::is_gone(&error) => {}
                Err(error) => return Err(Error::system(what())(error)),
            }
        }
        if dirs.is_empty() {
            return Err(Error::system(what())(Errno::ENOENT.into()));
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

    /// The directory in the v2 hierarchy (CLONE_INTO_CGROUP, `cgroup.kill`).
    #[must_use]
    pub fn v2_fd(&self) -> Option<BorrowedFd<'_>> {
        self.v2().map(|dir| dir.fd.as_fd())
    }

    /// Files through which a process moves itself in by writing "0": `tasks` on v1,
    /// which moves one thread, so that the writer must be single-threaded, but
    /// does not wait for a grace period; `cgroup.procs` on v2.
    ///
    /// # Errors
    /// The errno of opening one.
    pub fn join_files(&self) -> io::Result<Vec<OwnedFd>> {
        self.dirs
            .iter()
            .map(|dir| file::open(&dir.fd, join_name(dir.v2), OFlag::O_WRONLY))
            .collect()
    }

    pub(crate) fn v2(&self) -> Option<&Dir> {
        self.dirs.iter().find(|dir| dir.v2)
    }

    pub(crate) fn v1(&self, controller: &str) -> Option<&Dir> {
        self.dirs.iter().find(|dir| !dir.v2 && dir.has(controller))
    }

    /// The directory in which `controller` is, v1 or v2.
    pub(crate) fn with(&self, controller: &str) -> Option<&Dir> {
        self.v1(controller).or_else(|| {
            self.v2().filter(|dir| {
                // A group without the controller has none of its files, but for those
                // that the core keeps everywhere.
                matches!(controller, "cpuacct" | "freezer") || dir.offers(controller)
            })
        })
    }
}

/// v1's `tasks` moves one thread, and a freshly cloned process has but one; its
/// `cgroup.procs` would wait for a grace period.
pub(crate) fn join_name(v2: bool) -> &'static str {
    if v2 { "cgroup.procs" } else { "tasks" }
}

/// Turns an errno into an error about `name` in the group at hand.
pub(crate) fn failed(op: &str, name: &str) -> impl FnOnce(io::Error) -> Error {
    let what = format!("{op} {name}");
    move |source| Error::System { what, source }
}
