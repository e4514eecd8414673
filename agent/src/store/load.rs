//! Reading everything back.

use std::collections::HashMap;

use prost::Message;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::de::DeserializeOwned;

use super::{
    AddressRecord, ContainerRecord, Effect, Entry, ImageRecord, SandboxRecord, StoreError,
    change::BOOT,
};

/// All that the store holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Everything {
    /// Oldest first.
    pub(crate) sandboxes: Vec<SandboxRecord>,
    /// Oldest first.
    pub(crate) containers: Vec<ContainerRecord>,
    /// By id.
    pub(crate) images: Vec<ImageRecord>,
    /// In use or freed.
    pub(crate) addresses: Vec<AddressRecord>,
    /// Oldest first.
    pub(crate) ledger: Vec<Entry>,
    /// The boot for which the records were last settled; none before the first time.
    pub(crate) settled_for_boot: Option<String>,
    /// Rows that this agent cannot read. They stay where they are, and so must
    /// the effects of their owners.
    pub(crate) unreadable: Vec<Unreadable>,
}

/// A row that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// The table.
    pub(crate) table: &'static str,
    /// Its key; for the ledger, the owner.
    pub(crate) id: String,
    /// What is wrong.
    pub(crate) why: String,
}

pub(super) fn everything(db: &Connection) -> Result<Everything, StoreError> {
    read(db).map_err(|error| StoreError::database("read the records", error))
}

pub(super) fn ledger_of(db: &Connection, owner: &str) -> Result<Vec<Entry>, StoreError> {
    let mut all = Everything::default();
    read_ledger(db, Some(owner), &mut all)
        .map_err(|error| StoreError::database("read the ledger", error))?;
    Ok(all.ledger)
}

fn read(db: &Connection) -> rusqlite::Result<Everything> {
    let mut all = Everything::default();
    for (id, record, config) in rows_with_config(db, "SELECT id, record, config FROM sandboxes")? {
        match decode::<SandboxRecord, _>(&record, &config) {
            Ok((mut record, config)) => {
                record.config = config;
                all.sandboxes.push(record);
            }
            Err(why) => all.unreadable("sandboxes", id, why),
        }
    }
    for (id, record, config) in rows_with_config(db, "SELECT id, record, config FROM containers")? {
        match decode::<ContainerRecord, _>(&record, &config) {
            Ok((mut record, config)) => {
                record.config = config;
                all.containers.push(record);
            }
            Err(why) => all.unreadable("containers", id, why),
        }
    }
    all.sandboxes.sort_by_key(|record| record.created_at);
    all.containers.sort_by_key(|record| record.created_at);

    let mut names: HashMap<String, Vec<String>> = HashMap::new();
    for (name, image) in rows(db, "SELECT name, image FROM image_names ORDER BY name")? {
        names.entry(image).or_default().push(name);
    }
    for (id, record) in rows(db, "SELECT id, record FROM images ORDER BY id")? {
        match serde_json::from_str::<ImageRecord>(&record) {
            Ok(mut record) => {
                record.names = names.remove(&id).unwrap_or_default();
                all.images.push(record);
            }
            Err(error) => all.unreadable("images", id, error.to_string()),
        }
    }
    for (ip, record) in rows(db, "SELECT ip, record FROM addresses ORDER BY ip")? {
        match serde_json::from_str(&record) {
            Ok(record) => all.addresses.push(record),
            Err(error) => all.unreadable("addresses", ip, error.to_string()),
        }
    }
    read_ledger(db, None, &mut all)?;
    all.settled_for_boot = db
        .query_row("SELECT value FROM facts WHERE name = ?1", [BOOT], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(all)
}

fn read_ledger(db: &Connection, owner: Option<&str>, all: &mut Everything) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(
        "SELECT owner, data, created_at FROM ledger
         WHERE ?1 IS NULL OR owner = ?1 ORDER BY rowid",
    )?;
    let mut rows = statement.query(params![owner])?;
    while let Some(row) = rows.next()? {
        let owner: String = row.get(0)?;
        let data: String = row.get(1)?;
        match serde_json::from_str::<Effect>(&data) {
            Ok(effect) => all.ledger.push(Entry {
                owner,
                effect,
                created_at: row.get(2)?,
            }),
            Err(error) => all.unreadable("ledger", owner, error.to_string()),
        }
    }
    Ok(())
}

fn rows(db: &Connection, sql: &str) -> rusqlite::Result<Vec<(String, String)>> {
    db.prepare(sql)?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

fn rows_with_config(
    db: &Connection,
    sql: &str,
) -> rusqlite::Result<Vec<(String, String, Vec<u8>)>> {
    db.prepare(sql)?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

fn decode<R: DeserializeOwned, C: Message + Default>(
    record: &str,
    config: &[u8],
) -> Result<(R, C), String> {
    let record = serde_json::from_str(record).map_err(|error| error.to_string())?;
    let config = C::decode(config).map_err(|error| error.to_string())?;
    Ok((record, config))
}

impl Everything {
    fn unreadable(&mut self, table: &'static str, id: String, why: String) {
        self.unreadable.push(Unreadable { table, id, why });
    }
}
