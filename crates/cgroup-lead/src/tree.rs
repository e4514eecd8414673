//! Groups below a group. A container can make them, as deep and as many as it
//! likes, so nothing here recurses or holds one descriptor per level.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::OFlag,
    sys::stat::{Mode, fstat},
    unistd::{UnlinkatFlags, unlinkat},
};

use crate::file;

/// Names of the groups directly below `dir`.
pub(crate) fn children(dir: impl AsFd) -> io::Result<Vec<CString>> {
    // The kernel counts one link per group below, so a leaf needs no listing.
    if fstat(dir.as_fd())?.st_nlink == 2 {
        return Ok(Vec::new());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = Dir::openat(dir.as_fd(), ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == Some(Type::Directory) && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Whether the group went away: ENOENT for its name, ENODEV for its open files.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOENT | Errno::ENODEV)
    )
}

/// Visits `dir` and every group below it, parents first. Groups that vanish
/// meanwhile are passed over.
pub(crate) fn walk(
    dir: BorrowedFd<'_>,
    mut visit: impl FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<()> {
    visit(dir)?;
    let mut pending = vec![children(dir)?];
    if pending[0].is_empty() {
        return Ok(());
    }
    let mut here = file::open_dir(dir, ".")?;
    while let Some(names) = pending.last_mut() {
        let step = match names.pop() {
            Some(name) => descend(&here, &name, &mut visit).map(|found| {
                found.map(|(below, names)| {
                    here = below;
                    pending.push(names);
                })
            }),
            None => {
                pending.pop();
                if !pending.is_empty() {
                    // A group never moves to another parent, so this leads back.
                    here = file::open_dir(&here, "..")?;
                }
                Ok(None)
            }
        };
        step?;
    }
    Ok(())
}

fn descend(
    here: &OwnedFd,
    name: &CString,
    visit: &mut impl FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<Option<(OwnedFd, Vec<CString>)>> {
    let seen = (|| {
        let below = file::open_dir(here, name.as_c_str())?;
        visit(below.as_fd())?;
        let names = children(&below)?;
        Ok((below, names))
    })();
    match seen {
        Err(error) if is_gone(&error) => Ok(None),
        other => other.map(Some),
    }
}

/// Removes every group below `dir`, deepest first, but not `dir` itself.
///
/// # Errors
/// EBUSY for one that has processes; ETIMEDOUT at `end`, since a container can
/// make groups as fast as they are removed.
pub(crate) fn remove_below(dir: BorrowedFd<'_>, end: Instant) -> io::Result<()> {
    let mut here: Option<OwnedFd> = None;
    let mut names: Vec<CString> = Vec::new();
    loop {
        let current = here.as_ref().map_or(dir, OwnedFd::as_fd);
        let below = match children(current) {
            Err(error) if is_gone(&error) => Vec::new(),
            other => other?,
        };
        if let Some(name) = below.into_iter().next_back() {
            match file::open_dir(current, name.as_c_str()) {
                Ok(fd) => {
                    here = Some(fd);
                    names.push(name);
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        } else if let Some(name) = names.pop() {
            let parent = file::open_dir(current, "..")?;
            remove_one(&parent, name.as_c_str())?;
            here = Some(parent);
        } else {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Errno::ETIMEDOUT.into());
        }
    }
}

/// rmdir(2) that is content if it has been done already.
pub(crate) fn remove_one<P: nix::NixPath + ?Sized>(parent: impl AsFd, name: &P) -> io::Result<()> {
    match unlinkat(parent.as_fd(), name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
