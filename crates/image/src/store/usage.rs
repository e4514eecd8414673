//! How much of the disk the store takes.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
};

use rustix::fs;

use super::Store;
use crate::{Error, layer::read_names};

/// Disk use of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes, about.
    pub bytes: u64,
    /// Inodes, about.
    pub inodes: u64,
}

/// Sizes that are known; a published layer never changes.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    pub(super) total: Option<Usage>,
    layers: HashMap<String, Usage>,
}

impl Store {
    /// Bytes and inodes of all layers, blobs and beginnings of blobs, from what was counted when they
    /// were made; cheap unless something has changed since the last call.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn usage(&self) -> Result<Usage, Error> {
        let (bytes, inodes) = self.0.partial_use()?;
        let complete = self.complete_usage()?;
        Ok(Usage {
            bytes: complete.bytes + bytes,
            inodes: complete.inodes + inodes,
        })
    }

    fn complete_usage(&self) -> Result<Usage, Error> {
        let mut cache = self.0.usage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(total) = cache.total {
            return Ok(total);
        }
        let mut total = Usage::default();
        let mut present = HashSet::new();
        for name in read_names(&self.0.layers).map_err(Error::store("list", "layers"))? {
            let Ok(key) = String::from_utf8(name) else {
                continue;
            };
            if key.ends_with(".meta") {
                continue;
            }
            let one = match cache.layers.get(&key) {
                Some(known) => *known,
                None => self
                    .0
                    .read_meta(&key)
                    .map_or(Usage::default(), |meta| Usage {
                        bytes: meta.size,
                        inodes: meta.inodes,
                    }),
            };
            cache.layers.insert(key.clone(), one);
            present.insert(key);
            total.bytes += one.bytes;
            // And its sidecar.
            total.inodes += one.inodes + 1;
        }
        cache.layers.retain(|key, _| present.contains(key));
        for digest in self.0.blob_digests()? {
            let path = format!("{}/{}", digest.algorithm().name(), digest.hex());
            if let Ok(stat) = fs::statat(&self.0.blobs, path, fs::AtFlags::SYMLINK_NOFOLLOW) {
                total.bytes += stat.st_size.unsigned_abs();
                total.inodes += 1;
            }
        }
        cache.total = Some(total);
        Ok(total)
    }
}
