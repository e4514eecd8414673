//! ListImages, ImageStatus and ImageFsInfo.

use std::{collections::BTreeMap, sync::Arc};

use berth_proto::cri::{
    FilesystemIdentifier, FilesystemUsage, Image, ImageSpec, Int64Value, UInt64Value,
};

use super::{convert, facts};
use crate::{
    error::Result,
    node::{Node, blocking, now},
    store::ImageRecord,
};

/// Images; with a name, only the one that it stands for.
pub(crate) fn list(node: &Node, wanted: Option<&str>) -> Vec<Image> {
    match wanted {
        // What is no name stands for nothing; a list never fails.
        Some(name) => node
            .images
            .find(name)
            .ok()
            .flatten()
            .iter()
            .map(|record| item(record))
            .collect(),
        None => node
            .images
            .all()
            .iter()
            .map(|record| item(record))
            .collect(),
    }
}

/// One image, if it is there, and verbose information if asked for.
///
/// # Errors
/// InvalidArgument for what is no name of an image.
pub(crate) fn status(
    node: &Node,
    name: &str,
    verbose: bool,
) -> Result<(Option<Image>, BTreeMap<String, String>)> {
    let Some(record) = node.images.find(name)? else {
        return Ok((None, BTreeMap::new()));
    };
    let mut info = BTreeMap::new();
    if verbose {
        let text = serde_json::json!({
            "imageSpec": { "config": record.config },
            "layers": record.layers,
            "pulledAt": record.pulled_at,
        });
        info.insert("info".to_owned(), text.to_string());
    }
    Ok((Some(item(&record)), info))
}

fn item(record: &ImageRecord) -> Image {
    let (digests, tags) = record
        .names
        .iter()
        .cloned()
        .partition(|name| name.contains('@'));
    // A record that cannot be read is listed all the same, so that it can be removed.
    let user = facts::config(record)
        .map(|config| config.user)
        .unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default().to_owned();
    let uid = user.parse::<i64>().ok();
    Image {
        id: record.id.clone(),
        repo_tags: tags,
        repo_digests: digests,
        // A kubelet takes 0 for an error.
        size: record.size.max(1),
        username: if uid.is_some() { String::new() } else { user },
        uid: uid.map(|value| Int64Value { value }),
        spec: Some(ImageSpec {
            image: record.id.clone(),
            ..ImageSpec::default()
        }),
        pinned: record.pinned,
    }
}

/// Use of the two file systems.
pub(crate) struct FsUsage {
    pub(crate) images: FilesystemUsage,
    pub(crate) containers: FilesystemUsage,
}

/// What images and writable layers occupy.
///
/// # Errors
/// Internal if it cannot be read.
pub(crate) async fn fs_usage(node: &Arc<Node>) -> Result<FsUsage> {
    let store = node.images.store.clone();
    let (bytes, inodes) = blocking("read the use of images", move || {
        let usage = store.usage().map_err(convert)?;
        Ok((usage.bytes, usage.inodes))
    })
    .await?;
    let held = node.clone();
    let written = blocking("read the use of containers", move || {
        Ok(held.images.writable.total(held.written_directories()))
    })
    .await?;
    let usage = |path: std::path::PathBuf, bytes, inodes| FilesystemUsage {
        timestamp: now(),
        fs_id: Some(FilesystemIdentifier {
            mountpoint: path.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(UInt64Value { value: bytes }),
        inodes_used: Some(UInt64Value { value: inodes }),
    };
    Ok(FsUsage {
        images: usage(node.dirs.root.join("images"), bytes, inodes),
        containers: usage(
            node.dirs.root.join("containers"),
            written.bytes,
            written.inodes,
        ),
    })
}
