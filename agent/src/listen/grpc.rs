//! The gRPC server's own limits.

use std::time::Duration;

use tonic::transport::Server;

/// Calls in flight on one connection. A kubelet has one connection and about
/// two calls per pod at its busiest.
const MAX_STREAMS: u32 = 1024;

/// Bytes of one call's headers, uncompressed; hyper's default, made explicit
/// because it bounds what a header table attack can use.
const MAX_HEADERS: u32 = 16 << 10;

/// Streams that a peer may reset before they were looked at (rapid reset).
const MAX_RESETS: usize = 64;

/// How often an idle peer is asked for a sign of life, and how long it has.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A server with bounds on what one peer can use up. Message sizes are bounded
/// per service: `limits.max_message_bytes` belongs into
/// `max_decoding_message_size` and `max_encoding_message_size` of each.
pub(crate) fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
        sync::watch,
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::listen;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [len[1], len[2], len[3], kind, flags, 0, 0, 0, stream];
        [&head, payload].concat()
    }

    fn literal(name: &str, value: &str) -> Vec<u8> {
        let length = |text: &str| u8::try_from(text.len()).unwrap();
        let name = [&[0, length(name)], name.as_bytes()].concat();
        [&name, &[length(value)][..], value.as_bytes()].concat()
    }

    /// Asks for the health of the server as a client does that takes the socket
    /// for the authority; returns the kinds of frames that come for the call.
    async fn ask(authority: &str) -> Vec<u8> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.sock");
        let sockets = listen::open(&[path.display().to_string()]).unwrap();
        let (_sender, ready) = watch::channel(true);
        let service = listen::health(ready).await;
        let serving = tokio::spawn(
            server()
                .add_service(service)
                .serve_with_incoming(sockets.incoming(&CancellationToken::new())),
        );
        let headers = [
            literal(":method", "POST"),
            literal(":scheme", "http"),
            literal(":path", "/grpc.health.v1.Health/Check"),
            literal(":authority", authority),
            literal("te", "trailers"),
            literal("content-type", "application/grpc"),
        ];
        let request = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[]),
            frame(1, 4, 1, &headers.concat()),
            frame(0, 1, 1, &[0; 5]),
        ];
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(&request.concat()).await.unwrap();
        let mut kinds = Vec::new();
        let ends = |kind: u8, flags: u8| kind == 3 || kind == 7 || flags & 1 != 0;
        loop {
            let mut head = [0; 9];
            client.read_exact(&mut head).await.unwrap();
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(len).unwrap()];
            client.read_exact(&mut payload).await.unwrap();
            if head[8] == 1 || head[3] == 7 {
                kinds.push(head[3]);
                if ends(head[3], head[4]) {
                    serving.abort();
                    return kinds;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_sends_the_sockets_path_as_authority_is_served() {
        // HEADERS, DATA, and HEADERS with the status; not RST_STREAM.
        assert_eq!(ask("localhost").await, [1, 0, 1]);
        assert_eq!(ask("/run/berth/agent.sock").await, [1, 0, 1]);
    }
}
