//! Removing groups.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use nix::libc;

use crate::{Error, Group, GroupPath, Layout, exec::rmdir_at, file};

/// A group stays busy for a moment after its last process has died.
const PAUSE: Duration = Duration::from_millis(5);
/// Deeper nesting than any program makes; a container that does is removed in turns.
const DEEPEST: usize = 32;

impl Group {
    /// Removes the group at `path` with all groups below it from every hierarchy,
    /// waiting at most `limit` for the last processes to leave. What is not there
    /// is removed.
    ///
    /// # Errors
    /// [`Error::Busy`] if a process is left; what the kernel refused.
    pub fn remove(layout: &Layout, path: &GroupPath, limit: Duration) -> Result<(), Error> {
        let until = Instant::now() + limit;
        loop {
            match remove_once(layout, path) {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    if Instant::now() >= until {
                        let pids = Self::open(layout, path)
                            .ok()
                            .and_then(|group| group.processes().ok())
                            .unwrap_or_default();
                        return Err(Error::Busy {
                            what: format!("cgroup {path} still has the processes {pids:?}"),
                        });
                    }
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(Error::system(format!("removing cgroup {path}"))(error)),
            }
        }
    }
}

fn remove_once(layout: &Layout, path: &GroupPath) -> io::Result<()> {
    let mut busy = Ok(());
    for hierarchy in layout.hierarchies() {
        let (parent, name) = match path.as_str().rsplit_once('/') {
            Some((parent, name)) => (parent, name),
            None => (".", path.as_str()),
        };
        let removed = File::open(&hierarchy.mount)
            .and_then(|mount| file::open_dir(&mount, parent))
            .and_then(|parent| remove_tree(&parent, name, DEEPEST));
        match removed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The other hierarchies go all the same.
            Err(error) => busy = Err(error),
        }
    }
    busy
}

fn remove_tree(parent: &OwnedFd, name: &str, depth: usize) -> io::Result<()> {
    match rmdir_at(parent, name) {
        // With groups below it a group is busy too.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) && depth > 0 => {}
        other => return other,
    }
    let dir = file::open_dir(parent, name)?;
    for child in file::children(&dir)? {
        remove_tree(&dir, &child, depth - 1)?;
    }
    rmdir_at(parent, name)
}

/// Removes a group if nobody is in it and nothing below it, in each hierarchy.
pub fn remove_if_empty(layout: &Layout, path: &GroupPath) {
    for hierarchy in layout.hierarchies() {
        // EBUSY means that it is in use, which is all right.
        std::fs::remove_dir(hierarchy.mount.join(path.as_str())).ok();
    }
}

/// Names of the groups directly below `path`, in any hierarchy.
///
/// # Errors
/// The errno of listing one that is there.
pub fn list_children(layout: &Layout, path: &GroupPath) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for hierarchy in layout.hierarchies() {
        let opened =
            File::open(&hierarchy.mount).and_then(|mount| file::open_dir(&mount, path.as_str()));
        match opened {
            Ok(dir) => names.extend(file::children(&dir)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}
