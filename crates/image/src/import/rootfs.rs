//! An image of one layer from the files of a system.

use std::{fs::File, io::BufReader};

use berth_phase::Phase;
use serde_json::{Value, json};

use super::{ArchiveError, Import, Imported, source::Piece};
use crate::{
    Error,
    document::{DOCUMENT_MAX, parse_config, synthesise},
    image::Documents,
    name::Digest,
    store::layer_key,
    unpack::{Expected, unpack},
};

impl Import<'_> {
    pub(super) fn rootfs(&self, file: File) -> Result<Vec<Imported>, Error> {
        let config = self.given_config()?;
        self.tracker.enter(Phase::Unpack, "layer")?;
        let piece = Piece::whole(file).map_err(ArchiveError::Read)?;
        let expected = Expected {
            blob: Digest::of(b""),
            check_blob: false,
            diff_id: None,
        };
        let stream = BufReader::with_capacity(256 << 10, piece);
        let unpacked = unpack(self.store, stream, &expected, self.cancel)?;
        let diff_id = unpacked.meta.diff_id.clone();
        let platform = &self.options.platform;
        // Without a time, so that equal files and settings make an equal image.
        let document = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let config = document.to_string().into_bytes();
        let id = Digest::of(&config);
        let parsed = parse_config(&config, "given", 1, platform)?;
        let layer = (diff_id, unpacked.compressed, unpacked.gzip);
        let manifest = synthesise((id.clone(), config.len() as u64), &[layer]);
        let documents = Documents {
            config: (id, config),
            manifest: (Digest::of(&manifest), manifest),
            indexes: Vec::new(),
            parsed,
            layers_size: unpacked.compressed,
        };
        let hold = self.hold(&documents);
        self.tracker.enter(Phase::Publish, "layer")?;
        let key = layer_key(&unpacked.meta.diff_id);
        if self.store.layer(&key)?.is_none() {
            self.store
                .publish_layer(&unpacked.work, &key, &unpacked.meta)?;
        }
        let image = self.assemble(documents, hold)?;
        Ok(vec![(
            image,
            self.options.reference.iter().cloned().collect(),
        )])
    }

    /// The `config` member of the given configuration.
    fn given_config(&self) -> Result<Value, Error> {
        let invalid = |why: String| ArchiveError::Invalid {
            name: "configuration".to_owned(),
            why,
        };
        let Some(bytes) = self
            .options
            .config
            .as_deref()
            .filter(|bytes| !bytes.is_empty())
        else {
            return Ok(json!({}));
        };
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(invalid(format!("has more than {DOCUMENT_MAX} bytes")).into());
        }
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| invalid(format!("is malformed: {error}")))?;
        match value.get("config") {
            Some(config @ Value::Object(_)) => Ok(config.clone()),
            Some(Value::Null) | None if value.is_object() => Ok(json!({})),
            _ => Err(invalid("has no member \"config\" that is an object".to_owned()).into()),
        }
    }
}
