//! Making a group.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::stat::{Mode as Permissions, mkdirat},
};

use crate::{
    Dir, Error, Group, GroupPath, Layout, Resources, file, kill::direct_pids, layout::Hierarchy,
    layout::Mode, tree,
};

/// Controllers that are handed down on v2 where the node has them.
const V2_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];
/// How often a path is walked again because a group above was removed meanwhile:
/// the last container of a pod may leave while another is being made.
const TRIES: usize = 8;

/// A directory that this call made, to be removed if it fails.
struct Made {
    parent: OwnedFd,
    name: String,
}

impl Group {
    /// Groups above `path` that are missing in any hierarchy, topmost first:
    /// [`Group::create`] makes them, so whoever calls it owns them.
    #[must_use]
    pub fn missing_ancestors(layout: &Layout, path: &GroupPath) -> Vec<String> {
        let missing = |ancestor: &&str| {
            layout
                .hierarchies()
                .iter()
                .any(|hierarchy| !hierarchy.mount.join(ancestor).is_dir())
        };
        path.ancestors()
            .filter(missing)
            .map(str::to_owned)
            .collect()
    }

    /// Makes the group in every hierarchy and sets its limits. A group that is
    /// there already is taken over, unless processes are in it. After a failure
    /// nothing that this call made is left.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is changed; [`Error::Busy`] for a group
    /// with processes of its own; else what the kernel refused.
    pub fn create(layout: &Layout, path: &GroupPath, resources: &Resources) -> Result<Self, Error> {
        Self::make_new(layout, path, resources, None)
    }

    /// As [`Group::create`], for a group that somebody else has made and keeps alive by
    /// the process `holder` in it: systemd, which also says what controllers it has.
    ///
    /// # Errors
    /// As [`Group::create`].
    pub fn adopt(
        layout: &Layout,
        path: &GroupPath,
        resources: &Resources,
        holder: i32,
    ) -> Result<Self, Error> {
        Self::make_new(layout, path, resources, Some(holder))
    }

    fn make_new(
        layout: &Layout,
        path: &GroupPath,
        resources: &Resources,
        holder: Option<i32>,
    ) -> Result<Self, Error> {
        resources.validate()?;
        let mut made = Vec::new();
        // Why v2 controllers could not be handed down; of interest only if one is missed.
        let mut refused = Vec::new();
        let created =
            make_all(layout, path, holder.is_some(), &mut made, &mut refused).and_then(|group| {
                group.refuse_occupied(path, holder)?;
                group.write_first(resources)?;
                Ok(group)
            });
        created.map_err(|cause| {
            let cause = match cause {
                Error::NoController { field, .. } if !refused.is_empty() => Error::Busy {
                    what: format!("{field}: {}", refused.join(", ")),
                },
                other => other,
            };
            Error::with_undo(cause, undo(made))
        })
    }

    fn refuse_occupied(&self, path: &GroupPath, holder: Option<i32>) -> Result<(), Error> {
        for dir in &self.dirs {
            let pids = direct_pids(dir.fd.as_fd())
                .map_err(Error::system(format!("reading cgroup {path}")))?;
            if let Some(pid) = pids.iter().find(|&&pid| Some(pid) != holder) {
                return Err(Error::Busy {
                    what: format!("cgroup {path} has processes already, among them {pid}"),
                });
            }
        }
        Ok(())
    }
}

fn make_all(
    layout: &Layout,
    path: &GroupPath,
    adopted: bool,
    made: &mut Vec<Made>,
    refused: &mut Vec<String>,
) -> Result<Group, Error> {
    let mut dirs = Vec::new();
    for hierarchy in layout.hierarchies() {
        let mut tries = 0;
        // On a hybrid node a stray controller may be left to v2. Passing it on would
        // forbid processes in a group that has groups below it, such as those of
        // execs, and change the root for everybody. An adopted group's ancestors are
        // not ours.
        let hands_down = hierarchy.v2 && layout.mode() == Mode::V2 && !adopted;
        let fd = loop {
            match make(hierarchy, hands_down, path, made, refused) {
                Err(error) if tree::is_gone(&error) && tries < TRIES => tries += 1,
                other => break other,
            }
        };
        let what = || format!("making cgroup {path} in {}", hierarchy.mount.display());
        dirs.push(Dir {
            controllers: hierarchy.controllers.clone(),
            v2: hierarchy.v2,
            fd: fd.map_err(|error| Error::system(what())(error))?,
        });
    }
    Ok(Group { dirs })
}

fn undo(made: Vec<Made>) -> Vec<Error> {
    let removed = made.into_iter().rev().map(|Made { parent, name }| {
        tree::remove_one(&parent, name.as_str())
            // Somebody has made a group in it meanwhile and needs it.
            .or_else(|error| match error.raw_os_error() {
                Some(errno) if errno == Errno::EBUSY as i32 => Ok(()),
                _ => Err(error),
            })
            .map_err(Error::system(format!("removing the new cgroup {name}")))
    });
    removed.filter_map(Result::err).collect()
}

fn make(
    hierarchy: &Hierarchy,
    hands_down: bool,
    path: &GroupPath,
    made: &mut Vec<Made>,
    refused: &mut Vec<String>,
) -> io::Result<OwnedFd> {
    let mut here = hierarchy.open()?;
    for name in path.as_str().split('/') {
        if hands_down {
            hand_down(&here, name, refused);
        }
        match mkdirat(&here, name, Permissions::from_bits_truncate(0o755)) {
            Ok(()) => {
                made.push(Made {
                    parent: here.try_clone()?,
                    name: name.to_owned(),
                });
            }
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let below = file::open_dir(&here, name)?;
        if hierarchy.has("cpuset") {
            inherit_cpuset(&here, &below)?;
        }
        here = below;
    }
    Ok(here)
}

/// On v2 a controller works in a group only if every group above passes it on.
/// One that cannot be passed on is missed only if a limit needs it.
fn hand_down(dir: &OwnedFd, name: &str, refused: &mut Vec<String>) {
    let list = |file| file::read(dir, file).unwrap_or_default();
    let (offered, enabled) = (list("cgroup.controllers"), list("cgroup.subtree_control"));
    let has = |list: &str, wanted: &str| list.split_whitespace().any(|one| one == wanted);
    for controller in V2_CONTROLLERS {
        if !has(&offered, controller) || has(&enabled, controller) {
            continue;
        }
        // One at a time: a controller that cannot be had must not cost the others.
        let enabled = file::write(dir, "cgroup.subtree_control", &format!("+{controller}"));
        if let Err(error) = enabled {
            refused.push(format!(
                "the group above {name} does not pass {controller} on: {error}"
            ));
        }
    }
}

/// A v1 cpuset begins empty, and no task may enter it or anything below it before
/// it has CPUs and memory nodes: each level takes those of the one above, also one
/// that a crash, or another program, left empty.
fn inherit_cpuset(above: &OwnedFd, group: &OwnedFd) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if file::read(group, name)?.trim().is_empty() {
            file::write(group, name, file::read(above, name)?.trim())?;
        }
    }
    Ok(())
}
