//! A blob on its way from the network, as a stream for a blocking thread.

use std::{
    fs::File,
    io::{self, BufRead, Read},
    os::unix::fs::FileExt as _,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::unpack::Fault;

/// What is read of a file at once.
const READ: usize = 128 << 10;

/// What the network sends.
pub(super) enum Part {
    Bytes(Bytes),
    /// All came; without this the stream was torn.
    End,
}

/// The receiving end.
pub(super) struct Arriving {
    pub(super) receiver: mpsc::Receiver<Part>,
    chunk: Bytes,
    ended: bool,
}

impl Arriving {
    pub(super) fn new(receiver: mpsc::Receiver<Part>) -> Self {
        Self {
            receiver,
            chunk: Bytes::new(),
            ended: false,
        }
    }
}

impl BufRead for Arriving {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Part::Bytes(bytes)) => self.chunk = bytes,
                Some(Part::End) => self.ended = true,
                None => return Err(Fault::Interrupted.into()),
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        let amount = amount.min(self.chunk.len());
        bytes::Buf::advance(&mut self.chunk, amount);
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// The first `length` bytes of a file that is written behind them.
pub(super) fn beginning(file: File, length: u64) -> impl BufRead + Send {
    let beginning = Beginning {
        file,
        at: 0,
        length,
    };
    io::BufReader::with_capacity(READ, beginning)
}

struct Beginning {
    file: File,
    at: u64,
    length: u64,
}

impl Read for Beginning {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length - self.at).unwrap_or(usize::MAX);
        let want = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
