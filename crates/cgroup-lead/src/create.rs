//! Making a group.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use berth_sys::resolve::{self, Scope};

use crate::{Dir, Error, Group, GroupPath, Layout, Resources, file, layout::Hierarchy};

/// Controllers that are handed down on v2 where the node has them.
const V2_CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

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
    /// there already is taken over. After a failure nothing that this call made
    /// is left, but for ancestors.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is changed; else what the kernel refused.
    pub fn create(layout: &Layout, path: &GroupPath, resources: &Resources) -> Result<Self, Error> {
        resources.validate()?;
        let mut dirs = Vec::new();
        for hierarchy in layout.hierarchies() {
            match make(hierarchy, path) {
                Ok(fd) => dirs.push(Dir {
                    controllers: hierarchy.controllers.clone(),
                    v2: hierarchy.v2,
                    fd,
                }),
                Err(error) => {
                    undo(layout, path);
                    let what = format!("making cgroup {path} in {}", hierarchy.mount.display());
                    return Err(Error::system(what)(error));
                }
            }
        }
        let group = Self { dirs };
        if let Err(error) = group.set_limits(resources) {
            undo(layout, path);
            return Err(error);
        }
        Ok(group)
    }
}

/// The first failure is what the caller must hear; an empty group that stays
/// carries its owner's id.
fn undo(layout: &Layout, path: &GroupPath) {
    crate::remove_if_empty(layout, path);
}

fn make(hierarchy: &Hierarchy, path: &GroupPath) -> io::Result<OwnedFd> {
    let mount = File::open(&hierarchy.mount)?;
    if hierarchy.v2 {
        hand_down(&hierarchy.mount, path)?;
    }
    resolve::make_directories(&mount, Path::new(path.as_str()), 0o755, Scope::Beneath)?;
    // For reading this time, since the directory will be listed.
    let dir = file::open_dir(&mount, path.as_str())?;
    if hierarchy.has("cpuset") {
        inherit_cpuset(&mount, path)?;
    }
    Ok(dir)
}

/// On v2 a controller works in a group only if every group above passes it on.
fn hand_down(mount: &Path, path: &GroupPath) -> io::Result<()> {
    let offered = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    let wanted: Vec<&str> = V2_CONTROLLERS
        .into_iter()
        .filter(|one| offered.split_whitespace().any(|other| other == *one))
        .collect();
    // On hybrid the v2 hierarchy has none.
    if wanted.is_empty() {
        return Ok(());
    }
    let enable = |dir: &Path| -> io::Result<()> {
        let control = dir.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&control)?;
        for controller in &wanted {
            if !enabled.split_whitespace().any(|one| one == *controller) {
                // One at a time: a controller that cannot be had must not cost the others.
                fs::write(&control, format!("+{controller}")).ok();
            }
        }
        Ok(())
    };
    enable(mount)?;
    for ancestor in path.ancestors() {
        let dir = mount.join(ancestor);
        fs::create_dir(&dir).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
        enable(&dir)?;
    }
    Ok(())
}

/// A v1 cpuset begins empty, and no task may enter it before it has CPUs and
/// memory nodes: each level takes those of the one above.
fn inherit_cpuset(mount: &File, path: &GroupPath) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let mut above = file::read(mount, name)?;
        for group in path.ancestors().chain([path.as_str()]) {
            let dir = file::open_dir(mount, group)?;
            let own = file::read(&dir, name)?;
            if own.trim().is_empty() {
                file::write(&dir, name, above.trim())?;
            } else {
                above = own;
            }
        }
    }
    Ok(())
}
