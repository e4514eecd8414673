//! What is asked for, and what comes of it.

use std::fmt;

use prost::Message;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::admission::{Abandoned, Other, Policy};
use crate::error::Error;

macro_rules! verbs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal => $policy:expr,)+) => {
        /// What an operation does. The names are stable: they are in errors,
        /// metrics, spans and failpoints.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum Verb { $($(#[$doc])* $variant,)+ }

        impl Verb {
            /// Every verb.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable lower-case name.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            pub(super) const fn policy(self) -> Policy {
                match self { $(Self::$variant => $policy,)+ }
            }
        }
    };
}

/// Makes an object that nobody knows of before the answer.
const MAKES: Policy = Policy {
    abandoned: Abandoned::Finish,
    other: Other::Supersede,
    keep: true,
    withdraw: true,
};
/// Happens once; doing it again would be an error.
const ONCE: Policy = Policy {
    abandoned: Abandoned::Finish,
    other: Other::Wait,
    keep: true,
    withdraw: false,
};
/// May be done again at any time.
const REPEATABLE: Policy = Policy {
    abandoned: Abandoned::Finish,
    other: Other::Wait,
    keep: false,
    withdraw: false,
};
/// Only worth doing for somebody who waits.
const FOR_CALLERS: Policy = Policy {
    abandoned: Abandoned::Cancel,
    other: Other::Wait,
    keep: false,
    withdraw: false,
};

verbs! {
    /// RunPodSandbox.
    RunPodSandbox = "run-pod-sandbox" => MAKES,
    /// StopPodSandbox.
    StopPodSandbox = "stop-pod-sandbox" => REPEATABLE,
    /// RemovePodSandbox.
    RemovePodSandbox = "remove-pod-sandbox" => REPEATABLE,
    /// CreateContainer.
    CreateContainer = "create-container" => MAKES,
    /// StartContainer.
    StartContainer = "start-container" => ONCE,
    /// StopContainer.
    StopContainer = "stop-container" => REPEATABLE,
    /// RemoveContainer.
    RemoveContainer = "remove-container" => REPEATABLE,
    /// UpdateContainerResources.
    UpdateContainer = "update-container" => REPEATABLE,
    /// UpdatePodSandboxResources.
    UpdatePodSandbox = "update-pod-sandbox" => REPEATABLE,
    /// ReopenContainerLog.
    ReopenLog = "reopen-log" => REPEATABLE,
    /// A sandbox with a started container, for people.
    Run = "run" => MAKES,
    /// PullImage. What has arrived is kept.
    Pull = "pull" => FOR_CALLERS,
    /// An image from bytes that the caller sends.
    Import = "import" => FOR_CALLERS,
    /// Images as an archive for a caller.
    Export = "export" => FOR_CALLERS,
    /// An image into its registry. What has arrived there is not sent again.
    Push = "push" => FOR_CALLERS,
    /// A further name for an image.
    Tag = "tag" => REPEATABLE,
    /// A name taken away from an image.
    Untag = "untag" => REPEATABLE,
    /// RemoveImage.
    RemoveImage = "remove-image" => REPEATABLE,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tells equal requests from different ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// For requests that say no more than their key does.
    pub(crate) const NOTHING: Self = Self([0; 32]);

    /// Of a message. Maps in our generated code are sorted, so that equal messages have equal bytes.
    pub(crate) fn of_message(message: &impl Message) -> Self {
        Self::of(&[&message.encode_to_vec()])
    }

    /// Of several pieces; where one ends and the next begins matters.
    pub(crate) fn of(pieces: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for piece in pieces {
            hash.update(piece.len().to_le_bytes());
            hash.update(piece);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Debug for Fingerprint {
    // The digest of a request that may hold secrets helps nobody in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(..)")
    }
}

/// What one caller asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(super) verb: Verb,
    pub(super) object: String,
    pub(super) fingerprint: Fingerprint,
    pub(super) deadline: Option<Instant>,
}

impl Request {
    /// `object` is an id, or for what makes an object the name that must be unique.
    pub(crate) fn new(verb: Verb, object: impl Into<String>) -> Self {
        Self {
            verb,
            object: object.into(),
            fingerprint: Fingerprint::NOTHING,
            deadline: None,
        }
    }

    /// What tells this request from others with the same key.
    pub(crate) fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprint = fingerprint;
        self
    }

    /// When this caller stops waiting. The operation goes on.
    pub(crate) fn deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }
}

/// What an operation results in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// It is done.
    Done,
    /// The id of the object that was made, or of the image.
    Id(String),
}

impl Value {
    /// The id.
    ///
    /// # Errors
    /// Internal if the operation results in something else.
    pub(crate) fn into_id(self) -> Result<String, Error> {
        match self {
            Self::Id(id) => Ok(id),
            Self::Done => Err(Error::internal("an operation gave no id")),
        }
    }
}
