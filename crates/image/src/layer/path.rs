//! Names of entries: cleaning, whiteouts, and how errors show them.

use super::LayerError;

/// Deeper trees than this are only made to exhaust something.
const DEPTH_MAX: usize = 512;
/// Linux' limit for one component (NAME_MAX).
const COMPONENT_MAX: usize = 255;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of AUFS in old images; every reader drops it.
const AUFS: &[u8] = b".wh..wh.";

/// What an entry's name means (OCI image specification, "Layer Filesystem Changeset").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The layer's root itself.
    Root,
    /// A file or directory: parent components and name.
    Entry(Vec<Vec<u8>>, Vec<u8>),
    /// `name` of the directory in lower layers is gone.
    Whiteout(Vec<Vec<u8>>, Vec<u8>),
    /// All that lower layers have in the directory is gone.
    Opaque(Vec<Vec<u8>>),
    /// To be ignored.
    Ignored,
}

/// Cleans an entry's name and says what it means.
///
/// # Errors
/// [`LayerError::Name`] for what leads out of the layer or no file system takes.
pub fn classify(path: &[u8]) -> Result<Target, LayerError> {
    let mut parents = components(path)?;
    let Some(name) = parents.pop() else {
        return Ok(Target::Root);
    };
    if parents.iter().any(|parent| parent.starts_with(WHITEOUT)) {
        return Err(refused(path, "lies below a whiteout"));
    }
    if name == OPAQUE {
        return Ok(Target::Opaque(parents));
    }
    if name.starts_with(AUFS) {
        return Ok(Target::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Target::Entry(parents, name)),
        Some(b"" | b"." | b"..") => Err(refused(path, "is a whiteout of nothing")),
        Some(hidden) => Ok(Target::Whiteout(parents, hidden.to_vec())),
    }
}

/// The components of a name; absolute ones begin at the layer's root.
pub(super) fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, LayerError> {
    if path.contains(&0) {
        return Err(refused(path, "has a NUL in its name"));
    }
    let mut components = Vec::new();
    for component in path.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                return Err(refused(
                    path,
                    "climbs with '..', which could leave the image",
                ));
            }
            _ if component.len() > COMPONENT_MAX => {
                return Err(refused(path, "has a component of more than 255 bytes"));
            }
            _ => components.push(component.to_vec()),
        }
    }
    if components.len() > DEPTH_MAX {
        return Err(refused(path, "is nested more than 512 directories deep"));
    }
    Ok(components)
}

fn refused(path: &[u8], why: &'static str) -> LayerError {
    LayerError::Name {
        path: shown(path),
        why,
    }
}

/// A name for people: quoted, escaped and short.
pub(super) fn shown(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    let cut = path.len().min(SHOWN);
    let dots = if cut < path.len() { "..." } else { "" };
    format!("\"{}{dots}\"", path[..cut].escape_ascii())
}

/// `directory/name`, where the empty directory is the root.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    [directory, b"/", name].concat()
}

/// Directory and name; the root has neither.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => Some((&path[..at], &path[at + 1..])),
        None if path.is_empty() => None,
        None => Some((b"", path)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whiteouts_are_told_from_files_and_bookkeeping() {
        let parent = || vec![b"a".to_vec()];
        let t = |path: &str| classify(path.as_bytes()).unwrap();
        assert_eq!(t("./"), Target::Root);
        assert_eq!(t("/a//./b/"), Target::Entry(parent(), b"b".to_vec()));
        assert_eq!(t("a/.wh.b"), Target::Whiteout(parent(), b"b".to_vec()));
        assert_eq!(t("a/.wh..wh..opq"), Target::Opaque(parent()));
        assert_eq!(t("a/.wh..wh.plnk"), Target::Ignored);
        for bad in [
            "../x",
            "a/../../x",
            ".wh.",
            ".wh...",
            "a/.wh..",
            ".wh.a/b",
            "a\0b",
        ] {
            assert!(classify(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(classify(&[b'x'; 256]).is_err());
        assert!(classify(&b"d/".repeat(513)).is_err());
    }

    proptest! {
        #[test]
        fn no_name_leads_out(path in proptest::collection::vec(
            prop_oneof![Just(b'.'), Just(b'/'), Just(b'w'), Just(b'h'), any::<u8>()], 0..40)) {
            let inside = |c: &Vec<u8>| {
                !c.is_empty() && c != b"." && c != b".." && !c.contains(&b'/') && !c.contains(&0)
            };
            match classify(&path) {
                Ok(Target::Entry(parents, name) | Target::Whiteout(parents, name)) => {
                    prop_assert!(parents.iter().chain([&name]).all(inside));
                }
                Ok(Target::Opaque(parents)) => prop_assert!(parents.iter().all(inside)),
                Ok(Target::Root | Target::Ignored) | Err(_) => {}
            }
        }
    }
}
