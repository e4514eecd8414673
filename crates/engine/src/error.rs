//! What can go wrong between an engine and its shims.

use std::{io, time::Duration};

use berth_proto::shim::{Failure, failure::Kind};

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call of this side failed.
    #[error("{what}")]
    System {
        /// What was being done, and on what.
        what: String,
        /// The errno.
        source: io::Error,
    },
    /// The other side failed and says how.
    #[error("{}", describe(.0))]
    Remote(Failure),
    /// The two sides have no protocol version in common.
    #[error("{0}")]
    Version(String),
    /// No answer in time.
    #[error("no answer to {verb} from {peer} within {}", seconds(*.limit))]
    Timeout {
        /// The call.
        verb: &'static str,
        /// Whom it went to.
        peer: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The other side is gone.
    #[error("{peer} has closed the connection")]
    Closed {
        /// Whom it was.
        peer: String,
    },
    /// The answer makes no sense.
    #[error("{peer} answered {verb} with something else")]
    Unexpected {
        /// The call.
        verb: &'static str,
        /// Who answered.
        peer: String,
    },
}

impl Error {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// The failure that the other side reported, if it did.
    #[must_use]
    pub fn remote(&self) -> Option<&Failure> {
        match self {
            Self::Remote(failure) => Some(failure),
            _ => None,
        }
    }

    /// Whether the container's program itself could not be executed.
    #[must_use]
    pub fn is_execute(&self) -> bool {
        self.remote()
            .is_some_and(|failure| failure.kind() == Kind::Execute)
    }

    /// Whether the call does not fit the state that the container is in.
    #[must_use]
    pub fn is_state(&self) -> bool {
        self.remote()
            .is_some_and(|failure| failure.kind() == Kind::State)
    }
}

fn seconds(limit: Duration) -> String {
    format!("{:.1} s", limit.as_secs_f64())
}

/// One sentence: what failed, on what, why.
fn describe(failure: &Failure) -> String {
    let why = match failure.errno {
        0 => String::new(),
        errno => format!(": {}", io::Error::from_raw_os_error(errno)),
    };
    match failure.kind() {
        Kind::Execute => format!("cannot execute {:?}{why}", failure.detail),
        _ if failure.step.is_empty() => format!("{}{why}", failure.detail),
        _ => format!("{} (step {}){why}", failure.detail, failure.step),
    }
}
