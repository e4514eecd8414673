//! The one error of the agent above its libraries.
//!
//! Every verb returns it. It is cloneable, since several callers may wait for
//! one result. A message says what failed on what; the source says why; the
//! remedy says what to do. `cri/status.rs` holds the only table from [`Kind`]
//! to a gRPC code.

use std::{borrow::Cow, error::Error as StdError, fmt, io, sync::Arc};

use berth_phase::{Injected, Phase};
use nix::errno::Errno;

/// `Result` of the agent's verbs.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is; decides the code that a client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// The request contradicts itself or asks for something that cannot be.
    InvalidArgument,
    /// The object that the request names is not there.
    NotFound,
    /// The name is taken by another object.
    AlreadyExists,
    /// Not possible in the object's present state.
    FailedPrecondition,
    /// No space, memory, descriptor, address or quota left.
    ResourceExhausted,
    /// Something outside that is needed does not answer; trying again may help.
    Unavailable,
    /// A time limit was reached.
    DeadlineExceeded,
    /// The caller, or a request that takes this one's place, called it off.
    Cancelled,
    /// The caller, or this agent, may not do that.
    PermissionDenied,
    /// A registry wants credentials, or better ones.
    Unauthenticated,
    /// Stored or received bytes are not what they should be.
    DataLoss,
    /// Berth cannot do this.
    Unimplemented,
    /// Lost against a concurrent request; trying again may help.
    Aborted,
    /// A fault of the agent or of the node.
    Internal,
}

impl Kind {
    /// The stable lower-case name, for metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::FailedPrecondition => "failed_precondition",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::DataLoss => "data_loss",
            Self::Unimplemented => "unimplemented",
            Self::Aborted => "aborted",
            Self::Internal => "internal",
        }
    }

    /// Every kind, in the order of declaration.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 14] = [
        Self::InvalidArgument,
        Self::NotFound,
        Self::AlreadyExists,
        Self::FailedPrecondition,
        Self::ResourceExhausted,
        Self::Unavailable,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::PermissionDenied,
        Self::Unauthenticated,
        Self::DataLoss,
        Self::Unimplemented,
        Self::Aborted,
        Self::Internal,
    ];

    /// The kind of a failed system call on something that the agent itself owns.
    ///
    /// ENOENT and EEXIST are deliberately Internal: a file of ours that is
    /// missing must not look to a kubelet as if the container were gone.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM) => {
                Self::ResourceExhausted
            }
            Some(Errno::ETIMEDOUT) => Self::DeadlineExceeded,
            _ => Self::Internal,
        }
    }
}

/// What failed on what, why, and what to do.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    kind: Kind,
    phase: Option<Phase>,
    message: Cow<'static, str>,
    remedy: Option<Cow<'static, str>>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
    /// What failed while this failure was being undone.
    undo: Arc<[Error]>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident = $kind:ident,)+) => {
        impl Error {
            $($(#[$doc])*
            pub(crate) fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                Self::new(Kind::$kind, message)
            })+
        }
    };
}

constructors! {
    /// See [`Kind::InvalidArgument`].
    invalid = InvalidArgument,
    /// See [`Kind::NotFound`].
    not_found = NotFound,
    /// See [`Kind::AlreadyExists`].
    already_exists = AlreadyExists,
    /// See [`Kind::FailedPrecondition`].
    precondition = FailedPrecondition,
    /// See [`Kind::Unavailable`].
    unavailable = Unavailable,
    /// See [`Kind::DeadlineExceeded`].
    deadline = DeadlineExceeded,
    /// See [`Kind::Cancelled`].
    cancelled = Cancelled,
    /// See [`Kind::Unimplemented`].
    unimplemented = Unimplemented,
    /// See [`Kind::Internal`].
    internal = Internal,
}

