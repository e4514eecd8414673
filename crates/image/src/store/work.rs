//! A private directory for something that is not complete.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{self, Mode, OFlags};

use super::Inner;
use crate::{
    Error,
    layer::{open_beneath, remove_tree},
};

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A name in `ingest` that nothing else has.
pub(super) fn unique(what: &str) -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{number}", std::process::id())
}

/// `ingest/<name>`, removed with all it holds when dropped.
#[derive(Debug)]
pub(crate) struct Work {
    store: Arc<Inner>,
    name: String,
    fd: OwnedFd,
}

impl Work {
    pub(crate) fn new(store: &Arc<Inner>) -> Result<Self, Error> {
        let name = unique("work");
        let refused = || Error::store("make a working directory", format!("ingest/{name}"));
        fs::mkdirat(&store.ingest, &*name, Mode::RWXU).map_err(refused())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = open_beneath(&store.ingest, name.as_bytes(), flags).map_err(refused())?;
        Ok(Self {
            store: Arc::clone(store),
            name,
            fd,
        })
    }

    pub(super) fn store(&self) -> &Arc<Inner> {
        &self.store
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What stays is removed when the store is opened next.
        if let Err(error) = remove_tree(&self.store.ingest, self.name.as_bytes()) {
            tracing::warn!(name = self.name, %error, "cannot remove a working directory");
        }
    }
}
