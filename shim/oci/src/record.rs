//! What is kept of a container between commands: a directory with its record and
//! its configuration.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bundle::read_json;

/// Longest name: it becomes a file name.
const LONGEST: usize = 255;

/// The record of one container.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) oci_version: String,
    pub(crate) id: String,
    /// 0 while it is being made.
    pub(crate) pid: i32,
    /// When that process was started, in clock ticks since boot: with it the process
    /// cannot be mistaken for a later one of the same number.
    pub(crate) start_ticks: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Of its control groups, below the root of each hierarchy.
    pub(crate) cgroup: String,
    /// The scope of systemd that the groups are; empty with the cgroupfs driver.
    #[serde(default)]
    pub(crate) scope: String,
}

/// The directory of a container.
#[derive(Debug)]
pub(crate) struct Home(PathBuf);

/// Whether `id` can be a container's name.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() {
        bail!("container id cannot be empty");
    }
    if id.len() > LONGEST || matches!(id, "." | "..") || !id.bytes().all(plain) {
        bail!(
            "invalid container id {id:?}: at most {LONGEST} letters, digits, and the characters _ + - ."
        );
    }
    Ok(())
}

impl Home {
    /// Makes the directory, which reserves the name.
    pub(crate) fn make(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let what = || format!("making {}", root.display());
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.recursive(true).create(root).with_context(what)?;
        let path = root.join(id);
        match builder.recursive(false).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("container with given ID already exists: {id}")
            }
            other => other.with_context(|| format!("making {}", path.display()))?,
        }
        Ok(Self(path))
    }

    /// The directory of a container that exists.
    pub(crate) fn find(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let path = root.join(id);
        if !path.is_dir() {
            bail!("container {id:?} does not exist");
        }
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes the record whole or not at all.
    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        self.write("state.json", &serde_json::to_vec(record)?)
    }

    pub(crate) fn save_config(&self, config: &Value) -> Result<()> {
        self.write("config.json", &serde_json::to_vec(config)?)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.0.join(name);
        let new = self.0.join(format!("{name}.new"));
        let what = || format!("writing {}", path.display());
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new);
        file.and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&new, &path))
            .with_context(what)
    }

    pub(crate) fn load(&self) -> Result<Record> {
        let path = self.0.join("state.json");
        let value = read_json(&path)?;
        serde_json::from_value(value).with_context(|| path.display().to_string())
    }

    /// As it was when the container was created, whatever became of the bundle.
    pub(crate) fn config(&self) -> Result<Value> {
        read_json(&self.0.join("config.json"))
    }

    /// Removes the directory and with it the name.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}
