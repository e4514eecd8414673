//! Writing an image as an OCI layout.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Entry, Image, tar};

impl Image {
    /// The files of an OCI layout whose only image is called `name`.
    fn files(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": self.media_type,
                "digest": self.digest(),
                "size": self.manifest.len(),
                "annotations": { "org.opencontainers.image.ref.name": name },
            }],
        });
        let mut files = BTreeMap::from([
            ("index.json".to_owned(), serde_json::to_vec(&index)?),
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            (blob_path(&self.digest()), self.manifest.clone()),
        ]);
        for (digest, bytes) in self.manifests.iter().chain(&self.blobs) {
            files.insert(blob_path(digest), bytes.clone());
        }
        Ok(files)
    }

    /// Writes the image as an OCI layout into `directory`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write_layout(&self, directory: &Path, name: &str) -> Result<()> {
        for (path, bytes) in self.files(name)? {
            let target = directory.join(path);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&target, bytes).with_context(|| format!("write {}", target.display()))?;
        }
        Ok(())
    }

    /// The same as one archive, as `import` takes it.
    ///
    /// # Errors
    /// If the archive cannot be written.
    pub fn layout_tar(&self, name: &str) -> Result<Vec<u8>> {
        let files = self.files(name)?;
        let entries: Vec<Entry> = files
            .into_iter()
            .map(|(path, bytes)| Entry::file(&path, 0o644, bytes))
            .collect();
        tar(&entries)
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}
