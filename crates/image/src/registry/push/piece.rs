//! A piece of a file as the body of a request.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

/// Bytes that are read at once. A connection that does not take so many within
/// the limit for silences counts as dead.
const READ: usize = 64 << 10;
/// Reads ahead of the network; with the above at most 256 KiB per blob.
const AHEAD: usize = 3;

/// Bytes of a body that the connection has taken.
pub(super) type Taken = Arc<AtomicU64>;

/// A range of a file that can be sent, and sent again.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Counted anew with each body.
    pub(super) taken: Taken,
}

impl Piece {
    pub(super) fn new(file: &Arc<File>, offset: u64, length: u64) -> Self {
        Self {
            file: Arc::clone(file),
            offset,
            length,
            taken: Taken::default(),
        }
    }

    /// A body that a thread reads as fast as it is sent.
    pub(super) fn body(&self) -> reqwest::Body {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (file, mut at, mut left) = (Arc::clone(&self.file), self.offset, self.length);
        tokio::task::spawn_blocking(move || {
            while left > 0 {
                let part = read(&file, at, left);
                let count = part.as_ref().map_or(left, |part| part.len() as u64);
                // Nobody takes it any more: the connection has gone.
                if sender.blocking_send(part).is_err() {
                    return;
                }
                at += count;
                left -= count;
            }
        });
        self.taken.store(0, Ordering::Relaxed);
        let taken = Arc::clone(&self.taken);
        reqwest::Body::wrap_stream(ReceiverStream::new(receiver).map(move |part| {
            if let Ok(part) = &part {
                taken.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
            part
        }))
    }
}

fn read(file: &File, at: u64, left: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(left).unwrap_or(READ).min(READ)];
    let count = file.read_at(&mut buffer, at)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.truncate(count);
    Ok(buffer.into())
}
