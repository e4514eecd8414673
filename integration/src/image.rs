//! Images from files, equal to the byte however often they are made.

mod layer;
mod layout;
mod push;
mod samples;

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use layer::{Compression, Entry, Layer, tar};
pub use push::push;
pub use samples::{APPLETS, bomb, busybox, busybox_with, climbing, demo, overlaying};

/// Media type of an OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an OCI image configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// `sha256:` and the digest of `bytes` in hex.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// An image with all its bytes.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest, or the index for several platforms.
    pub manifest: Vec<u8>,
    /// Its media type.
    pub media_type: &'static str,
    /// Further manifests that an index names, by digest.
    pub manifests: BTreeMap<String, Vec<u8>>,
    /// Configurations and layers by digest.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// Digest of the configuration: the image's id.
    pub id: String,
    /// Digests of the layers as stored, lowest first.
    pub layers: Vec<String>,
}

impl Image {
    /// An image of `layers`, lowest first, with `config` as the `config`
    /// member of its configuration.
    ///
    /// # Errors
    /// If a layer cannot be compressed.
    pub fn new(layers: &[Layer], config: Value) -> Result<Self> {
        Self::for_platform(layers, config, architecture())
    }

    /// As [`Image::new`], for another architecture in OCI's words.
    ///
    /// # Errors
    /// As [`Image::new`].
    pub fn for_platform(layers: &[Layer], config: Value, architecture: &str) -> Result<Self> {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(&layer.tar)).collect();
        Self::with_configuration(
            layers,
            json!({
                "architecture": architecture,
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": config,
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            }),
        )
    }

    /// As [`Image::new`], with a whole configuration, which need not be a sensible one.
    ///
    /// # Errors
    /// As [`Image::new`].
    pub fn with_configuration(layers: &[Layer], configuration: Value) -> Result<Self> {
        let mut blobs = BTreeMap::new();
        let mut descriptors = Vec::new();
        let mut stored_layers = Vec::new();
        for layer in layers {
            let stored = layer.stored()?;
            let name = digest(&stored);
            descriptors.push(json!({
                "mediaType": layer.media_type(), "digest": name, "size": stored.len(),
            }));
            stored_layers.push(name.clone());
            blobs.insert(name, stored);
        }
        let configuration = serde_json::to_vec(&configuration)?;
        let id = digest(&configuration);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": id, "size": configuration.len() },
            "layers": descriptors,
        });
        blobs.insert(id.clone(), configuration);
        Ok(Self {
            manifest: serde_json::to_vec(&manifest)?,
            media_type: MANIFEST,
            manifests: BTreeMap::new(),
            blobs,
            id,
            layers: stored_layers,
        })
    }

    /// An index of several images, each with its architecture. The id is that
    /// of the image for this machine.
    ///
    /// # Errors
    /// If the index cannot be written as JSON.
    pub fn index(images: &[(&str, Image)]) -> Result<Self> {
        let mut whole = Self {
            manifest: Vec::new(),
            media_type: INDEX,
            manifests: BTreeMap::new(),
            blobs: BTreeMap::new(),
            id: String::new(),
            layers: Vec::new(),
        };
        let mut descriptors = Vec::new();
        for (platform, image) in images {
            let name = image.digest();
            descriptors.push(json!({
                "mediaType": MANIFEST, "digest": name, "size": image.manifest.len(),
                "platform": { "os": "linux", "architecture": platform },
            }));
            whole.manifests.insert(name, image.manifest.clone());
            whole.blobs.extend(image.blobs.clone());
            if *platform == architecture() {
                whole.id = image.id.clone();
                whole.layers = image.layers.clone();
            }
        }
        whole.manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors,
        }))?;
        Ok(whole)
    }

    /// Digest of the manifest or index.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }
}

/// This machine's architecture in OCI's words.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_make_the_same_bytes() {
        let make = || overlaying(b"not really busybox").unwrap();
        assert_eq!(make().digest(), make().digest());
        assert_eq!(make().blobs, make().blobs);
    }

    #[test]
    fn an_index_names_the_image_of_this_machine() {
        let own = Image::new(&[], json!({})).unwrap();
        let other = Image::for_platform(&[], json!({}), "s390x").unwrap();
        let index = Image::index(&[("s390x", other), (architecture(), own.clone())]).unwrap();
        assert_eq!(index.id, own.id);
        assert_eq!(index.manifests.len(), 2);
    }
}
