//! The JSON documents of an image: index, manifest, configuration.
//!
//! Size and depth are limited before anything is believed, digests are parsed
//! where the JSON is, and a document that can be read as two kinds is refused.

mod config;
mod graph;
mod manifest;

pub use config::{HistoryEntry, ImageConfig};
pub(crate) use config::{Parsed, parse_config};
pub(crate) use graph::{Graph, INDEX_DEPTH, Walk};
pub(crate) use manifest::{
    ACCEPT, Descriptor, Document, Manifest, OCI_INDEX, choose, guessed_type, parse_any,
    parse_document, synthesise,
};

/// Largest index, manifest or configuration. Registries have the same limit for manifests
/// (distribution specification, "Pushing Manifests").
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;

/// Reads JSON whose outermost value is an object. Derived readers also take an
/// array for a structure, member by member, as no other tool would.
fn parse_object<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    what: &'static str,
    name: &str,
) -> Result<T, DocumentError> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first.is_some_and(|&byte| byte != b'{') {
        return Err(DocumentError::Invalid {
            what,
            name: name.to_owned(),
            why: "is no JSON object".to_owned(),
        });
    }
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Malformed {
        what,
        name: name.to_owned(),
        source,
    })
}

/// Why an image's documents are refused.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON of the right shape.
    #[error("the image's {what} {name} is malformed")]
    Malformed {
        /// Manifest, index or configuration.
        what: &'static str,
        /// Which: a digest or a file's name.
        name: String,
        /// Where in it.
        #[source]
        source: serde_json::Error,
    },
    /// Well formed but contradictory or incomplete.
    #[error("the image's {what} {name} {why}")]
    Invalid {
        /// Manifest, index or configuration.
        what: &'static str,
        /// Which: a digest or a file's name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A kind of document or layer that cannot be run here.
    #[error("{name} is not an image that can be run here: {why}")]
    Unsupported {
        /// Which: a digest or a file's name.
        name: String,
        /// What it is.
        why: String,
    },
    /// No image for the platform in an index.
    #[error("the image has nothing for {platform}; it offers {offered}")]
    Platform {
        /// What was wanted.
        platform: String,
        /// What there is.
        offered: String,
    },
    /// An image for another machine.
    #[error("the image is for {actual}, but {platform} is wanted")]
    Architecture {
        /// What was wanted.
        platform: String,
        /// What it is.
        actual: String,
    },
    /// More than is accepted.
    #[error("the image's {what} {name} has more than {limit} {unit}")]
    TooLarge {
        /// Manifest, index or configuration.
        what: &'static str,
        /// Which: a digest or a file's name.
        name: String,
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
}
