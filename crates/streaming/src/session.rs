//! The streams of one exec or attach, whatever they travel on.

use std::io;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    queue,
    resize::SizeReader,
    spdy::{StreamReader, StreamWriter},
    websocket::ChannelWriter,
};

/// The streams that a client has opened. What it did not ask for is `None`.
#[derive(Debug)]
pub struct Session {
    /// For the process to read.
    pub stdin: Option<Input>,
    /// What the process writes; with a terminal all of it.
    pub stdout: Option<Output>,
    /// What the process writes as errors.
    pub stderr: Option<Output>,
    /// The client's terminal changes its size.
    pub resize: Option<SizeReader>,
    /// Cancelled when the client has gone; nothing can reach it then.
    pub gone: CancellationToken,
}

/// Bytes from the client.
#[derive(Debug)]
pub struct Input(InputKind);

#[derive(Debug)]
enum InputKind {
    Spdy(StreamReader),
    Queue(queue::Receiver),
}

/// Bytes to the client.
#[derive(Debug)]
pub struct Output(OutputKind);

#[derive(Debug)]
enum OutputKind {
    Spdy(StreamWriter),
    Channel(ChannelWriter),
}

impl From<StreamReader> for Input {
    fn from(reader: StreamReader) -> Self {
        Self(InputKind::Spdy(reader))
    }
}

impl From<queue::Receiver> for Input {
    fn from(receiver: queue::Receiver) -> Self {
        Self(InputKind::Queue(receiver))
    }
}

impl From<StreamWriter> for Output {
    fn from(writer: StreamWriter) -> Self {
        Self(OutputKind::Spdy(writer))
    }
}

impl From<ChannelWriter> for Output {
    fn from(writer: ChannelWriter) -> Self {
        Self(OutputKind::Channel(writer))
    }
}

impl Input {
    /// The next bytes; `None` when the client has sent its last.
    pub async fn next(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            InputKind::Spdy(reader) => reader.next().await,
            InputKind::Queue(receiver) => receiver.next().await,
        }
    }
}

impl Output {
    /// Sends `bytes` and waits while the client reads slowly. A future that is
    /// dropped before its end ends the connection.
    ///
    /// # Errors
    /// If the client has gone or wants no more of this stream.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            OutputKind::Spdy(writer) => writer.write(bytes).await,
            OutputKind::Channel(writer) => writer.write(bytes).await,
        }
    }

    /// Says that this stream has ended.
    ///
    /// # Errors
    /// If the client has gone.
    pub async fn finish(&mut self) -> io::Result<()> {
        match &mut self.0 {
            OutputKind::Spdy(writer) => writer.finish().await,
            // Channels end with their socket.
            OutputKind::Channel(_) => Ok(()),
        }
    }
}
