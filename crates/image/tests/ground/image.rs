//! Images as a registry holds them.

use berth_image::Digest;

use super::archive::gzip;

/// An image as a registry holds it.
#[derive(Clone)]
pub struct Image {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    /// Blobs, lowest first, and whether compressed.
    pub layers: Vec<Vec<u8>>,
}

impl Image {
    /// Of plain archives, lowest first; every second one is sent compressed.
    pub fn new(archives: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<_> = archives.iter().map(|tar| Digest::of(tar)).collect();
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"User": "7:8", "Env": ["A=b"], "Cmd": ["/bin/sh"], "Labels": {"l": "v"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let layers = archives
            .iter()
            .enumerate()
            .map(|(at, tar)| if at % 2 == 0 { gzip(tar) } else { tar.clone() })
            .collect();
        Self::of(config.to_string().into_bytes(), layers)
    }

    pub fn of(config: Vec<u8>, layers: Vec<Vec<u8>>) -> Self {
        let described: Vec<_> = layers
            .iter()
            .map(|layer| {
                let suffix = match layer.get(..4) {
                    Some([0x1f, 0x8b, ..]) => "+gzip",
                    Some([0x28, 0xb5, 0x2f, 0xfd]) => "+zstd",
                    _ => "",
                };
                serde_json::json!({
                    "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                    "digest": Digest::of(layer),
                    "size": layer.len(),
                })
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": Digest::of(&config),
                "size": config.len(),
            },
            "layers": described,
        });
        Self {
            config,
            manifest: manifest.to_string().into_bytes(),
            layers,
        }
    }
}
