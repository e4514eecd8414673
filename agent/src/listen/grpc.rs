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
