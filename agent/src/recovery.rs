//! From the store to a node that serves: read, ask the shims, compare with the
//! kernel, settle, undo, and only then answer.

mod findings;

use std::{collections::BTreeSet, sync::Arc};

use berth_phase::{Phase, Tracker};

use crate::{
    container,
    error::{Error, Result},
    image,
    listen::Progress,
    node::Node,
    sandbox,
    store::{Change, ContainerRecord, Durability, SandboxRecord},
};

pub(crate) use findings::{Findings, kind};

/// Names this boot of the machine.
///
/// # Errors
/// Internal if the kernel does not say.
pub(crate) fn boot_id() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .map_err(|error| Error::io("read the boot id", error))
}

/// Brings records and kernel into agreement. `settled_for` is the boot for which
/// that was done last. Returns what was found without an owner and undone.
///
/// # Errors
/// Internal if the launcher or the store do not answer.
pub(crate) async fn recover(
    node: &Arc<Node>,
    sandboxes: Vec<SandboxRecord>,
    containers: Vec<ContainerRecord>,
    settled_for: Option<&str>,
    progress: &Progress,
) -> Result<Findings> {
    let tracker = Tracker::new("recover", node.observer.clone());
    tracker.enter(Phase::Recover, "read")?;
    let boot = boot_id()?;
    let rebooted = settled_for.is_some_and(|settled| settled != boot);
    for record in sandboxes {
        sandbox::adopt(node, record);
    }
    for record in containers {
        container::adopt(node, record);
    }
    progress.doing(format!(
        "asking the shims of {} containers",
        node.containers().len()
    ));
    let mut undone = container::settle(node, &tracker, rebooted).await?;
    progress.doing(format!("looking after {} pods", node.sandboxes().len()));
    undone.absorb(sandbox::settle(node, &tracker, rebooted).await?);
    tracker.enter(Phase::Recover, "links")?;
    undone.add(kind::VETH, purge_links(node).await);
    tracker.enter(Phase::Recover, "images")?;
    progress.doing("deleting what no image owns");
    match image::collect(node).await {
        Ok(deleted) => undone.absorb(deleted),
        Err(error) => {
            tracing::warn!(
                error = error.sentence(),
                "what no image owns could not be deleted"
            );
        }
    }
    tracker.enter(Phase::Record, "settled")?;
    node.store
        .write(vec![Change::settled_for_boot(&boot)], Durability::Soon)
        .await?;
    tracker.finish()?;
    Ok(undone)
}

/// Links whose pod is not on record.
async fn purge_links(node: &Arc<Node>) -> u64 {
    let linked = match node.network.linked_pods().await {
        Ok(linked) => linked,
        Err(error) => {
            tracing::debug!(error = error.sentence(), "links could not be listed");
            return 0;
        }
    };
    let known: BTreeSet<String> = node.sandboxes().iter().map(|s| s.id.to_string()).collect();
    let mut undone = 0;
    for part in linked {
        if known.iter().any(|id| id.starts_with(&part)) {
            continue;
        }
        undone += 1;
        tracing::warn!(
            kind = kind::VETH,
            pod = part,
            "a link without a pod sandbox is removed"
        );
        if let Err(error) = node.network.purge(&part).await {
            tracing::warn!(error = error.sentence(), "it could not be removed");
        }
    }
    undone
}
