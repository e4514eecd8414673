//! Inflates on a thread of its own, so that one layer uses two processors.

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
};

use super::{Fault, decoder::Decoder};
use crate::{
    layer::{Exceeded, Limits},
    name::{Digest, Hasher},
};

/// Large enough that the two threads seldom wake each other.
const BUFFER: usize = 256 << 10;
/// One being filled, one being read, one on its way.
const BUFFERS: usize = 3;

type Full = io::Result<Vec<u8>>;

/// The inflating end.
pub(super) struct Inflater {
    full: SyncSender<Full>,
    empty: Receiver<Vec<u8>>,
    /// Gone when nobody reads any more; between two buffers that would be noticed late.
    reader: Weak<()>,
}

/// The plain archive: hashed, counted and limited.
pub(super) struct Inflated<'l> {
    full: Receiver<Full>,
    empty: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    hasher: Hasher,
    count: u64,
    compressed: Arc<AtomicU64>,
    limits: &'l Limits,
    #[expect(dead_code, reason = "held to be seen by the other end")]
    alive: Arc<()>,
}

/// The two ends; `compressed` counts the bytes that the plain ones are made of.
pub(super) fn pair(
    hasher: Hasher,
    compressed: Arc<AtomicU64>,
    limits: &Limits,
) -> (Inflater, Inflated<'_>) {
    let (full, received) = sync_channel(BUFFERS);
    let (empty, emptied) = channel();
    for _ in 0..BUFFERS {
        // The other end is held below.
        drop(empty.send(Vec::new()));
    }
    let alive = Arc::new(());
    let inflater = Inflater {
        full,
        empty: emptied,
        reader: Arc::downgrade(&alive),
    };
    let inflated = Inflated {
        full: received,
        empty,
        buffer: Vec::new(),
        at: 0,
        hasher,
        count: 0,
        compressed,
        limits,
        alive,
    };
    (inflater, inflated)
}

impl Inflater {
    /// Inflates to the end, or until the other end is gone.
    pub(super) fn run<R: BufRead>(self, decoder: &mut Decoder<R>) {
        while let Ok(mut buffer) = self.empty.recv() {
            let filled = self.fill(decoder, &mut buffer);
            let last = !matches!(filled, Ok(true));
            let sent = match filled {
                Ok(_) => self.full.send(Ok(buffer)),
                Err(error) => self.full.send(Err(error)),
            };
            if last || sent.is_err() {
                return;
            }
        }
    }

    /// Fills `buffer`; whether there may be more.
    fn fill(&self, stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        while filled < BUFFER {
            if self.reader.strong_count() == 0 {
                return Ok(false);
            }
            match stream.read(&mut buffer[filled..]) {
                Ok(0) => {
                    buffer.truncate(filled);
                    return Ok(false);
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Inflated<'_> {
    /// The digest of what was read.
    pub(super) fn digest(self) -> Digest {
        self.hasher.finish()
    }

    fn next(&mut self) -> io::Result<bool> {
        let Ok(full) = self.full.recv() else {
            return Ok(false);
        };
        let buffer = full?;
        self.hasher.update(&buffer);
        self.count += buffer.len() as u64;
        // The inflating end is gone after its last buffer.
        drop(self.empty.send(std::mem::replace(&mut self.buffer, buffer)));
        self.at = 0;
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
        Ok(true)
    }
}

impl Read for Inflated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.buffer.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let bytes = &self.buffer[self.at..];
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.at += count;
        Ok(count)
    }
}
