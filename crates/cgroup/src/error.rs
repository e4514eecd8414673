//! What can go wrong with control groups.

use std::{borrow::Cow, fmt, io};

/// A failed operation on a control group.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A value that no group can have; nothing was changed.
    Invalid {
        /// The field.
        field: Cow<'static, str>,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: Cow<'static, str>,
    },
    /// The kernel refused.
    System {
        /// What was being done, and on what.
        what: String,
        /// The errno.
        source: io::Error,
    },
    /// Something is still there after the time limit, or in the way.
    Busy {
        /// What, and for how long it was waited.
        what: String,
    },
    /// The node lacks a controller that a limit needs.
    NoController {
        /// The field.
        field: &'static str,
        /// The controller.
        controller: Cow<'static, str>,
    },
    /// A new memory limit lies below what is in use and cannot be reclaimed.
    BelowUsage {
        /// The wanted limit in bytes.
        limit: u64,
        /// Bytes in use.
        usage: u64,
    },
    /// The operation failed, and so did a part of undoing it.
    Undo {
        /// Why it failed.
        cause: Box<Error>,
        /// What could not be undone.
        left: Vec<Error>,
    },
}

impl Error {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    pub(crate) fn invalid(
        field: impl Into<Cow<'static, str>>,
        value: impl ToString,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Invalid {
            field: field.into(),
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }

    /// Whether there is no such group.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::System { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// `cause`, together with what could not be undone after it.
    pub(crate) fn with_undo(cause: Self, left: Vec<Self>) -> Self {
        if left.is_empty() {
            return cause;
        }
        Self::Undo {
            cause: Box::new(cause),
            left,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid {
                field,
                value,
                allowed,
            } => write!(f, "{field} {value:?}: expected {allowed}"),
            Self::System { what, .. } | Self::Busy { what } => f.write_str(what),
            Self::NoController { field, controller } => write!(
                f,
                "{field} needs the {controller} controller, which this node lacks or does not \
                 enable for this group"
            ),
            Self::BelowUsage { limit, usage } => write!(
                f,
                "memory_limit {limit}: expected at least the {usage} bytes in use"
            ),
            Self::Undo { cause, left } => {
                write!(f, "{cause}; undoing it failed")?;
                left.iter().try_for_each(|error| {
                    write!(f, ": {error}")?;
                    match std::error::Error::source(error) {
                        Some(source) => write!(f, " ({source})"),
                        None => Ok(()),
                    }
                })
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { source, .. } => Some(source),
            Self::Undo { cause, .. } => cause.source(),
            Self::Invalid { .. }
            | Self::Busy { .. }
            | Self::NoController { .. }
            | Self::BelowUsage { .. } => None,
        }
    }
}
