//! The store's own thread: the only one that writes to the database.
//!
//! Writes that wait together are committed together, each under a savepoint of
//! its own: with eight pods starting at a time one sync then serves them all.

use std::{path::PathBuf, thread};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::{
    Change, Durability, Entry, Everything, StoreError, load, lock::RootLock, sync::Syncer,
};

/// Most writes in one commit, so that the first of them does not wait for long.
const MAX_GROUP: usize = 64;

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

#[derive(Debug)]
pub(super) enum Command {
    Write {
        changes: Vec<Change>,
        durability: Durability,
        reply: Reply<()>,
    },
    LoadAll(Reply<Box<Everything>>),
    LedgerOf(String, Reply<Vec<Entry>>),
    /// Ends the thread; what was sent before is carried out.
    Close,
}

struct Write {
    changes: Vec<Change>,
    durability: Durability,
    reply: Reply<()>,
}

/// Starts the thread. It ends, with everything synced, when it is told to or
/// when the last sender is gone.
pub(super) fn spawn(
    database: Connection,
    path: PathBuf,
    lock: RootLock,
    commands: mpsc::Receiver<Command>,
) -> Result<thread::JoinHandle<()>, StoreError> {
    let syncer = Syncer::start(&path)?;
    thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || {
            run(database, commands, &syncer);
            syncer.finish();
            // Held to the very end: the next agent must find all files closed.
            drop(lock);
        })
        .map_err(|error| StoreError::io("start the thread that writes", path, error))
}

fn run(mut database: Connection, mut commands: mpsc::Receiver<Command>, syncer: &Syncer) {
    let mut group: Vec<Write> = Vec::new();
    let mut next = commands.blocking_recv();
    while let Some(command) = next.take() {
        match command {
            Command::Write {
                changes,
                durability,
                reply,
            } => {
                group.push(Write {
                    changes,
                    durability,
                    reply,
                });
                if group.len() < MAX_GROUP
                    && let Ok(command) = commands.try_recv()
                {
                    next = Some(command);
                    continue;
                }
            }
            // What was sent before a read is seen by it.
            Command::LoadAll(reply) => {
                commit(&mut database, &mut group, syncer);
                answer(reply, load::everything(&database).map(Box::new));
            }
            Command::LedgerOf(owner, reply) => {
                commit(&mut database, &mut group, syncer);
                answer(reply, load::ledger_of(&database, &owner));
            }
            Command::Close => break,
        }
        commit(&mut database, &mut group, syncer);
        next = commands.blocking_recv();
    }
    commit(&mut database, &mut group, syncer);
    if let Err((_, error)) = database.close() {
        tracing::error!(%error, "closing the store failed");
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, StoreError>) {
    // A caller that has left does not want the answer; a failure is worth a line then.
    if let Err(Err(error)) = reply.send(result) {
        tracing::warn!(%error, "a change whose caller has left was not stored");
    }
}

fn commit(database: &mut Connection, group: &mut Vec<Write>, syncer: &Syncer) {
    if group.is_empty() {
        return;
    }
    let durability = group
        .iter()
        .map(|write| write.durability)
        .max()
        .unwrap_or(Durability::Soon);
    let outcome = transact(database, group, durability);
    if outcome.is_ok() && durability == Durability::Soon {
        syncer.dirty();
    }
    match outcome {
        Ok(results) => {
            for (write, result) in group.drain(..).zip(results) {
                answer(write.reply, result);
            }
        }
        Err(error) => {
            for write in group.drain(..) {
                answer(write.reply, Err(error.clone()));
            }
        }
    }
}

/// One result per write; or one error for all, and then nothing was stored.
fn transact(
    database: &mut Connection,
    group: &[Write],
    durability: Durability,
) -> Result<Vec<Result<(), StoreError>>, StoreError> {
    let failed = |error| StoreError::database("commit to the database", error);
    // In WAL mode FULL syncs the log at the end of the commit, and with it all
    // earlier commits; NORMAL leaves it to the page cache, which outlives this
    // process. The setting may change between transactions.
    let level = match durability {
        Durability::Soon => "NORMAL",
        Durability::Synced => "FULL",
    };
    database
        .pragma_update(None, "synchronous", level)
        .map_err(failed)?;
    let mut transaction = database
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let mut results = Vec::with_capacity(group.len());
    for write in group {
        let savepoint = transaction.savepoint().map_err(failed)?;
        let applied = write
            .changes
            .iter()
            .try_for_each(|change| change.apply(&savepoint));
        results.push(match applied {
            Ok(()) => savepoint.commit(),
            Err(error) => savepoint.finish().and(Err(error)),
        });
    }
    transaction.commit().map_err(failed)?;
    Ok(results
        .into_iter()
        .map(|result| result.map_err(|error| StoreError::database("write a record", error)))
        .collect())
}
