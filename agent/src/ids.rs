//! Identifiers of sandboxes and containers: 64 lower-case hex digits.
//!
//! The form is what tools around a kubelet expect; in particular there is no
//! `-` in them, because a kubelet takes what follows the last one for the id.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Digits of an identifier.
const LENGTH: usize = 64;
/// Digits that are enough for people; `crictl` shows as many.
const SHORT: usize = 13;

/// A text that is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not 64 lower-case hex digits")]
pub(crate) struct InvalidId(String);

fn random() -> Result<String, Error> {
    let mut bytes = [0_u8; LENGTH / 2];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal("draw a random identifier").with_source(error))?;
    let mut text = String::with_capacity(LENGTH);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    Ok(text)
}

fn is_valid(text: &str) -> bool {
    text.len() == LENGTH && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! identifiers {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub(crate) struct $name(Box<str>);

        impl $name {
            /// A new one from the kernel's random numbers.
            ///
            /// # Errors
            /// Internal if the kernel gives none.
            pub(crate) fn random() -> Result<Self, Error> {
                random().map(|text| Self(text.into()))
            }

            /// All 64 digits.
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }

            /// As many digits as people are shown.
            pub(crate) fn short(&self) -> &str {
                &self.0[..SHORT]
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                if is_valid(&text) { Ok(Self(text.into())) } else { Err(InvalidId(text)) }
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        )+
    };
}

identifiers! {
    /// Names a pod sandbox for its whole life.
    SandboxId,
    /// Names a container for its whole life.
    ContainerId,
}

/// Names a process beyond the reuse of its pid (proc_pid_stat(5), field 22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Process {
    /// As the agent sees it.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot.
    pub(crate) start_ticks: u64,
}

/// What a prefix of an identifier stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolved<T> {
    /// Exactly this one.
    One(T),
    /// Nothing.
    None,
    /// Several.
    Ambiguous,
}

/// Finds what `prefix` stands for among `candidates`. A whole identifier wins
/// over those that it is a prefix of; the empty prefix stands for nothing, so
/// that an unset field never picks the only object there is.
pub(crate) fn resolve<T: AsRef<str>>(
    prefix: &str,
    candidates: impl IntoIterator<Item = T>,
) -> Resolved<T> {
    let mut found = Resolved::None;
    if prefix.is_empty() {
        return found;
    }
    for candidate in candidates {
        let text = candidate.as_ref();
        if text == prefix {
            return Resolved::One(candidate);
        }
        if text.starts_with(prefix) {
            found = match found {
                Resolved::None => Resolved::One(candidate),
                Resolved::One(_) | Resolved::Ambiguous => Resolved::Ambiguous,
            };
        }
    }
    found
}

impl<T> Resolved<T> {
    /// The one, or the error that a client gets. `what` is "container" or the like.
    ///
    /// # Errors
    /// NotFound, or InvalidArgument if the prefix is ambiguous.
    pub(crate) fn or_error(self, what: &str, prefix: &str) -> Result<T, Error> {
        match self {
            Self::One(one) => Ok(one),
            Self::None => Err(Error::not_found(format!("no {what} has the id {prefix:?}"))),
            Self::Ambiguous => Err(Error::invalid(format!(
                "several {what}s have ids that begin with {prefix:?}"
            ))
            .with_remedy("give more digits")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    #[test]
    fn random_ids_have_the_form_and_differ() {
        let a = ContainerId::random().unwrap();
        let b = ContainerId::random().unwrap();
        assert!(is_valid(a.as_str()), "{a}");
        assert_ne!(a, b);
        assert_eq!(a.short().len(), SHORT);
        assert_eq!(a.as_str().parse::<ContainerId>().unwrap(), a);
    }

    #[test]
    fn what_is_no_id_is_refused_also_from_a_record() {
        for bad in [
            "",
            "abc",
            &"g".repeat(64),
            &"A".repeat(64),
            &"../".repeat(22)[..64],
        ] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad}");
            let json = serde_json::to_string(bad).unwrap();
            assert!(serde_json::from_str::<SandboxId>(&json).is_err());
        }
    }

    #[test]
    fn a_prefix_stands_for_exactly_one_or_says_why_not() {
        let all = ["aab", "aac", "b", "bc"];
        assert_eq!(resolve("aab", all), Resolved::One("aab"));
        assert_eq!(resolve("b", all), Resolved::One("b"));
        assert_eq!(resolve("bc", all), Resolved::One("bc"));
        assert_eq!(resolve("aa", all), Resolved::Ambiguous);
        assert_eq!(resolve("", ["a"]), Resolved::None);
        let ambiguous = resolve("a", all).or_error("container", "a").unwrap_err();
        assert_eq!(ambiguous.kind(), Kind::InvalidArgument);
        let missing = resolve("x", all).or_error("container", "x").unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*", prefix in ".{0,4}") {
            let parsed = text.parse::<ContainerId>();
            prop_assert!(parsed.is_err());
            let resolved = resolve(&prefix, [text.as_str()]);
            prop_assert_eq!(
                resolved == Resolved::One(text.as_str()),
                !prefix.is_empty() && text.starts_with(&prefix)
            );
        }
    }
}
