//! What can go wrong with control groups.

use std::{fmt, io};

/// A failed operation on a control group.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A value that no group can have; nothing was changed.
    Invalid {
        /// The field.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The kernel refused.
    System {
        /// What was being done, and on what.
        what: String,
        /// The errno.
        source: io::Error,
    },
    /// Something is still there after the time limit.
    Busy {
        /// What, and for how long it was waited.
        what: String,
    },
    /// The node lacks a controller that a limit needs.
    NoController {
        /// The field.
        field: &'static str,
        /// The controller.
        controller: &'static str,
    },
}

impl Error {
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid {
                field,
                value,
                allowed,
            } => write!(f, "{field} {value}: expected {allowed}"),
            Self::System { what, .. } => f.write_str(what),
            Self::Busy { what } => f.write_str(what),
            Self::NoController { field, controller } => {
                write!(
                    f,
                    "{field} needs the {controller} controller, which this node lacks"
                )
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}
