//! The three documents of an archive.

use serde_json::{Value, json};

use super::member;
use crate::{contents::Contents, document::OCI_INDEX, name::Reference};

/// Where tools put an image's full name.
const FULL_NAME: &str = "io.containerd.image.name";
/// Where the image layout specification puts a name; Docker writes the bare tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// `images` and their names, in the same order.
pub(super) fn of(images: &[Contents], names: &[&[Reference]]) -> Vec<(&'static str, Vec<u8>)> {
    let both = || images.iter().zip(names.iter().copied());
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": both().flat_map(|(image, names)| descriptors(image, names)).collect::<Value>(),
    });
    let list: Value = both().map(|(image, names)| docker(image, names)).collect();
    vec![
        ("index.json", index.to_string().into_bytes()),
        ("manifest.json", list.to_string().into_bytes()),
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
    ]
}

/// One entry of the index per name, and one without for an image that has none.
fn descriptors(image: &Contents, names: &[Reference]) -> Vec<Value> {
    let root = &image.root;
    let plain = json!({
        "mediaType": root.media_type,
        "digest": root.digest,
        "size": root.bytes.len(),
    });
    let named = |reference: &Reference| {
        let mut entry = plain.clone();
        entry["annotations"] = json!({
            FULL_NAME: reference.to_string(),
            REF_NAME: reference.tag(),
        });
        entry
    };
    let entries: Vec<Value> = tagged(names).map(named).collect();
    match entries.is_empty() {
        true => vec![plain],
        false => entries,
    }
}

/// The entry of `manifest.json`.
fn docker(image: &Contents, names: &[Reference]) -> Value {
    let tags: Vec<String> = tagged(names).map(familiar).collect();
    json!({
        "Config": member::blob(&image.config.digest),
        "RepoTags": (!tags.is_empty()).then_some(tags),
        "Layers": image.layers.iter().map(|layer| member::blob(&layer.digest)).collect::<Vec<_>>(),
    })
}

/// A digest is no name in an archive: the archive's own digests say it.
fn tagged(names: &[Reference]) -> impl Iterator<Item = &Reference> {
    names.iter().filter(|name| name.repo_tag().is_some())
}

/// As people and older programs write it: without Docker's defaults.
fn familiar(reference: &Reference) -> String {
    let full = reference.to_string();
    match full.strip_prefix("docker.io/") {
        Some(short) => short.strip_prefix("library/").unwrap_or(short).to_owned(),
        None => full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_docker_archive_are_those_that_people_write() {
        for (full, short) in [
            ("docker.io/library/busybox:1", "busybox:1"),
            ("docker.io/me/app:2", "me/app:2"),
            (
                "127.0.0.1:5000/library/app:3",
                "127.0.0.1:5000/library/app:3",
            ),
        ] {
            assert_eq!(familiar(&full.parse().unwrap()), short);
        }
    }
}
