//! Disk space that pulls on their way will still take. Each of them alone may fit
//! where all of them together do not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::transfer::Key;
use crate::{Error, layer::Room, store::Inner};

/// What is promised for each transfer, however many pulls want it.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<HashMap<Key, Share>>);

#[derive(Debug)]
struct Share {
    /// Bytes that it will take in all.
    bytes: u64,
    /// Those that are not on the disk yet.
    left: u64,
    /// Pulls that want it.
    pulls: usize,
}

/// The promise to one pull; dropping it gives back what was not used.
#[derive(Debug)]
pub(super) struct Promise {
    store: Arc<Inner>,
    keys: Vec<Key>,
}

impl Promises {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Share>> {
        // Each change is one step; a panic leaves a promise, not a hole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many of a thousand parts of a transfer are on the disk.
    pub(super) fn used(&self, key: &Key, thousandths: u64) {
        if let Some(share) = self.lock().get_mut(key) {
            let used = share.bytes / 1000 * thousandths.min(1000);
            share.left = share.bytes.saturating_sub(used);
            if thousandths >= 1000 {
                share.left = 0;
            }
        }
    }
}

impl Promise {
    /// Promises room for transfers with the bytes that each will take, or for none of them.
    ///
    /// # Errors
    /// [`Error::NoRoom`].
    pub(super) fn make(store: &Arc<Inner>, wanted: Vec<(Key, u64)>) -> Result<Self, Error> {
        let mut promises = store.promises.lock();
        let new = wanted.iter().filter(|(key, _)| !promises.contains_key(key));
        let needed = new.fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let promised = promises
            .values()
            .fold(0u64, |sum, share| sum.saturating_add(share.left));
        // What nothing must be written for fits on a full disk too; a file system that
        // cannot say answers ENOSPC when it is full.
        if needed > 0
            && let Some(Room { free, reserve }) = store.limits.space(&store.layers)
            && free.saturating_sub(reserve).saturating_sub(promised) < needed
        {
            return Err(Error::NoRoom {
                needed,
                free,
                reserve,
                promised,
            });
        }
        let mut keys = Vec::new();
        for (key, bytes) in wanted {
            let share = promises.entry(key.clone()).or_insert(Share {
                bytes,
                left: bytes,
                pulls: 0,
            });
            share.pulls += 1;
            keys.push(key);
        }
        drop(promises);
        Ok(Self {
            store: Arc::clone(store),
            keys,
        })
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut promises = self.store.promises.lock();
        for key in &self.keys {
            if let Some(share) = promises.get_mut(key) {
                share.pulls -= 1;
                if share.pulls == 0 {
                    promises.remove(key);
                }
            }
        }
    }
}
