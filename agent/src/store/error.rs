//! What can go wrong with the store.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use crate::error::{Error, Kind};

/// A failure of the store. Cloneable, because several writers share one commit.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Another agent uses this root.
    #[error("{} is in use by another agent{}", root.display(), holder(*pid))]
    Locked {
        /// The root directory.
        root: PathBuf,
        /// The other agent's, where it could be read.
        pid: Option<i32>,
    },
    /// A system call on one of the store's files failed.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// The records were written by a newer agent.
    #[error("{} has schema {found}, and this agent knows no newer one than {known}", path.display())]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest that this agent knows.
        known: i64,
    },
    /// The database refused.
    #[error("{what}")]
    Database {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Arc<rusqlite::Error>,
    },
    /// A record could not be turned into bytes.
    #[error("encode {what}")]
    Encode {
        /// The record.
        what: &'static str,
        /// Why it failed.
        source: Arc<serde_json::Error>,
    },
    /// The store has been closed, or its thread is gone.
    #[error("the store is closed")]
    Closed,
    /// The disk does not answer. The change may still be carried out.
    #[error("the store has not answered for {} s", .0.as_secs())]
    Stuck(Duration),
}

fn holder(pid: Option<i32>) -> String {
    pid.map(|pid| format!(", pid {pid}")).unwrap_or_default()
}

impl StoreError {
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            what,
            path: path.into(),
            source: Arc::new(source),
        }
    }

    pub(super) fn database(what: &'static str, source: rusqlite::Error) -> Self {
        Self::Database {
            what,
            source: Arc::new(source),
        }
    }

    pub(super) fn encode(what: &'static str, source: serde_json::Error) -> Self {
        Self::Encode {
            what,
            source: Arc::new(source),
        }
    }

    /// Whether the bytes of the database are not what they should be.
    pub(super) fn is_corruption(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let Self::Database { source, .. } = self else {
            return false;
        };
        matches!(
            source.sqlite_error_code(),
            Some(DatabaseCorrupt | NotADatabase)
        )
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Locked { .. } | Self::TooNew { .. } => Kind::FailedPrecondition,
            Self::Io { source, .. } => Kind::of_io(source),
            Self::Database { .. } if self.is_corruption() => Kind::DataLoss,
            Self::Database { source, .. } => match source.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::OutOfMemory) => {
                    Kind::ResourceExhausted
                }
                Some(rusqlite::ErrorCode::DatabaseBusy) => Kind::Unavailable,
                _ => Kind::Internal,
            },
            Self::Encode { .. } => Kind::Internal,
            Self::Closed => Kind::Unavailable,
            Self::Stuck(_) => Kind::DeadlineExceeded,
        }
    }

    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Locked { .. } => Some("stop that agent or choose another --root"),
            Self::TooNew { .. } => Some("install the newer agent again or choose another --root"),
            Self::Stuck(_) => Some("look at the disk below --root"),
            Self::Io { .. } | Self::Database { .. } | Self::Encode { .. } | Self::Closed => None,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let remedy = error.remedy();
        let converted = Self::new(error.kind(), "keep the records").with_source(error);
        match remedy {
            Some(remedy) => converted.with_remedy(remedy),
            None => converted,
        }
    }
}
