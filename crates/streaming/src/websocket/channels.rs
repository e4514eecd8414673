//! The channels of one socket.

use std::{collections::HashMap, io, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Join},
    sync::Mutex,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use super::Framing;
use crate::{IDLE_MAX, queue};

/// The bytes below a socket.
pub(crate) type Io = Join<Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>>;
pub(crate) type Sink = SplitSink<WebSocketStream<Io>, Message>;
pub(crate) type Source = SplitStream<WebSocketStream<Io>>;

/// In place of a channel's number (v5): the next byte names a channel that has ended.
const CLOSE: u8 = 255;

/// What all that write to a socket share.
pub(crate) struct Sender {
    sink: Mutex<Sink>,
    gone: CancellationToken,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    pub(crate) fn new(sink: Sink, gone: CancellationToken) -> Self {
        Self {
            sink: Mutex::new(sink),
            gone,
        }
    }

    pub(crate) async fn send(&self, message: Message) -> io::Result<()> {
        let sent = async {
            let mut sink = self.sink.lock().await;
            sink.send(message).await.map_err(io::Error::other)
        };
        let sent = tokio::select! {
            biased;
            () = self.gone.cancelled() => return Err(io::ErrorKind::BrokenPipe.into()),
            sent = timeout(IDLE_MAX, sent) => sent,
        };
        let sent = sent.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        if sent.is_err() {
            self.gone.cancel();
        }
        sent
    }

    /// Says that all is over; with a reason if the other side is to blame.
    pub(crate) async fn close(&self, fault: Option<&'static str>) {
        let frame = CloseFrame {
            code: match fault {
                None => CloseCode::Normal,
                Some(_) => CloseCode::Protocol,
            },
            reason: fault.unwrap_or_default().into(),
        };
        // Who cannot be told has gone.
        drop(self.send(Message::Close(Some(frame))).await);
    }
}

/// Writes to one channel.
#[derive(Debug)]
pub(crate) struct ChannelWriter {
    sender: Arc<Sender>,
    framing: Framing,
    channel: u8,
}

impl ChannelWriter {
    pub(crate) fn new(sender: &Arc<Sender>, framing: Framing, channel: u8) -> Self {
        Self {
            sender: Arc::clone(sender),
            framing,
            channel,
        }
    }

    /// Sends one message, an empty one too.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let message = if self.framing.base64 {
            let mut text = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
            text.push(char::from(b'0' + self.channel));
            STANDARD.encode_string(bytes, &mut text);
            Message::Text(text.into())
        } else {
            let mut message = BytesMut::with_capacity(1 + bytes.len());
            message.put_u8(self.channel);
            message.put_slice(bytes);
            Message::Binary(message.freeze())
        };
        self.sender.send(message).await
    }
}

/// A message of the client.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Bytes(u8, Bytes),
    Ended(u8),
    Nothing,
}

fn understand(message: Message, framing: Framing) -> Result<Said, &'static str> {
    let (channel, bytes) = match message {
        Message::Binary(mut bytes) if !framing.base64 => {
            if bytes.is_empty() {
                return Ok(Said::Nothing);
            }
            let bytes_after = bytes.split_off(1);
            (bytes[0], bytes_after)
        }
        Message::Text(text) if framing.base64 => {
            let Some((&digit, rest)) = text.as_bytes().split_first() else {
                return Ok(Said::Nothing);
            };
            let bytes = STANDARD
                .decode(rest)
                .map_err(|_broken| "a message is no base64")?;
            // Channel 0 is written as the digit zero.
            let channel = digit.checked_sub(b'0').ok_or("a message has no channel")?;
            (channel, Bytes::from(bytes))
        }
        Message::Binary(_) | Message::Text(_) => return Err("a message is of the wrong type"),
        _ => return Ok(Said::Nothing),
    };
    if channel == CLOSE && framing.closes {
        return match bytes[..] {
            [channel] => Ok(Said::Ended(channel)),
            _ => Err("the end of a channel is malformed"),
        };
    }
    Ok(Said::Bytes(channel, bytes))
}

/// Reads `source` to its end and gives each channel its bytes; those of other
/// channels are dropped. Returns what the client did wrong, if it did.
pub(crate) async fn read(
    mut source: Source,
    sender: &Sender,
    framing: Framing,
    mut channels: HashMap<u8, queue::Sender>,
    peer_gone: &(dyn Fn() -> bool + Send + Sync),
) -> Option<&'static str> {
    loop {
        let message = match timeout(IDLE_MAX, source.next()).await {
            Ok(Some(Ok(Message::Close(_)))) | Ok(None) | Err(_) => return None,
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "a WebSocket ends");
                return None;
            }
            Ok(Some(Ok(message))) => message,
        };
        match understand(message, framing) {
            Ok(Said::Nothing) => {}
            Ok(Said::Bytes(channel, bytes)) => {
                let Some(queue) = channels.get(&channel) else {
                    continue;
                };
                while !bytes.is_empty() && !queue.offer(&bytes).await {
                    // Pings are not read meanwhile, and clients give up after a minute
                    // without a pong.
                    if peer_gone() || sender.send(Message::Pong(Bytes::new())).await.is_err() {
                        return None;
                    }
                }
            }
            Ok(Said::Ended(channel)) => {
                if channels.remove(&channel).is_none() && channel > 4 {
                    return Some("the end of an unknown channel");
                }
            }
            Err(fault) => return Some(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_understood_by_their_protocol() {
        let v5 = Framing::of("v5.channel.k8s.io");
        let v4 = Framing::of("v4.channel.k8s.io");
        let text = Framing::of("v4.base64.channel.k8s.io");
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        assert_eq!(
            understand(binary(b"\0hi"), v5),
            Ok(Said::Bytes(0, Bytes::from_static(b"hi")))
        );
        assert_eq!(understand(binary(b"\xff\0"), v5), Ok(Said::Ended(0)));
        assert!(understand(binary(b"\xff\0\0"), v5).is_err());
        assert_eq!(
            understand(binary(b"\xff\0"), v4),
            Ok(Said::Bytes(255, Bytes::from_static(b"\0")))
        );
        assert_eq!(understand(binary(b""), v5), Ok(Said::Nothing));
        assert_eq!(
            understand(Message::Text("0aGk=".into()), text),
            Ok(Said::Bytes(0, Bytes::from_static(b"hi")))
        );
        assert!(understand(Message::Text("0!".into()), text).is_err());
        assert!(understand(binary(b"\0hi"), text).is_err());
        assert!(understand(Message::Text("x".into()), v4).is_err());
    }
}
