//! The control groups above a pod: a kubelet makes them before it asks for
//! the pod, and removes them when the pod is gone.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::leak::hierarchies;

/// A group whose last process has just ended can be busy for a moment.
const EMPTY: Duration = Duration::from_secs(5);

/// Makes the group `path`, such as `/node/pod`, in every hierarchy.
///
/// # Errors
/// If a group cannot be made.
pub fn make(path: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut at = hierarchy;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            enable_controllers(&at);
            let below = at.join(part);
            match fs::create_dir(&below) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("make {}", below.display()));
                }
                _ => {}
            }
            inherit_cpuset(&at, &below);
            at = below;
        }
    }
    Ok(())
}

/// v2: what the groups below may limit. A controller that is bound elsewhere
/// (hybrid) is not offered, and so not asked for.
fn enable_controllers(group: &Path) {
    let Ok(offered) = fs::read_to_string(group.join("cgroup.controllers")) else {
        return;
    };
    for controller in offered.split_whitespace() {
        // Refused in a group that has processes, which is then not ours to change.
        drop(fs::write(
            group.join("cgroup.subtree_control"),
            format!("+{controller}"),
        ));
    }
}

/// v1: a new cpuset has no processors, and no process can enter it.
fn inherit_cpuset(parent: &Path, child: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let Ok(own) = fs::read_to_string(child.join(file)) else {
            return;
        };
        if own.trim().is_empty()
            && let Ok(above) = fs::read_to_string(parent.join(file))
        {
            // On v2 an empty cpuset means the parent's, and may be refused.
            drop(fs::write(child.join(file), above));
        }
    }
}

/// What the first of `files` says that is there in the group `path`, in any hierarchy:
/// v1 and v2 spell them differently.
///
/// # Errors
/// If none is there.
pub fn read(path: &str, files: &[&str]) -> Result<String> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(path.trim_start_matches('/'));
        for file in files {
            if let Ok(text) = fs::read_to_string(group.join(file)) {
                return Ok(text.trim().to_owned());
            }
        }
    }
    anyhow::bail!("{path} has none of {files:?}")
}

/// Removes the group `path` of every hierarchy, which must be empty.
///
/// # Errors
/// If a group still holds a process or a group.
pub fn remove(path: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group: PathBuf = hierarchy.join(path.trim_start_matches('/'));
        let end = Instant::now() + EMPTY;
        loop {
            match fs::remove_dir(&group) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) if Instant::now() > end => {
                    return Err(error).with_context(|| format!("remove {}", group.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_made_in_every_hierarchy_and_removed_again() {
        let top = format!("/berth-group-{}", std::process::id());
        let path = format!("{top}/pod");
        make(&path).unwrap();
        make(&path).unwrap();
        for hierarchy in hierarchies().unwrap() {
            assert!(hierarchy.join(&path[1..]).is_dir());
        }
        assert!(remove(&top).is_err(), "it is not empty");
        remove(&path).unwrap();
        remove(&top).unwrap();
        remove(&top).unwrap();
    }
}
