//! Mounts, in every mount namespace that a process is in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::Result;

use super::{Scope, processes};

pub(super) fn find(scope: &Scope<'_>) -> Result<BTreeSet<String>> {
    let name = scope.name()?;
    let mut tables: BTreeMap<String, String> = BTreeMap::new();
    for pid in processes::pids()? {
        // Whoever ended meanwhile holds no mount.
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else {
            continue;
        };
        let namespace = namespace.to_string_lossy().into_owned();
        if tables.contains_key(&namespace) {
            continue;
        }
        if let Ok(table) = fs::read_to_string(format!("/proc/{pid}/mountinfo")) {
            tables.insert(namespace, table);
        }
    }
    let own = fs::read_link("/proc/self/ns/mnt")?;
    let mut found = BTreeSet::new();
    for (namespace, table) in tables {
        for line in table.lines().filter(|line| line.contains(name)) {
            // Numbers of namespaces differ from one agent to the next.
            let place = if own.to_string_lossy() == namespace {
                "host"
            } else {
                "elsewhere"
            };
            found.insert(format!("{place} {}", without_numbers(line)));
        }
    }
    Ok(found)
}

/// Root, mount point and file system of a mountinfo line, without the numbers
/// and the propagation that differ from one look to the next.
fn without_numbers(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let after = words.iter().position(|word| *word == "-");
    let (fstype, source) = match after {
        Some(at) => (words.get(at + 1), words.get(at + 2)),
        None => (None, None),
    };
    let shown = [words.get(3), words.get(4), fstype, source];
    let shown: Vec<&str> = shown.into_iter().flatten().copied().collect();
    shown.join(" ")
}
