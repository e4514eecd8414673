//! Writing tar members of known size.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    document::Descriptor,
    name::{Digest, Hasher},
    store::blob_name,
};

/// What ends an archive: two empty blocks.
pub(super) const END: u64 = 1024;
const BLOCK: u64 = 512;
/// A name that is longer gets a member of its own in front (GNU tar's `L`).
const NAME_MAX: usize = 100;

/// Where a blob lies in the archive; the same as below the store's root.
pub(super) fn blob(digest: &Digest) -> String {
    blob_name(digest)
}

/// Bytes that a member takes with its header.
pub(super) fn size(name: &str, bytes: u64) -> u64 {
    let long = match name.len() > NAME_MAX {
        // With the zero byte that ends it.
        true => BLOCK + (name.len() as u64 + 1).next_multiple_of(BLOCK),
        false => 0,
    };
    long + BLOCK + bytes.next_multiple_of(BLOCK)
}

/// Writes members one after the other.
pub(super) struct Writer<'c, W: Write> {
    archive: tar::Builder<W>,
    cancel: &'c CancellationToken,
}

impl<'c, W: Write> Writer<'c, W> {
    pub(super) fn new(out: W, cancel: &'c CancellationToken) -> Self {
        Self {
            archive: tar::Builder::new(out),
            cancel,
        }
    }

    pub(super) fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.archive
            .append_data(&mut header(bytes.len() as u64), name, bytes)
            .map_err(Error::Write)
    }

    /// A blob from the store, which must be what its descriptor says.
    pub(super) fn file(
        &mut self,
        name: &str,
        file: File,
        descriptor: &Descriptor,
    ) -> Result<(), Error> {
        let mut checked = Checked {
            file,
            left: descriptor.size,
            hasher: Hasher::new(descriptor.digest.algorithm()),
            cancel: self.cancel,
            failure: None,
        };
        let mut header = header(descriptor.size);
        let result = self.archive.append_data(&mut header, name, &mut checked);
        if let Some(failure) = checked.failure {
            return Err(failure);
        }
        result.map_err(Error::Write)?;
        let actual = checked.hasher.finish();
        if actual != descriptor.digest {
            return Err(Error::BlobDigest {
                expected: descriptor.digest.clone(),
                actual,
            });
        }
        Ok(())
    }

    pub(super) fn end(self) -> Result<(), Error> {
        let mut out = self.archive.into_inner().map_err(Error::Write)?;
        out.flush().map_err(Error::Write)
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// A blob on its way; keeps its own failures apart from those of the writing.
struct Checked<'c> {
    file: File,
    left: u64,
    hasher: Hasher,
    cancel: &'c CancellationToken,
    failure: Option<Error>,
}

impl Checked<'_> {
    fn failed(&mut self, error: Error) -> io::Error {
        self.failure = Some(error);
        io::Error::other("a blob could not be read")
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(self.failed(Error::Cancelled));
        }
        let want = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let count = match self.file.read(&mut buffer[..want]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let error = Error::store_io("read", "blobs")(error);
                return Err(self.failed(error));
            }
            Ok(0) => {
                // Shorter than when it was looked at: the member's size cannot be kept.
                let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                let error = Error::store_io("read", "blobs")(error);
                return Err(self.failed(error));
            }
            Ok(count) => count,
        };
        self.hasher.update(&buffer[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_size_that_was_announced() {
        let cancel = CancellationToken::new();
        for name in [
            "index.json".to_owned(),
            format!("blobs/sha512/{}", "a".repeat(128)),
        ] {
            for length in [0usize, 1, 511, 512, 513] {
                let mut out = Vec::new();
                let mut writer = Writer::new(&mut out, &cancel);
                writer.bytes(&name, &vec![7; length]).unwrap();
                writer.end().unwrap();
                assert_eq!(
                    out.len() as u64,
                    size(&name, length as u64) + END,
                    "{name} {length}"
                );
            }
        }
    }
}
