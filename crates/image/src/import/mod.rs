//! Images from archives and directories.

mod source;

use std::io;

/// Why an archive is no image.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive itself cannot be read.
    #[error("the archive is not readable as tar")]
    Tar(#[from] crate::tar::TarError),
    /// Its bytes cannot be read.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// A file it must have.
    #[error("the archive has no file {name}")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A file in it that is not what it must be.
    #[error("the archive's {name} {why}")]
    Invalid {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// More than is accepted.
    #[error("the archive has more than {limit} {unit}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
}
