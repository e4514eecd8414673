//! Removing groups.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use crate::{Error, Group, GroupPath, Layout, file, layout::Hierarchy, tree};

/// A group stays busy for a moment after its last process has died. Doubled up to
/// the second.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LAST_PAUSE: Duration = Duration::from_millis(50);

impl Group {
    /// Removes the group at `path` with all groups below it from every hierarchy,
    /// waiting at most `limit` for the last processes to leave. What is not there
    /// is removed. Nothing is killed.
    ///
    /// # Errors
    /// [`Error::Busy`] with the processes that are left; what the kernel refused.
    pub fn remove(layout: &Layout, path: &GroupPath, limit: Duration) -> Result<(), Error> {
        let end = Instant::now() + limit;
        let mut pause = FIRST_PAUSE;
        let mut left: Vec<&Hierarchy> = layout.hierarchies().iter().collect();
        let mut failure = None;
        loop {
            let mut busy = Vec::new();
            for hierarchy in left {
                match remove_in(hierarchy, path, end) {
                    Ok(()) => {}
                    // The other hierarchies go all the same.
                    Err(error) if is_busy(&error) => busy.push(hierarchy),
                    Err(error) => {
                        let mount = hierarchy.mount.display();
                        let what = format!("removing cgroup {path} from {mount}");
                        failure.get_or_insert(Error::system(what)(error));
                    }
                }
            }
            if busy.is_empty() {
                return failure.map_or(Ok(()), Err);
            }
            if Instant::now() >= end {
                let pids = Self::open(layout, path)
                    .ok()
                    .and_then(|group| group.processes().ok())
                    .unwrap_or_default();
                let what = format!("cgroup {path} still has the processes {pids:?}");
                return Err(Error::Busy { what });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE);
            left = busy;
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        // ENOTEMPTY: a group was made in it between the look and the removal.
        Some(Errno::EBUSY | Errno::ETIMEDOUT | Errno::ENOTEMPTY)
    )
}

/// The group above, and the group's name in it; none if that is not there.
fn above<'path>(
    hierarchy: &Hierarchy,
    path: &'path GroupPath,
) -> io::Result<Option<(OwnedFd, &'path str)>> {
    let (parent, name) = path
        .as_str()
        .rsplit_once('/')
        .unwrap_or((".", path.as_str()));
    match hierarchy.open_below(parent) {
        Ok(parent) => Ok(Some((parent, name))),
        Err(error) if tree::is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_in(hierarchy: &Hierarchy, path: &GroupPath, end: Instant) -> io::Result<()> {
    let Some((parent, name)) = above(hierarchy, path)? else {
        return Ok(());
    };
    // The usual case: nothing is below it.
    match tree::remove_one(&parent, name) {
        Err(error) if is_busy(&error) => {}
        other => return other,
    }
    match file::open_dir(&parent, name) {
        Ok(dir) => tree::remove_below(dir.as_fd(), end)?,
        Err(error) if tree::is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    }
    tree::remove_one(&parent, name)
}

/// Removes a group if, in every hierarchy, nobody is in it and nothing below it;
/// says whether it is gone.
pub fn remove_if_empty(layout: &Layout, path: &GroupPath) -> bool {
    let group = match Group::open(layout, path) {
        Ok(group) => group,
        Err(error) => return error.is_not_found(),
    };
    let bare = |dir: &crate::Dir| tree::children(&dir.fd).is_ok_and(|below| below.is_empty());
    // In use in one hierarchy it is wanted in all.
    if !group.is_empty().unwrap_or(false) || !group.dirs().iter().all(bare) {
        return false;
    }
    layout.hierarchies().iter().all(|hierarchy| {
        let removed = above(hierarchy, path).and_then(|place| match place {
            Some((parent, name)) => tree::remove_one(&parent, name),
            None => Ok(()),
        });
        removed.is_ok()
    })
}

/// Names of the groups directly below `path`, in any hierarchy, sorted. Names that
/// are not UTF-8, which no runtime makes, are left out.
///
/// # Errors
/// The errno of listing one that is there.
pub fn list_children(layout: &Layout, path: &GroupPath) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for hierarchy in layout.hierarchies() {
        match hierarchy.open_below(path.as_str()) {
            Ok(dir) => names.extend(
                tree::children(&dir)?
                    .into_iter()
                    .filter_map(|name| name.into_string().ok()),
            ),
            Err(error) if tree::is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}
