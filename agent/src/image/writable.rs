//! What containers' writable layers occupy, counted at a bounded cost.
//!
//! A kubelet asks every few seconds, and a container may have millions of files.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{ids::ContainerId, node::now};

/// How old a count may be; a kubelet looks for full disks every ten seconds.
const FRESH: Duration = Duration::from_secs(10);
/// Counting takes no longer for one question; who was not counted comes first next time.
const TIME_MAX: Duration = Duration::from_millis(200);

/// Bytes allocated and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// The counts of all containers.
#[derive(Debug, Default)]
pub(crate) struct Writable(Mutex<HashMap<ContainerId, Counted>>);

/// What was counted, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    at: Instant,
    /// The same in Unix nanoseconds.
    pub(crate) timestamp: i64,
    pub(crate) used: Use,
}

impl Writable {
    /// The sum over `containers`, each with its directory. Blocks.
    pub(crate) fn total(&self, containers: Vec<(ContainerId, PathBuf)>) -> Use {
        self.each(containers)
            .values()
            .fold(Use::default(), |sum, counted| Use {
                bytes: sum.bytes + counted.used.bytes,
                inodes: sum.inodes + counted.used.inodes,
            })
    }

    /// The counts of all `containers`, each with its directory; who did not fit into the
    /// time for the first time is not among them. What is not named is forgotten. Blocks.
    pub(crate) fn each(
        &self,
        containers: Vec<(ContainerId, PathBuf)>,
    ) -> HashMap<ContainerId, Counted> {
        self.each_within(containers, FRESH, TIME_MAX)
    }

    fn each_within(
        &self,
        mut containers: Vec<(ContainerId, PathBuf)>,
        fresh: Duration,
        time: Duration,
    ) -> HashMap<ContainerId, Counted> {
        // One question counts; another one meanwhile waits for its result.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let there: HashSet<&ContainerId> = containers.iter().map(|(id, _)| id).collect();
        known.retain(|id, _| there.contains(id));
        containers.sort_by_key(|(id, _)| known.get(id).map(|counted| counted.at));
        let began = Instant::now();
        for (id, directory) in containers {
            let age = known.get(&id).map(|counted| counted.at.elapsed());
            if age.is_some_and(|age| age < fresh) {
                continue;
            }
            let Some(left) = time.checked_sub(began.elapsed()) else {
                break;
            };
            let (used, whole) = count(&directory, Instant::now() + left);
            let before = known
                .get(&id)
                .map_or(Use::default(), |counted| counted.used);
            // A tree that is too large for the time is at least as large as what was seen.
            let used = match whole {
                true => used,
                false => Use {
                    bytes: used.bytes.max(before.bytes),
                    inodes: used.inodes.max(before.inodes),
                },
            };
            let counted = Counted {
                at: Instant::now(),
                timestamp: now(),
                used,
            };
            known.insert(id, counted);
        }
        known.clone()
    }
}

/// What lies below `directory`, and whether all was seen before `until`. The tree is the
/// container's, so links are not followed.
fn count(directory: &Path, until: Instant) -> (Use, bool) {
    let mut used = Use::default();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        // What vanishes meanwhile is not counted.
        let Ok(entries) = std::fs::read_dir(directory) else {
            continue;
        };
        for entry in entries.flatten() {
            if Instant::now() >= until {
                return (used, false);
            }
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            used.inodes += 1;
            used.bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    (used, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(root: &Path, files: usize) -> (ContainerId, PathBuf) {
        let id = ContainerId::random().unwrap();
        let directory = root.join(id.as_str());
        std::fs::create_dir_all(directory.join("in")).unwrap();
        for n in 0..files {
            std::fs::write(directory.join("in").join(n.to_string()), [1; 100]).unwrap();
        }
        (id, directory)
    }

    #[test]
    fn counts_are_reused_while_they_are_fresh_and_forgotten_with_their_containers() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (container(root.path(), 3), container(root.path(), 5));
        let both = vec![one.clone(), two.clone()];
        let writable = Writable::default();
        let total = writable.total(both.clone());
        assert_eq!(total.inodes, 3 + 5 + 2);
        assert!(total.bytes >= 8 * 512);
        std::fs::write(one.1.join("more"), b"x").unwrap();
        assert_eq!(writable.total(both.clone()), total);
        let now = writable.each_within(both, Duration::ZERO, TIME_MAX);
        let inodes: u64 = now.values().map(|counted| counted.used.inodes).sum();
        assert_eq!(inodes, total.inodes + 1);
        assert_eq!(writable.total(vec![two]).inodes, 6);
        // A directory that is not there yet occupies nothing.
        let none = (ContainerId::random().unwrap(), root.path().join("none"));
        assert_eq!(writable.total(vec![none]), Use::default());
    }

    #[test]
    fn who_did_not_fit_into_the_time_is_counted_next_time() {
        let root = tempfile::tempdir().unwrap();
        let all: Vec<_> = (0..3).map(|_| container(root.path(), 10)).collect();
        let writable = Writable::default();
        let none = writable.each_within(all.clone(), FRESH, Duration::ZERO);
        assert!(none.values().all(|counted| counted.used == Use::default()));
        let fresh = Duration::ZERO;
        let each = writable.each_within(all, fresh, TIME_MAX);
        assert_eq!(each.values().map(|one| one.used.inodes).sum::<u64>(), 33);
    }
}
