//! tmpcopyup: a new tmpfs begins with what it covers.
//!
//! The tree belongs to the image. Links are copied and never followed, and nothing is
//! opened but directories and plain files: a FIFO would wait for ever.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
};

use berth_sys::resolve::{self, Scope};
use nix::{
    dir::Dir,
    fcntl::{AtFlags, OFlag, readlinkat},
    libc,
    sys::stat::{FileStat, Mode, fstatat, mkdirat},
};

/// Deeper than any image's directory, and far from the end of the stack.
const DEEPEST: usize = 64;

/// Copies what lies in `from` into `to`, and its owner and mode too, unless `to` was
/// made with a mode of its own.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd, own_mode: bool) -> io::Result<()> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let from = resolve::open(from, Path::new(""), flags, 0, Scope::Beneath)?;
    let to = resolve::open(to, Path::new(""), flags, 0, Scope::Beneath)?;
    let metadata = File::from(from.try_clone()?).metadata()?;
    if !own_mode {
        own(&to, metadata.uid(), metadata.gid(), metadata.mode())?;
    }
    directory(&from, &to, 0)
}

fn directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!(
            "more than {DEEPEST} directories in each other"
        )));
    }
    for name in names(from)? {
        let stat = fstatat(from, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        entry(from, to, &name, &stat, depth)?;
    }
    Ok(())
}

fn names(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = Dir::openat(dir, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

fn entry(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &OsStr,
    stat: &FileStat,
    depth: usize,
) -> io::Result<()> {
    let path = Path::new(name);
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            mkdirat(to, name, Mode::S_IRWXU)?;
            let flags = libc::O_RDONLY | libc::O_DIRECTORY;
            let inner = resolve::open(from, path, flags, 0, Scope::Beneath)?;
            let copy = resolve::open(to, path, flags, 0, Scope::Beneath)?;
            own(&copy, stat.st_uid, stat.st_gid, stat.st_mode)?;
            directory(&inner, &copy, depth + 1)
        }
        libc::S_IFREG => {
            let flags = libc::O_RDONLY | libc::O_NONBLOCK;
            let source = resolve::open(from, path, flags, 0, Scope::Beneath)?;
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
            let copy = resolve::open(to, path, flags, 0o600, Scope::Beneath)?;
            let mut file = File::from(copy.try_clone()?);
            io::copy(&mut File::from(source), &mut file)?;
            own(&copy, stat.st_uid, stat.st_gid, stat.st_mode)
        }
        libc::S_IFLNK => {
            let target = readlinkat(from.as_fd(), name)?;
            resolve::make_link(to, name, &target)?;
            nix::unistd::fchownat(
                to,
                name,
                Some(stat.st_uid.into()),
                Some(stat.st_gid.into()),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            )?;
            Ok(())
        }
        libc::S_IFIFO => {
            resolve::make_node(to, name, stat.st_mode, 0, 0)?;
            resolve::set_owner_and_mode(to, name, stat.st_uid, stat.st_gid, stat.st_mode)
        }
        // Sockets are of no use without who listens, and devices belong into /dev.
        _ => Ok(()),
    }
}

/// Owner first: a change of owner clears set-user-id bits.
fn own(fd: &OwnedFd, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
    nix::unistd::fchown(fd, Some(uid.into()), Some(gid.into()))?;
    nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(mode))?;
    Ok(())
}
