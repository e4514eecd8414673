//! Directories and files of a container on the node.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::libc;

use crate::error::{Error, Result};

/// A container's writable layer, below its own directory.
pub(super) const UPPER: &str = "upper";
/// What overlayfs works in.
pub(super) const WORK: &str = "work";
/// Anonymous volumes.
pub(super) const VOLUMES: &str = "volumes";
/// The specification and who set what in it, in the shim's directory.
pub(super) const DESCRIPTION: &str = "spec.json";
/// What another runtime makes a container from, in the shim's directory.
pub(super) const BUNDLE: &str = "bundle";
/// What execs start from, in the shim's directory.
pub(super) const PROCESS: &str = "process";

/// Makes the writable layer of a container in `dir`.
///
/// # Errors
/// Internal, or ResourceExhausted on a full disk.
pub(super) fn make_writable_layer(dir: &Path) -> Result<()> {
    for (path, mode) in [
        (dir.to_owned(), 0o700),
        // The mode of the container's root directory.
        (dir.join(UPPER), 0o755),
        (dir.join(WORK), 0o700),
    ] {
        make_dir(&path, mode)?;
    }
    Ok(())
}

/// Makes the directory of an anonymous volume and returns it.
///
/// # Errors
/// As [`make_writable_layer`].
pub(super) fn make_volume(dir: &Path, number: usize) -> Result<PathBuf> {
    let path = dir.join(VOLUMES).join(number.to_string());
    make_dir(&dir.join(VOLUMES), 0o700)?;
    make_dir(&path, 0o755)?;
    Ok(path)
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| Error::io(format!("make {}", path.display()), error))
}

/// Deletes a directory of ours, which holds no mount in this namespace.
///
/// # Errors
/// Internal if it cannot be deleted.
pub(super) fn delete(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("delete {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}

/// Opens the log file for appending, making it and its directory if missing. A
/// link in its place is refused: it could lead to any file of the node.
///
/// # Errors
/// Internal if it cannot be opened.
pub(super) fn open_log(path: &Path) -> Result<File> {
    let failed = |error| Error::io(format!("open the log {}", path.display()), error);
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(failed)?;
    }
    File::options()
        .create(true)
        .append(true)
        .mode(0o640)
        // A FIFO would hang the agent; a device would swallow the log.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .and_then(|file| match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            )),
        })
        .map_err(failed)
}
