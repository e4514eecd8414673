//! The records, and the ledger of owners.
//!
//! ```ignore
//! let opened = Store::open(root)?;                    // one agent per root; blocking
//! let everything = opened.store.load_all().await?;    // for recovery
//! store.put_sandbox(&record, record.made_by.durability()).await?;
//! store.ledger_add(record.id.as_str(), &Effect::PodPin).await?;
//! store.write(vec![                                    // one transaction
//!     Change::put_container(&record)?,
//!     Change::remove_effect(record.id.as_str(), &effect),
//! ], Durability::Soon).await?;
//! ```
//!
//! SQLite in WAL mode on a thread of its own. A write that was answered is in
//! the page cache at least, so that SIGKILL of the agent loses nothing; a power
//! cut takes at most the last [`SYNC_EVERY`] of [`Durability::Soon`], and
//! nothing of [`Durability::Synced`]. A caller that goes away does not stop its
//! write. Writes are carried out in the order in which they were sent.
//!
//! What is deliberately absent: queries. The agent answers from memory and
//! reads the store once, when it starts.

mod change;
mod copies;
mod error;
mod ledger;
mod load;
mod lock;
mod message;
mod records;
mod schema;
mod sync;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

pub(crate) use change::Change;
pub(crate) use error::StoreError;
pub(crate) use ledger::{Effect, Entry};
pub(crate) use load::Everything;
pub(crate) use records::{
    AddressRecord, Blob, ContainerRecord, ImageRecord, MadeBy, PodResources, SandboxRecord, User,
};
pub(crate) use schema::MovedAside;
#[cfg(test)]
pub(crate) use sync::SYNC_EVERY;

#[cfg(test)]
use crate::ids::{ContainerId, SandboxId};
use writer::Command;

/// Commands that may wait for the store's thread; more callers wait in line.
const QUEUE: usize = 1024;
/// A disk that has not taken a few kilobytes for so long is broken or hangs; a
/// kubelet's own limit is two minutes, and it should learn the reason.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What an acknowledged change outlives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Durability {
    /// The agent's death at once, and a power cut after [`SYNC_EVERY`]. Never waits for the disk.
    Soon,
    /// A power cut at once.
    Synced,
}

/// The store; clones share it. It is closed when the last one is dropped, or by [`Store::close`].
#[derive(Clone, Debug)]
pub(crate) struct Store {
    commands: mpsc::Sender<Command>,
    root: Arc<Path>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// A store that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The store.
    pub(crate) store: Store,
    /// The records of before, if they could not be used. The store is empty then.
    pub(crate) moved_aside: Option<MovedAside>,
}

