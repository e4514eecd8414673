//! Deletes what no image owns.

use std::{collections::HashSet, sync::PoisonError};

use rustix::{fs, io::Errno};

use super::{Store, blob::blob_name, partial::PARTIAL_LIMITS};
use crate::{Error, layer::read_names, name::Digest};

/// What the caller's images use.
#[derive(Clone, Debug, Default)]
pub struct LiveSet {
    /// Layers as in [`StoredImage::layers`](crate::StoredImage::layers).
    pub layers: HashSet<String>,
    /// Blobs as in [`StoredImage::blobs`](crate::StoredImage::blobs).
    pub blobs: HashSet<Digest>,
}

/// What [`Store::collect`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Layers.
    pub layers: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes on disk, about.
    pub bytes: u64,
    /// Inodes, about.
    pub inodes: u64,
}

/// A deletion of what nobody owns, beside pulls, imports and other users.
///
/// Begin it, then look at the records, then [run](Collection::run) it: what is let go
/// of in between, because it has been recorded, is kept.
#[derive(Debug)]
pub struct Collection {
    store: Store,
}

impl Collection {
    /// Deletes every layer and blob that is neither in `live` nor held, nor was held since
    /// the collection began. Blocks while it deletes.
    ///
    /// # Errors
    /// The first [`Error::Store`], after all the rest was tried.
    pub fn run(self, live: &LiveSet) -> Result<Freed, Error> {
        self.store.delete_dead(live)
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.store.0.pins.collection_ends();
    }
}

impl Store {
    /// Begins a collection; see [`Collection`].
    #[must_use]
    pub fn begin_collection(&self) -> Collection {
        self.0.pins.collection_begins();
        Collection {
            store: self.clone(),
        }
    }

    /// As [`Store::begin_collection`] and [`Collection::run`], for a `live` that cannot
    /// grow meanwhile.
    ///
    /// # Errors
    /// As [`Collection::run`].
    pub fn collect(&self, live: &LiveSet) -> Result<Freed, Error> {
        self.begin_collection().run(live)
    }

    fn delete_dead(&self, live: &LiveSet) -> Result<Freed, Error> {
        let mut freed = Freed::default();
        let mut first_error = None;
        let names = read_names(&self.0.layers).map_err(Error::store("list", "layers"))?;
        let keys = names.iter().filter(|name| !name.ends_with(b".meta"));
        for key in keys.filter_map(|name| std::str::from_utf8(name).ok()) {
            let name = format!("layers/{key}");
            if live.layers.contains(&name) {
                continue;
            }
            let meta = self.0.read_meta(key);
            // Under the lock only the name goes; deleting a million files there would stop all pulls.
            let buried = self.unless_pinned(&name, || self.0.bury_layer(key));
            let removed = match buried {
                Ok(Some(grave)) => self.0.remove_grave(&grave).map(|()| true),
                Ok(None) => Ok(false),
                Err(error) => Err(error),
            };
            match removed {
                Ok(true) => {
                    freed.layers += 1;
                    freed.bytes += meta.as_ref().map_or(0, |meta| meta.size);
                    freed.inodes += meta.as_ref().map_or(0, |meta| meta.inodes);
                }
                Ok(false) => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        for digest in self.0.blob_digests()? {
            if live.blobs.contains(&digest) {
                continue;
            }
            let name = blob_name(&digest);
            let path = format!("{}/{}", digest.algorithm().name(), digest.hex());
            let size = fs::statat(&self.0.blobs, &*path, fs::AtFlags::SYMLINK_NOFOLLOW);
            let remove = || match fs::unlinkat(&self.0.blobs, &*path, fs::AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(Error::store("remove", &name)(errno)),
            };
            match self.unless_pinned(&name, remove) {
                Ok(Some(())) => {
                    freed.blobs += 1;
                    freed.inodes += 1;
                    freed.bytes += size.map_or(0, |stat| stat.st_size.unsigned_abs());
                }
                Ok(None) => {}
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if let Err(error) = self.0.trim_partials(&PARTIAL_LIMITS) {
            first_error = first_error.or(Some(error));
        }
        self.0.usage_changed();
        match first_error {
            Some(error) => Err(error),
            None => Ok(freed),
        }
    }

    /// A pull pins a name before it looks whether the thing is there, so under
    /// this lock either the pin is seen or the pull will not see the thing.
    fn unless_pinned<T>(
        &self,
        name: &str,
        discard: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let pins = self.0.pins.lock();
        if pins.contains(name) {
            return Ok(None);
        }
        discard().map(Some)
    }
}

impl super::Inner {
    /// The digests of all blobs here.
    pub(super) fn blob_digests(&self) -> Result<Vec<Digest>, Error> {
        let mut digests = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let flags = fs::OFlags::RDONLY | fs::OFlags::DIRECTORY;
            let fd = crate::layer::open_beneath(&self.blobs, algorithm.as_bytes(), flags)
                .map_err(Error::store("open", "blobs"))?;
            for name in read_names(fd).map_err(Error::store("list", "blobs"))? {
                let hex = String::from_utf8_lossy(&name);
                digests.extend(format!("{algorithm}:{hex}").parse::<Digest>().ok());
            }
        }
        Ok(digests)
    }

    pub(crate) fn usage_changed(&self) {
        self.usage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .total = None;
    }
}
