//! One control group: its directory in every hierarchy.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::fcntl::OFlag;

use crate::{Error, GroupPath, Result, file};

/// A control group, held by the descriptors of its directories.
///
/// Dropping it removes nothing.
#[derive(Debug)]
pub struct Group {
    pub(crate) members: Vec<Member>,
    /// Unknown where only descriptors were passed.
    pub(crate) path: Option<GroupPath>,
    pub(crate) created_ancestors: Vec<GroupPath>,
    pub(crate) unenforced: Vec<String>,
}

/// The group's directory in one hierarchy.
#[derive(Debug)]
pub(crate) struct Member {
    /// Joined by commas as in `/proc/self/cgroup`; empty for v2.
    pub(crate) controllers: String,
    pub(crate) v2: bool,
    pub(crate) dir: OwnedFd,
}

impl Member {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|name| name == controller)
    }
}

impl Group {
    /// A group of which only the directories are known: the controllers joined by
    /// commas (empty for v2), whether it is v2, and a descriptor of the directory.
    ///
    /// [`Group::dirs`] makes such a list, which can be sent to another process.
    #[must_use]
    pub fn from_dirs(dirs: Vec<(String, bool, OwnedFd)>) -> Self {
        let members = dirs.into_iter().map(|(controllers, v2, dir)| Member {
            controllers,
            v2,
            dir,
        });
        Self {
            members: members.collect(),
            path: None,
            created_ancestors: Vec::new(),
            unenforced: Vec::new(),
        }
    }

    /// Copies of the directories' descriptors, for [`Group::from_dirs`] elsewhere.
    ///
    /// # Errors
    /// EMFILE when there are no descriptors left.
    pub fn dirs(&self) -> Result<Vec<(String, bool, OwnedFd)>> {
        let copy = |member: &Member| {
            let dir = member.dir.try_clone();
            let dir = dir.map_err(|error| self.error("duplicate", "", error))?;
            Ok((member.controllers.clone(), member.v2, dir))
        };
        self.members.iter().map(copy).collect()
    }

    /// The group's path, where it is known.
    #[must_use]
    pub fn path(&self) -> Option<&GroupPath> {
        self.path.as_ref()
    }

    /// Groups above this one that its creation made, uppermost first. They are
    /// the caller's to own and to remove.
    #[must_use]
    pub fn created_ancestors(&self) -> &[GroupPath] {
        &self.created_ancestors
    }

    /// Limits that the last creation or update left out because the kernel lacks
    /// the controller or file and they mean little without it (swap accounting,
    /// huge pages).
    #[must_use]
    pub fn unenforced(&self) -> &[String] {
        &self.unenforced
    }

    /// Files through which a process enters the group by writing "0": `tasks` on
    /// v1, `cgroup.procs` on v2. A v1 write moves one thread only, so the writer
    /// must be single-threaded; in return it does not wait for a grace period.
    ///
    /// # Errors
    /// ENOENT or ENODEV if the group is gone.
    pub fn join_files(&self) -> Result<Vec<OwnedFd>> {
        let open = |member: &Member| {
            let name = if member.v2 { "cgroup.procs" } else { "tasks" };
            file::open(&member.dir, name, OFlag::O_WRONLY)
                .map_err(|error| self.error("open", name, error))
        };
        self.members.iter().map(open).collect()
    }

    /// The v2 directory, into which CLONE_INTO_CGROUP can put a new process.
    #[must_use]
    pub fn v2_fd(&self) -> Option<BorrowedFd<'_>> {
        self.v2().map(|member| member.dir.as_fd())
    }

    pub(crate) fn v2(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.v2)
    }

    pub(crate) fn v1(&self, controller: &str) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| !member.v2 && member.has(controller))
    }

    /// Where `controller` is: in its v1 hierarchy, else in the v2 one. A v2 group
    /// may still lack the controller's files.
    pub(crate) fn home_of(&self, controller: &str) -> Option<&Member> {
        self.v1(controller).or_else(|| self.v2())
    }

    /// The group and the file in it, for messages.
    pub(crate) fn label(&self, name: &str) -> String {
        let group = match &self.path {
            Some(path) => path.to_string(),
            None => "the container's cgroup".to_owned(),
        };
        if name.is_empty() {
            group
        } else {
            format!("{name} of {group}")
        }
    }

    pub(crate) fn error(&self, op: &'static str, name: &str, source: io::Error) -> Error {
        Error::file(op, self.label(name), source)
    }
}
