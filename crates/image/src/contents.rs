//! What a recorded image is made of, found again from its record.

use std::{fs::File, sync::Arc};

use serde::Deserialize;

use crate::{
    Error,
    document::{
        self, DOCKER_CONFIG, DOCKER_MANIFEST, DOCUMENT_MAX, Descriptor, Document, Manifest,
        OCI_MANIFEST,
    },
    image::Blob,
    name::{Digest, Reference},
    store::{Hold, Inner, blob_name},
};

/// An image as its owner's record has it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Digest of the configuration.
    pub id: Digest,
    /// As in [`StoredImage::blobs`](crate::StoredImage::blobs).
    pub blobs: Vec<Digest>,
    /// The names to be used for it.
    pub names: Vec<Reference>,
}

/// The manifest of an image and what it names, held against collection.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) id: Digest,
    /// Byte for byte as it came.
    pub(crate) manifest: Blob,
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    /// Lowest first.
    pub(crate) layers: Vec<Descriptor>,
    /// How many images for other machines the index names that this one came from.
    pub(crate) others: usize,
    store: Arc<Inner>,
    _hold: Hold,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: Option<String>,
}

impl Contents {
    /// Finds the manifest of `image` and makes sure that all it names is here.
    ///
    /// # Errors
    /// [`Error::Incomplete`], and failures of the store.
    pub(crate) fn of(store: &Arc<Inner>, image: &Recorded) -> Result<Self, Error> {
        // Held before it is looked for, or a collection could come in between.
        let hold = Hold::new(store, image.blobs.iter().map(blob_name).collect());
        let mut found = None;
        let mut others = 0;
        for digest in image.blobs.iter().filter(|digest| **digest != image.id) {
            if names_layer(&found, digest) {
                continue;
            }
            let Some(bytes) = small(store, digest)? else {
                continue;
            };
            // Layers are among the blobs; a small one is no document and is passed over.
            let name = digest.to_string();
            match document::parse_document(&bytes, &name, &[]) {
                Ok(Document::Manifest(manifest))
                    if manifest.config.digest == image.id && found.is_none() =>
                {
                    found = Some(((digest.clone(), bytes), manifest));
                }
                Ok(Document::Index(children)) => {
                    let real = |child: &&Descriptor| {
                        let platform = child.platform.as_ref().map(ToString::to_string);
                        platform.is_some_and(|platform| !platform.starts_with("unknown/"))
                    };
                    others = others.max(children.iter().filter(real).count().saturating_sub(1));
                }
                _ => {}
            }
        }
        let Some((manifest, Manifest { config, layers })) = found else {
            return Err(Error::Incomplete {
                image: image.id.clone(),
                what: "the manifest for configuration",
                digest: image.id.clone(),
            });
        };
        let stated = serde_json::from_slice::<Typed>(&manifest.1).ok();
        let stated = stated.and_then(|typed| typed.media_type);
        // The first version of OCI's format let the type be left out; Docker's never did.
        let media_type = stated.unwrap_or_else(|| {
            let docker = config.media_type == DOCKER_CONFIG;
            if docker {
                DOCKER_MANIFEST
            } else {
                OCI_MANIFEST
            }
            .to_owned()
        });
        let contents = Self {
            id: image.id.clone(),
            manifest,
            media_type,
            config,
            layers,
            others,
            store: Arc::clone(store),
            _hold: hold,
        };
        for blob in contents.blobs() {
            contents.open(blob)?;
        }
        Ok(contents)
    }

    /// The layers, lowest first, and the configuration; each once.
    pub(crate) fn blobs(&self) -> Vec<&Descriptor> {
        let mut seen = std::collections::HashSet::new();
        let all = self.layers.iter().chain([&self.config]);
        all.filter(|blob| seen.insert(&blob.digest)).collect()
    }

    /// Opens one of [`Contents::blobs`], which has the size that its descriptor says.
    ///
    /// # Errors
    /// [`Error::Incomplete`], and failures of the store.
    pub(crate) fn open(&self, blob: &Descriptor) -> Result<File, Error> {
        let missing = || Error::Incomplete {
            image: self.id.clone(),
            what: match blob.digest == self.config.digest {
                true => "the configuration",
                false => "the compressed layer",
            },
            digest: blob.digest.clone(),
        };
        let file = self.store.open_blob(&blob.digest)?.ok_or_else(missing)?;
        let name = blob_name(&blob.digest);
        let meta = file.metadata().map_err(Error::store_io("look at", &name))?;
        match meta.len() == blob.size {
            true => Ok(file),
            // What it really is shows when it is read; that it is damaged is known now.
            false => Err(missing()),
        }
    }
}

/// Whether a manifest that was found names `digest` as a layer, which need not be read.
fn names_layer(found: &Option<(Blob, Manifest)>, digest: &Digest) -> bool {
    let manifest = found.as_ref().map(|(_, manifest)| manifest);
    let mut layers = manifest.into_iter().flat_map(|manifest| &manifest.layers);
    layers.any(|layer| layer.digest == *digest)
}

/// The bytes of a blob that is small enough to be a document.
fn small(store: &Arc<Inner>, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
    let name = blob_name(digest);
    let Some(file) = store.open_blob(digest)? else {
        return Ok(None);
    };
    let meta = file.metadata().map_err(Error::store_io("look at", name))?;
    if meta.len() > DOCUMENT_MAX {
        return Ok(None);
    }
    store.read_blob(digest)
}
