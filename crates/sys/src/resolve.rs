//! Paths below a root that somebody else controls, resolved by openat2(2).
//!
//! Nothing here ever follows a link out of the root, whatever the tree does
//! meanwhile: the kernel resolves, and what it returns is a descriptor.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Component, Path, PathBuf},
};

use crate::{c_string, check, check_int};

/// How far a path may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The root is `/`: absolute links start there, `..` stops there.
    InRoot,
    /// Any step out of the root is an error, and so is any symbolic link.
    Beneath,
}

impl Scope {
    fn flags(self) -> u64 {
        // RESOLVE_NO_MAGICLINKS always: /proc/PID/root and its like lead anywhere.
        match self {
            Self::InRoot => libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
            Self::Beneath => libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS,
        }
    }
}

/// Opens `path` below `root` with open(2) `flags`; O_CLOEXEC is added.
///
/// # Errors
/// EXDEV or ELOOP for what leads out or is not allowed; else as open(2).
pub fn open(
    root: impl AsFd,
    path: &Path,
    flags: i32,
    mode: u32,
    scope: Scope,
) -> io::Result<OwnedFd> {
    let name = relative(path)?;
    // SAFETY: an all-zero open_how is a valid value of that plain C struct.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = scope.flags();
    let mut tries = 0;
    loop {
        // SAFETY: a string that ends with NUL and a complete open_how with its size.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_fd().as_raw_fd(),
                name.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        });
        match result {
            // SAFETY: a fresh descriptor that nobody else owns.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            // EAGAIN: a rename or mount anywhere made a `..` uncertain (openat2(2)).
            // An attacker can cause it for ever, hence the bound.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && tries < 128 => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Absolute paths mean "below the root"; an empty one is the root itself.
fn relative(path: &Path) -> io::Result<CString> {
    let bytes = path.as_os_str().as_bytes();
    let start = bytes.iter().position(|&b| b != b'/').unwrap_or(bytes.len());
    match &bytes[start..] {
        [] => c_string("."),
        rest => c_string(rest),
    }
}

/// Opens `path` below `root`, only to refer to it (O_PATH).
///
/// # Errors
/// As [`open`].
pub fn open_path(root: impl AsFd, path: &Path, scope: Scope) -> io::Result<OwnedFd> {
    open(root, path, libc::O_PATH, 0, scope)
}

/// Opens the directory `path` below `root`, making what is missing with `mode`.
///
/// Existing links are followed within the root; a dangling link is ENOENT.
///
/// # Errors
/// ENOTDIR if something else is in the way; else as mkdirat(2).
pub fn make_directories(
    root: impl AsFd,
    path: &Path,
    mode: u32,
    scope: Scope,
) -> io::Result<OwnedFd> {
    // The usual case: it is there.
    let directory = libc::O_PATH | libc::O_DIRECTORY;
    match open(root.as_fd(), path, directory, 0, scope) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let mut done = PathBuf::new();
    let mut last = open(root.as_fd(), Path::new(""), directory, 0, scope)?;
    for part in path.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            // `..` below links cannot be tracked by name.
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
        };
        done.push(name);
        last = match open(root.as_fd(), &done, directory, 0, scope) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                make_directory(&last, name, mode)?;
                // Again from the root: `last/name` may have been swapped for a link meanwhile.
                open(root.as_fd(), &done, directory, 0, scope)?
            }
            other => other?,
        };
    }
    Ok(last)
}

fn make_directory(parent: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
    let name = c_string(name.as_bytes())?;
    // SAFETY: a string that ends with NUL and integers.
    match check_int(unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), mode) }) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

/// Opens (O_PATH) the file `path` below `root`, making it and its parents if missing.
///
/// # Errors
/// As [`make_directories`]; EISDIR if a directory is there.
pub fn make_file(root: impl AsFd, path: &Path, scope: Scope) -> io::Result<OwnedFd> {
    match open_path(root.as_fd(), path, scope) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    };
    let parent = make_directories(root.as_fd(), parent, 0o755, scope)?;
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_NOFOLLOW | libc::O_EXCL;
    match open(&parent, Path::new(name), flags, 0o644, Scope::Beneath) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
        _ => {}
    }
    open_path(&parent, Path::new(name), Scope::Beneath)
}

