//! Files of a group, reached from the group's directory.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

/// Opens `name` in `dir`, never through a link.
pub(crate) fn open(dir: impl AsFd, name: &str, flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(openat(dir.as_fd(), name, flags, Mode::empty())?)
}

/// Opens a directory below `dir`.
pub(crate) fn open_dir<P: nix::NixPath + ?Sized>(dir: impl AsFd, name: &P) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(openat(dir.as_fd(), name, flags, Mode::empty())?)
}

pub(crate) fn read(dir: impl AsFd, name: &str) -> io::Result<String> {
    let mut text = String::new();
    File::from(open(dir, name, OFlag::O_RDONLY)?).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes in one call: the kernel takes each write(2) as a value of its own.
pub(crate) fn write(dir: impl AsFd, name: &str, value: &str) -> io::Result<()> {
    let mut file = File::from(open(dir, name, OFlag::O_WRONLY)?);
    match file.write(value.as_bytes())? {
        count if count == value.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// As [`read`], with `None` for a file that this kernel or hierarchy lacks.
pub(crate) fn read_optional(dir: impl AsFd, name: &str) -> io::Result<Option<String>> {
    match read(dir, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// A file with a single number; none if it says "max" or is not there.
pub(crate) fn number(dir: impl AsFd, name: &str) -> Option<u64> {
    read(dir, name).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of lines of "key number".
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(|number| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_only_whole() {
        let text = "oom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(keyed(text, "oom"), Some(3));
        assert_eq!(keyed(text, "oom_kill"), Some(2));
        assert_eq!(keyed(text, "kill"), None);
        assert_eq!(keyed("usage_usec", "usage_usec"), None);
        assert_eq!(keyed("usage_usec x", "usage_usec"), None);
    }
}
