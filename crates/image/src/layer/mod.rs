//! From a tar stream to a directory that overlayfs can use as a layer.
//!
//! A layer is unpacked alone, without looking at the layers below, so that all
//! layers of an image can be unpacked at once and equal layers are stored once.
//! What such a directory cannot say without the layers below is written down in
//! its [`LayerMeta`]; [`compose`] checks that against the layers a particular
//! image has below and, only where it matters, makes a completed copy:
//!
//! - a hard link to a file of a lower layer,
//! - a parent directory that the archive implies but does not contain: its
//!   default mode would hide the lower one's,
//! - such a parent that is a symbolic link below: a directory in its place would
//!   hide all that the link leads to,
//! - a whiteout where nothing lies below, which overlayfs would list.
//!
//! A whiteout and an entry of one name need no lower layer: the whiteout is
//! about what lies below, so the entry stays and hides it whole.

mod compose;
mod extract;
mod files;
mod limits;
mod meta;
mod path;
mod tree;
mod view;

pub(crate) use compose::{compose, needs_completion};
pub(crate) use extract::{Extracted, extract};
pub use files::remove_directory;
pub(crate) use files::{open_beneath, read_names, remove_tree};
pub use limits::Exceeded;
pub use limits::Limits;
pub(crate) use limits::{Budget, Room};
pub(crate) use meta::LayerMeta;
pub use path::{Target, classify};
pub(crate) use view::View;

#[cfg(test)]
#[path = "../../tests/ground/archive.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared with the tests from outside"
)]
mod archive;
#[cfg(test)]
mod oracle;

use std::io;

/// The name of the layer's directory within the working directory that
/// [`extract`] and [`compose`] are given.
pub(crate) const ROOT: &str = "root";

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive cannot be read.
    #[error("the layer is not a readable archive")]
    Tar(#[from] crate::tar::TarError),
    /// A name that leads out of the layer or cannot be a file's.
    #[error("the layer's entry {path} {why}")]
    Name {
        /// The entry.
        path: String,
        /// What is wrong with its name.
        why: &'static str,
    },
    /// An entry that contradicts another one.
    #[error("the layer's entry {path} {why}")]
    Conflict {
        /// The entry.
        path: String,
        /// With what.
        why: &'static str,
    },
    /// A hard link to nothing.
    #[error("the layer's entry {path} is a hard link to {target}, which does not exist")]
    Dangling {
        /// The link.
        path: String,
        /// Its target.
        target: String,
    },
    /// More than the limits allow.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    /// The file system refused.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
}

impl LayerError {
    pub(crate) fn io(
        what: &'static str,
        path: &[u8],
    ) -> impl FnOnce(rustix::io::Errno) -> LayerError {
        let path = path::shown(path);
        move |errno| LayerError::Io {
            what,
            path,
            source: errno.into(),
        }
    }
}
