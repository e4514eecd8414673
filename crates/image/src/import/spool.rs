//! Brings a stream into a private file, inflated, so that it can be read in any order.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write as _},
    sync::MutexGuard,
};

use rustix::fs::{self, Mode, OFlags};
use tokio_util::sync::CancellationToken;

use super::ArchiveError;
use crate::{
    Error,
    layer::{Budget, Exceeded},
    store::{Inner, Work},
    unpack::{Decoder, Fault, Head, wide_turn},
};

/// How archives begin that are compressed as nothing here reads, and what unpacks them.
const UNKNOWN: [(&[u8], &str); 5] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP", "lzip"),
    (b"PK\x03\x04", "unzip"),
];

pub(super) fn spool(
    store: &Inner,
    work: &Work,
    stream: impl Read,
    cancel: &CancellationToken,
) -> Result<File, Error> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = fs::openat(work.fd(), "spool", flags, Mode::RUSR | Mode::WUSR)
        .map_err(Error::store("create", "ingest"))?;
    let mut file = File::from(file);
    let mut stream = BufReader::with_capacity(128 << 10, stream);
    let head = stream.fill_buf().map_err(ArchiveError::Read)?;
    // A tar archive begins with a name, which may be any of these.
    let tar = head.get(257..262) == Some(b"ustar");
    let unknown = UNKNOWN
        .iter()
        .find(|(magic, _)| !tar && head.starts_with(magic));
    if let Some((_, program)) = unknown {
        return Err(ArchiveError::Compressed { program }.into());
    }
    let mut stream = Inflated::new(store, stream, cancel)?;
    let mut budget = Budget::new(&store.limits);
    let mut buffer = vec![0; 128 << 10];
    loop {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let count = match stream.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(inflate_error(error)),
        };
        budget.bytes(count as u64, work.fd()).map_err(exceeded)?;
        file.write_all(&buffer[..count])
            .map_err(Error::store_io("write", "ingest"))?;
    }
}

/// A stream without its compression, if it has one.
struct Inflated<'s, R: BufRead> {
    decoder: Decoder<R>,
    _turn: Option<MutexGuard<'s, ()>>,
}

impl<'s, R: BufRead> Inflated<'s, R> {
    /// Waits for its turn if it needs much memory.
    fn new(store: &'s Inner, mut stream: R, cancel: &CancellationToken) -> Result<Self, Error> {
        let head = Head::read(&mut stream).map_err(inflate_error)?;
        let turn = wide_turn(store, &head, cancel)?;
        let decoder = Decoder::new(head, stream).map_err(inflate_error)?;
        Ok(Self {
            decoder,
            _turn: turn,
        })
    }
}

impl<R: BufRead> Read for Inflated<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer)
    }
}

/// A decompressor's own limits and failures, apart from those of reading.
fn inflate_error(error: io::Error) -> Error {
    match error.downcast::<Fault>() {
        Ok(Fault::Exceeded(limit)) => exceeded(limit),
        Ok(Fault::Inflate(source)) => ArchiveError::Inflate(source).into(),
        Ok(fault) => ArchiveError::Read(fault.into()).into(),
        Err(error) => ArchiveError::Read(error).into(),
    }
}

fn exceeded(limit: Exceeded) -> Error {
    match limit {
        Exceeded::Space { .. } | Exceeded::Inodes(_) => Error::Store {
            what: "keep the archive",
            path: "ingest".to_owned(),
            source: io::Error::new(io::ErrorKind::StorageFull, limit),
        },
        Exceeded::Window { limit, .. } => ArchiveError::TooLarge {
            limit,
            unit: "MiB of memory to decompress",
        }
        .into(),
        Exceeded::Bytes(limit)
        | Exceeded::Entries(limit)
        | Exceeded::Ratio { ratio: limit, .. } => ArchiveError::TooLarge {
            limit,
            unit: "bytes",
        }
        .into(),
    }
}
