//! From the store to a node that serves: read, ask the shims, compare with the
//! kernel, settle, undo, and only then answer.

pub(crate) mod copies;
mod findings;
pub(crate) mod stray;

use std::{sync::Arc, time::Duration};

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

/// Between two sweeps: strays are rare, and looking costs a listing of a few directories.
const SWEEP_EVERY: Duration = Duration::from_secs(10 * 60);

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
    tracker.enter(Phase::Recover, "strays")?;
    undone.absorb(sweep(node).await?);
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

/// Undoes what nobody owns. What cannot be undone is logged and looked at again by the
/// next sweep.
///
/// # Errors
/// As [`stray::find`].
async fn sweep(node: &Arc<Node>) -> Result<Findings> {
    let mut undone = Findings::default();
    for stray in stray::find(node).await? {
        if node.facts.aside.is_some() && stray.is_durable() {
            tracing::warn!(
                kind = stray.kind,
                place = stray.place,
                "nobody owns this any more; it stays, since records were lost"
            );
            continue;
        }
        undone.add(stray.kind, 1);
        if let Err(error) = stray::undo(node, &stray).await {
            tracing::warn!(
                error = error.sentence(),
                kind = stray.kind,
                place = stray.place,
                "it could not be undone"
            );
        }
    }
    Ok(undone)
}

/// Sweeps at an interval: what an operation could not undo, or somebody else has left,
/// does not wait for the next start.
pub(crate) async fn sweep_often(node: Arc<Node>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        match sweep(&node).await {
            Ok(undone) => {
                for (kind, count) in undone.iter() {
                    node.metrics.ledger_findings(kind, count);
                }
            }
            Err(error) => tracing::warn!(error = error.sentence(), "sweep of the ledger"),
        }
    }
}
