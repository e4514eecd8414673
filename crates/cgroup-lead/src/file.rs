//! Files of a group, opened below its directory.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use berth_sys::resolve::{self, Scope};
use nix::libc;

/// Larger than any file of a group that is read whole, a full `cgroup.procs`
/// excepted, which is read in as many turns as it takes.
const LARGEST: u64 = 16 * 1024 * 1024;

pub(crate) fn open(dir: impl AsFd, name: &str, flags: i32) -> io::Result<OwnedFd> {
    resolve::open(dir, Path::new(name), flags, 0, Scope::Beneath)
}

pub(crate) fn read(dir: impl AsFd, name: &str) -> io::Result<String> {
    let mut text = String::new();
    File::from(open(dir, name, libc::O_RDONLY)?)
        .take(LARGEST)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// One write(2): the kernel takes a value whole or not at all.
pub(crate) fn write(dir: impl AsFd, name: &str, value: &str) -> io::Result<()> {
    let mut file = File::from(open(dir, name, libc::O_WRONLY)?);
    match file.write(value.as_bytes())? {
        written if written == value.len() => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::WriteZero, "value was cut")),
    }
}

/// A file with a single number; "max" is none.
pub(crate) fn number(dir: impl AsFd, name: &str) -> Option<u64> {
    read(dir, name).ok()?.trim().parse().ok()
}

/// The value behind `key` in a file of "key value" lines.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}

/// Names of the groups directly below `dir`.
pub(crate) fn children(dir: &OwnedFd) -> io::Result<Vec<String>> {
    use std::os::fd::AsRawFd as _;
    // By the descriptor's number: a listing by name could be of another group by now.
    let mut names = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

pub(crate) fn open_dir(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    open(dir, name, libc::O_RDONLY | libc::O_DIRECTORY)
}
