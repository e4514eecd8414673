//! Second copies of images' records beside the database, for the day on which that is
//! damaged: what was unpacked keeps its owner.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::{ImageRecord, schema};

/// Below the database's directory.
const DIRECTORY: &str = "images";

#[derive(Serialize, Deserialize)]
struct Copy {
    names: Vec<String>,
    record: ImageRecord,
}

fn directory(root: &Path) -> PathBuf {
    root.join(schema::DIRECTORY).join(DIRECTORY)
}

/// An image's id is the digest of its configuration, which this agent has computed.
fn path(root: &Path, id: &str) -> PathBuf {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    directory(root).join(format!("{hex}.json"))
}

/// Writes the copy of an image's record. Not synced: it is the second one.
pub(super) fn write(root: &Path, record: &ImageRecord) -> io::Result<()> {
    let path = path(root, &record.id);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let copy = Copy {
        names: record.names.clone(),
        record: record.clone(),
    };
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec(&copy)?)?;
    fs::rename(temporary, path)
}

/// Removes it.
pub(super) fn remove(root: &Path, id: &str) -> io::Result<()> {
    match fs::remove_file(path(root, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Everything of which there is a copy, in the order in which they were written: a name
/// that two of them have belongs to the later one.
pub(super) fn read_all(root: &Path) -> Vec<ImageRecord> {
    let mut found: Vec<(SystemTime, ImageRecord)> = Vec::new();
    for entry in fs::read_dir(directory(root))
        .into_iter()
        .flatten()
        .flatten()
    {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let copy = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Copy>(&bytes).ok());
        let Some(Copy { names, mut record }) = copy else {
            tracing::warn!(path = %path.display(), "the second copy of an image's record cannot be read");
            continue;
        };
        record.names = names;
        let at = entry.metadata().and_then(|metadata| metadata.modified());
        found.push((at.unwrap_or(SystemTime::UNIX_EPOCH), record));
    }
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, record)| record).collect()
}
