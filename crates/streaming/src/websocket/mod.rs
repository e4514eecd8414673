//! WebSocket (RFC 6455) as Kubernetes' tools use it: a byte in front of each
//! message says which channel it belongs to.

mod channels;
mod serve;
mod tunnel;

pub(crate) use channels::ChannelWriter;
pub(crate) use serve::{serve_forward, serve_remote};
pub(crate) use tunnel::tunnel;

use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Protocols of exec and attach, best first.
pub(crate) const REMOTE: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
/// SPDY inside of a WebSocket.
pub(crate) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// Protocols of port-forward.
pub(crate) const FORWARD: &[&str] = &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];

/// Clients send 32 KiB at once; no message needs to be larger than this.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;

/// How messages are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Text: the channel as a digit, the rest in base64.
    pub(crate) base64: bool,
    /// The client says when a channel of its own has ended.
    pub(crate) closes: bool,
    /// The error channel carries a JSON status, else a text and only for failures.
    pub(crate) json: bool,
}

impl Framing {
    pub(crate) fn of(protocol: &str) -> Self {
        Self {
            base64: protocol.contains("base64"),
            closes: protocol.starts_with("v5."),
            json: protocol.starts_with("v4.") || protocol.starts_with("v5."),
        }
    }
}

/// The limits of all sockets.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        .read_buffer_size(64 * 1024)
        .write_buffer_size(0)
}
