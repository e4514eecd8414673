//! Image references with Docker's defaults.
//!
//! Grammar: the reference grammar of the distribution specification; defaults
//! as every tool of the field has them: `busybox` is
//! `docker.io/library/busybox:latest`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Digest, DigestError};

const DEFAULT_REGISTRY: &str = "docker.io";
/// Where docker.io answers the distribution API.
const DEFAULT_API: &str = "registry-1.docker.io";
const DEFAULT_TAG: &str = "latest";
/// The distribution specification's limit for registry and repository together.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;
/// A name, a tag and the longest digest; longer text need not be looked at.
const TEXT_MAX: usize = NAME_MAX + 1 + TAG_MAX + 1 + 7 + 128;

/// A normalised image reference: registry, repository, tag and digest.
///
/// A reference without tag and digest has the tag `latest`; one with a digest
/// keeps a tag only if it was written.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing at all.
    #[error("the image reference is empty; give a name such as busybox or registry.example/app:1")]
    Empty,
    /// Longer than any legal reference.
    #[error("the image reference has {0} bytes; at most {NAME_MAX} are allowed for its name")]
    TooLong(usize),
    /// A scheme in front.
    #[error("image reference {0:?} begins with a scheme; leave it out")]
    Scheme(String),
    /// The registry is not HOST[:PORT].
    #[error("registry {1:?} of image reference {0:?} is not HOST or HOST:PORT")]
    Registry(String, String),
    /// Upper-case letters.
    #[error("repository {1:?} of image reference {0:?} must be lower case")]
    UpperCase(String, String),
    /// Other bad characters or empty components.
    #[error(
        "repository {1:?} of image reference {0:?} is malformed: components are a-z and 0-9, \
         joined by '.', '_', '__' or dashes"
    )]
    Repository(String, String),
    /// A bad tag.
    #[error(
        "tag {1:?} of image reference {0:?} is malformed: at most {TAG_MAX} of a-z A-Z 0-9 _ . -, \
         not beginning with . or -"
    )]
    Tag(String, String),
    /// A bad digest.
    #[error("image reference {0:?} has a malformed digest")]
    Digest(String, #[source] DigestError),
    /// 64 hexadecimal digits alone: an image id.
    #[error("{0:?} looks like an image id, not a name; write sha256:{0} for the id")]
    BareId(String),
}

impl Reference {
    /// The registry as people write it, `docker.io` for the default one.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// HOST or HOST:PORT that answers the registry's API.
    #[must_use]
    pub fn api_host(&self) -> &str {
        match self.registry.as_str() {
            DEFAULT_REGISTRY => DEFAULT_API,
            other => other,
        }
    }

    /// The repository, with `library/` where it was implied.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository: the reference without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag; none if only a digest was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `name:tag`, as CRI's `repo_tags` has it; none if pulled by digest.
    ///
    /// A digest beside the tag decides what is pulled, so the tag is not ours to claim.
    #[must_use]
    pub fn repo_tag(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }

    /// `name@digest`, as CRI's `repo_digests` has it.
    #[must_use]
    pub fn repo_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// This repository with another tag.
    ///
    /// # Errors
    /// [`ReferenceError::Tag`].
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Tag(self.to_string(), shown(tag)));
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// What a registry is asked for: the digest if there is one, else the tag.
    pub(crate) fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(NAME_MAX).collect()
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > TEXT_MAX {
            return Err(ReferenceError::TooLong(text.len()));
        }
        if text.contains("://") {
            return Err(ReferenceError::Scheme(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse()
                    .map_err(|error| ReferenceError::Digest(text.to_owned(), error))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it is a port.
        let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[after_slash..].find(':') {
            Some(at) => {
                let (name, tag) = rest.split_at(after_slash + at);
                (name, Some(&tag[1..]))
            }
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ReferenceError::Tag(text.to_owned(), tag.to_owned()));
        }
        let (registry, repository) = split_registry(name);
        if !is_registry(registry) {
            return Err(ReferenceError::Registry(
                text.to_owned(),
                registry.to_owned(),
            ));
        }
        if digest.is_none() && tag.is_none() && is_bare_id(text) {
            return Err(ReferenceError::BareId(text.to_owned()));
        }
        if !repository.split('/').all(is_component) {
            let (text, repository) = (text.to_owned(), repository.to_owned());
            return Err(match repository.bytes().any(|b| b.is_ascii_uppercase()) {
                true => ReferenceError::UpperCase(text, repository),
                false => ReferenceError::Repository(text, repository),
            });
        }
        let registry = match registry {
            "index.docker.io" | DEFAULT_API => DEFAULT_REGISTRY.to_owned(),
            other => other.to_ascii_lowercase(),
        };
        let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository.to_owned(),
        };
        if registry.len() + 1 + repository.len() > NAME_MAX {
            return Err(ReferenceError::TooLong(
                registry.len() + 1 + repository.len(),
            ));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

/// The first component is a registry if it is `localhost` or has a character that
/// no component of a repository's name has. Capital letters alone do not make one:
/// in lower case, as hosts are kept, `AA/d` would read as another image, `aa/d`.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.eq_ignore_ascii_case("localhost") || first.contains(['.', ':', '[']) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, rest)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
                match (rest, rest.strip_prefix(':')) {
                    ("", _) => return true,
                    (_, Some(port)) => ("v6", Some(port)),
                    _ => return false,
                }
            }
            _ => return false,
        },
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |port: &str| {
        port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
    };
    host.split('.').all(label) && port.is_none_or(number)
}

fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alnum(first) || !alnum(last) {
        return false;
    }
    // Between alphanumerics: one dot, one or two underscores, or any number of dashes.
    bytes.split(|&b| alnum(b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= TAG_MAX
        && bytes.first().is_some_and(|&b| word(b))
        && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-')
}

fn is_bare_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_parses_is_written_as_what_parses_to_the_same() {
        for text in [
            "LOCALHOST/d",
            "Example.COM/d",
            "a/d",
            "localhost:5000/x",
            "A.b:1/c/d",
        ] {
            let reference: Reference = text.parse().unwrap();
            let again: Reference = reference.to_string().parse().unwrap();
            assert_eq!(again, reference, "{text}");
        }
        assert!("AA/d".parse::<Reference>().is_err());
    }

    #[test]
    fn short_names_get_dockers_defaults() {
        let check = |text: &str, expect: &str, api: &str| {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), expect);
            assert_eq!(reference.api_host(), api);
        };
        check(
            "busybox",
            "docker.io/library/busybox:latest",
            "registry-1.docker.io",
        );
        check("a/b:1", "docker.io/a/b:1", "registry-1.docker.io");
        check(
            "index.docker.io/x",
            "docker.io/library/x:latest",
            "registry-1.docker.io",
        );
        check(
            "localhost:5000/x",
            "localhost:5000/x:latest",
            "localhost:5000",
        );
        check("localhost/x", "localhost/x:latest", "localhost");
        check("[::1]:5000/x:y", "[::1]:5000/x:y", "[::1]:5000");
        check("EXAMPLE.com/x", "example.com/x:latest", "example.com");
        check(
            "r.example/a/b_c__d--e.f:T.1-x",
            "r.example/a/b_c__d--e.f:T.1-x",
            "r.example",
        );
        check(
            &format!("x@{D}"),
            &format!("docker.io/library/x@{D}"),
            "registry-1.docker.io",
        );
        check(&format!("r.io/x:1@{D}"), &format!("r.io/x:1@{D}"), "r.io");
    }

    #[test]
    fn a_digest_takes_the_tags_place() {
        let both: Reference = format!("r.io/x:1@{D}").parse().unwrap();
        assert_eq!(both.wanted(), D);
        assert_eq!(both.repo_tag(), None);
        assert_eq!(
            both.repo_digest(both.digest().unwrap()),
            format!("r.io/x@{D}")
        );
    }

    #[test]
    fn each_fault_has_its_own_error() {
        use ReferenceError as E;
        let error = |text: &str| text.parse::<Reference>().unwrap_err();
        assert!(matches!(error(""), E::Empty));
        assert!(matches!(error("https://r.io/x"), E::Scheme(_)));
        assert!(matches!(error("Busybox"), E::UpperCase(..)));
        assert!(matches!(error("a//b"), E::Repository(..)));
        assert!(matches!(error("a/../b"), E::Repository(..)));
        assert!(matches!(error("r.io/"), E::Repository(..)));
        assert!(matches!(error("a___b"), E::Repository(..)));
        assert!(matches!(error("x:"), E::Tag(..)));
        assert!(matches!(error("x:-a"), E::Tag(..)));
        assert!(matches!(error("x@md5:00"), E::Digest(..)));
        assert!(matches!(error("r.io:99999/x"), E::Registry(..)));
        assert!(matches!(error("r..io/x"), E::Registry(..)));
        assert!(matches!(error("[zz]:1/x"), E::Registry(..)));
        assert!(matches!(error(&"a".repeat(64)), E::BareId(_)));
        assert!(matches!(error(&"g".repeat(600)), E::TooLong(_)));
        assert!(matches!(error("r.io/x?y"), E::Repository(..)));
        assert!(matches!(error("r.io/x\n"), E::Repository(..)));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_is_a_fixed_point(text in "\\PC{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(again, reference);
            }
        }

        #[test]
        fn plausible_texts_are_fixed_points(text in "[a-zA-Z0-9.:/@_\\[\\]-]{1,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(again, reference);
            }
        }
    }
}
