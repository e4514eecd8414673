//! Devices of the node that a container may be given.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use nix::libc;

use crate::spec::HostDevice;

/// Of each container its own, and nothing of the node's.
const NOT_GIVEN: [&str; 5] = [
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/dev/console",
    "/dev/fd",
];
/// A node with more devices than that is not copied one by one.
const MOST: usize = 4096;

/// The device at `path`, links followed, or all devices below a directory.
///
/// # Errors
/// The errno of looking at `path` itself; what vanishes below it is passed over.
pub(super) fn look(path: &Path) -> io::Result<Vec<HostDevice>> {
    let real = fs::canonicalize(path)?;
    let mut found = Vec::new();
    if real.is_dir() {
        below(&real, &real, &mut found);
    } else {
        found.extend(device(&real, &real));
    }
    Ok(found)
}

fn below(top: &Path, dir: &Path, found: &mut Vec<HostDevice>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if found.len() >= MOST || NOT_GIVEN.iter().any(|one| Path::new(one) == path) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => below(top, &path, found),
            Ok(_) => found.extend(device(top, &path)),
            Err(_) => {}
        }
    }
}

fn device(top: &Path, path: &Path) -> Option<HostDevice> {
    let metadata = fs::symlink_metadata(path).ok()?;
    let kind = metadata.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| HostDevice {
        below: path.strip_prefix(top).unwrap_or(Path::new("")).to_owned(),
        block: kind.is_block_device(),
        major: libc::major(metadata.rdev()),
        minor: libc::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}
