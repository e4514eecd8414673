//! What comes from registries and archives.

use std::{fs, path::Path};

use berth_image::{
    Algorithm, Digest, Hasher, ImportFormat, ImportOptions, Limits, Platform, Reference, Settings,
    Store, Target, classify, fuzzing, tar::Reader,
};
use berth_phase::Tracker;
use tokio_util::sync::CancellationToken;

/// A stream of any bytes ends, in an error or at its end, within its own length.
pub(crate) fn tar(data: &[u8]) {
    let mut reader = Reader::new(data);
    let mut buffer = [0_u8; 512];
    while let Ok(Some(_)) = reader.next() {
        while let Ok(1..) = reader.read_data(&mut buffer) {}
    }
    assert!(reader.offset() <= data.len() as u64);
}

/// What a path in a layer means never leads upwards.
pub(crate) fn whiteouts(data: &[u8]) {
    let parts = match classify(data) {
        Ok(Target::Entry(mut parents, name) | Target::Whiteout(mut parents, name)) => {
            parents.push(name);
            parents
        }
        Ok(Target::Opaque(parents)) => parents,
        Ok(Target::Root | Target::Ignored) | Err(_) => return,
    };
    for part in parts {
        assert!(!part.is_empty() && part != b"." && part != b"..");
        assert!(!part.contains(&b'/') && !part.contains(&0));
    }
}

/// A reference that parses is written so that it parses to itself again.
pub(crate) fn references(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(reference) = text.parse::<Reference>() {
        let shown = reference.to_string();
        let again = shown.parse::<Reference>().map(|again| again.to_string());
        assert_eq!(again.ok().as_ref(), Some(&shown));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
}

/// Indexes, manifests and configurations are taken or refused.
pub(crate) fn documents(data: &[u8]) {
    fuzzing::documents(data);
}

/// So are files of mirrors.
pub(crate) fn hosts(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        fuzzing::hosts(text);
    }
}

/// So are the ways to authenticate that a registry offers.
pub(crate) fn challenges(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        fuzzing::challenges(text);
    }
}

/// A root file system of any bytes, plain or compressed: in the store or refused,
/// and never a file outside.
pub(crate) fn layer(data: &[u8]) {
    imported(data, ImportFormat::Rootfs);
}

/// As a layer of an OCI layout, where it may be compressed in any known way; and
/// as the whole archive.
pub(crate) fn import(data: &[u8]) {
    imported(data, ImportFormat::Auto);
    if let Some(layout) = layout(data) {
        imported(&layout, ImportFormat::OciLayout);
    }
}

fn imported(data: &[u8], format: ImportFormat) {
    let Some(ground) = Ground::new() else {
        return;
    };
    let options = ImportOptions {
        format,
        reference: "fuzz.test/image:1".parse().ok(),
        config: None,
        platform: Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            variant: None,
        },
        all_platforms: true,
    };
    let result = ground.store.import(
        data,
        &options,
        &Tracker::unobserved("import"),
        &CancellationToken::new(),
    );
    drop(result);
    ground.check();
}

/// A store in a directory that must not get a second entry.
struct Ground {
    dir: tempfile::TempDir,
    store: Store,
}

impl Ground {
    fn new() -> Option<Self> {
        // In memory: a disk would be asked thousands of times in a second.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let dir = tempfile::Builder::new()
            .prefix("berth-fuzz-")
            .tempdir_in(parent)
            .ok()?;
        let settings = Settings {
            limits: Limits {
                layer_bytes: 4 << 20,
                entries: 512,
                ..Limits::default()
            },
            ..Settings::default()
        };
        let store = Store::open_with(&dir.path().join("store"), settings).ok()?;
        Some(Self { dir, store })
    }

    fn check(&self) {
        let names = |path: &Path| -> Vec<_> {
            fs::read_dir(path)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name())
                .collect()
        };
        assert_eq!(names(self.dir.path()), ["store"], "a file outside");
        let left = names(&self.dir.path().join("store/ingest"));
        assert!(left.is_empty(), "left in ingest: {left:?}");
    }
}

/// An OCI layout whose only layer is `data`.
fn layout(data: &[u8]) -> Option<Vec<u8>> {
    let digest = |bytes: &[u8]| {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    };
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        // What the layer inflates to is not known here; it is compared last.
        "rootfs": { "type": "layers", "diff_ids": [digest(data)] },
    })
    .to_string();
    let descriptor = |kind: &str, bytes: &[u8]| {
        serde_json::json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest(bytes),
            "size": bytes.len(),
        })
    };
    let kind = match data {
        [0x1f, 0x8b, ..] => "layer.v1.tar+gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "layer.v1.tar+zstd",
        _ => "layer.v1.tar",
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config.as_bytes()),
        "layers": [descriptor(kind, data)],
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [descriptor("manifest.v1+json", manifest.as_bytes())],
    })
    .to_string();
    let blob = |bytes: &[u8]| format!("blobs/{}", digest(bytes).to_string().replace(':', "/"));
    let mut archive = ::tar::Builder::new(Vec::new());
    for (name, content) in [
        (
            "oci-layout".to_owned(),
            &br#"{"imageLayoutVersion":"1.0.0"}"#[..],
        ),
        ("index.json".to_owned(), index.as_bytes()),
        (blob(manifest.as_bytes()), manifest.as_bytes()),
        (blob(config.as_bytes()), config.as_bytes()),
        (blob(data), data),
    ] {
        let mut header = ::tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content).ok()?;
    }
    archive.into_inner().ok()
}
