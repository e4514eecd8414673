//! What can go wrong between us and systemd.

use std::io;

/// A failed call to systemd.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither its own socket nor the system bus could be reached.
    #[error("cannot reach systemd over {path}; use the cgroupfs driver where it is not process 1")]
    Unreachable {
        /// The last socket that was tried.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The connection failed, or was silent for too long.
    #[error("{what}")]
    Connection {
        /// What was being done.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// An answer that D-Bus does not know.
    #[error("systemd's answer cannot be read: {0}")]
    Answer(&'static str),
    /// systemd refused.
    #[error("systemd refuses {what}: {name}: {message}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Such as `org.freedesktop.systemd1.UnitExists`.
        name: String,
        /// In systemd's words.
        message: String,
    },
    /// A job ended otherwise than well.
    #[error("systemd's job for {unit} ended with {result:?}")]
    Job {
        /// The unit.
        unit: String,
        /// Such as `failed`, `timeout`.
        result: String,
    },
    /// A name or a property that systemd would not take.
    #[error("{field} {value:?}: {reason}")]
    Invalid {
        /// What it is.
        field: &'static str,
        /// As given.
        value: String,
        /// What would be right.
        reason: &'static str,
    },
}

impl Error {
    pub(crate) fn connection(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Connection { what, source }
    }

    /// Whether there is no such unit.
    #[must_use]
    pub fn is_no_such_unit(&self) -> bool {
        matches!(self, Self::Refused { name, .. } if name == "org.freedesktop.systemd1.NoSuchUnit")
    }
}
