//! What must not be collected although no record names it yet.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Inner, Store, blob_name};
use crate::name::Digest;

/// What must not be deleted.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<Names>);

/// Names below the store's root.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// With how many holds they have.
    held: HashMap<String, usize>,
    /// Let go of while a collection runs: their owner may have been recorded after the
    /// collection had looked at the records.
    lingering: HashSet<String>,
    collections: usize,
}

impl Names {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.held.contains_key(name) || self.lingering.contains(name)
    }
}

impl Pins {
    pub(super) fn lock(&self) -> MutexGuard<'_, Names> {
        // Each change is one insert or remove; a panic between two leaves a pin, not a hole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn collection_begins(&self) {
        self.lock().collections += 1;
    }

    pub(super) fn collection_ends(&self) {
        let mut names = self.lock();
        names.collections -= 1;
        if names.collections == 0 {
            names.lingering.clear();
        }
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

impl Store {
    /// Keeps layers, named as in [`StoredImage::layers`](crate::StoredImage::layers), from
    /// [`Store::collect`].
    #[must_use]
    pub fn hold_layers(&self, layers: &[String]) -> Hold {
        Hold::new(&self.0, layers.to_vec())
    }
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
            *pins.held.entry(name.clone()).or_default() += 1;
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
        let pins = &mut *pins;
        for name in &self.names {
            if let Some(count) = pins.held.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    pins.held.remove(name);
                    if pins.collections > 0 {
                        pins.lingering.insert(name.clone());
                    }
                }
            }
        }
    }
}
