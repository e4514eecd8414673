//! One agent per root directory.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::StoreError;

const NAME: &str = "agent.lock";

/// The right to use a root directory; ends with the process at the latest.
///
/// `flock` and not `fcntl`: the latter's locks are lost as soon as the process
/// closes any descriptor of the file, and SQLite uses it on files of its own.
#[derive(Debug)]
pub(super) struct RootLock {
    _file: Flock<File>,
}

impl RootLock {
    /// Takes the lock of `root` without waiting.
    ///
    /// # Errors
    /// [`StoreError::Locked`] names the process that has it.
    pub(super) fn take(root: &Path) -> Result<Self, StoreError> {
        let path = root.join(NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| StoreError::io("open", &path, error))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let read = file.read_to_string(&mut pid);
                return Err(StoreError::Locked {
                    root: root.to_owned(),
                    pid: read.ok().and_then(|_| pid.trim().parse().ok()),
                });
            }
            Err((_, errno)) => return Err(StoreError::io("lock", &path, errno.into())),
        };
        // The pid is only for the message; the kernel holds the lock itself.
        let write = (|| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        })();
        write.map_err(|error| StoreError::io("write", &path, error))?;
        Ok(Self { _file: file })
    }
}
