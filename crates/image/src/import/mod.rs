//! Images from archives and directories: OCI layouts, `docker save`, root file systems.

mod docker;
mod layout;
mod rootfs;
mod source;
mod spool;

use std::{
    io::{self, BufReader, Read},
    path::Path,
    sync::Arc,
};

use berth_phase::{Phase, Tracker};
use rustix::fs::{Mode, OFlags};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, StoredImage,
    image::{Documents, LayerBlob, assemble},
    name::{Digest, Platform, Reference},
    store::{Hold, Inner, Kept, Store, Work, blob_name, create_file, layer_key},
    unpack::{Compression, Expected, Keep, unpack},
};
use source::{Piece, Source};

/// Why an archive is no image.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive itself cannot be read.
    #[error("the archive is not readable as tar")]
    Tar(#[from] crate::tar::TarError),
    /// Its bytes cannot be read.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// Its compression is broken.
    #[error("the archive cannot be decompressed")]
    Inflate(#[source] io::Error),
    /// Compressed as nothing here reads.
    #[error(
        "the archive is compressed with {program}; unpack it with that first, or use gzip or zstd"
    )]
    Compressed {
        /// The program.
        program: &'static str,
    },
    /// A file it must have.
    #[error("the archive has no file {name}")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A file in it that is not what it must be.
    #[error("the archive's {name} {why}")]
    Invalid {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// More than is accepted.
    #[error("the archive has more than {limit} {unit}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
}

/// What an archive is taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImportFormat {
    /// Found out: an OCI layout, else a docker archive, else a root file system.
    #[default]
    Auto,
    /// `oci-layout`, `index.json`, `blobs/`.
    OciLayout,
    /// `manifest.json`, as `docker save` writes it.
    DockerArchive,
    /// The files of one system.
    Rootfs,
}

/// How an archive becomes an image.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// What the archive is.
    pub format: ImportFormat,
    /// A name that takes the place of those in the archive.
    pub reference: Option<Reference>,
    /// For a root file system: an OCI image configuration whose `config` member is taken over.
    pub config: Option<Vec<u8>>,
    /// The machine that the image is for.
    pub platform: Platform,
    /// Whether other platforms' images are kept too, not unpacked, if the archive has all
    /// that an index of it names.
    pub all_platforms: bool,
}

/// An image and the names that its archive has for it. The names are
/// somebody's claim: whether to believe them is the caller's decision.
pub type Imported = (StoredImage, Vec<Reference>);

/// Not even large collections of images come in one archive beyond this.
const IMAGES_MAX: usize = 64;

impl Store {
    /// Makes images of a tar stream: plain, gzip or zstd. Blocks.
    ///
    /// # Errors
    /// [`Error`]; nothing half-made stays.
    pub fn import(
        &self,
        stream: impl Read,
        options: &ImportOptions,
        tracker: &Tracker,
        cancel: &CancellationToken,
    ) -> Result<Vec<Imported>, Error> {
        tracker.enter(Phase::Fetch, "spool")?;
        let work = Work::new(&self.0)?;
        let file = spool::spool(&self.0, &work, stream, cancel)?;
        let copy = file.try_clone().map_err(ArchiveError::Read)?;
        let import = Import {
            store: &self.0,
            options,
            tracker,
            cancel,
        };
        tracker.enter(Phase::Resolve, "archive")?;
        if options.format == ImportFormat::Rootfs {
            return import.rootfs(file);
        }
        let source = Source::archive(copy)?;
        match import.format(&source) {
            ImportFormat::Rootfs => import.rootfs(file),
            format => import.images(&source, format),
        }
    }

    /// Makes images of an OCI layout in a directory. Blocks.
    ///
    /// # Errors
    /// [`Error`]; nothing half-made stays.
    pub fn import_directory(
        &self,
        directory: &Path,
        options: &ImportOptions,
        tracker: &Tracker,
        cancel: &CancellationToken,
    ) -> Result<Vec<Imported>, Error> {
        tracker.enter(Phase::Resolve, "archive")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|errno| ArchiveError::Read(errno.into()))?;
        let import = Import {
            store: &self.0,
            options,
            tracker,
            cancel,
        };
        import.images(&Source::Directory(fd), ImportFormat::OciLayout)
    }
}

struct Import<'a> {
    store: &'a Arc<Inner>,
    options: &'a ImportOptions,
    tracker: &'a Tracker,
    cancel: &'a CancellationToken,
}

