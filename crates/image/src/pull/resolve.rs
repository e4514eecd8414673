//! From a reference to a manifest.

use std::collections::HashSet;

use super::{Pull, layer::Target};
use crate::{
    Error,
    document::{self, Descriptor, Document, DocumentError, Graph, INDEX_DEPTH, Manifest, Walk},
    image::Blob,
    name::{Digest, Platform},
    registry::{RawDocument, Session},
    store::Hold,
};

/// A manifest and how it was found.
pub(super) struct Resolved {
    pub(super) manifest: Manifest,
    /// The manifest's own bytes.
    pub(super) own: Blob,
    /// Indexes that led to it, outermost first.
    pub(super) indexes: Vec<Blob>,
    /// Keeps those that are here already.
    pub(super) held: Vec<Hold>,
}

/// What an index names beside the image that is unpacked.
#[derive(Default)]
pub(super) struct Whole {
    /// Verified.
    pub(super) documents: Vec<Blob>,
    /// Configurations and layers.
    pub(super) blobs: Vec<Descriptor>,
    /// Keeps what of it is here already.
    pub(super) held: Vec<Hold>,
}

impl Pull {
    /// Reads all documents that the index names, if `resolved` came from one.
    pub(super) async fn whole(&self, target: &Target, resolved: &Resolved) -> Result<Whole, Error> {
        let mut whole = Whole::default();
        let Some((root, bytes)) = resolved.indexes.first() else {
            return Ok(whole);
        };
        let session = target.session()?;
        let known = || resolved.indexes.iter().chain([&resolved.own]);
        let mut walk = Walk::new(Descriptor::of(root, bytes));
        while let Some(wanted) = walk.next() {
            if let Some((_, bytes)) = known().find(|(digest, _)| *digest == wanted.digest) {
                walk.add(wanted, bytes)?;
                continue;
            }
            let digest = wanted.digest.clone();
            whole.held.push(Hold::of_blobs(&self.store, [&digest]));
            let name = digest.to_string();
            let raw = self.document(&session, &name, Some(&digest)).await?;
            walk.add(wanted, &raw.bytes)?;
            whole.documents.push((digest, raw.bytes));
        }
        let own: HashSet<&Digest> = resolved
            .manifest
            .layers
            .iter()
            .chain([&resolved.manifest.config])
            .map(|blob| &blob.digest)
            .collect();
        let Graph { mut blobs, .. } = walk.finish()?;
        blobs.retain(|blob| !own.contains(&blob.digest));
        whole.blobs = blobs;
        Ok(whole)
    }

    /// Follows indexes to the manifest. What is named by digest and here already is not
    /// asked for again.
    pub(super) async fn resolve(
        &self,
        target: &Target,
        platform: &Platform,
    ) -> Result<Resolved, Error> {
        let session = target.session()?;
        let reference = &target.reference;
        let (mut indexes, mut held) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        let (mut wanted, mut digest) = (reference.wanted(), reference.digest().cloned());
        let mut declared: Option<Descriptor> = None;
        loop {
            if let Some(digest) = &digest {
                held.push(Hold::of_blobs(&self.store, [digest]));
            }
            let raw = self.document(&session, &wanted, digest.as_ref()).await?;
            let name = raw.digest.to_string();
            let invalid = |why: &str| DocumentError::Invalid {
                what: "index",
                name: name.clone(),
                why: why.to_owned(),
            };
            if !seen.insert(raw.digest.clone()) {
                return Err(invalid("contains itself").into());
            }
            let mut types = vec![raw.content_type.as_str()];
            if let Some(descriptor) = &declared {
                types.push(&descriptor.media_type);
                if descriptor.size != raw.bytes.len() as u64 {
                    return Err(invalid("states a wrong size for a manifest").into());
                }
            }
            let document = document::parse_document(&raw.bytes, &name, &types)?;
            let own = (raw.digest, raw.bytes);
            match document {
                Document::Manifest(manifest) => {
                    return Ok(Resolved {
                        manifest,
                        own,
                        indexes,
                        held,
                    });
                }
                Document::Index(_) if indexes.len() + 1 >= INDEX_DEPTH => {
                    return Err(invalid("is nested too deep").into());
                }
                Document::Index(children) => {
                    indexes.push(own);
                    let child = document::choose(&children, platform)?;
                    wanted = child.digest.to_string();
                    digest = Some(child.digest.clone());
                    declared = Some(child.clone());
                }
            }
        }
    }

    async fn document(
        &self,
        session: &Session<'_>,
        wanted: &str,
        digest: Option<&Digest>,
    ) -> Result<RawDocument, Error> {
        if let Some(digest) = digest
            && let Some(bytes) = self.read_blob(digest).await?
        {
            return Ok(RawDocument {
                bytes,
                digest: digest.clone(),
                content_type: String::new(),
            });
        }
        Ok(session.document(wanted, digest).await?)
    }
}
