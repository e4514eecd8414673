//! Images as one tar archive that is two things at once: an OCI layout
//! (`oci-layout`, `index.json`) and what `docker save` writes (`manifest.json`).
//!
//! Both point to the same files below `blobs/`, which are the bytes that came
//! from the registry, so that every digest is the same after loading. Equal
//! images under equal names make equal archives: nothing in it tells when or by
//! whom it was made.

mod documents;
mod member;

use std::{collections::BTreeMap, io::Write};

use berth_phase::{Phase, Tracker};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    contents::{Contents, Recorded, Stated},
    document::Descriptor,
    name::Digest,
    store::Store,
};

/// Images that are to be written as one archive. What they are made of stays
/// in the store for as long as this lives.
#[derive(Debug)]
pub struct Archive {
    images: Vec<Contents>,
    /// `index.json`, `manifest.json`, `oci-layout`.
    documents: Vec<(&'static str, Vec<u8>)>,
}

impl Store {
    /// Looks whether all of `images` is here, and prepares their archive.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if something is not.
    pub fn archive(&self, images: &[Recorded]) -> Result<Archive, Error> {
        let contents: Result<Vec<_>, Error> = images
            .iter()
            .map(|image| Contents::of(&self.0, image))
            .collect();
        let contents = contents?;
        let names: Vec<_> = images.iter().map(|image| &*image.names).collect();
        Ok(Archive {
            documents: documents::of(&contents, &names),
            images: contents,
        })
    }
}

impl Archive {
    /// Bytes that [`Archive::write`] will write.
    #[must_use]
    pub fn size(&self) -> u64 {
        let documents = self
            .documents
            .iter()
            .map(|(name, bytes)| member::size(name, bytes.len() as u64));
        let blobs = self.blobs();
        let blobs = blobs
            .values()
            .map(|blob| member::size(&member::blob(blob.digest()), blob.size()));
        documents.chain(blobs).sum::<u64>() + member::END
    }

    /// Writes the archive. Blocks.
    ///
    /// # Errors
    /// [`Error::Write`] if `out` fails; [`Error::BlobDigest`] if the disk has
    /// damaged a blob, when what was written is of no use.
    pub fn write(
        &self,
        out: impl Write,
        tracker: &Tracker,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let mut archive = member::Writer::new(out, cancel);
        for (name, bytes) in &self.documents {
            archive.bytes(name, bytes)?;
        }
        for blob in self.blobs().values() {
            tracker.enter(Phase::Send, "blob")?;
            let name = member::blob(blob.digest());
            match blob {
                Piece::Document(document) => archive.bytes(&name, &document.bytes)?,
                Piece::Blob(contents, descriptor) => {
                    archive.file(&name, contents.open(descriptor)?, descriptor)?;
                }
            }
        }
        archive.end()
    }

    /// Everything below `blobs/`, each once, in the order of digests.
    fn blobs(&self) -> BTreeMap<String, Piece<'_>> {
        let mut all = BTreeMap::new();
        for image in &self.images {
            let documents = image.below.iter().chain([&image.root]);
            let documents = documents.map(Piece::Document);
            let blobs = image.blobs.iter().map(|blob| Piece::Blob(image, blob));
            for piece in blobs.chain(documents) {
                all.entry(piece.digest().to_string()).or_insert(piece);
            }
        }
        all
    }
}

enum Piece<'c> {
    Document(&'c Stated),
    Blob(&'c Contents, &'c Descriptor),
}

impl Piece<'_> {
    fn digest(&self) -> &Digest {
        match self {
            Self::Document(document) => &document.digest,
            Self::Blob(_, descriptor) => &descriptor.digest,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Document(document) => document.bytes.len() as u64,
            Self::Blob(_, descriptor) => descriptor.size,
        }
    }
}
