//! The control group of a pod's init. It lies beside those of the pod's containers,
//! since v2 has no processes in a group that others are made in.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use berth_cgroup::{Group, GroupPath, Resources};

use crate::{
    cgroup,
    error::{Error, Result},
    ids::SandboxId,
    node::{Node, blocking},
    store::Effect,
};

/// How long a killed init may take to be gone from its group.
const LIMIT: Duration = Duration::from_secs(10);

/// Where the init of sandbox `id` belongs.
pub(super) fn path(parent: &str, id: &SandboxId) -> Result<GroupPath> {
    GroupPath::parent(parent)
        .and_then(|parent| parent.join(id.as_str()))
        .map_err(cgroup::convert)
}

/// What making it will leave, for the ledger.
pub(super) fn effects(node: &Node, group: &GroupPath) -> Vec<Effect> {
    let missing = Group::missing_ancestors(&node.layout, group);
    let mut effects = vec![Effect::CgroupPath {
        path: group.as_str().to_owned(),
    }];
    effects.extend(
        missing
            .into_iter()
            .map(|path| Effect::CreatedCgroupAncestor { path }),
    );
    effects
}

/// Makes it, and returns the files through which a process moves itself in.
pub(super) async fn make(node: &Arc<Node>, group: GroupPath) -> Result<Vec<OwnedFd>> {
    let layout = node.layout.clone();
    blocking("make the group of the pod's init", move || {
        // Without limits of its own: those of the pod hold.
        Group::create(&layout, &group, &Resources::default())
            .map_err(cgroup::convert)?
            .join_files()
            .map_err(|error| Error::io("open the group of the pod's init", error))
    })
    .await
}

/// Removes it with whoever is in it, and the groups above that were made for it and
/// are empty. Idempotent.
pub(super) async fn remove(node: &Arc<Node>, id: &SandboxId) -> Result<()> {
    let effects = node.store.ledger_of(id.as_str()).await?;
    let layout = node.layout.clone();
    blocking("remove the group of the pod's init", move || {
        for entry in &effects {
            if let Effect::CgroupPath { path } = &entry.effect {
                cgroup::kill(&layout, path, LIMIT)?;
                cgroup::remove(&layout, path, LIMIT)?;
            }
        }
        for entry in &effects {
            if let Effect::CreatedCgroupAncestor { path } = &entry.effect {
                // Those of containers may be below it; then it goes with the sandbox.
                cgroup::remove_if_empty(&layout, path);
            }
        }
        Ok(())
    })
    .await
}
