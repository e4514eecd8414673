//! What a recorded image is made of, found again from its record.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::File,
    sync::Arc,
};

use serde::Deserialize;

use crate::{
    Error,
    document::{self, DOCUMENT_MAX, Descriptor, Document, Graph, Manifest, Walk},
    name::{Digest, Reference},
    store::{Hold, Inner, blob_name},
};

/// Documents of one image that are looked at for indexes.
const INDEXES_MAX: usize = 1_024;

/// An image as its owner's record has it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Digest of the configuration.
    pub id: Digest,
    /// As in [`StoredImage::blobs`](crate::StoredImage::blobs).
    pub blobs: Vec<Digest>,
    /// The manifest or index that is meant; without it the first manifest among the blobs.
    pub named: Option<Digest>,
    /// The names to be used for it.
    pub names: Vec<Reference>,
}

/// What an image is made of, held against collection: all that the index it came from
/// names, if that is here, else this machine's manifest with what it names.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) id: Digest,
    /// What a tag of the image names.
    pub(crate) root: Stated,
    /// Documents that it names, those that others name first.
    pub(crate) below: Vec<Stated>,
    pub(crate) config: Descriptor,
    /// Lowest first.
    pub(crate) layers: Vec<Descriptor>,
    /// Layers and configurations of all the documents, each once.
    pub(crate) blobs: Vec<Descriptor>,
    /// How many images for other machines the index names that is not here as a whole.
    pub(crate) others: usize,
    store: Arc<Inner>,
    _hold: Hold,
}

/// A manifest or index, byte for byte as it came.
#[derive(Clone, Debug)]
pub(crate) struct Stated {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

/// What is found of an image before it is looked whether all of it is here.
struct Found {
    root: Stated,
    below: Vec<Stated>,
    manifest: Manifest,
    blobs: Vec<Descriptor>,
    others: usize,
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
        let found = match whole(store, image)? {
            Some(found) => found,
            None => alone(store, image)?,
        };
        let contents = Self {
            id: image.id.clone(),
            root: found.root,
            below: found.below,
            config: found.manifest.config,
            layers: found.manifest.layers,
            blobs: found.blobs,
            others: found.others,
            store: Arc::clone(store),
            _hold: hold,
        };
        for blob in &contents.blobs {
            contents.open(blob)?;
        }
        Ok(contents)
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

/// All that the index names that `image` came from; `None` if it came from none, or if
/// something of it is not here.
fn whole(store: &Arc<Inner>, image: &Recorded) -> Result<Option<Found>, Error> {
    let Some(named) = &image.named else {
        return Ok(None);
    };
    let Some(bytes) = small(store, named)? else {
        return Ok(None);
    };
    let mut walk = Walk::new(Descriptor::of(named, &bytes));
    let mut own = None;
    let mut texts = HashMap::new();
    while let Some(wanted) = walk.next() {
        let Some(bytes) = small(store, &wanted.digest)? else {
            return Ok(None);
        };
        let name = wanted.digest.to_string();
        if let Ok(Document::Manifest(manifest)) = document::parse_document(&bytes, &name, &[])
            && manifest.config.digest == image.id
        {
            own.get_or_insert(manifest);
        }
        let digest = wanted.digest.clone();
        if walk.add(wanted, &bytes).is_err() {
            return Ok(None);
        }
        texts.insert(digest, bytes);
    }
    let (Ok(Graph { documents, blobs }), Some(manifest)) = (walk.finish(), own) else {
        return Ok(None);
    };
    for blob in &blobs {
        if !is_here(store, blob)? {
            return Ok(None);
        }
    }
    let stated = |document: Descriptor| {
        let bytes = texts.remove(&document.digest)?;
        Some(Stated::new(document, bytes))
    };
    let mut below: Vec<Stated> = documents.into_iter().filter_map(stated).collect();
    Ok(below.pop().map(|root| Found {
        root,
        below,
        manifest,
        blobs,
        others: 0,
    }))
}

/// The manifest of `image` alone: of the index that is meant, else the first.
fn alone(store: &Arc<Inner>, image: &Recorded) -> Result<Found, Error> {
    let mut found: Option<(Stated, Manifest)> = None;
    let mut others = 0;
    let mut named = image.named.clone();
    let recorded = image.blobs.iter().filter(|digest| **digest != image.id);
    let mut wanted: VecDeque<Digest> = named.iter().chain(recorded).cloned().collect();
    let mut seen = HashSet::new();
    while let Some(digest) = wanted.pop_front() {
        if names_layer(&found, &digest) || !seen.insert(digest.clone()) {
            continue;
        }
        // Layers are among the blobs; a small one is no document and is passed over.
        let Some(bytes) = small(store, &digest)? else {
            continue;
        };
        match document::parse_document(&bytes, &digest.to_string(), &[]) {
            Ok(Document::Manifest(manifest))
                if manifest.config.digest == image.id && found.is_none() =>
            {
                let described = Descriptor::of(&digest, &bytes);
                found = Some((Stated::new(described, bytes), manifest));
            }
            Ok(Document::Index(children)) if seen.len() <= INDEXES_MAX => {
                let real = |child: &&Descriptor| {
                    let platform = child.platform.as_ref().map(ToString::to_string);
                    platform.is_some_and(|platform| !platform.starts_with("unknown/"))
                };
                let real = children.iter().filter(real).count();
                // Of an index that is meant nothing else counts; of several the largest.
                match named.take_if(|named| *named == digest) {
                    Some(_) => {
                        for child in children.into_iter().rev() {
                            wanted.push_front(child.digest);
                        }
                        others = real.saturating_sub(1);
                    }
                    None if image.named.is_none() => {
                        others = others.max(real.saturating_sub(1));
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }
    let Some((own, manifest)) = found else {
        return Err(Error::Incomplete {
            image: image.id.clone(),
            what: "the manifest for configuration",
            digest: image.id.clone(),
        });
    };
    let mut seen = HashSet::new();
    let all = manifest.layers.iter().chain([&manifest.config]);
    let blobs = all.filter(|blob| seen.insert(&blob.digest)).cloned();
    Ok(Found {
        root: own,
        below: Vec::new(),
        blobs: blobs.collect(),
        manifest,
        others,
    })
}

impl Stated {
    /// The type as it is stated inside, else as it was stated outside, else by what it is.
    fn new(described: Descriptor, bytes: Vec<u8>) -> Self {
        let stated = serde_json::from_slice::<Typed>(&bytes).ok();
        let stated = stated.and_then(|typed| typed.media_type);
        // The first version of OCI's format let the type be left out; Docker's never did.
        let media_type = stated.unwrap_or_else(|| match described.media_type.is_empty() {
            false => described.media_type,
            true => document::guessed_type(&bytes).to_owned(),
        });
        Self {
            digest: described.digest,
            media_type,
            bytes,
        }
    }
}

fn is_here(store: &Arc<Inner>, blob: &Descriptor) -> Result<bool, Error> {
    let Some(file) = store.open_blob(&blob.digest)? else {
        return Ok(false);
    };
    let name = blob_name(&blob.digest);
    let meta = file.metadata().map_err(Error::store_io("look at", &name))?;
    Ok(meta.len() == blob.size)
}

/// Whether a manifest that was found names `digest` as a layer, which need not be read.
fn names_layer(found: &Option<(Stated, Manifest)>, digest: &Digest) -> bool {
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
