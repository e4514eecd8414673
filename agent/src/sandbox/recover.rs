//! Sandboxes after a start of the agent.

use std::{collections::BTreeSet, sync::Arc};

use berth_phase::Phase;

use super::{
    Sandbox,
    run::{convert, forget},
    state::{Event, NotReady, State},
    stop::release,
};
use crate::{
    error::Result,
    node::{Node, now},
    recovery::{Findings, kind},
    store::SandboxRecord,
};

/// Puts a record from the store into memory.
pub(crate) fn adopt(node: &Node, record: SandboxRecord) {
    node.add_sandbox(Sandbox::new(record));
}

/// Brings sandboxes and kernel into agreement: half-made ones are undone, those
/// whose namespaces are gone are not ready, pins without a sandbox go. Returns
/// what was undone.
///
/// # Errors
/// Internal if the launcher does not answer. What cannot be undone is logged and
/// stays on record for the next start or for Remove.
pub(crate) async fn settle(
    node: &Arc<Node>,
    tracker: &berth_phase::Tracker,
    rebooted: bool,
) -> Result<Findings> {
    tracker.enter(Phase::Recover, "sandboxes")?;
    let pinned: BTreeSet<String> = node
        .launcher
        .list_pods()
        .await
        .map_err(convert)?
        .into_iter()
        .collect();
    let mut undone = Findings::default();
    for sandbox in node.sandboxes() {
        let record = sandbox.record();
        let outcome = match &record.state {
            State::Reserved | State::Networked { .. } => {
                undone.add(kind::POD_SANDBOX, 1);
                undo(node, &sandbox).await
            }
            State::Ready { namespaces, .. } => {
                let init_gone = namespaces.init.is_some_and(|init| {
                    !berth_sys::process::start_ticks(init.pid)
                        .is_ok_and(|ticks| ticks == init.start_ticks)
                });
                let why = if rebooted {
                    Some(NotReady::Rebooted)
                } else if !pinned.contains(sandbox.id.as_str()) {
                    Some(NotReady::Lost("its namespaces are gone".to_owned()))
                } else if init_gone {
                    Some(NotReady::Lost("its init is gone".to_owned()))
                } else {
                    None
                };
                match why {
                    Some(why) => sandbox.apply(node, Event::Lost { at: now(), why }).await,
                    None => {
                        if node.containers_of(&sandbox.id).is_empty() {
                            node.reply_may_be_lost(sandbox.id.as_str());
                        }
                        Ok(())
                    }
                }
            }
            State::NotReady { .. } => Ok(()),
        };
        if let Err(error) = outcome {
            tracing::warn!(pod = %sandbox.id, error = error.sentence(), "pod sandbox could not be settled");
        }
    }
    Ok(undone)
}

async fn undo(node: &Arc<Node>, sandbox: &Sandbox) -> Result<()> {
    tracing::info!(pod = %sandbox.id, "a half-made pod sandbox is undone");
    release(node, sandbox).await?;
    super::remove::delete_files(node, &sandbox.id).await?;
    forget(node, &sandbox.id).await
}
