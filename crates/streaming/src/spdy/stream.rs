//! One stream of a connection.

use std::{io, sync::Arc};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{Reset, connection::Shared, frame::data_head};
use crate::queue;

/// Larger writes are cut, so that other streams get their turn.
const FRAME_MAX: usize = 1024 * 1024;

/// A stream, to be read and written. Dropping it resets it unless both sides have ended it.
#[derive(Debug)]
pub struct Stream {
    reader: StreamReader,
    writer: StreamWriter,
}

/// The half of a stream that is read.
#[derive(Debug)]
pub struct StreamReader {
    data: queue::Receiver,
    /// Held: the last half ends the stream.
    _ends: Arc<Ends>,
}

/// The half of a stream that is written.
#[derive(Debug)]
pub struct StreamWriter {
    ends: Arc<Ends>,
    finished: bool,
}

/// What both halves share; the last one ends the stream.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) id: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) reset: CancellationToken,
    pub(super) replied: CancellationToken,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.shared.reset(self.id, Reset::Cancel);
    }
}

impl Stream {
    pub(super) fn new(ends: Ends, data: queue::Receiver) -> Self {
        let ends = Arc::new(ends);
        Self {
            reader: StreamReader {
                data,
                _ends: Arc::clone(&ends),
            },
            writer: StreamWriter {
                ends,
                finished: false,
            },
        }
    }

    /// The stream's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.writer.ends.id
    }

    /// Accepts the stream.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn reply(&self) -> io::Result<()> {
        self.writer.ends.shared.reply(self.id()).await
    }

    /// Waits until the other side has accepted the stream.
    ///
    /// # Errors
    /// If it refused, or the connection has ended.
    pub async fn replied(&self) -> io::Result<()> {
        let ends = &self.writer.ends;
        tokio::select! {
            biased;
            () = ends.replied.cancelled() => Ok(()),
            () = ends.reset.cancelled() => Err(io::ErrorKind::ConnectionRefused.into()),
            () = ends.shared.gone() => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Refuses or ends the stream at once.
    pub fn reset(self, why: Reset) {
        self.writer.ends.shared.reset(self.id(), why);
    }

    /// The two halves, for two tasks.
    #[must_use]
    pub fn split(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }

    /// As [`StreamReader::next`].
    pub async fn next(&mut self) -> Option<Bytes> {
        self.reader.next().await
    }

    /// As [`StreamWriter::write`].
    ///
    /// # Errors
    /// As there.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write(bytes).await
    }

    /// As [`StreamWriter::finish`].
    ///
    /// # Errors
    /// As there.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.writer.finish().await
    }
}

impl StreamReader {
    /// The next bytes; `None` after the other side's last, or after its reset.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.data.next().await
    }
}

impl StreamWriter {
    /// Sends `bytes`. A future that is dropped before its end ends the connection,
    /// since a frame may have been sent in part.
    ///
    /// # Errors
    /// BrokenPipe if the stream was reset or the connection has ended.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for piece in bytes.chunks(FRAME_MAX) {
            if self.ends.reset.is_cancelled() || self.ends.shared.has_gone() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let head = data_head(self.ends.id, piece.len(), false);
            self.ends.shared.put(&head, piece).await?;
        }
        Ok(())
    }

    /// Says that nothing more will be sent; more than once is once.
    ///
    /// # Errors
    /// BrokenPipe if the connection has ended.
    pub async fn finish(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.finished, true) || self.ends.reset.is_cancelled() {
            return Ok(());
        }
        let id = self.ends.id;
        self.ends.shared.put(&data_head(id, 0, true), &[]).await?;
        let mut table = self.ends.shared.table();
        if let Some(entry) = table.streams.get_mut(&id) {
            entry.local_done = true;
        }
        table.settle(id);
        Ok(())
    }

    /// Cancelled when the other side has reset the stream.
    #[must_use]
    pub fn reset(&self) -> CancellationToken {
        self.ends.reset.clone()
    }
}
