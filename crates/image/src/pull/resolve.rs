//! From a reference to a manifest.

use std::collections::HashSet;

use super::{Pull, layer::Target};
use crate::{
    Error,
    document::{self, Descriptor, Document, DocumentError, Manifest},
    image::Blob,
    name::{Digest, Platform},
    registry::{RawDocument, Session},
    store::Hold,
};

/// Indexes in indexes; nobody makes even two.
const INDEX_DEPTH: usize = 4;

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

impl Pull {
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
