//! SPDY inside of a WebSocket: its bytes in binary messages, cut anywhere.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

use super::{
    channels::{Sink, Source},
    config,
};
use crate::spdy::Transport;

/// What is on `transport` inside of its WebSocket.
pub(crate) async fn tunnel(transport: Transport, role: Role) -> Transport {
    let io = tokio::io::join(transport.reader, transport.writer);
    let socket = WebSocketStream::from_raw_socket(io, role, Some(config())).await;
    let (sink, source) = socket.split();
    Transport {
        reader: Box::new(Reader {
            source,
            rest: Bytes::new(),
        }),
        writer: Box::new(Writer { sink }),
        gone: transport.gone,
    }
}

struct Reader {
    source: Source,
    rest: Bytes,
}

struct Writer {
    sink: Sink,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.source).poll_next(context)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a text message inside of a tunnel",
                    )));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.sink).poll_ready(context)).map_err(io::Error::other)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.sink)
            .start_send(message)
            .map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sink)
            .poll_flush(context)
            .map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.sink).poll_ready(context)).map_err(io::Error::other)?;
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        // Refused if it was sent before, which is as good.
        drop(Pin::new(&mut self.sink).start_send(Message::Close(Some(frame))));
        Pin::new(&mut self.sink)
            .poll_flush(context)
            .map_err(io::Error::other)
    }
}
