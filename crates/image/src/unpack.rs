//! One layer, from compressed bytes to a verified directory.
//!
//! Runs on a blocking thread. The bytes flow once: hashed as they come,
//! inflated, hashed again, extracted. Only when both digests are right does the
//! directory get a name.

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::bufread::MultiGzDecoder;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    layer::{Exceeded, LayerError, LayerMeta, Limits, extract},
    name::{Algorithm, Digest, Hasher},
    store::{Inner, Work},
    tar::{Reader, TarError},
};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What a layer is expected to be.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// Digest of the compressed bytes; for messages too.
    pub(crate) blob: Digest,
    /// Whether `blob` is to be checked: an archive's plain layers have no other digest than the diffID.
    pub(crate) check_blob: bool,
    /// Digest of the inflated bytes, if it is known.
    pub(crate) diff_id: Option<Digest>,
}

/// What stops a stream from within.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("cancelled")]
    Cancelled,
    /// The sender has gone; it knows why.
    #[error("the transfer was interrupted")]
    Interrupted,
    #[error(transparent)]
    Exceeded(Exceeded),
    #[error("decompression failed")]
    Inflate(#[source] io::Error),
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        io::Error::other(fault)
    }
}

/// An unpacked, verified layer that has no name yet.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) work: Work,
    pub(crate) meta: LayerMeta,
    /// Bytes of the blob.
    pub(crate) compressed: u64,
    /// Whether it was compressed at all.
    pub(crate) gzip: bool,
    pub(crate) blob: Digest,
}

/// Unpacks and verifies `stream`.
///
/// # Errors
/// [`Error`]; nothing stays of what was unpacked.
pub(crate) fn unpack<R: BufRead>(
    store: &Arc<Inner>,
    stream: R,
    expected: &Expected,
    cancel: &CancellationToken,
) -> Result<Unpacked, Error> {
    let layer = &expected.blob;
    let work = Work::new(store)?;
    let counted = Arc::new(AtomicU64::new(0));
    let mut hashed = Hashed {
        stream,
        hasher: Hasher::new(expected.blob.algorithm()),
        count: Arc::clone(&counted),
    };
    let head = match read_head(&mut hashed) {
        Ok(head) => head,
        Err(error) => return Err(stream_error(error, layer)),
    };
    if head == ZSTD {
        return Err(Error::Zstd {
            layer: layer.clone(),
        });
    }
    let gzip = head.starts_with(&GZIP);
    let whole = io::Cursor::new(head).chain(hashed);
    let decoder = match gzip {
        true => Decoder::Gzip(Box::new(MultiGzDecoder::new(whole))),
        false => Decoder::Plain(whole),
    };
    let algorithm = expected
        .diff_id
        .as_ref()
        .map_or(Algorithm::Sha256, Digest::algorithm);
    let mut archive = Reader::new(Inflated {
        decoder,
        hasher: Hasher::new(algorithm),
        count: 0,
        compressed: Arc::clone(&counted),
        limits: &store.limits,
        cancel,
    });
    let extracted = extract(&mut archive, work.fd(), &store.limits);
    let inflated = archive.into_inner();
    let (_, mut hashed) = inflated.decoder.into_inner().into_inner();
    let extracted = match extracted {
        Ok(extracted) => extracted,
        Err(source) => {
            let error = layer_error(source, layer);
            // Damaged on the way, or made like that? The digest of the whole blob tells.
            if expected.check_blob && is_about_content(&error) && hashed.drain(cancel).is_ok() {
                check_blob(hashed.hasher.finish(), expected)?;
            }
            return Err(error);
        }
    };
    // The tar reader stops at the end of its stream, a gzip decoder at the end of its input.
    hashed
        .drain(cancel)
        .map_err(|error| stream_error(error, layer))?;
    let blob = hashed.hasher.finish();
    if expected.check_blob {
        check_blob(blob.clone(), expected)?;
    }
    let actual = inflated.hasher.finish();
    if let Some(diff_id) = &expected.diff_id
        && actual != *diff_id
    {
        return Err(Error::DiffId {
            layer: layer.clone(),
            expected: diff_id.clone(),
            actual,
        });
    }
    Ok(Unpacked {
        work,
        meta: extracted.into_meta(actual),
        compressed: counted.load(Ordering::Relaxed),
        gzip,
        blob,
    })
}

fn check_blob(actual: Digest, expected: &Expected) -> Result<(), Error> {
    if actual == expected.blob {
        return Ok(());
    }
    Err(Error::BlobDigest {
        expected: expected.blob.clone(),
        actual,
    })
}

