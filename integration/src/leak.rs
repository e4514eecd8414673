//! The leak oracle: what of a node is on this machine, found from outside.
//!
//! [`Snapshot::take`] before and after; what is only in the later one was left
//! behind. Other nodes and other work on the machine do not disturb it: only
//! what can be ascribed to the node of the [`Scope`] is looked at.

mod cgroups;
mod descriptors;
mod files;
mod force;
mod mounts;
mod network;
mod processes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::NetNs;

pub use cgroups::hierarchies;
pub use descriptors::{Descriptors, descriptors};
pub use files::is_named_after_an_object;
pub use force::force_down;

/// How the traces of one node are recognised.
#[derive(Debug)]
pub struct Scope<'a> {
    /// The directory with all its directories. Its name must be unique on this machine.
    pub home: PathBuf,
    /// Its network namespace.
    pub netns: &'a NetNs,
    /// Parts of the paths of its control groups.
    pub marks: Vec<String>,
}

impl Scope<'_> {
    /// The name by which paths of the node are found in any mount namespace.
    fn name(&self) -> Result<&str> {
        let name = self.home.file_name().and_then(|name| name.to_str());
        name.ok_or_else(|| anyhow::anyhow!("{}: no usable name", self.home.display()))
    }
}

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A mount in any mount namespace, pinned namespaces included.
    Mount,
    /// A process.
    Process,
    /// A control group in any hierarchy.
    Cgroup,
    /// A network device.
    Link,
    /// A line of the packet filter's rule set.
    Rule,
    /// A file or directory named after a pod, container, layer or blob.
    File,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mount => "mount",
            Self::Process => "process",
            Self::Cgroup => "cgroup",
            Self::Link => "link",
            Self::Rule => "rule",
            Self::File => "file",
        })
    }
}

/// All that was found of a node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    found: BTreeMap<Kind, BTreeSet<String>>,
}

impl Snapshot {
    /// Looks at the machine.
    ///
    /// # Errors
    /// If `/proc` or the cgroup hierarchies cannot be read, or `ip` or `nft` is missing.
    pub fn take(scope: &Scope<'_>) -> Result<Self> {
        let found = BTreeMap::from([
            (Kind::Mount, mounts::find(scope)?),
            (Kind::Process, processes::find(scope)?),
            (Kind::Cgroup, cgroups::find(scope)?),
            (Kind::Link, network::links(scope)?),
            (Kind::Rule, network::rules(scope)?),
            (Kind::File, files::find(scope)?),
        ]);
        Ok(Self { found })
    }

    /// What is here and was not `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<(Kind, String)> {
        let empty = BTreeSet::new();
        let mut left = Vec::new();
        for (kind, now) in &self.found {
            let old = before.found.get(kind).unwrap_or(&empty);
            left.extend(now.difference(old).map(|item| (*kind, item.clone())));
        }
        left
    }

    /// How many of each kind there are.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        self.found.iter().map(|(k, v)| (*k, v.len())).collect()
    }

    /// One line per item, for a file that [`Snapshot::from_lines`] reads.
    #[must_use]
    pub fn to_lines(&self) -> String {
        let mut text = String::new();
        for (kind, items) in &self.found {
            for item in items {
                text.push_str(&format!("{kind}\t{item}\n"));
            }
        }
        text
    }

    /// The reverse of [`Snapshot::to_lines`]; unknown kinds are passed over.
    #[must_use]
    pub fn from_lines(text: &str) -> Self {
        const ALL: [Kind; 6] = [
            Kind::Mount,
            Kind::Process,
            Kind::Cgroup,
            Kind::Link,
            Kind::Rule,
            Kind::File,
        ];
        let mut snapshot = Self::default();
        for (kind, item) in text.lines().filter_map(|line| line.split_once('\t')) {
            if let Some(kind) = ALL.into_iter().find(|k| k.to_string() == kind) {
                let items = snapshot.found.entry(kind).or_default();
                items.insert(item.to_owned());
            }
        }
        snapshot
    }
}

/// Looks until nothing more than `before` is there: the kernel takes network
/// namespaces and their devices down a while after their last user is gone.
/// What is still there when `limit` has passed is returned.
///
/// # Errors
/// As [`Snapshot::take`].
pub fn settle(
    scope: &Scope<'_>,
    before: &Snapshot,
    limit: Duration,
) -> Result<Vec<(Kind, String)>> {
    let end = Instant::now() + limit;
    loop {
        let left = Snapshot::take(scope)?.since(before);
        if left.is_empty() || Instant::now() > end {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    /// One of each kind is made, found, and gone again after its removal.
    #[test]
    fn every_kind_of_leak_is_found() {
        let home = tempfile::Builder::new()
            .prefix("berth-leak-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let netns = NetNs::new().unwrap();
        let mark = home
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let scope = Scope {
            home: home.path().to_owned(),
            netns: &netns,
            marks: vec![mark.clone()],
        };
        let before = Snapshot::take(&scope).unwrap();

        let target = home.path().join("run/m");
        fs::create_dir_all(&target).unwrap();
        let object = home.path().join("root").join("ab".repeat(32));
        fs::create_dir_all(&object).unwrap();
        let group = hierarchies().unwrap()[0].join(&mark);
        fs::create_dir(&group).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            netns
                .enter(|| Ok(Command::new(program).args(arguments).status()?))
                .unwrap()
        };
        assert!(run("mount", &["-t", "tmpfs", "none", target.to_str().unwrap()]).success());
        assert!(run("ip", &["link", "add", "leak0", "type", "bridge"]).success());
        assert!(run("nft", &["add", "table", "ip", "leak"]).success());
        let mut child = netns
            .enter(|| Ok(Command::new("sleep").arg("100").spawn()?))
            .unwrap();

        let left = Snapshot::take(&scope).unwrap().since(&before);
        let kinds: BTreeSet<Kind> = left.iter().map(|(kind, _)| *kind).collect();

        child.kill().unwrap();
        child.wait().unwrap();
        assert!(run("umount", &[target.to_str().unwrap()]).success());
        assert!(run("ip", &["link", "del", "leak0"]).success());
        assert!(run("nft", &["delete", "table", "ip", "leak"]).success());
        fs::remove_dir(&group).unwrap();
        fs::remove_dir(&object).unwrap();

        assert_eq!(kinds.len(), 6, "{left:?}");
        let rest = settle(&scope, &before, Duration::from_secs(2)).unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }

    #[test]
    fn a_snapshot_survives_being_written_down() {
        let text = "mount\t/a b\nlink\tberth0\n";
        let snapshot = Snapshot::from_lines(&format!("{text}nonsense\tx\n"));
        assert_eq!(snapshot.to_lines(), text);
        assert_eq!(snapshot.since(&Snapshot::default()).len(), 2);
    }
}
