//! Why a specification cannot be turned into a plan.

use std::{io, path::PathBuf};

use crate::seccomp;

/// Why a specification cannot be turned into a plan. `field` names it as
/// config.json does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A part that every container needs.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A value that contradicts the specification or another value.
    #[error("{field} {value:?}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// As given.
        value: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Asked for and not there yet. Ignoring it would run something else than was asked for.
    #[error("{field} is not supported yet: {reason}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// What is not, and what to do.
        reason: String,
    },
    /// The source of a bind mount could not be looked at.
    #[error("mount source {}", path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The seccomp profile.
    #[error("seccomp profile")]
    Seccomp(#[from] seccomp::Error),
    /// The container needs more descriptors than one message carries.
    #[error(
        "the container needs {needed} descriptors, at most {limit} can be sent; use fewer mounts"
    )]
    TooManySlots {
        /// Needed.
        needed: usize,
        /// The limit.
        limit: usize,
    },
}

impl PlanError {
    pub(crate) fn invalid(
        field: &'static str,
        value: impl ToString,
        reason: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            field,
            value: value.to_string(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            field,
            reason: reason.into(),
        }
    }

    /// Whether waiting for a newer version would help, rather than another request.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported { .. })
    }
}
