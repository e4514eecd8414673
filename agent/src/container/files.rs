//! Directories and files of a container on the node.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use berth_sys::resolve::{self, Scope};
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

/// Deletes a directory of ours. Somebody else's mount in it ends that and is not entered.
///
/// # Errors
/// Internal if it cannot be deleted.
pub(super) fn delete(dir: &Path) -> Result<()> {
    berth_image::remove_directory(dir)
        .map_err(|error| Error::io(format!("delete {}", dir.display()), error))
}

/// Opens the log file for appending, making it and its directories if missing. `name` is
/// what the request calls it, the end of `path`: no link in that part is followed, which
/// could lead to any file of the node.
///
/// # Errors
/// Internal if it cannot be opened.
pub(super) fn open_log(path: &Path, name: &str) -> Result<File> {
    open_log_below(path, Path::new(name))
        .map_err(|error| Error::io(format!("open the log {}", path.display()), error))
}

fn open_log_below(path: &Path, name: &Path) -> io::Result<File> {
    let own = name.components().count();
    let base = path
        .ancestors()
        .nth(own)
        .ok_or(io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(base)?;
    let base = File::open(base)?;
    let parent = name.parent().unwrap_or(Path::new(""));
    let parent = resolve::make_directories(&base, parent, 0o755, Scope::Beneath)?;
    let file = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    // A FIFO would hang the agent; a device would swallow the log.
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_NONBLOCK;
    let file = resolve::open(&parent, Path::new(file), flags, 0o640, Scope::Beneath)?;
    let file = File::from(file);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ))
    }
}
