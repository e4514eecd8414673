//! Documents of images, kept byte for byte.

use std::{fs::File, io::Read as _, io::Write as _, sync::Arc};

use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
};

use super::{Inner, Store, Work};
use crate::{Error, document::DOCUMENT_MAX, layer::open_beneath, name::Digest};

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
}

impl Inner {
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let name = blob_name(digest);
        let path = format!("{}/{}", digest.algorithm().name(), digest.hex());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let file = match open_beneath(&self.blobs, path.as_bytes(), flags) {
            Err(Errno::NOENT) => return Ok(None),
            other => File::from(other.map_err(Error::store("open", &name))?),
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
