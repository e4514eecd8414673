//! Files of the node that nobody may touch.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

/// The content by which a file of the canary is known.
pub const MARKER: &str = "a file of the node\n";

/// Settings of the whole machine that a container could only change by breaking out.
const SETTINGS: [&str; 6] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/shm_rmid_forced",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/vm/overcommit_memory",
];

/// A directory with one of each thing that has been overwritten or deleted somewhere.
pub struct Canary {
    pub path: PathBuf,
    before: BTreeMap<String, String>,
}

impl Canary {
    pub fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(path.join("directory"))?;
        for name in ["marker", "ptmx", "null", "hostname", "directory/file"] {
            fs::write(path.join(name), MARKER)?;
        }
        fs::set_permissions(path.join("marker"), fs::Permissions::from_mode(0o4755))?;
        nix::unistd::mkfifo(&path.join("fifo"), nix::sys::stat::Mode::S_IRWXU)?;
        let before = look(&path)?;
        Ok(Self { path, before })
    }

    /// Nothing has been made, changed or removed.
    pub fn check(&self) -> Result<()> {
        let now = look(&self.path)?;
        ensure!(
            now == self.before,
            "the canary was touched:\n{:#?}\nwas\n{:#?}",
            now,
            self.before
        );
        Ok(())
    }
}

fn look(path: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut left = vec![path.to_owned()];
    while let Some(at) = left.pop() {
        let metadata = fs::symlink_metadata(&at)?;
        let content = if metadata.is_file() {
            fs::read_to_string(&at)?
        } else {
            String::new()
        };
        let facts = format!(
            "inode {} mode {:o} owner {}:{} links {} changed {}.{} {content:?}",
            metadata.ino(),
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.nlink(),
            metadata.ctime(),
            metadata.ctime_nsec()
        );
        if metadata.is_dir() {
            for entry in fs::read_dir(&at)? {
                left.push(entry?.path());
            }
        }
        found.insert(at.display().to_string(), facts);
    }
    for setting in SETTINGS {
        let value = fs::read_to_string(setting).unwrap_or_default();
        found.insert(setting.to_owned(), value);
    }
    Ok(found)
}
