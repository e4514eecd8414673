//! Images as a stream of bytes.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use berth_proto::berth::v1::{ExportHeader, ExportRequest, ExportResponse, export_response::Part};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

use crate::{image, node::Node};

/// Bytes per message: large enough to make the framing cheap.
const CHUNK: usize = 256 << 10;
/// Messages on their way; with the above, what one export holds in memory.
const QUEUE: usize = 4;
/// A reader that has not taken a message for so long has forgotten the export,
/// which holds a thread: longer than any pager is looked at, shorter than a day.
const SILENCE: Duration = Duration::from_secs(600);

pub(super) fn export(
    node: Arc<Node>,
    request: ExportRequest,
) -> impl Stream<Item = Result<ExportResponse, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let sink = Chunks {
            sender: sender.clone(),
            runtime: Handle::current(),
            pending: Vec::new(),
        };
        tokio::select! {
            result = image::export(&node, &request.images, sink) => {
                if let Err(error) = result {
                    // Nobody reads any more: there is nobody to tell.
                    sender.send(Err(error.into())).await.ok();
                }
            }
            // Its reader has gone: the export ends with it.
            () = sender.closed() => {}
        }
    });
    ReceiverStream::new(receiver)
}

/// Cuts the archive into messages, from a blocking thread.
struct Chunks {
    sender: mpsc::Sender<Result<ExportResponse, Status>>,
    runtime: Handle,
    pending: Vec<u8>,
}

impl Chunks {
    fn send(&self, part: Part) -> io::Result<()> {
        let message = ExportResponse { part: Some(part) };
        let sending = tokio::time::timeout(SILENCE, self.sender.send(Ok(message)));
        match self.runtime.block_on(sending) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_closed)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl image::Sink for Chunks {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        self.send(Part::Header(ExportHeader { size }))
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK));
        self.send(Part::Chunk(chunk))
    }
}
