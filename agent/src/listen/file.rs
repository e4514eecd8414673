//! The file that stands for a unix socket, and whose it is to remove.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// Device and inode: tells our file from one that took its place.
pub(crate) type Identity = (u64, u64);

/// Dropped, the file is removed if it is ours to remove.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// None for those that systemd made, which keeps its own.
    made: Option<Identity>,
    ours: AtomicBool,
}

impl SocketFile {
    /// A file that this process has made.
    pub(super) fn made(path: PathBuf, file: Identity) -> Self {
        Self {
            path,
            made: Some(file),
            ours: AtomicBool::new(true),
        }
    }

    /// A file that somebody else looks after.
    pub(super) fn of_others(path: PathBuf, made: Option<Identity>) -> Self {
        Self {
            path,
            made,
            ours: AtomicBool::new(false),
        }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is, if an agent has made it.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.made
    }

    /// From now on it is this process's to remove, or no more.
    pub(super) fn is_ours(&self, ours: bool) {
        self.ours.store(ours, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let (Some(made), true) = (self.made, self.ours.load(Ordering::Relaxed)) else {
            return;
        };
        // A new agent may have put its own socket there already.
        match fs::symlink_metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == made => {
                if let Err(error) = fs::remove_file(&self.path) {
                    tracing::debug!(path = %self.path.display(), %error, "socket stays behind");
                }
            }
            _ => {}
        }
    }
}
