//! Documents and compressed layers of images, kept byte for byte.

use std::{
    fs::File,
    io::{self, Read as _, Write},
    os::fd::BorrowedFd,
    sync::Arc,
};

use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
};

use super::{Hold, Inner, Kept, Store, Work};
use crate::{
    Error,
    document::DOCUMENT_MAX,
    layer::open_beneath,
    name::{Algorithm, Digest, Hasher},
};

/// Where a blob lies below the store's root.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

impl Store {
    /// The bytes of a manifest, index or configuration; `None` if it is not here.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::BlobDigest`] if the disk has damaged it.
    pub fn blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        self.0.read_blob(digest)
    }

    /// Opens a blob of any size for reading; `None` if it is not here. What is read
    /// should be compared with `digest`, since a disk can damage it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>, Error> {
        self.0.open_blob(digest)
    }

    /// Begins a blob that is written piece by piece. Hold its digest with
    /// [`Store::hold`] first if it is known, or a collection may take it as soon
    /// as it has its name.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn blob_writer(&self, algorithm: Algorithm) -> Result<BlobWriter, Error> {
        let (work, file) = self.0.blob_file()?;
        let hasher = Hasher::new(algorithm);
        Ok(BlobWriter { work, file, hasher })
    }

    /// Keeps `blobs` from [`Store::collect`], whether they are here already or not.
    #[must_use]
    pub fn hold<'d>(&self, blobs: impl IntoIterator<Item = &'d Digest>) -> Hold {
        Hold::of_blobs(&self.0, blobs)
    }
}

/// A blob that is not whole yet; it is removed if it is dropped before its commit.
#[derive(Debug)]
pub struct BlobWriter {
    work: Work,
    file: File,
    hasher: Hasher,
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter {
    /// Compares what was written with `expected`, syncs it and gives it its name.
    /// Without `expected` its own digest is its name. Returns the digest. Blocks.
    ///
    /// # Errors
    /// [`Error::BlobDigest`] if it is something else; [`Error::Store`].
    pub fn commit(self, expected: Option<&Digest>) -> Result<Digest, Error> {
        let digest = self.hasher.finish();
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(Error::BlobDigest {
                expected: expected.clone(),
                actual: digest,
            });
        }
        let store = self.work.store();
        let shown = blob_name(&digest);
        self.file
            .sync_all()
            .map_err(Error::store_io("write", &shown))?;
        store.name_blob(self.work.fd(), "blob", &digest)?;
        store.sync_blobs(&digest)?;
        store.usage_changed();
        Ok(digest)
    }
}

pub(crate) fn create_file(work: &Work, name: &str) -> Result<File, Error> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = fs::openat(work.fd(), name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(Error::store("create", "ingest"))?;
    Ok(File::from(file))
}

impl Inner {
    /// A private file for a blob.
    fn blob_file(self: &Arc<Self>) -> Result<(Work, File), Error> {
        let work = Work::new(self)?;
        let file = create_file(&work, "blob")?;
        Ok((work, file))
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<Option<File>, Error> {
        let path = format!("{}/{}", digest.algorithm().name(), digest.hex());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        match open_beneath(&self.blobs, path.as_bytes(), flags) {
            Err(Errno::NOENT) => Ok(None),
            other => Ok(Some(File::from(
                other.map_err(Error::store("open", blob_name(digest)))?,
            ))),
        }
    }

    /// Gives `name` in `directory`, verified and synced, the name of the blob `digest`.
    pub(super) fn name_blob(
        &self,
        directory: BorrowedFd<'_>,
        name: &str,
        digest: &Digest,
    ) -> Result<(), Error> {
        let path = format!("{}/{}", digest.algorithm().name(), digest.hex());
        fs::renameat(directory, name, &self.blobs, &*path)
            .map_err(Error::store("name", blob_name(digest)))
    }

    /// Syncs a complete, verified blob and gives it its name.
    pub(crate) fn publish_blob(&self, file: &File, blob: Kept<'_>) -> Result<(), Error> {
        file.sync_all()
            .map_err(Error::store_io("sync", blob_name(blob.digest)))?;
        self.name_blob(blob.directory, blob.name, blob.digest)?;
        self.sync_blobs(blob.digest)?;
        self.usage_changed();
        Ok(())
    }

    /// Removes a blob that is not what its name says.
    pub(crate) fn discard_blob(&self, digest: &Digest) -> Result<(), Error> {
        let path = format!("{}/{}", digest.algorithm().name(), digest.hex());
        self.usage_changed();
        match fs::unlinkat(&self.blobs, &*path, fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::store("remove", blob_name(digest))(errno)),
        }
    }

    /// Makes the names of blobs like `digest` survive a power cut.
    pub(crate) fn sync_blobs(&self, digest: &Digest) -> Result<(), Error> {
        let algorithm = digest.algorithm().name();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = open_beneath(&self.blobs, algorithm.as_bytes(), flags)
            .map_err(Error::store("open", format!("blobs/{algorithm}")))?;
        fs::fsync(directory).map_err(Error::store("sync", format!("blobs/{algorithm}")))
    }

    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let name = blob_name(digest);
        let Some(file) = self.open_blob(digest)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(DOCUMENT_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::store_io("read", &name))?;
        if !digest.matches(&bytes) {
            return Err(Error::BlobDigest {
                expected: digest.clone(),
                actual: Digest::of(&bytes),
            });
        }
        Ok(Some(bytes))
    }

    /// Keeps `bytes`, whose digest the caller has verified.
    pub(crate) fn write_blob(self: &Arc<Self>, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        if matches!(self.read_blob(digest), Ok(Some(_))) {
            return Ok(());
        }
        let work = Work::new(self)?;
        let path = format!("{}/{}", digest.algorithm().name(), digest.hex());
        self.place_file(&work, bytes, &self.blobs, &path, blob_name(digest))?;
        self.usage_changed();
        Ok(())
    }

    /// Writes a file in `work`, syncs it and gives it its name in `directory`.
    pub(super) fn place_file(
        &self,
        work: &Work,
        bytes: &[u8],
        directory: &std::os::fd::OwnedFd,
        path: &str,
        shown: String,
    ) -> Result<(), Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(work.fd(), "file", flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::store("create", &shown))?;
        let mut file = File::from(file);
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(Error::store_io("write", &shown))?;
        fs::renameat(work.fd(), "file", directory, path).map_err(Error::store("name", &shown))?;
        let parent = path.rsplit_once('/').map_or(".", |(parent, _)| parent);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let parent = open_beneath(directory, parent.as_bytes(), flags)
            .map_err(Error::store("open the directory of", &shown))?;
        fs::fsync(parent).map_err(Error::store("sync the directory of", &shown))
    }
}