impl Store {
    /// Opens the store of `root`, making the directory (mode 0700) if it is not there. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another agent uses `root`,
    /// [`StoreError::TooNew`] if a newer one has used it, and failures of the disk.
    /// A broken database is no error; see [`Opened::moved_aside`].
    pub(crate) fn open(root: &Path) -> Result<Opened, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(|error| StoreError::io("create", root, error))?;
        let lock = lock::RootLock::take(root)?;
        let (database, path, moved_aside) = schema::open(root)?;
        let (commands, receiver) = mpsc::channel(QUEUE);
        let thread = writer::spawn(database, path, lock, receiver)?;
        Ok(Opened {
            store: Self {
                commands,
                root: root.into(),
                thread: Arc::new(Mutex::new(Some(thread))),
            },
            moved_aside,
        })
    }

    /// Writes `changes` in one transaction: all or none.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Stuck`] the changes may be stored or not.
    pub(crate) async fn write(
        &self,
        changes: Vec<Change>,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.ask(|reply| Command::Write {
            changes,
            durability,
            reply,
        })
        .await
    }

    /// Reads everything.
    ///
    /// # Errors
    /// [`StoreError`]. Rows that cannot be read are no error but listed.
    pub(crate) async fn load_all(&self) -> Result<Everything, StoreError> {
        self.ask(Command::LoadAll).await.map(|all| *all)
    }

    /// Writes a sandbox's record.
    ///
    /// # Errors
    /// As [`Store::write`], here and below.
    pub(crate) async fn put_sandbox(
        &self,
        record: &SandboxRecord,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.write(vec![Change::put_sandbox(record)?], durability)
            .await
    }

    /// Deletes a sandbox's record and what the ledger still holds for it.
    ///
    /// # Errors
    /// As [`Store::write`].
    #[cfg(test)]
    pub(crate) async fn delete_sandbox(
        &self,
        id: &SandboxId,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let changes = vec![
            Change::delete_sandbox(id),
            Change::remove_effects_of(id.as_str()),
        ];
        self.write(changes, durability).await
    }

    /// Writes a container's record.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub(crate) async fn put_container(
        &self,
        record: &ContainerRecord,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.write(vec![Change::put_container(record)?], durability)
            .await
    }

    /// Deletes a container's record and what the ledger still holds for it.
    ///
    /// # Errors
    /// As [`Store::write`].
    #[cfg(test)]
    pub(crate) async fn delete_container(
        &self,
        id: &ContainerId,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let changes = vec![
            Change::delete_container(id),
            Change::remove_effects_of(id.as_str()),
        ];
        self.write(changes, durability).await
    }

    /// Writes an image's record and names. Always synced: the layers are.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub(crate) async fn put_image(&self, record: &ImageRecord) -> Result<(), StoreError> {
        self.write(vec![Change::put_image(record)?], Durability::Synced)
            .await?;
        let (root, record) = (self.root.clone(), record.clone());
        self.copy(move || copies::write(&root, &record)).await;
        Ok(())
    }

    /// Deletes an image's record and names.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub(crate) async fn delete_image(&self, id: &str) -> Result<(), StoreError> {
        self.write(vec![Change::delete_image(id)], Durability::Synced)
            .await?;
        let (root, id) = (self.root.clone(), id.to_owned());
        self.copy(move || copies::remove(&root, &id)).await;
        Ok(())
    }

    /// A copy that cannot be written costs a second safety, not the first.
    async fn copy(&self, work: impl FnOnce() -> std::io::Result<()> + Send + 'static) {
        let done = tokio::task::spawn_blocking(work).await;
        if let Ok(Err(error)) = done {
            tracing::warn!(%error, "the second copy of an image's record could not be written");
        }
    }

    /// The images of `root` as their second copies have them. Blocks.
    pub(crate) fn image_copies(root: &Path) -> Vec<ImageRecord> {
        copies::read_all(root)
    }

    /// Remembers that the database of `root` has gone although what it was about is
    /// there, as if it had been moved aside. Blocks.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub(crate) fn mark_lost(root: &Path) -> Result<(), StoreError> {
        schema::mark_lost(root)
    }

    /// A database of `root` that was moved aside, the newest, as long as nobody has
    /// taken it away. Blocks.
    pub(crate) fn aside(root: &Path) -> Option<PathBuf> {
        schema::aside(root)
    }

    /// Enters an effect in the ledger; to be called before the effect is made.
    ///
    /// # Errors
    /// As [`Store::write`].
    #[cfg(test)]
    pub(crate) async fn ledger_add(&self, owner: &str, effect: &Effect) -> Result<(), StoreError> {
        self.write(
            vec![Change::add_effect(owner, effect)?],
            effect.durability(),
        )
        .await
    }

    /// Strikes an effect out of the ledger; to be called after it is undone.
    ///
    /// # Errors
    /// As [`Store::write`].
    #[cfg(test)]
    pub(crate) async fn ledger_remove(
        &self,
        owner: &str,
        effect: &Effect,
    ) -> Result<(), StoreError> {
        // If a power cut brings the entry back, what it stands for is undone once more.
        self.write(vec![Change::remove_effect(owner, effect)], Durability::Soon)
            .await
    }

    /// The effects of `owner`, oldest first: undo them in reverse.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub(crate) async fn ledger_of(&self, owner: &str) -> Result<Vec<Entry>, StoreError> {
        let owner = owner.to_owned();
        self.ask(|reply| Command::LedgerOf(owner, reply)).await
    }

    /// Every effect of everybody, oldest first.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub(crate) async fn ledger_all(&self) -> Result<Vec<Entry>, StoreError> {
        self.load_all().await.map(|all| all.ledger)
    }

    /// Finishes what was sent, syncs and closes; other clones get
    /// [`StoreError::Closed`] from then on. Closing again does nothing.
    pub(crate) async fn close(&self) {
        let thread = {
            let mut slot = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
            slot.take()
        };
        let Some(thread) = thread else { return };
        let closing = async {
            // If the thread is gone already, joining it says how.
            let sent = self.commands.send(Command::Close).await;
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            sent.is_ok() && matches!(joined, Ok(Ok(())))
        };
        if !matches!(tokio::time::timeout(ANSWER_LIMIT, closing).await, Ok(true)) {
            tracing::error!("the store was not closed in order");
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            let Ok(()) = self.commands.send(command(reply)).await else {
                return Err(StoreError::Closed);
            };
            answer.await.unwrap_or(Err(StoreError::Closed))
        };
        tokio::time::timeout(ANSWER_LIMIT, exchange)
            .await
            .unwrap_or(Err(StoreError::Stuck(ANSWER_LIMIT)))
    }
}