impl Error {
    /// An error of `kind`; `message` says what failed on what, in lower case,
    /// without a full stop.
    pub(crate) fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            phase: None,
            message: message.into(),
            remedy: None,
            source: None,
            undo: Arc::from([]),
        }
    }

    /// A failed system call on something that the agent owns; see [`Kind::of_io`].
    pub(crate) fn io(what: impl Into<Cow<'static, str>>, error: io::Error) -> Self {
        Self::new(Kind::of_io(&error), what).with_source(error)
    }

    /// With the reason.
    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// With what the reader can do about it, in the imperative.
    pub(crate) fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// With the phase in which it happened, unless a deeper layer has said so.
    pub(crate) fn in_phase(mut self, phase: Option<Phase>) -> Self {
        self.phase = self.phase.or(phase);
        self
    }

    /// With what failed while it was being undone; the first failure stays what it is.
    pub(crate) fn with_undo_failures(mut self, failures: Vec<Self>) -> Self {
        self.undo = self.undo.iter().cloned().chain(failures).collect();
        self
    }

    /// What kind of failure it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The phase in which it happened, where that is known.
    pub(crate) fn phase(&self) -> Option<Phase> {
        self.phase
    }

    /// What failed while it was being undone; empty means that nothing was left behind.
    #[cfg(test)]
    pub(crate) fn undo_failures(&self) -> &[Self] {
        &self.undo
    }

    /// The whole sentence for a client: what failed on what, why, what to do,
    /// and what could not be undone.
    pub(crate) fn sentence(&self) -> String {
        let mut text = self.message.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            // Some libraries repeat their source in their own message.
            let level = error.to_string();
            if !text.ends_with(&level) {
                text.push_str(": ");
                text.push_str(&level);
            }
            source = error.source();
        }
        if let Some(remedy) = &self.remedy {
            text.push_str("; ");
            text.push_str(remedy);
        }
        if !self.undo.is_empty() {
            let undo: Vec<_> = self.undo.iter().map(Self::sentence).collect();
            text.push_str(" (not undone: ");
            text.push_str(&undo.join("; "));
            text.push(')');
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

impl From<crate::spec::SpecError> for Error {
    fn from(error: crate::spec::SpecError) -> Self {
        use crate::spec::Kind as K;
        let kind = match error.kind() {
            K::InvalidArgument => Kind::InvalidArgument,
            K::FailedPrecondition => Kind::FailedPrecondition,
            K::Unimplemented => Kind::Unimplemented,
        };
        let text = error.to_string();
        // Kubelets know some errors by their first word.
        let known = [
            crate::spec::IMAGE_VOLUME_FAILED,
            crate::spec::RRO_UNSUPPORTED,
        ];
        if known.iter().any(|word| text.starts_with(word)) {
            return Self::new(kind, text);
        }
        Self::new(kind, "container's configuration").with_source(error)
    }
}

impl From<Injected> for Error {
    fn from(error: Injected) -> Self {
        Self::internal("step not taken").with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_has_what_why_remedy_and_what_was_not_undone() {
        let error = Error::io("write /x/y", io::Error::from_raw_os_error(28))
            .with_remedy("free some space below /x")
            .with_undo_failures(vec![Error::internal("unpin pod")]);
        assert_eq!(error.kind(), Kind::ResourceExhausted);
        assert_eq!(
            error.sentence(),
            "write /x/y: No space left on device (os error 28); free some space below /x \
             (not undone: unpin pod)"
        );
        assert_eq!(error.to_string(), "write /x/y");
    }

    #[test]
    fn the_deepest_phase_wins() {
        let error = Error::internal("x")
            .in_phase(Some(Phase::Netns))
            .in_phase(Some(Phase::Exec));
        assert_eq!(error.phase(), Some(Phase::Netns));
    }

    #[test]
    fn a_missing_file_of_ours_is_not_a_missing_container() {
        let enoent = io::Error::from_raw_os_error(2);
        assert_eq!(Kind::of_io(&enoent), Kind::Internal);
    }
}
