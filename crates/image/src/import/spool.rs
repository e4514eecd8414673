//! Brings a stream into a private file, inflated, so that it can be read in any order.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write as _},
};

use flate2::bufread::MultiGzDecoder;
use rustix::fs::{self, Mode, OFlags};
use tokio_util::sync::CancellationToken;

use super::ArchiveError;
use crate::{
    Error,
    layer::{Budget, Exceeded},
    store::{Inner, Work},
};

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
    let mut stream: Box<dyn Read> = match head.starts_with(&[0x1f, 0x8b]) {
        true => Box::new(MultiGzDecoder::new(stream)),
        false => Box::new(stream),
    };
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
            Err(error) => return Err(ArchiveError::Read(error).into()),
        };
        budget.bytes(count as u64, work.fd()).map_err(exceeded)?;
        file.write_all(&buffer[..count])
            .map_err(Error::store_io("write", "ingest"))?;
    }
}

fn exceeded(limit: Exceeded) -> Error {
    match limit {
        Exceeded::Space { .. } | Exceeded::Inodes(_) => Error::Store {
            what: "keep the archive",
            path: "ingest".to_owned(),
            source: io::Error::new(io::ErrorKind::StorageFull, limit),
        },
        Exceeded::Bytes(limit)
        | Exceeded::Entries(limit)
        | Exceeded::Window { limit, .. }
        | Exceeded::Ratio { ratio: limit, .. } => ArchiveError::TooLarge {
            limit,
            unit: "bytes",
        }
        .into(),
    }
}
