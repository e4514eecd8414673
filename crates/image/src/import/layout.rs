//! The OCI image layout.

use std::io::BufReader;

use berth_phase::Phase;
use serde::Deserialize;

use super::{ArchiveError, IMAGES_MAX, Import, Imported, Part, source::Source};
use crate::{
    Error,
    document::{
        DOCUMENT_MAX, Descriptor, Document, DocumentError, Graph, INDEX_DEPTH, Manifest, Walk,
        choose, parse_config, parse_document,
    },
    image::{Blob, Documents, Others},
    name::{Digest, Reference},
    store::{Kept, Work, create_file},
    unpack::{Expected, Keep, receive},
};

/// Where tools put an image's full name.
const FULL_NAME: &str = "io.containerd.image.name";
/// Where the specification puts a name, which often is a bare tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

/// All that an index names: documents, and what they name.
#[derive(Default)]
struct Whole {
    documents: Vec<Blob>,
    blobs: Vec<Descriptor>,
}

impl Import<'_> {
    pub(super) fn layout(&self, source: &Source) -> Result<Vec<Imported>, Error> {
        let marker = source.read("oci-layout", 4096)?;
        let version = serde_json::from_slice::<Marker>(&marker).map(|m| m.image_layout_version);
        if !version.is_ok_and(|version| version.starts_with("1.")) {
            return Err(ArchiveError::Invalid {
                name: "oci-layout".to_owned(),
                why: "does not announce version 1 of the layout".to_owned(),
            }
            .into());
        }
        let bytes = source.read("index.json", DOCUMENT_MAX)?;
        let Document::Index(children) = parse_document(&bytes, "index.json", &[])? else {
            return Err(ArchiveError::Invalid {
                name: "index.json".to_owned(),
                why: "is not an index".to_owned(),
            }
            .into());
        };
        if children.len() > IMAGES_MAX {
            let limit = IMAGES_MAX as u64;
            return Err(ArchiveError::TooLarge {
                limit,
                unit: "images",
            }
            .into());
        }
        let platform = &self.options.platform;
        let mut images = Vec::new();
        for child in &children {
            // Other machines' images and attestations beside ours are not an error. They are
            // not kept: nothing here names them.
            if child.platform.is_some() && choose(std::slice::from_ref(child), platform).is_err() {
                continue;
            }
            let names = names(child);
            // An image with several names has an entry for each.
            let known: Option<&mut Imported> = images
                .iter_mut()
                .find(|(image, _): &&mut Imported| image.named == child.digest);
            match known {
                Some((_, all)) => all.extend(names),
                None => images.push((self.layout_image(source, child)?, names)),
            }
        }
        if images.is_empty() {
            // Says what there is instead.
            choose(&children, platform)?;
        }
        Ok(images)
    }

    fn layout_image(
        &self,
        source: &Source,
        child: &Descriptor,
    ) -> Result<crate::StoredImage, Error> {
        let (mut chain, manifest) = self.manifest(source, child)?;
        let config = blob(source, &manifest.config)?;
        let digest = manifest.config.digest.clone();
        let count = manifest.layers.len();
        let parsed = parse_config(&config, &digest.to_string(), count, &self.options.platform)?;
        let own = chain.pop().ok_or(ArchiveError::Missing {
            name: "manifest".to_owned(),
        })?;
        let whole = match chain.is_empty() {
            false if self.options.all_platforms && self.store.keep_blobs => {
                self.whole(source, child)?
            }
            _ => None,
        };
        let whole = whole.unwrap_or_default();
        let documents = Documents {
            config: (digest, config),
            manifest: own,
            indexes: chain,
            layers: manifest.layers.iter().map(Descriptor::layer).collect(),
            others: Others {
                documents: whole.documents,
                blobs: whole.blobs.iter().map(|blob| blob.digest.clone()).collect(),
            },
            parsed,
        };
        let hold = self.hold(&documents);
        let layers = manifest.layers.iter().zip(&documents.parsed.diff_ids);
        let parts: Vec<Part> = layers
            .map(|(layer, diff_id)| Part {
                name: Source::blob(&layer.digest),
                expected: Expected {
                    blob: layer.digest.clone(),
                    check_blob: true,
                    diff_id: Some(diff_id.clone()),
                },
                size: Some(layer.size),
            })
            .collect();
        self.parts(source, &parts)?;
        for blob in &whole.blobs {
            self.keep(source, blob)?;
        }
        self.assemble(documents, hold)
    }

    /// What else the index names, if the archive has all of it: documents, and the blobs of
    /// every image.
    fn whole(&self, source: &Source, root: &Descriptor) -> Result<Option<Whole>, Error> {
        let mut walk = Walk::new(root.clone());
        let mut documents = Vec::new();
        while let Some(wanted) = walk.next() {
            if !source.has(&Source::blob(&wanted.digest)) {
                return Ok(None);
            }
            let bytes = blob(source, &wanted)?;
            let digest = wanted.digest.clone();
            // Whatever other machines' images are, ours can be run.
            if walk.add(wanted, &bytes).is_err() {
                return Ok(None);
            }
            documents.push((digest, bytes));
        }
        let Ok(Graph { blobs, .. }) = walk.finish() else {
            return Ok(None);
        };
        let there = |blob: &Descriptor| source.has(&Source::blob(&blob.digest));
        Ok(blobs
            .iter()
            .all(there)
            .then_some(Whole { documents, blobs }))
    }

    /// Keeps a blob that is not unpacked.
    fn keep(&self, source: &Source, blob: &Descriptor) -> Result<(), Error> {
        if self.store.open_blob(&blob.digest)?.is_some() {
            return Ok(());
        }
        self.tracker.enter(Phase::Unpack, "blob")?;
        let name = Source::blob(&blob.digest);
        let (piece, size) = source.open(&name)?;
        if size != blob.size {
            let why = "has another size than its manifest says".to_owned();
            return Err(ArchiveError::Invalid { name, why }.into());
        }
        let work = Work::new(self.store)?;
        let file = create_file(&work, "blob")?;
        let copy = file
            .try_clone()
            .map_err(Error::store_io("open", "ingest"))?;
        let keep = Keep {
            file: copy,
            length: 0,
        };
        let stream = BufReader::with_capacity(256 << 10, piece);
        receive(self.store, stream, keep, &blob.digest, self.cancel)?;
        let kept = Kept {
            directory: work.fd(),
            name: "blob",
            digest: &blob.digest,
        };
        self.store.publish_blob(&file, kept)
    }

    fn manifest(
        &self,
        source: &Source,
        child: &Descriptor,
    ) -> Result<(Vec<Blob>, Manifest), Error> {
        let mut chain = Vec::new();
        let mut at = child.clone();
        loop {
            let bytes = blob(source, &at)?;
            let name = at.digest.to_string();
            let document = parse_document(&bytes, &name, &[&at.media_type])?;
            chain.push((at.digest.clone(), bytes));
            match document {
                Document::Manifest(manifest) => return Ok((chain, manifest)),
                Document::Index(_) if chain.len() >= INDEX_DEPTH => {
                    return Err(DocumentError::Invalid {
                        what: "index",
                        name,
                        why: "is nested too deep".to_owned(),
                    }
                    .into());
                }
                Document::Index(children) => {
                    at = choose(&children, &self.options.platform)?.clone();
                }
            }
        }
    }
}

/// A document of the layout, verified.
fn blob(source: &Source, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let bytes = source.read(&Source::blob(&descriptor.digest), DOCUMENT_MAX)?;
    if bytes.len() as u64 != descriptor.size || !descriptor.digest.matches(&bytes) {
        return Err(Error::BlobDigest {
            expected: descriptor.digest.clone(),
            actual: Digest::of(&bytes),
        });
    }
    Ok(bytes)
}

/// Names that are complete; a bare tag says nothing about the image it belongs to.
fn names(child: &Descriptor) -> Vec<Reference> {
    let Some(annotations) = &child.annotations else {
        return Vec::new();
    };
    let full = annotations.get(FULL_NAME);
    let short = annotations
        .get(REF_NAME)
        .filter(|name| name.contains(['/', ':']));
    full.or(short)
        .and_then(|name| name.parse().ok())
        .into_iter()
        .collect()
}
