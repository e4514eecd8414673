//! Second copies of records beside what they are about, for the day on which the
//! database is damaged: with them a new one has all pods and containers that run.
//!
//! A copy is written once, when its object is complete, to the object's directory
//! below the run directory, which is memory. What has changed since, the kernel and
//! the shims tell.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    node::Directories,
    store::{ContainerRecord, SandboxRecord},
};

/// The record, as the database has it.
const RECORD: &str = "record.json";
/// What the caller sent, in protobuf's form.
const CONFIG: &str = "config.pb";

/// Writes the copy of a container's record. A failure is logged: it costs a second
/// safety, not the first.
pub(crate) fn write_container(dirs: &Directories, record: &ContainerRecord) {
    told(write(&dirs.shim(&record.id), record, &record.config));
}

/// Writes the copy of a pod sandbox's record; likewise.
pub(crate) fn write_sandbox(dirs: &Directories, record: &SandboxRecord) {
    told(write(&dirs.pod(&record.id), record, &record.config));
}

/// Everything of which there is a copy, oldest first.
pub(crate) fn read_all(dirs: &Directories) -> (Vec<SandboxRecord>, Vec<ContainerRecord>) {
    let mut sandboxes: Vec<SandboxRecord> = below(&dirs.run.join("pods"))
        .filter_map(|dir| {
            let (mut record, config): (SandboxRecord, _) = read(&dir)?;
            record.config = config;
            Some(record)
        })
        .collect();
    let mut containers: Vec<ContainerRecord> = below(&dirs.run.join("shims"))
        .filter_map(|dir| {
            let (mut record, config): (ContainerRecord, _) = read(&dir)?;
            record.config = config;
            Some(record)
        })
        .collect();
    sandboxes.sort_by_key(|record| record.created_at);
    containers.sort_by_key(|record| record.created_at);
    // A container without its pod cannot be shown, stopped or removed by anybody.
    containers.retain(|container| {
        sandboxes
            .iter()
            .any(|sandbox| sandbox.id == container.sandbox_id)
    });
    (sandboxes, containers)
}

fn told(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::warn!(%error, "the second copy of a record could not be written");
    }
}

fn write(dir: &Path, record: &impl Serialize, config: &impl Message) -> io::Result<()> {
    fs::write(dir.join(CONFIG), config.encode_to_vec())?;
    // Last, and by its name: a copy that is there is whole.
    let temporary = dir.join("record.new");
    fs::write(&temporary, serde_json::to_vec(record)?)?;
    fs::rename(temporary, dir.join(RECORD))
}

fn read<R: DeserializeOwned, C: Message + Default>(dir: &Path) -> Option<(R, C)> {
    let record = fs::read(dir.join(RECORD)).ok()?;
    let config = fs::read(dir.join(CONFIG)).ok()?;
    let parsed = serde_json::from_slice(&record)
        .map_err(|error| error.to_string())
        .and_then(|record| {
            let config = C::decode(config.as_slice()).map_err(|error| error.to_string())?;
            Ok((record, config))
        });
    match parsed {
        Ok(both) => Some(both),
        Err(why) => {
            tracing::warn!(dir = %dir.display(), why, "the second copy of a record cannot be read");
            None
        }
    }
}

fn below(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}
