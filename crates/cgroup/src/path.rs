//! Where a group is, counted from the root of every hierarchy.

use std::fmt;

use crate::Error;

/// The kernel's limit for one name (NAME_MAX).
const LONGEST_NAME: usize = 255;
/// Deeper than any kubelet goes, and far below PATH_MAX.
const LONGEST: usize = 2048;

const ALLOWED: &str = "names of at most 255 bytes separated by '/', none of them '.' or '..'";

/// A validated path, relative and without `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupPath(String);

impl GroupPath {
    /// A cgroup parent as CRI callers write it: with or without a leading slash;
    /// a bare slice name is expanded as systemd would.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a path that leads elsewhere.
    pub fn parent(text: &str) -> Result<Self, Error> {
        let trimmed = text.trim_matches('/');
        let path = if trimmed.ends_with(".slice") && !trimmed.contains('/') {
            expand_slice(trimmed).ok_or_else(|| invalid(text))?
        } else {
            trimmed.to_owned()
        };
        Self::check(path)
    }

    /// The group `name` below this one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name with a slash, or one that is none.
    pub fn join(&self, name: &str) -> Result<Self, Error> {
        if name.contains('/') {
            return Err(invalid(name));
        }
        Self::check(format!("{}/{name}", self.0))
    }

    /// A path as [`GroupPath::as_str`] gave it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::check(text.trim_matches('/').to_owned())
    }

    fn check(path: String) -> Result<Self, Error> {
        let bad_name = |name: &str| {
            matches!(name, "" | "." | "..")
                || name.len() > LONGEST_NAME
                || name.chars().any(char::is_control)
        };
        if path.len() > LONGEST || path.split('/').any(bad_name) {
            return Err(invalid(&path));
        }
        Ok(Self(path))
    }

    /// Relative, without a leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Every group above this one, the topmost first.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

impl fmt::Display for GroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

fn invalid(path: &str) -> Error {
    Error::Invalid {
        field: "cgroup path".into(),
        value: path.chars().take(80).collect(),
        allowed: ALLOWED.into(),
    }
}

/// `a-b.slice` is `a.slice/a-b.slice` (systemd.slice(5)). None for what systemd
/// would not take, and for the root, `-.slice`.
fn expand_slice(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".slice")?;
    if stem.split('-').any(str::is_empty) {
        return None;
    }
    let mut path = String::new();
    for (at, _) in stem.match_indices('-') {
        path.push_str(&stem[..at]);
        path.push_str(".slice/");
    }
    path.push_str(name);
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_taken_as_callers_write_them() {
        for (given, path) in [
            ("/kubepods/burstable/pod1", "kubepods/burstable/pod1"),
            ("berth", "berth"),
            ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
            ("/a.slice/a-b.slice", "a.slice/a-b.slice"),
        ] {
            assert_eq!(GroupPath::parent(given).unwrap().as_str(), path);
        }
    }

    #[test]
    fn a_path_never_leads_out() {
        for bad in [
            "",
            "/",
            "..",
            "a/../b",
            "a//b",
            "a/.",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            "-.slice",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            ".slice",
            &"x".repeat(256),
        ] {
            assert!(GroupPath::parent(bad).is_err(), "{bad:?}");
        }
        assert!(GroupPath::parent("a").unwrap().join("b/c").is_err());
        assert!(GroupPath::parent("a").unwrap().join("..").is_err());
    }

    #[test]
    fn ancestors_come_topmost_first() {
        let path = GroupPath::parse("a/b/c").unwrap();
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["a", "a/b"]);
    }
}
