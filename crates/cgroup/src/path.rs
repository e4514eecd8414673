//! Names of groups, checked before they reach the kernel.

use std::fmt;

use crate::{Error, Result};

/// Longest path: what all of a node's tools can still handle (PATH_MAX with room
/// for the mount point and a file name).
const MAX_PATH: usize = 3072;
/// Longest part: NAME_MAX.
const MAX_PART: usize = 255;

/// Path of a group below its hierarchies' roots: one or more parts, none of them
/// empty, `.` or `..`, without control characters.
///
/// A caller's `cgroup_parent` and a container's id reach the kernel only as one
/// of these, so that neither can name a group elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupPath(String);

impl GroupPath {
    /// Checks `path`; one leading and one trailing slash are allowed.
    ///
    /// # Errors
    /// [`Error::Invalid`] with what is wrong.
    pub fn new(path: &str) -> Result<Self> {
        let inner = path.strip_prefix('/').unwrap_or(path);
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        if inner.len() > MAX_PATH {
            let shown: String = inner.chars().take(40).collect();
            let allowed = format!("at most {MAX_PATH} bytes");
            return Err(Error::invalid("cgroup path", shown + "...", allowed));
        }
        for part in inner.split('/') {
            check_part(part, path)?;
        }
        Ok(Self(inner.to_owned()))
    }

    /// The group of `id` below a CRI `cgroup_parent`, in the manner of the
    /// `cgroupfs` driver.
    ///
    /// # Errors
    /// As [`GroupPath::new`]; an `id` of more than one part is invalid, too.
    pub fn below(cgroup_parent: &str, id: &str) -> Result<Self> {
        Self::new(cgroup_parent)?.join(id)
    }

    /// The group `part` directly below this one.
    ///
    /// # Errors
    /// As [`GroupPath::new`]; a `part` with a slash is invalid, too.
    pub fn join(&self, part: &str) -> Result<Self> {
        if part.contains('/') {
            return Err(Error::invalid(
                "cgroup name",
                part,
                "one part without slashes",
            ));
        }
        Self::new(&format!("{}/{part}", self.0))
    }

    /// Without a leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// The group above, unless that is the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        Some(Self(parent.to_owned()))
    }

    /// The groups above, uppermost first.
    #[must_use]
    pub fn ancestors(&self) -> Vec<Self> {
        self.0
            .match_indices('/')
            .map(|(at, _)| Self(self.0[..at].to_owned()))
            .collect()
    }
}

impl fmt::Display for GroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

fn check_part(part: &str, whole: &str) -> Result<()> {
    let wrong = if part.is_empty() {
        Some("without empty parts")
    } else if part == "." || part == ".." {
        Some("without . and ..")
    } else if part.len() > MAX_PART {
        Some("with parts of at most 255 bytes")
    } else if part.chars().any(char::is_control) {
        Some("without control characters")
    } else {
        None
    };
    match wrong {
        Some(allowed) => {
            let shown: String = whole.chars().take(80).collect();
            Err(Error::invalid(
                "cgroup path",
                shown,
                format!("a path {allowed}"),
            ))
        }
        None => Ok(()),
    }
}

/// The path of a systemd slice by its name: `a-b.slice` lies in `a.slice`, so it
/// is `/a.slice/a-b.slice`; `-.slice` is the root, `/`. Source: systemd.slice(5).
///
/// # Errors
/// [`Error::Invalid`] for what is no slice name.
pub fn expand_slice(slice: &str) -> Result<String> {
    let wrong = || {
        let shown: String = slice.chars().take(80).collect();
        let allowed = "a name such as a-b.slice, without slashes and empty parts";
        Error::invalid("systemd slice", shown, allowed)
    };
    if slice == "-.slice" {
        return Ok("/".to_owned());
    }
    let stem = slice.strip_suffix(".slice").ok_or_else(wrong)?;
    let sound = |part: &str| !part.is_empty() && !part.chars().any(|c| c == '/' || c.is_control());
    if slice.len() > MAX_PART || !stem.split('-').all(sound) {
        return Err(wrong());
    }
    let mut path = String::new();
    for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
        path.push('/');
        path.push_str(&stem[..end]);
        path.push_str(".slice");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_and_an_id_make_a_path_below_the_root() {
        for (parent, id, path) in [
            (
                "/kubepods/burstable/pod1",
                "abc",
                "kubepods/burstable/pod1/abc",
            ),
            ("kubepods", "abc", "kubepods/abc"),
            ("/a/", "b", "a/b"),
            (
                "/kubepods.slice/x\\x2dy.slice",
                "s:1",
                "kubepods.slice/x\\x2dy.slice/s:1",
            ),
        ] {
            assert_eq!(GroupPath::below(parent, id).unwrap().as_str(), path);
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        let long = "x/".repeat(MAX_PATH);
        let part = "x".repeat(256);
        for bad in [
            "",
            "/",
            "//",
            "..",
            "../../x",
            "/a/../b",
            "a/.",
            "./a",
            "a//b",
            "//a",
            "a\nb",
            "a\0",
            "a/\u{7f}",
            long.as_str(),
            part.as_str(),
        ] {
            assert!(GroupPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(GroupPath::below("/a", "b/c").is_err());
        assert!(GroupPath::below("/a", "..").is_err());
        assert!(GroupPath::below("", "b").is_err());
    }

    #[test]
    fn ancestors_are_named_from_the_top() {
        let path = GroupPath::new("/a/b/c").unwrap();
        let above: Vec<_> = path.ancestors().iter().map(ToString::to_string).collect();
        assert_eq!(above, ["/a", "/a/b"]);
        assert_eq!(path.name(), "c");
        assert_eq!(path.parent().unwrap().as_str(), "a/b");
        assert_eq!(GroupPath::new("a").unwrap().parent(), None);
    }

    #[test]
    fn a_slice_lies_in_the_slices_that_its_name_tells() {
        for (slice, path) in [
            ("-.slice", "/"),
            ("a.slice", "/a.slice"),
            ("test-a.slice", "/test.slice/test-a.slice"),
            (
                "kubepods-burstable-podx_y.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx_y.slice",
            ),
        ] {
            assert_eq!(expand_slice(slice).unwrap(), path);
        }
        for bad in [
            "",
            ".slice",
            "a",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            "a/b.slice",
            "--.slice",
        ] {
            assert!(expand_slice(bad).is_err(), "{bad:?}");
        }
    }
}
