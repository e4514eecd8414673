//! What nobody owns: things that are named after an object that is not on record.
//!
//! An object is on record before anything of it is made, and taken off after all of it
//! is gone. So what is listed *first* and has no record *then* is stray, while the
//! node serves as well as when it starts.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::kind;
use crate::{
    error::{Error, Result},
    ids::ContainerId,
    node::{Node, blocking},
    store::Effect,
};

/// How long the processes of a stray group may take to die.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Entries of a stray directory that are counted; its size is for people.
const COUNTED: usize = 100_000;

/// Something without an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stray {
    /// One of [`kind`].
    pub(crate) kind: &'static str,
    /// The object that it is named after, as far as the name says.
    pub(crate) owner: String,
    /// A path, or the name of a link.
    pub(crate) place: String,
    /// Since when it has been there, in seconds; none where that is not kept.
    pub(crate) age: Option<u64>,
    /// Bytes on a disk.
    pub(crate) bytes: u64,
}

impl Stray {
    /// Whether it may hold what somebody wants back: it survives a reboot.
    pub(crate) fn is_durable(&self) -> bool {
        matches!(self.kind, kind::WRITABLE_LAYER | kind::LOG_DIR)
    }

    /// What undoing it does.
    pub(crate) fn plan(&self) -> String {
        match self.kind {
            kind::POD_PIN => format!("unpin the namespaces of pod {}", self.owner),
            kind::VETH => format!("delete the link of pod {}", self.owner),
            kind::CGROUP => format!("kill what is in the group {} and remove it", self.place),
            _ => format!("delete {}", self.place),
        }
    }
}

/// Everything stray, by kind.
///
/// # Errors
/// Internal if the ledger cannot be read; what else cannot be listed is logged.
pub(crate) async fn find(node: &Arc<Node>) -> Result<Vec<Stray>> {
    // Listed before the records are looked at; see the module.
    let pins = node.launcher.list_pods().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "pinned namespaces could not be listed");
        Vec::new()
    });
    let links = node.network.linked_pods().await.unwrap_or_else(|error| {
        tracing::debug!(error = error.sentence(), "links could not be listed");
        Vec::new()
    });
    let mut listed = {
        let node = node.clone();
        blocking("look for what nobody owns", move || Ok(list(&node))).await?
    };
    // Below their parent, others may have groups too: only the ledger says which are ours.
    let entries = node.store.ledger_all().await?;
    listed.extend(entries.into_iter().filter_map(|entry| match entry.effect {
        Effect::CgroupPath { path } => Some(Stray {
            age: age(entry.created_at),
            ..bare(kind::CGROUP, entry.owner, path)
        }),
        _ => None,
    }));
    let pods: BTreeSet<String> = node.sandboxes().iter().map(|s| s.id.to_string()).collect();
    let containers: BTreeSet<String> = node.containers().iter().map(|c| c.id.to_string()).collect();
    let known = |id: &String| pods.contains(id) || node.facts.unreadable.contains(id);
    let mut found: Vec<Stray> = listed
        .into_iter()
        .filter(|stray| !pods.contains(&stray.owner) && !containers.contains(&stray.owner))
        // On record, though in a form that this agent cannot read.
        .filter(|stray| !node.facts.unreadable.contains(&stray.owner))
        .collect();
    found.extend(pins.into_iter().filter(|id| !known(id)).map(|id| {
        let place = node.dirs.run.join("ns").display().to_string();
        bare(kind::POD_PIN, id, place)
    }));
    // A link's name has room for the beginning of an id only.
    found.extend(
        links
            .into_iter()
            .filter(|part| {
                let mut all = pods.iter().chain(&node.facts.unreadable);
                !all.any(|id| id.starts_with(part))
            })
            .map(|part| bare(kind::VETH, part, node.network.name())),
    );
    found.sort_by(|a, b| (a.kind, &a.place, &a.owner).cmp(&(b.kind, &b.place, &b.owner)));
    blocking("measure what nobody owns", move || {
        for stray in &mut found {
            if stray.place.starts_with('/') && stray.kind != kind::CGROUP {
                measure(stray);
            }
        }
        Ok(found)
    })
    .await
}

/// Undoes a stray. What has gone meanwhile is undone.
///
/// # Errors
/// What the kernel refused.
pub(crate) async fn undo(node: &Arc<Node>, stray: &Stray) -> Result<()> {
    tracing::warn!(
        kind = stray.kind,
        owner = stray.owner,
        place = stray.place,
        "nobody owns this; it is undone"
    );
    match stray.kind {
        kind::POD_PIN => node
            .launcher
            .remove_pod(&stray.owner)
            .await
            .map_err(|error| Error::internal("unpin namespaces").with_source(error)),
        kind::VETH => node.network.purge(&stray.owner).await.map(drop),
        kind::CGROUP => {
            let (layout, path) = (node.layout.clone(), stray.place.clone());
            blocking("remove a group", move || {
                crate::cgroup::kill(&layout, &path, KILL_LIMIT)?;
                crate::cgroup::remove(&layout, &path, KILL_LIMIT)
            })
            .await
        }
        _ => {
            let path = PathBuf::from(&stray.place);
            blocking("delete a directory", move || {
                match fs::remove_dir_all(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        Err(Error::io(format!("delete {}", path.display()), error))
                    }
                    _ => Ok(()),
                }
            })
            .await
        }
    }
}

fn bare(kind: &'static str, owner: String, place: String) -> Stray {
    Stray {
        kind,
        owner,
        place,
        age: None,
        bytes: 0,
    }
}

/// What is below our own directories. Its name is its owner's id: what has
/// another name is not ours to judge.
fn list(node: &Node) -> Vec<Stray> {
    let mut found = Vec::new();
    for (kind, parent) in [
        (kind::SHIM_DIR, node.dirs.run.join("shims")),
        (kind::POD_DIR, node.dirs.run.join("pods")),
        (kind::WRITABLE_LAYER, node.dirs.root.join("containers")),
        (kind::LOG_DIR, node.dirs.root.join("logs")),
    ] {
        for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(as_id) else {
                continue;
            };
            found.push(bare(kind, id, entry.path().display().to_string()));
        }
    }
    found
}

/// Seconds since a moment in Unix nanoseconds.
fn age(at: i64) -> Option<u64> {
    u64::try_from(crate::node::now().saturating_sub(at) / 1_000_000_000).ok()
}

fn as_id(name: &str) -> Option<String> {
    name.parse::<ContainerId>().ok().map(|id| id.to_string())
}

fn measure(stray: &mut Stray) {
    let path = Path::new(&stray.place);
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return;
    };
    stray.age = metadata
        .modified()
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok())
        .map(|age| age.as_secs());
    let mut left = COUNTED;
    stray.bytes = bytes_below(path, &mut left);
}

fn bytes_below(directory: &Path, left: &mut usize) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        sum += metadata.blocks() * 512;
        if metadata.is_dir() {
            sum += bytes_below(&entry.path(), left);
        }
    }
    sum
}
