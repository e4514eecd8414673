//! The part of SPDY/3.1 that Kubernetes' tools use: streams with headers, half
//! close, reset, ping and goaway, and no flow control.

mod connection;
mod dictionary;
mod frame;
mod header;
mod stream;

pub use connection::{Connection, Role, Transport};
pub use frame::{Decoder, Frame, Reset};
pub use header::{HeaderReader, HeaderWriter, Headers, header};
pub use stream::{Stream, StreamReader, StreamWriter};

/// The other side does not speak SPDY as it must; the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Something is not what it should be.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// Something is larger than anything in use.
    #[error("{0} is too large")]
    TooLarge(&'static str),
    /// Compressed headers do not unpack.
    #[error("a header block does not unpack")]
    Compression,
}
