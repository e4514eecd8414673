//! One change to the store, encoded by the caller so that the store's own
//! thread only talks to the database.

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use prost::Message as _;
use rusqlite::{Connection, params};
use serde::Serialize;

use super::{AddressRecord, ContainerRecord, Effect, ImageRecord, SandboxRecord, StoreError};
use crate::ids::{ContainerId, SandboxId};

/// Name of the fact that holds the boot for which the records are settled.
pub(super) const BOOT: &str = "boot";

/// A change, ready to be written with others in one transaction.
#[derive(Clone, Debug)]
pub(crate) struct Change(Op);

#[derive(Clone, Debug)]
enum Op {
    PutSandbox(String, String, Vec<u8>),
    DeleteSandbox(String),
    PutContainer(String, String, Vec<u8>),
    DeleteContainer(String),
    PutImage(String, String, Vec<String>),
    DeleteImage(String),
    PutAddress(String, String),
    DeleteAddress(String),
    AddEffect {
        owner: String,
        kind: &'static str,
        key: String,
        data: String,
        created_at: i64,
    },
    RemoveEffect(String, &'static str, String),
    RemoveEffectsOf(String),
    SetFact(&'static str, String),
}

fn json<T: Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::encode(what, error))
}

impl Change {
    /// Writes a sandbox's record, whether it is there or not.
    ///
    /// # Errors
    /// [`StoreError::Encode`], here and in the other functions.
    pub(crate) fn put_sandbox(record: &SandboxRecord) -> Result<Self, StoreError> {
        Ok(Self(Op::PutSandbox(
            record.id.to_string(),
            json("a sandbox's record", record)?,
            record.config.encode_to_vec(),
        )))
    }

    /// Deletes a sandbox's record. The ledger keeps its entries.
    pub(crate) fn delete_sandbox(id: &SandboxId) -> Self {
        Self(Op::DeleteSandbox(id.to_string()))
    }

    /// Writes a container's record, whether it is there or not.
    ///
    /// # Errors
    /// [`StoreError::Encode`].
    pub(crate) fn put_container(record: &ContainerRecord) -> Result<Self, StoreError> {
        Ok(Self(Op::PutContainer(
            record.id.to_string(),
            json("a container's record", record)?,
            record.config.encode_to_vec(),
        )))
    }

    /// Deletes a container's record. The ledger keeps its entries.
    pub(crate) fn delete_container(id: &ContainerId) -> Self {
        Self(Op::DeleteContainer(id.to_string()))
    }

    /// Writes an image's record and makes its names stand for it and for nothing else.
    ///
    /// # Errors
    /// [`StoreError::Encode`].
    pub(crate) fn put_image(record: &ImageRecord) -> Result<Self, StoreError> {
        Ok(Self(Op::PutImage(
            record.id.clone(),
            json("an image's record", record)?,
            record.names.clone(),
        )))
    }

    /// Deletes an image's record and names.
    pub(crate) fn delete_image(id: &str) -> Self {
        Self(Op::DeleteImage(id.to_owned()))
    }

    /// Writes who has an address, or had it.
    ///
    /// # Errors
    /// [`StoreError::Encode`].
    pub(crate) fn put_address(record: &AddressRecord) -> Result<Self, StoreError> {
        Ok(Self(Op::PutAddress(
            record.ip.to_string(),
            json("an address", record)?,
        )))
    }

    /// Forgets an address.
    pub(crate) fn delete_address(ip: IpAddr) -> Self {
        Self(Op::DeleteAddress(ip.to_string()))
    }

    /// Enters an effect of `owner` in the ledger; entering it again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Encode`].
    pub(crate) fn add_effect(owner: &str, effect: &Effect) -> Result<Self, StoreError> {
        let created_at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
            });
        Ok(Self(Op::AddEffect {
            owner: owner.to_owned(),
            kind: effect.kind(),
            key: effect.key(),
            data: json("a ledger entry", effect)?,
            created_at,
        }))
    }

    /// Strikes an effect of `owner` out of the ledger; that it is not there is fine.
    pub(crate) fn remove_effect(owner: &str, effect: &Effect) -> Self {
        Self(Op::RemoveEffect(
            owner.to_owned(),
            effect.kind(),
            effect.key(),
        ))
    }

    /// Strikes every effect of `owner` out of the ledger.
    pub(crate) fn remove_effects_of(owner: &str) -> Self {
        Self(Op::RemoveEffectsOf(owner.to_owned()))
    }

    /// Says that every record is settled for the boot `boot_id`. Write it with
    /// the last record that recovery settles, never before.
    pub(crate) fn settled_for_boot(boot_id: &str) -> Self {
        Self(Op::SetFact(BOOT, boot_id.to_owned()))
    }

    pub(super) fn apply(&self, db: &Connection) -> rusqlite::Result<()> {
        let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
            db.prepare_cached(sql)?.execute(values).map(|_| ())
        };
        match &self.0 {
            Op::PutSandbox(id, record, config) => run(
                "INSERT INTO sandboxes (id, record, config) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET record = ?2, config = ?3",
                params![id, record, config],
            ),
            Op::DeleteSandbox(id) => run("DELETE FROM sandboxes WHERE id = ?1", params![id]),
            Op::PutContainer(id, record, config) => run(
                "INSERT INTO containers (id, record, config) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET record = ?2, config = ?3",
                params![id, record, config],
            ),
            Op::DeleteContainer(id) => run("DELETE FROM containers WHERE id = ?1", params![id]),
            Op::PutImage(id, record, names) => {
                run(
                    "INSERT INTO images (id, record) VALUES (?1, ?2)
                     ON CONFLICT (id) DO UPDATE SET record = ?2",
                    params![id, record],
                )?;
                run("DELETE FROM image_names WHERE image = ?1", params![id])?;
                for name in names {
                    run(
                        "INSERT OR REPLACE INTO image_names (name, image) VALUES (?1, ?2)",
                        params![name, id],
                    )?;
                }
                Ok(())
            }
            Op::DeleteImage(id) => {
                run("DELETE FROM image_names WHERE image = ?1", params![id])?;
                run("DELETE FROM images WHERE id = ?1", params![id])
            }
            Op::PutAddress(ip, record) => run(
                "INSERT OR REPLACE INTO addresses (ip, record) VALUES (?1, ?2)",
                params![ip, record],
            ),
            Op::DeleteAddress(ip) => run("DELETE FROM addresses WHERE ip = ?1", params![ip]),
            Op::AddEffect {
                owner,
                kind,
                key,
                data,
                created_at,
            } => run(
                "INSERT INTO ledger (owner, kind, key, data, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (owner, kind, key) DO UPDATE SET data = ?4",
                params![owner, kind, key, data, created_at],
            ),
            Op::RemoveEffect(owner, kind, key) => run(
                "DELETE FROM ledger WHERE owner = ?1 AND kind = ?2 AND key = ?3",
                params![owner, kind, key],
            ),
            Op::RemoveEffectsOf(owner) => {
                run("DELETE FROM ledger WHERE owner = ?1", params![owner])
            }
            Op::SetFact(name, value) => run(
                "INSERT OR REPLACE INTO facts (name, value) VALUES (?1, ?2)",
                params![name, value],
            ),
        }
    }
}
