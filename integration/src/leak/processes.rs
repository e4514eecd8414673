//! Processes: in the node's network namespace, started with its paths, holding
//! its files, or in its control groups.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::Result;

use super::Scope;

pub(super) fn pids() -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

pub(super) fn find(scope: &Scope<'_>) -> Result<BTreeSet<String>> {
    let name = scope.name()?;
    let own = std::process::id();
    let mut found = BTreeSet::new();
    for pid in pids()? {
        if pid != own && belongs(pid, name, scope) {
            found.extend(describe(pid));
        }
    }
    Ok(found)
}

fn belongs(pid: u32, name: &str, scope: &Scope<'_>) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    // A process that ends while it is looked at leaves empty answers, and nothing behind.
    let text = |file: &str| {
        let bytes = fs::read(proc.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let link = |file: &str| fs::read_link(proc.join(file)).unwrap_or_default();
    let net = format!("net:[{}]", scope.netns.inode());
    if scope.netns.inode() != machines_netns() && link("ns/net").to_string_lossy() == net {
        return !is_ancestor(pid);
    }
    let groups = text("cgroup");
    if scope
        .marks
        .iter()
        .any(|mark| groups.contains(mark.as_str()))
    {
        return true;
    }
    if text("cmdline").contains(name) || text("environ").contains(name) {
        // The tests' own processes name the directory, too.
        return !is_ancestor(pid);
    }
    ["cwd", "root", "exe"]
        .iter()
        .any(|file| link(file).to_string_lossy().contains(name))
}

/// The namespace in which everything else on the machine is, too.
fn machines_netns() -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/1/ns/net").map_or(0, |m| m.ino())
}

/// Whether `pid` is this process or one that it descends from.
fn is_ancestor(pid: u32) -> bool {
    let mut at = std::process::id();
    while at > 1 {
        if at == pid {
            return true;
        }
        let Some(parent) = stat(at).and_then(|fields| fields.get(1)?.parse().ok()) else {
            return false;
        };
        at = parent;
    }
    false
}

/// The fields of `/proc/PID/stat` after the name, which may hold anything.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Number, start time (so that a reused number is another process), name, parent.
fn describe(pid: u32) -> Option<String> {
    let fields = stat(pid)?;
    let state = fields.first()?;
    let start = fields.get(19)?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    Some(format!(
        "{pid} since {start} {} state {state} ({})",
        comm.trim_end(),
        command.trim_end()
    ))
}
