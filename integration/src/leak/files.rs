//! Files and directories named after something that has an id or a digest.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::Scope;

/// Ids and digests are runs of at least so many hexadecimal digits; nothing
/// else in a node's directories is.
const DIGITS: usize = 32;

pub(super) fn find(scope: &Scope<'_>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for part in ["root", "run"] {
        walk(&scope.home.join(part), &scope.home, &mut found);
    }
    Ok(found)
}

fn walk(directory: &Path, home: &Path, found: &mut BTreeSet<String>) {
    // Not there yet, or gone while the tree is walked.
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path: PathBuf = entry.path();
        if is_named_after_an_object(&entry.file_name().to_string_lossy()) {
            // What lies below belongs to the object.
            let shown = path.strip_prefix(home).unwrap_or(&path);
            found.insert(shown.display().to_string());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, home, found);
        }
    }
}

/// Whether `name` holds an id or a digest.
#[must_use]
pub fn is_named_after_an_object(name: &str) -> bool {
    let mut run = 0;
    name.chars().any(|c| {
        run = if c.is_ascii_hexdigit() { run + 1 } else { 0 };
        run >= DIGITS
    })
}

#[cfg(test)]
mod tests {
    use super::is_named_after_an_object;

    #[test]
    fn ids_and_digests_are_told_from_names() {
        assert!(is_named_after_an_object(&"0a".repeat(32)));
        assert!(is_named_after_an_object(&format!(
            "c-{}.sock",
            "9f".repeat(16)
        )));
        assert!(!is_named_after_an_object("deadbeef.db"));
        assert!(!is_named_after_an_object("layers"));
    }
}
