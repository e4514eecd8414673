//! What the tests stand on: archives made by hand, images, and a registry that
//! does what it is told.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test program uses a part of it, and none is a library"
)]

pub mod archive;
pub mod image;
pub mod registry;
pub mod tls;
pub mod uploads;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use berth_image::{
    Error, Platform, PullProgress, PullRequest, Registries, Settings, Store, StoredImage,
};
use tokio_util::sync::CancellationToken;

/// A directory that goes away with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("berth-image-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests unpack layers with their owners and devices: run them as root"
        );
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn store(&self) -> Store {
        Store::open(&self.0.join("store")).unwrap()
    }

    pub fn store_with(&self, settings: Settings) -> Store {
        Store::open_with(&self.0.join("store"), settings).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub fn amd64() -> Platform {
    Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: None,
    }
}

pub fn request(reference: &str) -> PullRequest {
    PullRequest {
        reference: reference.parse().unwrap(),
        auth: None,
        platform: amd64(),
        all_platforms: false,
    }
}

pub async fn pull(store: &Store, request: PullRequest) -> Result<StoredImage, Error> {
    let tracker = berth_phase::Tracker::unobserved("test-pull");
    let (progress, _) = tokio::sync::watch::channel(PullProgress::default());
    store
        .pull(request, &tracker, progress, CancellationToken::new())
        .await
}

/// Bytes that do not compress.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(step).take(bytes).collect()
}

/// A layer of one file of `bytes` bytes that do not compress.
pub fn large_layer(name: &str, bytes: usize, seed: u64) -> Vec<u8> {
    archive::Tar::new().bytes(name, &noise(bytes, seed)).end()
}

/// The names in a directory of the store.
pub fn names(store: &Store, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(store.path().join(directory)).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn settings(registries: Registries) -> Settings {
    Settings {
        registries,
        ..Settings::default()
    }
}

/// Nothing but empty directories: no layer, no blob, nothing in the making.
pub fn assert_empty(store: &Store) {
    for directory in [
        "layers",
        "ingest",
        "blobs/sha256",
        "blobs/sha512",
        "partial",
    ] {
        let names: Vec<_> = std::fs::read_dir(store.path().join(directory))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(names.is_empty(), "{directory} holds {names:?}");
    }
}

/// Everything below `root`, one line each, so that two trees can be compared.
pub fn listing(root: &Path) -> BTreeMap<String, String> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    fn walk(root: &Path, at: &Path, out: &mut BTreeMap<String, String>) {
        let meta = at.symlink_metadata().unwrap();
        let kind = meta.file_type();
        let what = if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(at).unwrap().display())
        } else if kind.is_dir() {
            "dir".to_owned()
        } else if kind.is_file() {
            format!(
                "file {:?}",
                String::from_utf8_lossy(&std::fs::read(at).unwrap())
            )
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("device {}", meta.rdev())
        };
        let name = at.strip_prefix(root).unwrap().display().to_string();
        let line = format!(
            "{what} {:o} {}:{}",
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid()
        );
        out.insert(name, line);
        if kind.is_dir() {
            for entry in std::fs::read_dir(at).unwrap() {
                walk(root, &entry.unwrap().path(), out);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut out);
    out
}