/// Whether damaged bytes could be the cause.
fn is_about_content(error: &Error) -> bool {
    match error {
        Error::Compression { .. } => true,
        Error::Layer { source, .. } => match source {
            LayerError::Exceeded(_) | LayerError::Io { .. } => false,
            LayerError::Tar(_)
            | LayerError::Name { .. }
            | LayerError::Conflict { .. }
            | LayerError::Dangling { .. } => true,
        },
        _ => false,
    }
}

/// Unwraps what the stream's own parts have reported through the tar reader.
fn layer_error(error: LayerError, layer: &Digest) -> Error {
    match error {
        LayerError::Tar(TarError::Read { offset, source }) => match source.downcast::<Fault>() {
            Ok(fault) => fault_error(fault, layer),
            Err(source) => Error::Layer {
                layer: layer.clone(),
                source: LayerError::Tar(TarError::Read { offset, source }),
            },
        },
        source => Error::Layer {
            layer: layer.clone(),
            source,
        },
    }
}

fn stream_error(error: io::Error, layer: &Digest) -> Error {
    layer_error(
        LayerError::Tar(TarError::Read {
            offset: 0,
            source: error,
        }),
        layer,
    )
}

fn fault_error(fault: Fault, layer: &Digest) -> Error {
    let layer = layer.clone();
    match fault {
        Fault::Cancelled | Fault::Interrupted => Error::Cancelled,
        Fault::Exceeded(exceeded) => Error::Layer {
            layer,
            source: exceeded.into(),
        },
        // A fault of a part below the decoder comes through it wrapped once more.
        Fault::Inflate(source) => match source.downcast::<Fault>() {
            Ok(inner) => fault_error(inner, &layer),
            Err(source) => Error::Compression { layer, source },
        },
    }
}

/// Up to four bytes, enough to tell the compression.
fn read_head(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    stream.take(ZSTD.len() as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Hashes and counts what is consumed.
struct Hashed<R> {
    stream: R,
    hasher: Hasher,
    count: Arc<AtomicU64>,
}

impl<R: BufRead> Hashed<R> {
    /// Reads to the end, for the digest's sake.
    fn drain(&mut self, cancel: &CancellationToken) -> io::Result<()> {
        loop {
            if cancel.is_cancelled() {
                return Err(Fault::Cancelled.into());
            }
            let length = self.fill_buf()?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
        }
    }
}

impl<R: BufRead> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.stream.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // The buffer is the one that fill_buf has just returned; only an error empties it.
        if let Ok(bytes) = self.stream.fill_buf() {
            self.hasher.update(&bytes[..amount.min(bytes.len())]);
        }
        self.stream.consume(amount);
        self.count.fetch_add(amount as u64, Ordering::Relaxed);
    }
}

impl<R: BufRead> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

type Whole<R> = io::Chain<io::Cursor<Vec<u8>>, Hashed<R>>;

enum Decoder<R: BufRead> {
    Plain(Whole<R>),
    Gzip(Box<MultiGzDecoder<Whole<R>>>),
}

impl<R: BufRead> Decoder<R> {
    fn into_inner(self) -> Whole<R> {
        match self {
            Self::Plain(whole) => whole,
            Self::Gzip(decoder) => decoder.into_inner(),
        }
    }
}

/// The plain archive: hashed, counted, limited and cancellable.
struct Inflated<'l, R: BufRead> {
    decoder: Decoder<R>,
    hasher: Hasher,
    count: u64,
    compressed: Arc<AtomicU64>,
    limits: &'l Limits,
    cancel: &'l CancellationToken,
}

impl<R: BufRead> Read for Inflated<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(Fault::Cancelled.into());
        }
        let count = match &mut self.decoder {
            Decoder::Plain(stream) => stream.read(buffer)?,
            Decoder::Gzip(stream) => match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                other => other.map_err(Fault::Inflate)?,
            },
        };
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        let (limits, compressed) = (self.limits, self.compressed.load(Ordering::Relaxed));
        if self.count > limits.layer_bytes {
            return Err(Fault::Exceeded(Exceeded::Bytes(limits.layer_bytes)).into());
        }
        if self.count > limits.ratio_free && self.count / limits.ratio.max(1) > compressed {
            return Err(Fault::Exceeded(Exceeded::Ratio {
                inflated: self.count,
                compressed,
                ratio: limits.ratio,
            })
            .into());
        }
        Ok(count)
    }
}
