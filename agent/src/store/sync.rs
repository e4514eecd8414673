//! Syncs the write-ahead log every few seconds, and moves it into the database
//! when it has grown, on a thread of its own: no request waits for the disk.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::{StoreError, schema};

/// How much of what was acknowledged as [`Soon`](super::Durability::Soon) a power cut may take.
pub(crate) const SYNC_EVERY: Duration = Duration::from_secs(2);
/// Size of the log, in bytes, from which on it is moved into the database.
const CHECKPOINT_FROM: u64 = 4 << 20;

#[derive(Debug)]
pub(super) struct Syncer {
    dirty: SyncSender<()>,
    thread: thread::JoinHandle<()>,
}

impl Syncer {
    pub(super) fn start(database: &Path) -> Result<Self, StoreError> {
        let path = database.to_owned();
        // Opened here so that a failure is the agent's failure to start.
        let connection = schema::connect(database)?;
        let (dirty, waiting) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("store-sync".to_owned())
            .spawn(move || run(&connection, &path, &waiting))
            .map_err(|error| StoreError::io("start the thread that syncs", database, error))?;
        Ok(Self { dirty, thread })
    }

    /// Something was committed that is not synced.
    pub(super) fn dirty(&self) {
        match self.dirty.try_send(()) {
            // Full: it knows already.
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => {
                tracing::error!("the thread that syncs the store is gone");
            }
        }
    }

    /// Syncs what is left and ends.
    pub(super) fn finish(self) {
        drop(self.dirty);
        if self.thread.join().is_err() {
            tracing::error!("the thread that syncs the store panicked");
        }
    }
}

fn run(connection: &Connection, database: &Path, dirty: &Receiver<()>) {
    let log = PathBuf::from(format!("{}-wal", database.display()));
    let mut more = true;
    while more && dirty.recv().is_ok() {
        let until = Instant::now() + SYNC_EVERY;
        loop {
            match dirty.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    more = false;
                    break;
                }
            }
        }
        if let Err(error) = settle(connection, &log) {
            let error = crate::error::Error::from(error).sentence();
            tracing::error!(error, "syncing the store failed");
        }
    }
}

fn settle(connection: &Connection, log: &Path) -> Result<(), StoreError> {
    // SQLite locks the database and the shared memory but never the log, so
    // that closing this descriptor drops no lock of its own.
    let file = match File::open(log) {
        Ok(file) => file,
        // The writer has closed the database, which moves and deletes the log.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("open", log, error)),
    };
    let size = fs::metadata(log).map_or(0, |metadata| metadata.len());
    if size < CHECKPOINT_FROM {
        return file
            .sync_data()
            .map_err(|error| StoreError::io("sync", log, error));
    }
    // Syncs the log, moves it, and syncs the database; never waits for the writer.
    connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        .map_err(|error| StoreError::database("move the log into the database", error))
}
