//! An image that is complete in the store.

use std::{collections::HashSet, os::fd::OwnedFd, sync::Arc};

use berth_phase::{Phase, Tracker};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    document::ImageConfig,
    layer::{LayerMeta, View, compose, needs_completion},
    name::Digest,
    store::{Hold, Inner, Work, chain_keys, layer_key},
};

/// What the store knows of an image; the caller keeps it as its record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredImage {
    /// Digest of the configuration: the image's id everywhere.
    pub id: Digest,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digest of what the reference named: an index or the manifest itself.
    pub named: Digest,
    /// Layer directories relative to the store's root, uppermost first.
    pub layers: Vec<String>,
    /// Bytes of all compressed layers and the configuration.
    pub size: u64,
    /// What the image says about how it wants to be run.
    pub config: ImageConfig,
    /// All blobs that the record keeps alive: documents and compressed layers. The layers
    /// are here only if the store keeps them.
    pub blobs: Vec<Digest>,
    #[serde(skip)]
    hold: Option<Hold>,
}

impl StoredImage {
    /// Lets [`Store::collect`](crate::Store::collect) judge this image by the records alone.
    ///
    /// Call it (or drop all clones) once the image is recorded; until then it is kept.
    pub fn release(&mut self) {
        self.hold = None;
    }
}

/// A document's digest and bytes.
pub(crate) type Blob = (Digest, Vec<u8>);

/// The documents of an image, verified, and what is known from them.
#[derive(Debug)]
pub(crate) struct Documents {
    pub(crate) config: Blob,
    pub(crate) manifest: Blob,
    /// Indexes on the way from the reference to the manifest, outermost first.
    pub(crate) indexes: Vec<Blob>,
    pub(crate) parsed: crate::document::Parsed,
    /// The compressed layers, lowest first.
    pub(crate) layers: Vec<LayerBlob>,
    /// What belongs to other platforms' images.
    pub(crate) others: Others,
}

/// Of the index that an image came from, what is not about this machine's image.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// Verified.
    pub(crate) documents: Vec<Blob>,
    /// Configurations and layers, which the store has or will have.
    pub(crate) blobs: Vec<Digest>,
}

/// A compressed layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerBlob {
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
}

impl Documents {
    /// The names below the store's root that this image will have.
    pub(crate) fn names(&self) -> Vec<String> {
        let diff_ids = &self.parsed.diff_ids;
        let keys = diff_ids.iter().map(layer_key).chain(chain_keys(diff_ids));
        let blobs = self.digests();
        let blobs = blobs.iter().map(crate::store::blob_name);
        keys.map(|key| format!("layers/{key}"))
            .chain(blobs)
            .collect()
    }

    /// The digests of all blobs: documents and compressed layers, each once.
    fn digests(&self) -> Vec<Digest> {
        let documents = self.blobs().map(|(digest, _)| digest);
        let mut digests: Vec<Digest> = Vec::new();
        let layers = self.layers.iter().map(|layer| &layer.digest);
        let mut seen = HashSet::new();
        for digest in documents.chain(layers).chain(&self.others.blobs) {
            if seen.insert(digest) {
                digests.push(digest.clone());
            }
        }
        digests
    }

    fn blobs(&self) -> impl Iterator<Item = (&Digest, &Vec<u8>)> {
        let own = [&self.config, &self.manifest];
        own.into_iter()
            .chain(&self.indexes)
            .chain(&self.others.documents)
            .map(|(digest, bytes)| (digest, bytes))
    }
}

/// Checks each layer against those below, completes it where needed, keeps the
/// documents, and describes the image. Blocks.
pub(crate) fn assemble(
    store: &Arc<Inner>,
    documents: Documents,
    hold: Hold,
    tracker: &Tracker,
) -> Result<StoredImage, Error> {
    tracker.enter(Phase::Verify, "chain")?;
    let layers = stack(store, &documents.parsed.diff_ids)?;
    tracker.enter(Phase::Publish, "documents")?;
    for (digest, bytes) in documents.blobs() {
        store.write_blob(digest, bytes)?;
    }
    let sizes = documents.layers.iter().map(|layer| layer.size);
    let size = sizes.fold(documents.config.1.len() as u64, u64::saturating_add);
    let named = documents.indexes.first().unwrap_or(&documents.manifest);
    Ok(StoredImage {
        id: documents.config.0.clone(),
        manifest: documents.manifest.0.clone(),
        named: named.0.clone(),
        layers,
        size,
        blobs: documents.digests(),
        config: documents.parsed.config,
        hold: Some(hold),
    })
}

/// The directories for `diff_ids` (lowest first), uppermost first.
fn stack(store: &Arc<Inner>, diff_ids: &[Digest]) -> Result<Vec<String>, Error> {
    let mut keys: Vec<String> = Vec::new();
    for (diff_id, chain) in diff_ids.iter().zip(chain_keys(diff_ids)) {
        let (key, meta) = match store.layer(&chain)? {
            Some(meta) => (chain, meta),
            None => complete(store, diff_id, chain, &keys)?,
        };
        if meta.root_opaque {
            keys.clear();
        }
        keys.insert(0, key);
    }
    Ok(keys
        .into_iter()
        .map(|key| format!("layers/{key}"))
        .collect())
}

fn complete(
    store: &Arc<Inner>,
    diff_id: &Digest,
    chain: String,
    below: &[String],
) -> Result<(String, LayerMeta), Error> {
    let key = layer_key(diff_id);
    let missing = || Error::store("find", format!("layers/{key}"))(rustix::io::Errno::NOENT);
    let meta = store.layer(&key)?.ok_or_else(missing)?;
    let below = match meta.root_opaque {
        true => &[],
        false => below,
    };
    let fds: Result<Vec<OwnedFd>, Error> = below.iter().map(|key| store.open_layer(key)).collect();
    let mut view = View::new(fds?);
    let failed = |source| Error::Layer {
        layer: diff_id.clone(),
        source,
    };
    if !needs_completion(&meta, &mut view).map_err(failed)? {
        return Ok((key, meta));
    }
    let work = Work::new(store)?;
    let base = store.open_layer(&key)?;
    use std::os::fd::AsFd as _;
    let meta = compose(base.as_fd(), &meta, &mut view, work.fd()).map_err(failed)?;
    store.publish_layer(&work, &chain, &meta, None)?;
    Ok((chain, meta))
}
