//! What can be wrong with an archive.

use std::io;

/// Why a stream cannot be read as a tar archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream below failed.
    #[error("cannot read the archive at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// What the stream said.
        #[source]
        source: io::Error,
    },
    /// The stream ended inside a member.
    #[error("the archive ends at byte {offset} inside {what}")]
    Truncated {
        /// Where.
        offset: u64,
        /// In what.
        what: &'static str,
    },
    /// A header whose checksum is not that of its bytes.
    #[error("the header at byte {offset} has a wrong checksum")]
    Checksum {
        /// Where.
        offset: u64,
    },
    /// A header or record that is not well formed.
    #[error("malformed {what} in the header at byte {offset}")]
    Malformed {
        /// Where.
        offset: u64,
        /// What.
        what: &'static str,
    },
    /// What other readers might understand differently.
    #[error("ambiguous archive at byte {offset}: {what}")]
    Ambiguous {
        /// Where.
        offset: u64,
        /// What.
        what: &'static str,
    },
    /// A legal thing that is not supported.
    #[error("unsupported archive member at byte {offset}: {what}")]
    Unsupported {
        /// Where.
        offset: u64,
        /// What.
        what: String,
    },
    /// A part that is larger than any honest archive has it.
    #[error("{what} at byte {offset} has more than the {limit} allowed")]
    TooLarge {
        /// Where.
        offset: u64,
        /// What.
        what: &'static str,
        /// The limit, in the thing's own unit.
        limit: u64,
    },
}
