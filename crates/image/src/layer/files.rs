//! File system calls below a directory that only we write to.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{self, AtFlags, Dir, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid},
    io::Errno,
};

use crate::tar::{Time, Xattrs};

/// Overlayfs' mark of a directory that hides what lies below.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// As the kernel: no attribute is larger (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const XATTR_MAX: usize = 65_536;

/// Opens `path` below `root` without following any link.
///
/// # Errors
/// ELOOP or EXDEV for a link or a step out; else as openat2(2).
pub(crate) fn open_beneath(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let mut tries = 0;
    loop {
        match fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere made the kernel unsure (openat2(2)); bounded, since it can be caused.
            Err(Errno::AGAIN) if tries < 128 => tries += 1,
            other => return other,
        }
    }
}

/// Opens the directory `path` below `root`.
pub(super) fn open_directory(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_beneath(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW,
    )
}

/// Looks at `name` in `directory` itself, never at what it links to.
pub(super) fn stat(directory: impl AsFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The sorted names in a directory.
pub(crate) fn read_names(directory: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

static GRAVE: AtomicU64 = AtomicU64::new(0);

/// Removes `name` in `parent` with all below it; nothing there is fine.
///
/// Full subdirectories are first moved up beside `name`, so that neither the
/// stack nor the descriptors grow with the depth of a hostile tree.
///
/// # Errors
/// The first errno; what could not be removed stays in `parent`.
pub(crate) fn remove_tree(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let parent = parent.as_fd();
    let mut graves = vec![name.to_vec()];
    while let Some(grave) = graves.pop() {
        match fs::unlinkat(parent, &grave[..], AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
        let directory = open_directory(parent, &grave)?;
        for child in read_names(&directory)? {
            if let Some(grave) = remove_child(parent, directory.as_fd(), &child)? {
                graves.push(grave);
            }
        }
        drop(directory);
        fs::unlinkat(parent, &grave[..], AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Removes the directory at `path` with all below it, as [`remove_tree`] does: a mount
/// that somebody left in it is an error and not entered. Nothing there is fine.
///
/// # Errors
/// The first errno; what could not be removed stays.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    for name in read_names(&directory)? {
        remove_tree(&directory, &name)?;
    }
    std::fs::remove_dir(path)
}

/// Removes `child`, or moves it into `parent` under the returned name.
fn remove_child(
    parent: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    child: &[u8],
) -> Result<Option<Vec<u8>>, Errno> {
    match fs::unlinkat(directory, child, AtFlags::empty()) {
        Ok(()) => return Ok(None),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    match fs::unlinkat(directory, child, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(None),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {
            let number = GRAVE.fetch_add(1, Ordering::Relaxed);
            let grave = format!(".grave-{}-{number}", std::process::id()).into_bytes();
            fs::renameat(directory, child, parent, &grave[..])?;
            Ok(Some(grave))
        }
        Err(errno) => Err(errno),
    }
}

pub(super) fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

/// Both stamps the same: an image has no time of access.
pub(super) fn times(time: Time) -> Timestamps {
    let stamp = Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    };
    Timestamps {
        last_access: stamp,
        last_modification: stamp,
    }
}

pub(super) fn mtime(stat: &Stat) -> Time {
    Time {
        seconds: stat.st_mtime,
        nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

/// What of a file's attributes belongs to an image.
pub(super) fn is_image_xattr(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.")
}

/// The attributes of `fd` that belong to an image, sorted.
pub(super) fn image_xattrs(fd: impl AsFd) -> Result<Xattrs, Errno> {
    let mut list = vec![0u8; XATTR_MAX];
    let length = match fs::flistxattr(&fd, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut xattrs = Vec::new();
    let names = list[..length].split(|&b| b == 0);
    for name in names.filter(|name| is_image_xattr(name)) {
        let mut value = vec![0u8; XATTR_MAX];
        let length = fs::fgetxattr(&fd, name, &mut value[..])?;
        value.truncate(length);
        xattrs.push((name.to_vec(), value));
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Whether the directory `fd` hides what lies below it.
pub(super) fn is_opaque(fd: impl AsFd) -> bool {
    let mut value = [0u8; 8];
    matches!(fs::fgetxattr(fd, OPAQUE, &mut value[..]), Ok(1) if value[0] == b'y')
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

pub(super) fn is_link(stat: &Stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFLNK
}

/// Overlayfs' mark of a removed name: a character device 0:0.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0
}
