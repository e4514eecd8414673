//! Control groups, in every mounted hierarchy.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::Scope;

/// Where the hierarchies are mounted.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut places = Vec::new();
    for line in table.lines() {
        let Some((mount, fs)) = line.split_once(" - ") else {
            continue;
        };
        if fs.starts_with("cgroup ") || fs.starts_with("cgroup2 ") {
            places.extend(mount.split(' ').nth(4).map(PathBuf::from));
        }
    }
    Ok(places)
}

pub(super) fn find(scope: &Scope<'_>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies()? {
        walk(&hierarchy, scope, &mut found);
    }
    Ok(found)
}

// Groups come and go while the tree is walked: what cannot be read is gone.
fn walk(directory: &Path, scope: &Scope<'_>, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let text = path.to_string_lossy().into_owned();
        walk(&path, scope, found);
        if scope.marks.iter().any(|mark| text.contains(mark.as_str())) {
            found.insert(text);
        }
    }
}
