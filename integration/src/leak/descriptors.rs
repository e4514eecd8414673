//! What a process has open.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};

/// How many descriptors of each sort a process has.
pub type Descriptors = BTreeMap<String, usize>;

/// Counts the descriptors of `pid` by what they refer to: numbers are left
/// out, so that two looks at a process can be compared.
///
/// # Errors
/// If the process is gone.
pub fn descriptors(pid: u32) -> Result<Descriptors> {
    let directory = format!("/proc/{pid}/fd");
    let mut counts = Descriptors::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("read {directory}"))? {
        // Closed between the listing and the look.
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let target = target.to_string_lossy().into_owned();
        let sort = match target.split_once(":[") {
            Some((sort, _)) => sort.to_owned(),
            None => target,
        };
        *counts.entry(sort).or_default() += 1;
    }
    Ok(counts)
}