/// Makes a device node or FIFO `name` in `dir`.
///
/// # Errors
/// The errno of mknodat(2).
pub fn make_node(
    dir: impl AsFd,
    name: &OsStr,
    mode: u32,
    major: u32,
    minor: u32,
) -> io::Result<()> {
    let name = c_string(name.as_bytes())?;
    let device = libc::makedev(major, minor);
    // SAFETY: a string that ends with NUL and integers.
    check_int(unsafe { libc::mknodat(dir.as_fd().as_raw_fd(), name.as_ptr(), mode, device) })
        .map(drop)
}

/// Changes owner and mode of `name` in `dir`, never through a link.
///
/// # Errors
/// The errno of fchownat(2) or fchmodat(2).
pub fn set_owner_and_mode(
    dir: impl AsFd,
    name: &OsStr,
    uid: u32,
    gid: u32,
    mode: u32,
) -> io::Result<()> {
    let dir = dir.as_fd().as_raw_fd();
    let name = c_string(name.as_bytes())?;
    let nofollow = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: a string that ends with NUL and integers.
    check_int(unsafe { libc::fchownat(dir, name.as_ptr(), uid, gid, nofollow) })?;
    // SAFETY: a string that ends with NUL and integers. fchmodat2 knows AT_SYMLINK_NOFOLLOW
    // only from Linux 6.6 on; the callers have just made `name` in a directory of their own.
    check_int(unsafe { libc::fchmodat(dir, name.as_ptr(), mode & 0o7777, 0) }).map(drop)
}

/// Makes a symbolic link `name` in `dir`; one that is there already is left.
///
/// # Errors
/// The errno of symlinkat(2), EEXIST excepted.
pub fn make_link(dir: impl AsFd, name: &OsStr, target: &OsStr) -> io::Result<()> {
    let name = c_string(name.as_bytes())?;
    let target = c_string(target.as_bytes())?;
    // SAFETY: strings that end with NUL.
    match check_int(unsafe {
        libc::symlinkat(target.as_ptr(), dir.as_fd().as_raw_fd(), name.as_ptr())
    }) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

/// File type bits (S_IFMT) of what `fd` refers to.
///
/// # Errors
/// The errno of fstat(2).
pub fn file_type(fd: impl AsFd) -> io::Result<u32> {
    // SAFETY: an all-zero stat is a valid value of that plain C struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable and of the right type.
    check_int(unsafe { libc::fstat(fd.as_fd().as_raw_fd(), &raw mut stat) })?;
    Ok(stat.st_mode & libc::S_IFMT)
}

/// Whether `fd` lies on a procfs (PROC_SUPER_MAGIC).
///
/// # Errors
/// The errno of fstatfs(2).
pub fn is_procfs(fd: impl AsFd) -> io::Result<bool> {
    // SAFETY: an all-zero statfs is a valid value of that plain C struct.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable and of the right type.
    check_int(unsafe { libc::fstatfs(fd.as_fd().as_raw_fd(), &raw mut stat) })?;
    Ok(stat.f_type == libc::PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("berth-sys-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn links_never_lead_out_of_the_root() {
        let top = scratch("links");
        fs::create_dir_all(top.join("root/in")).unwrap();
        fs::write(top.join("secret"), "x").unwrap();
        symlink("../secret", top.join("root/up")).unwrap();
        symlink("/in", top.join("root/abs")).unwrap();
        let root = fs::File::open(top.join("root")).unwrap();
        assert!(open_path(&root, Path::new("/up"), Scope::InRoot).is_err());
        assert!(open_path(&root, Path::new("up"), Scope::Beneath).is_err());
        assert!(open_path(&root, Path::new("../secret"), Scope::Beneath).is_err());
        assert!(open_path(&root, Path::new("/abs"), Scope::InRoot).is_ok());
        make_file(&root, Path::new("/abs/a/b"), Scope::InRoot).unwrap();
        assert!(top.join("root/in/a/b").is_file());
        make_directories(&root, Path::new("/x/y"), 0o755, Scope::InRoot).unwrap();
        assert!(top.join("root/x/y").is_dir());
        fs::remove_dir_all(top).unwrap();
    }
}
