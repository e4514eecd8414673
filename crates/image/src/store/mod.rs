//! The directory that holds images.
//!
//! ```text
//! blobs/<algorithm>/<hex>   indexes, manifests, configurations, compressed layers, byte for byte
//! partial/<algorithm>-<hex> the beginning of a compressed layer whose transfer broke
//! layers/<hex>/             a layer unpacked alone, named by its diffID
//! layers/chain-<hex>/       one completed from the layers below, named by its chain
//! layers/<name>.meta        what is known of a layer beside its files
//! ingest/                   what is not complete; emptied when the store is opened
//! ```
//!
//! Everything gets its final name by rename(2), after it was verified and
//! synced, so a name means that the thing is whole. Layers of several images
//! are shared; who uses what is the caller's record, see [`Store::collect`].

mod blob;
mod collect;
mod hold;
mod layers;
mod partial;
mod usage;
mod work;

pub use blob::BlobWriter;
pub(crate) use blob::{blob_name, create_file};
pub use collect::{Collection, Freed, LiveSet};
pub use hold::Hold;
pub(crate) use hold::Pins;
pub(crate) use layers::{Kept, chain_keys, layer_key};
pub(crate) use partial::Partial;
pub use usage::Usage;
pub(crate) use work::Work;

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use self::partial::PARTIAL_LIMITS;
use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Error, Limits,
    layer::{open_beneath, read_names, remove_tree},
    pull::{Promises, Transfers},
    registry::{Clients, Registries},
};

/// How many layers are fetched and unpacked at once, over all pulls: enough to
/// hide the registry's latency, few enough to leave other pods their disk.
const LAYERS_AT_ONCE: usize = 6;
/// So many of them from one registry: one that is slow must not keep pulls from others waiting.
const LAYERS_OF_A_REGISTRY: usize = 4;

/// What a store can be told when it is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How registries are reached.
    pub registries: Registries,
    /// What a layer may cost.
    pub limits: Limits,
    /// Whether compressed layers are kept beside the unpacked ones. Without them an
    /// image cannot be saved, and pushed only to where its layers are already.
    pub keep_blobs: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registries: Registries::default(),
            limits: Limits::default(),
            keep_blobs: true,
        }
    }
}

/// A directory of images; clones share it. One process at a time may have it open.
#[derive(Clone, Debug)]
pub struct Store(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) path: PathBuf,
    pub(crate) blobs: OwnedFd,
    pub(crate) layers: OwnedFd,
    pub(crate) ingest: OwnedFd,
    partial: OwnedFd,
    /// Names in `partial` that somebody writes.
    partials: Mutex<HashSet<String>>,
    pub(crate) keep_blobs: bool,
    pub(crate) limits: Limits,
    pub(crate) clients: Clients,
    pub(crate) pins: Pins,
    slots: Arc<Semaphore>,
    /// One for each registry that layers come from at the moment.
    lanes: Mutex<HashMap<String, Arc<Semaphore>>>,
    pub(crate) transfers: Transfers,
    pub(crate) promises: Promises,
    /// Held by whoever needs much memory to decompress.
    pub(crate) wide: Mutex<()>,
    /// One lock per blob and layer being made, so that two transfers do not make it twice.
    making: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    usage: Mutex<usage::Cache>,
}

impl Store {
    /// Opens the store at `root`, making it if it is missing, with default settings.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open(root: &Path) -> Result<Self, Error> {
        Self::open_with(root, Settings::default())
    }

    /// Opens the store at `root` and removes what a crash has left in `ingest`.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open_with(root: &Path, settings: Settings) -> Result<Self, Error> {
        let shown = root.display().to_string();
        std::fs::create_dir_all(root).map_err(Error::store_io("make the directory", &shown))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root_fd = fs::open(root, flags, Mode::empty()).map_err(Error::store("open", &shown))?;
        let directory = |name: &str| {
            // Layers hold set-id programs and secrets of images: nobody else may walk in.
            match fs::mkdirat(&root_fd, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::store("make the directory", name)(errno)),
            }
            open_beneath(&root_fd, name.as_bytes(), flags).map_err(Error::store("open", name))
        };
        let blobs = directory("blobs")?;
        for algorithm in ["sha256", "sha512"] {
            directory(&format!("blobs/{algorithm}"))?;
        }
        let store = Self(Arc::new(Inner {
            path: root.to_owned(),
            blobs,
            layers: directory("layers")?,
            ingest: directory("ingest")?,
            partial: directory("partial")?,
            partials: Mutex::default(),
            keep_blobs: settings.keep_blobs,
            limits: settings.limits,
            clients: Clients::new(settings.registries),
            pins: Pins::default(),
            slots: Arc::new(Semaphore::new(LAYERS_AT_ONCE)),
            lanes: Mutex::default(),
            transfers: Transfers::default(),
            promises: Promises::default(),
            wide: Mutex::default(),
            making: Mutex::default(),
            usage: Mutex::default(),
        }));
        let ingest = &store.0.ingest;
        for name in read_names(ingest).map_err(Error::store("list", "ingest"))? {
            remove_tree(ingest, &name).map_err(Error::store("remove leftovers", "ingest"))?;
        }
        store.0.forget_orphaned_meta()?;
        store.0.trim_partials(&PARTIAL_LIMITS)?;
        Ok(store)
    }

    /// Whether anything more may be written beside the store.
    ///
    /// # Errors
    /// [`Exceeded`](crate::Exceeded) if no more than the reserve is free.
    pub fn room(&self) -> Result<(), crate::Exceeded> {
        self.0.limits.room(&self.0.layers)
    }

    /// The directory as it was given to [`Store::open`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }
}

/// The right to bring one layer.
#[derive(Debug)]
pub(crate) struct Turn(
    #[expect(dead_code, reason = "held for their Drop")] [OwnedSemaphorePermit; 2],
);

impl Inner {
    /// Waits until a layer may come from `registry`.
    pub(crate) async fn turn(&self, registry: &str) -> Result<Turn, Error> {
        let lane = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
            let new = || Arc::new(Semaphore::new(LAYERS_OF_A_REGISTRY));
            Arc::clone(lanes.entry(registry.to_owned()).or_insert_with(new))
        };
        // Neither is ever closed. The registry's own first: who waits for it holds no slot.
        let closed = |_closed| Error::Cancelled;
        let lane = lane.acquire_owned().await.map_err(closed)?;
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(closed)?;
        Ok(Turn([lane, slot]))
    }

    /// The lock of whoever makes `key`.
    pub(crate) fn maker(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.retain(|_, lock| Arc::strong_count(lock) > 1);
        making.entry(key.to_owned()).or_default().clone()
    }
}
