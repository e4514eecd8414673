//! What must not be collected although no record names it yet.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Inner, blob_name};
use crate::name::Digest;

/// Names below the store's root and how many holds they have.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<HashMap<String, usize>>);

impl Pins {
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        // Each change is one insert or remove; a panic between two leaves a pin, not a hole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an image's layers and blobs from [`Store::collect`](super::Store::collect)
/// until it is dropped: from before they are looked for until the caller has
/// recorded who uses them.
#[derive(Clone, Debug)]
pub struct Hold(#[expect(dead_code, reason = "held for its Drop")] Arc<Held>);

#[derive(Debug)]
struct Held {
    store: Arc<Inner>,
    names: Vec<String>,
}

impl Hold {
    /// Of blobs, by their digests.
    pub(crate) fn of_blobs<'d>(
        store: &Arc<Inner>,
        digests: impl IntoIterator<Item = &'d Digest>,
    ) -> Self {
        Self::new(store, digests.into_iter().map(blob_name).collect())
    }

    pub(crate) fn new(store: &Arc<Inner>, names: Vec<String>) -> Self {
        let mut pins = store.pins.lock();
        for name in &names {
            *pins.entry(name.clone()).or_default() += 1;
        }
        drop(pins);
        Self(Arc::new(Held {
            store: Arc::clone(store),
            names,
        }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut pins = self.store.pins.lock();
        for name in &self.names {
            if let Some(count) = pins.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(name);
                }
            }
        }
    }
}
