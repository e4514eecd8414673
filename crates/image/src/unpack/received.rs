//! The bytes of a blob as they come: hashed, counted, and written down.

use std::{
    fs::File,
    io::{self, BufRead, Read},
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use super::Fault;
use crate::{
    layer::Limits,
    name::{Digest, Hasher},
};

/// Between two looks at the free space while a blob is written.
const LOOK_BYTES: u64 = 8 << 20;

/// Where a blob is written while it is read.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) file: File,
    /// So many bytes are in the file already; the stream begins with them.
    pub(crate) length: u64,
}

/// A stream whose bytes are hashed and kept when they arrive, before they are consumed.
pub(super) struct Received<'l, R> {
    stream: R,
    hasher: Hasher,
    keep: Option<Keep>,
    limits: &'l Limits,
    cancel: &'l CancellationToken,
    consumed: u64,
    looked: u64,
    /// Bytes that have arrived.
    pub(super) count: Arc<AtomicU64>,
}

impl<'l, R: BufRead> Received<'l, R> {
    pub(super) fn new(
        stream: R,
        hasher: Hasher,
        keep: Option<Keep>,
        limits: &'l Limits,
        cancel: &'l CancellationToken,
    ) -> Self {
        Self {
            stream,
            hasher,
            keep,
            limits,
            cancel,
            consumed: 0,
            looked: 0,
            count: Arc::default(),
        }
    }

    /// Reads to the end, for the digest's sake.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        loop {
            let length = self.fill_buf()?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
        }
    }

    /// The digest of what has arrived.
    pub(super) fn digest(self) -> Digest {
        self.hasher.finish()
    }
}

impl<R: BufRead> BufRead for Received<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.cancel.is_cancelled() {
            return Err(Fault::Cancelled.into());
        }
        let bytes = self.stream.fill_buf()?;
        let seen = self.count.load(Ordering::Relaxed);
        let known = usize::try_from(seen - self.consumed).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        if new.is_empty() {
            return Ok(bytes);
        }
        self.hasher.update(new);
        let end = seen + new.len() as u64;
        self.count.store(end, Ordering::Relaxed);
        if let Some(keep) = &mut self.keep
            && end > keep.length
        {
            if end > self.looked {
                self.limits.room(&keep.file).map_err(Fault::Exceeded)?;
                self.looked = end + LOOK_BYTES;
            }
            let skip = usize::try_from(keep.length - seen.min(keep.length)).unwrap_or(usize::MAX);
            let new = new.get(skip..).unwrap_or_default();
            keep.file
                .write_all_at(new, end - new.len() as u64)
                .map_err(Fault::Keep)?;
            keep.length = end;
        }
        Ok(bytes)
    }

    fn consume(&mut self, amount: usize) {
        self.stream.consume(amount);
        self.consumed += amount as u64;
    }
}

impl<R: BufRead> Read for Received<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}
