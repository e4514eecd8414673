//! Why a request cannot become a specification.

use std::{error::Error, fmt};

/// Whose fault it is; the edge turns it into a gRPC code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request or the image is wrong, whatever the state of the node.
    InvalidArgument,
    /// The same request can be right elsewhere: another pod, another node.
    FailedPrecondition,
    /// Nothing is wrong with it, but it is not supported yet.
    Unimplemented,
}

/// A field that cannot be carried out: which, its value, why, and what would help.
#[derive(Debug)]
pub(crate) struct SpecError {
    kind: Kind,
    message: String,
    remedy: Option<&'static str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

pub(crate) type Result<T> = std::result::Result<T, SpecError>;

impl SpecError {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            remedy: None,
            source: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    pub(super) fn precondition(message: impl Into<String>) -> Self {
        Self::new(Kind::FailedPrecondition, message)
    }

    pub(super) fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Kind::Unimplemented, message)
    }

    /// What the caller can do about it.
    pub(super) fn with_remedy(mut self, remedy: &'static str) -> Self {
        self.remedy = Some(remedy);
        self
    }

    pub(super) fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl Error for SpecError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
