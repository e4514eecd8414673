//! Pod sandboxes: pinned namespaces, an address, and the files that every pod gets.
//!
//! One file per verb. All of them run as operations (see [`crate::operation`]),
//! and those that change one sandbox hold its lock meanwhile, so that two of
//! them never interleave.

mod files;
mod group;
mod lines;
mod recover;
mod remove;
mod run;
pub(crate) mod state;
mod stats;
mod stop;
mod update;
mod view;

use std::sync::{Arc, PoisonError, RwLock};

use berth_proto::cri::{ContainerEventType, PodSandboxState};

use crate::{error::Result, ids::SandboxId, node::Node, store::SandboxRecord};

pub(crate) use recover::{adopt, settle};
pub(crate) use remove::remove;
pub(crate) use run::run;
pub(crate) use stats::{is_told, links, list_stats, stats};
pub(crate) use stop::stop;
pub(crate) use update::update;
pub(crate) use view::{list, matches_labels, snapshot, status};

/// A pod sandbox in memory. Its record is what the store holds.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    record: RwLock<Arc<SandboxRecord>>,
    /// Held by whoever changes it.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            record: RwLock::new(Arc::new(record)),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Arc<SandboxRecord> {
        self.record
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Lets `event` happen and writes it down before anybody can see it.
    ///
    /// # Errors
    /// FailedPrecondition if it cannot happen now; Internal if it cannot be written.
    pub(crate) async fn apply(&self, node: &Node, event: state::Event) -> Result<()> {
        let mut record = SandboxRecord::clone(&self.record());
        record.state = record.state.next(event)?;
        self.replace(node, record).await
    }

    /// Puts `record` in the place of the one that is there, on disk first, and tells those
    /// who listen. The caller holds the turn.
    ///
    /// # Errors
    /// Internal if it cannot be written.
    pub(crate) async fn replace(&self, node: &Node, record: SandboxRecord) -> Result<()> {
        node.store
            .put_sandbox(&record, record.made_by.durability())
            .await?;
        let (before, after) = (self.record().state.cri(), record.state.cri());
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
        let kinds: &[ContainerEventType] = match (before, after) {
            (None, Some(PodSandboxState::SandboxReady)) => &[
                ContainerEventType::ContainerCreatedEvent,
                ContainerEventType::ContainerStartedEvent,
            ],
            (Some(PodSandboxState::SandboxReady), Some(PodSandboxState::SandboxNotready)) => {
                &[ContainerEventType::ContainerStoppedEvent]
            }
            _ => &[],
        };
        for &kind in kinds {
            node.events.tell(node, &self.id, self.id.as_str(), kind);
        }
        Ok(())
    }
}
