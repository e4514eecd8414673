//! The database file: where it lies, its tables, and how an older or a broken
//! one is dealt with.

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rusqlite::Connection;

use super::StoreError;

/// Below the root; mode 0700, because environments may hold secrets.
pub(super) const DIRECTORY: &str = "records";
const NAME: &str = "berth.db";
/// `BRTH`: marks the file as ours for tools such as file(1).
const APPLICATION_ID: i64 = 0x4252_5448;

/// A person with `sqlite3` may hold a lock for a moment; nobody else can.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Each entry leads from the version of its index to the next. Entries are
/// never changed once released; add new ones at the end.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY, record TEXT NOT NULL, config BLOB NOT NULL
    ) STRICT;
    CREATE TABLE containers (
        id TEXT PRIMARY KEY, record TEXT NOT NULL, config BLOB NOT NULL
    ) STRICT;
    CREATE TABLE images (
        id TEXT PRIMARY KEY, record TEXT NOT NULL
    ) STRICT;
    CREATE TABLE image_names (
        name TEXT PRIMARY KEY, image TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_names_by_image ON image_names (image);
    CREATE TABLE addresses (
        ip TEXT PRIMARY KEY, record TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE ledger (
        owner TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL,
        data TEXT NOT NULL, created_at INTEGER NOT NULL,
        UNIQUE (owner, kind, key)
    ) STRICT;
    CREATE TABLE facts (
        name TEXT PRIMARY KEY, value TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
"];

/// A database that could not be used and was put away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MovedAside {
    /// Where it lies now.
    pub(crate) path: PathBuf,
    /// What was wrong with it.
    pub(crate) why: String,
}

/// Opens the database of `root`, making or migrating it as needed. One that is
/// broken is moved aside, since an agent that does not start helps nobody: the
/// containers go on, and their shims can be asked.
pub(super) fn open(root: &Path) -> Result<(Connection, PathBuf, Option<MovedAside>), StoreError> {
    let directory = root.join(DIRECTORY);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|error| StoreError::io("create", &directory, error))?;
    let path = directory.join(NAME);
    let opened = match open_checked(&path) {
        Ok(connection) => (connection, None),
        Err(Refused::Broken(why)) => {
            let aside = move_aside(&path, why)?;
            let connection = open_checked(&path).map_err(|refused| match refused {
                Refused::Failed(error) => error,
                Refused::Broken(why) => StoreError::io(
                    "make a new database in place of a broken one at",
                    &path,
                    std::io::Error::other(why),
                ),
            })?;
            (connection, Some(aside))
        }
        Err(Refused::Failed(error)) => return Err(error),
    };
    // The names of the new files, once; SQLite syncs what is in them.
    for directory in [directory.as_path(), root] {
        File::open(directory)
            .and_then(|file| file.sync_all())
            .map_err(|error| StoreError::io("sync", directory, error))?;
    }
    Ok((opened.0, path, opened.1))
}

/// The newest database that was moved aside and is still there.
pub(super) fn aside(root: &Path) -> Option<PathBuf> {
    let prefix = format!("{NAME}.broken-");
    let mut found: Vec<PathBuf> = fs::read_dir(root.join(DIRECTORY))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(&prefix) && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.pop()
}

/// Puts an empty file where a database would lie that was moved aside.
pub(super) fn mark_lost(root: &Path) -> Result<(), StoreError> {
    let path = free_name(&root.join(DIRECTORY).join(NAME));
    File::create(&path)
        .map(drop)
        .map_err(|error| StoreError::io("create", &path, error))
}

/// Another connection to a database that is open already.
pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection =
        Connection::open(path).map_err(|error| StoreError::database("open the database", error))?;
    let configure = || {
        connection.busy_timeout(BUSY_LIMIT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        // Checkpoints sync; they are taken beside the requests' path. This is
        // the bound (in pages) should that fail.
        connection.pragma_update(None, "wal_autocheckpoint", 10_000)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        // KiB. Records are small, and the agent's memory is counted.
        connection.pragma_update(None, "cache_size", -512)
    };
    configure().map_err(|error| StoreError::database("configure the database", error))?;
    Ok(connection)
}

enum Refused {
    Broken(String),
    Failed(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        if error.is_corruption() {
            Self::Broken(crate::error::Error::from(error).sentence())
        } else {
            Self::Failed(error)
        }
    }
}

fn open_checked(path: &Path) -> Result<Connection, Refused> {
    let mut connection = connect(path)?;
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| StoreError::database("check the database", error))?;
    if verdict != "ok" {
        return Err(Refused::Broken(verdict));
    }
    migrate(&mut connection, path)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::database("migrate the database", error);
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    if found > known {
        return Err(StoreError::TooNew {
            path: path.to_owned(),
            found,
            known,
        });
    }
    for (version, step) in (1_i64..).zip(MIGRATIONS) {
        if version <= found {
            continue;
        }
        // One transaction with the version, so that a crash leaves the one or the other.
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(step).map_err(failed)?;
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(failed)?;
        transaction
            .pragma_update(None, "application_id", APPLICATION_ID)
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

/// A name for a database that is moved aside.
fn free_name(path: &Path) -> PathBuf {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut aside = path.to_owned();
    for attempt in 0_u32.. {
        aside = path.with_file_name(format!("{NAME}.broken-{seconds}-{attempt}"));
        if !aside.exists() {
            break;
        }
    }
    aside
}

fn move_aside(path: &Path, why: String) -> Result<MovedAside, StoreError> {
    let aside = free_name(path);
    for suffix in ["", "-wal", "-shm"] {
        let name = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        let from = name(path);
        match fs::rename(&from, name(&aside)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("move aside", from, error)),
        }
    }
    Ok(MovedAside { path: aside, why })
}
