//! An image of one layer from the files of a system.

use std::fs::File;

use berth_phase::Phase;
use serde_json::{Value, json};

use super::{ArchiveError, Import, Imported, source::Piece};
use crate::{
    Error,
    document::{DOCUMENT_MAX, parse_config, synthesise},
    image::{Documents, Others},
    name::Digest,
    unpack::Expected,
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
        let layer = self.layer(piece, &expected)?;
        let diff_id = &layer.diff_id;
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
        let manifest = synthesise((id.clone(), config.len() as u64), &[layer.described()]);
        let documents = Documents {
            config: (id, config),
            manifest: (Digest::of(&manifest), manifest),
            indexes: Vec::new(),
            parsed,
            layers: vec![layer.blob()],
            others: Others::default(),
        };
        let hold = self.hold(&documents);
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
