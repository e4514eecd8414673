//! One layer, from compressed bytes to a verified directory.
//!
//! Runs on a blocking thread and a helper of its own. The bytes flow once: hashed
//! and written down as they come, inflated; hashed again, extracted. Only when
//! both digests are right does the directory get a name.

mod decoder;
mod inflate;
mod received;

pub(crate) use decoder::{Compression, Decoder, Head};
pub(crate) use received::Keep;

use std::{
    io::{self, BufRead},
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use self::{decoder::WINDOW_LOG_FREE, received::Received};
use crate::{
    Error,
    layer::{Exceeded, Extracted, LayerError, LayerMeta, extract},
    name::{Algorithm, Digest, Hasher},
    store::{Inner, Work},
    tar::{Reader, TarError},
};

/// How often a layer that needs much memory asks whether it is its turn.
const TURN_POLL: Duration = Duration::from_millis(50);

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
    #[error("the blob cannot be written")]
    Keep(#[source] io::Error),
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
    /// How they were compressed.
    pub(crate) compression: Compression,
    pub(crate) blob: Digest,
}

/// Unpacks and verifies `stream`, and writes its bytes to `keep`.
///
/// # Errors
/// [`Error`]; nothing stays of what was unpacked.
pub(crate) fn unpack<R: BufRead + Send>(
    store: &Arc<Inner>,
    stream: R,
    keep: Option<Keep>,
    expected: &Expected,
    cancel: &CancellationToken,
) -> Result<Unpacked, Error> {
    let layer = &expected.blob;
    let work = Work::new(store)?;
    // Bytes of an earlier try may be damaged: no use to read the rest then.
    let resumed = keep.as_ref().is_some_and(|keep| keep.length > 0);
    let hasher = Hasher::new(layer.algorithm());
    let mut received = Received::new(stream, hasher, keep, &store.limits, cancel);
    let head = Head::read(&mut received).map_err(|error| stream_error(error, layer))?;
    let compression = head.compression();
    let _turn = wide_turn(store, &head, cancel)?;
    let compressed = Arc::clone(&received.count);
    let mut decoder = Decoder::new(head, received).map_err(|error| stream_error(error, layer))?;
    let algorithm = expected
        .diff_id
        .as_ref()
        .map_or(Algorithm::Sha256, Digest::algorithm);
    let hasher = Hasher::new(algorithm);
    let (inflater, inflated) = inflate::pair(hasher, Arc::clone(&compressed), &store.limits);
    let (extracted, actual) = thread::scope(|scope| {
        let inflating = thread::Builder::new().name("inflate".to_owned());
        inflating
            .spawn_scoped(scope, || inflater.run(&mut decoder))
            .map_err(Error::store_io("start a thread", "ingest"))?;
        let mut archive = Reader::new(inflated);
        let extracted = extract(&mut archive, work.fd(), &store.limits);
        // Its end is what stops the other thread.
        Ok::<_, Error>((extracted, archive.into_inner().digest()))
    })?;
    let mut received = decoder.into_inner();
    let extracted: Extracted = match extracted {
        Ok(extracted) => extracted,
        Err(source) => {
            let error = layer_error(source, layer);
            // Damaged on the way, or made like that? The digest of the whole blob tells.
            let tell = expected.check_blob && !resumed && error.is_about_content();
            if tell && received.drain().is_ok() {
                check_blob(received.digest(), expected)?;
            }
            return Err(error);
        }
    };
    // The tar reader stops at the end of its stream, a gzip decoder at the end of its input.
    received
        .drain()
        .map_err(|error| stream_error(error, layer))?;
    let blob = received.digest();
    if expected.check_blob {
        check_blob(blob.clone(), expected)?;
    }
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
        compressed: compressed.load(Ordering::Relaxed),
        compression,
        blob,
    })
}

/// Writes the bytes of `stream` to `keep` and verifies them.
///
/// # Errors
/// [`Error`].
pub(crate) fn receive(
    store: &Inner,
    stream: impl BufRead,
    keep: Keep,
    blob: &Digest,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let hasher = Hasher::new(blob.algorithm());
    let mut received = Received::new(stream, hasher, Some(keep), &store.limits, cancel);
    received
        .drain()
        .map_err(|error| stream_error(error, blob))?;
    let expected = Expected {
        blob: blob.clone(),
        check_blob: true,
        diff_id: None,
    };
    check_blob(received.digest(), &expected)
}

/// Layers whose decompression needs much memory are unpacked one at a time.
pub(crate) fn wide_turn<'s>(
    store: &'s Inner,
    head: &Head,
    cancel: &CancellationToken,
) -> Result<Option<std::sync::MutexGuard<'s, ()>>, Error> {
    if head.window_log() <= WINDOW_LOG_FREE {
        return Ok(None);
    }
    loop {
        match store.wide.try_lock() {
            Ok(turn) => return Ok(Some(turn)),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => {
                return Ok(Some(poisoned.into_inner()));
            }
            Err(std::sync::TryLockError::WouldBlock) if cancel.is_cancelled() => {
                return Err(Error::Cancelled);
            }
            Err(std::sync::TryLockError::WouldBlock) => thread::sleep(TURN_POLL),
        }
    }
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

impl Error {
    /// Whether damaged bytes could be the cause.
    pub(crate) fn is_about_content(&self) -> bool {
        match self {
            Self::Compression { .. } | Self::BlobDigest { .. } => true,
            Self::Layer { source, .. } => match source {
                LayerError::Exceeded(limit) => !limit.is_about_disk(),
                LayerError::Io { .. } => false,
                LayerError::Tar(_)
                | LayerError::Name { .. }
                | LayerError::Conflict { .. }
                | LayerError::Dangling { .. } => true,
            },
            _ => false,
        }
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
        Fault::Keep(source) => Error::Store {
            what: "write",
            path: format!("blob {layer}"),
            source,
        },
    }
}