/// A layer as an archive has it.
struct Part {
    name: String,
    expected: Expected,
    /// Its size, where something has said it.
    size: Option<u64>,
}

/// A layer that is in the store now.
struct Layer {
    diff_id: Digest,
    digest: Digest,
    size: u64,
    compression: Compression,
    _hold: Hold,
}

impl Layer {
    fn described(&self) -> (Digest, u64, Compression) {
        (self.digest.clone(), self.size, self.compression)
    }

    fn blob(&self) -> LayerBlob {
        LayerBlob {
            digest: self.digest.clone(),
            size: self.size,
        }
    }
}

impl Import<'_> {
    fn format(&self, source: &Source) -> ImportFormat {
        match self.options.format {
            ImportFormat::Auto if source.has("index.json") && source.has("oci-layout") => {
                ImportFormat::OciLayout
            }
            ImportFormat::Auto if source.has("manifest.json") => ImportFormat::DockerArchive,
            ImportFormat::Auto => ImportFormat::Rootfs,
            given => given,
        }
    }

    fn images(&self, source: &Source, format: ImportFormat) -> Result<Vec<Imported>, Error> {
        let mut images = match format {
            ImportFormat::DockerArchive => self.docker(source)?,
            _ => self.layout(source)?,
        };
        if let Some(reference) = &self.options.reference {
            match images.as_mut_slice() {
                [(_, names)] => *names = vec![reference.clone()],
                _ => {
                    let why = "holds several images, which cannot share one name".to_owned();
                    let name = "index".to_owned();
                    return Err(ArchiveError::Invalid { name, why }.into());
                }
            }
        }
        Ok(images)
    }

    /// Unpacks what is not there yet and says what each layer's blob is.
    fn parts(&self, source: &Source, parts: &[Part]) -> Result<Vec<Layer>, Error> {
        let mut blobs = Vec::new();
        for part in parts {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let (piece, size) = source.open(&part.name)?;
            if part.size.is_some_and(|expected| expected != size) {
                return Err(ArchiveError::Invalid {
                    name: part.name.clone(),
                    why: "has another size than its manifest says".to_owned(),
                }
                .into());
            }
            blobs.push(self.part(piece, part)?);
        }
        Ok(blobs)
    }

    fn part(&self, piece: Piece, part: &Part) -> Result<Layer, Error> {
        self.tracker.enter(Phase::Unpack, "layer")?;
        self.layer(piece, &part.expected)
    }

    /// Unpacks a layer and keeps its bytes.
    fn layer(&self, piece: Piece, expected: &Expected) -> Result<Layer, Error> {
        const BLOB: &str = "blob";
        let work = Work::new(self.store)?;
        let file = create_file(&work, BLOB)?;
        let keep = match self.store.keep_blobs {
            true => Some(Keep {
                file: file
                    .try_clone()
                    .map_err(Error::store_io("open", "ingest"))?,
                length: 0,
            }),
            false => None,
        };
        let kept = keep.is_some();
        let stream = BufReader::with_capacity(256 << 10, piece);
        let unpacked = unpack(self.store, stream, keep, expected, self.cancel)?;
        self.tracker.enter(Phase::Publish, "layer")?;
        let digest = unpacked.blob;
        let key = layer_key(&unpacked.meta.diff_id);
        // Before they have names, or are looked for; the image's own hold comes later.
        let names = vec![blob_name(&digest), format!("layers/{key}")];
        let hold = Hold::new(self.store, names);
        let blob = Kept {
            directory: work.fd(),
            name: BLOB,
            digest: &digest,
        };
        let missing = kept && self.store.open_blob(&digest)?.is_none();
        if self.store.layer(&key)?.is_none() {
            let blob = missing.then_some(blob);
            self.store
                .publish_layer(&unpacked.work, &key, &unpacked.meta, blob)?;
        } else if missing {
            self.store.publish_blob(&file, blob)?;
        }
        Ok(Layer {
            diff_id: unpacked.meta.diff_id,
            digest,
            size: unpacked.compressed,
            compression: unpacked.compression,
            _hold: hold,
        })
    }

    fn hold(&self, documents: &Documents) -> Hold {
        Hold::new(self.store, documents.names())
    }

    fn assemble(&self, documents: Documents, hold: Hold) -> Result<StoredImage, Error> {
        assemble(self.store, documents, hold, self.tracker)
    }
}
