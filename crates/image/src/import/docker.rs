//! The archives of `docker save`.

use serde::Deserialize;

use super::{ArchiveError, IMAGES_MAX, Import, Imported, Layer, Part, source::Source};
use crate::{
    Error,
    document::{DOCUMENT_MAX, parse_config, synthesise},
    image::{Documents, Others},
    name::{Digest, Reference},
    unpack::Expected,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Import<'_> {
    pub(super) fn docker(&self, source: &Source) -> Result<Vec<Imported>, Error> {
        const LIST: &str = "manifest.json";
        let bytes = source.read(LIST, DOCUMENT_MAX)?;
        let invalid = |why: String| ArchiveError::Invalid {
            name: LIST.to_owned(),
            why,
        };
        let items: Vec<Item> = serde_json::from_slice(&bytes)
            .map_err(|error| invalid(format!("is malformed: {error}")))?;
        if items.is_empty() {
            return Err(invalid("lists no image".to_owned()).into());
        }
        if items.len() > IMAGES_MAX {
            let limit = IMAGES_MAX as u64;
            return Err(ArchiveError::TooLarge {
                limit,
                unit: "images",
            }
            .into());
        }
        items
            .iter()
            .map(|item| self.docker_image(source, item))
            .collect()
    }

    fn docker_image(&self, source: &Source, item: &Item) -> Result<Imported, Error> {
        let config = source.read(&item.config, DOCUMENT_MAX)?;
        let id = Digest::of(&config);
        let files = item.layers.as_deref().unwrap_or_default();
        let name: String = item.config.chars().take(200).collect();
        let parsed = parse_config(&config, &name, files.len(), &self.options.platform)?;
        if files.is_empty() {
            let why = "has no layers, so there is nothing to run".to_owned();
            return Err(ArchiveError::Invalid { name, why }.into());
        }
        let names = item.repo_tags.iter().flatten();
        let names: Vec<Reference> = names.filter_map(|name| name.parse().ok()).collect();
        let parts: Vec<Part> = files
            .iter()
            .zip(&parsed.diff_ids)
            .map(|(file, diff_id)| Part {
                name: file.clone(),
                expected: Expected {
                    blob: diff_id.clone(),
                    check_blob: false,
                    diff_id: Some(diff_id.clone()),
                },
                size: None,
            })
            .collect();
        let mut documents = Documents {
            config: (id.clone(), config),
            // There is none in the archive; it is written once the layers are known.
            manifest: (id.clone(), Vec::new()),
            indexes: Vec::new(),
            parsed,
            layers: Vec::new(),
            others: Others::default(),
        };
        let _early = self.hold(&documents);
        let layers = self.parts(source, &parts)?;
        let blobs: Vec<_> = layers.iter().map(Layer::described).collect();
        let size = documents.config.1.len() as u64;
        let manifest = synthesise((id, size), &blobs);
        documents.manifest = (Digest::of(&manifest), manifest);
        documents.layers = layers.iter().map(Layer::blob).collect();
        let hold = self.hold(&documents);
        Ok((self.assemble(documents, hold)?, names))
    }
}
