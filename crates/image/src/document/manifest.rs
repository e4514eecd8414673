//! Manifests and indexes, of OCI and of Docker.

use serde::{Deserialize, Serialize};

use super::{DOCUMENT_MAX, DocumentError, parse_object};
use crate::{
    image::LayerBlob,
    name::{Digest, Platform},
    unpack::Compression,
};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";

/// What a registry is asked for.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Overlayfs stacks no more lower layers than this (OVL_MAX_STACK).
const LAYERS_MAX: usize = 500;
/// Far above any real index: platforms and their attestations.
const CHILDREN_MAX: usize = 1_024;

/// A pointer to content: type, digest, size.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub(crate) urls: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<OfferedPlatform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl Descriptor {
    /// Of a document about which nobody has said more.
    pub(crate) fn of(digest: &Digest, bytes: &[u8]) -> Self {
        Self {
            media_type: String::new(),
            digest: digest.clone(),
            size: bytes.len() as u64,
            urls: Vec::new(),
            platform: None,
            annotations: None,
        }
    }

    /// As the compressed layer that it describes.
    pub(crate) fn layer(&self) -> LayerBlob {
        LayerBlob {
            digest: self.digest.clone(),
            size: self.size,
        }
    }
}

/// A platform as an index states it: any member may be missing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OfferedPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl std::fmt::Display for OfferedPlatform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |text: &str| text.chars().take(32).collect::<String>();
        write!(f, "{}/{}", short(&self.os), short(&self.architecture))?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", short(variant)),
            None => Ok(()),
        }
    }
}

/// `null` where a list may be: Go writes it for an empty one.
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A manifest that has been checked.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// Lowest first.
    pub(crate) layers: Vec<Descriptor>,
    artifact_type: Option<Box<str>>,
}

/// One of the two kinds of document a reference can lead to.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads a document of an image that is to be run. `declared` are the types others gave
/// it: a Content-Type, a descriptor's type.
///
/// # Errors
/// [`DocumentError`].
pub(crate) fn parse_document(
    bytes: &[u8],
    name: &str,
    declared: &[&str],
) -> Result<Document, DocumentError> {
    let document = parse_any(bytes, name, declared)?;
    if let Document::Manifest(manifest) = &document {
        check_runnable(manifest, name)?;
    }
    Ok(document)
}

/// As [`parse_document`], of anything that a registry may hold beside images.
///
/// # Errors
/// [`DocumentError`].
pub(crate) fn parse_any(
    bytes: &[u8],
    name: &str,
    declared: &[&str],
) -> Result<Document, DocumentError> {
    if bytes.len() as u64 > DOCUMENT_MAX {
        return Err(too_large(name, DOCUMENT_MAX, "bytes"));
    }
    if declared.iter().any(|kind| kind.starts_with(DOCKER_SCHEMA1)) {
        return Err(schema1(name));
    }
    let raw: Raw = parse_object(bytes, "manifest", name)?;
    if raw.fs_layers.is_some() || raw.schema_version == Some(1) {
        return Err(schema1(name));
    }
    let is_index = raw.manifests.is_some();
    if is_index && (raw.layers.is_some() || raw.config.is_some()) {
        return Err(invalid(name, "is both an index and a manifest"));
    }
    // Every type that is stated must say the same, or two readers see two different things.
    let inside = raw.media_type.as_deref();
    let stated = declared.iter().copied().chain(inside);
    for kind in stated.map(essence).filter(|kind| is_known(kind)) {
        if matches!(kind, OCI_INDEX | DOCKER_INDEX) != is_index {
            return Err(invalid(name, "is not of the type it is declared to be"));
        }
        if let Some(inside) = inside.map(essence)
            && is_known(inside)
            && inside != kind
        {
            return Err(invalid(name, "states another type inside than outside"));
        }
    }
    if let Some(kind) = inside.map(essence)
        && !is_known(kind)
    {
        return Err(unsupported(name, format!("its type is {}", short(kind))));
    }
    if let Some(children) = raw.manifests {
        if children.len() > CHILDREN_MAX {
            return Err(too_large(name, CHILDREN_MAX as u64, "entries"));
        }
        return Ok(Document::Index(children));
    }
    let Some(config) = raw.config else {
        return Err(invalid(
            name,
            "has neither a configuration nor a list of manifests",
        ));
    };
    let layers = raw.layers.unwrap_or_default();
    if layers.len() > LAYERS_MAX {
        return Err(too_large(name, LAYERS_MAX as u64, "layers"));
    }
    Ok(Document::Manifest(Manifest {
        config,
        layers,
        artifact_type: raw.artifact_type.map(Into::into),
    }))
}

fn check_runnable(manifest: &Manifest, name: &str) -> Result<(), DocumentError> {
    let artifact = match essence(&manifest.config.media_type) {
        OCI_CONFIG | DOCKER_CONFIG | "" => None,
        other => Some(manifest.artifact_type.as_deref().unwrap_or(other)),
    };
    if let Some(artifact) = artifact {
        return Err(unsupported(
            name,
            format!("it is an artifact of type {}", short(artifact)),
        ));
    }
    if manifest.layers.is_empty() {
        return Err(unsupported(
            name,
            "it has no layers, so there is nothing to run".to_owned(),
        ));
    }
    for layer in &manifest.layers {
        check_layer(layer)?;
    }
    if manifest.config.size > DOCUMENT_MAX {
        return Err(too_large(name, DOCUMENT_MAX, "bytes of configuration"));
    }
    Ok(())
}

fn check_layer(layer: &Descriptor) -> Result<(), DocumentError> {
    let name = format!("layer {}", layer.digest);
    let kind = essence(&layer.media_type);
    let foreign = kind.contains(".foreign.") || kind.contains("nondistributable");
    if foreign || !layer.urls.is_empty() {
        let why = "it lies on other servers than the registry, which are not trusted";
        return Err(unsupported(&name, why.to_owned()));
    }
    match kind {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar" => Ok(()),
        _ => match kind.strip_prefix(OCI_LAYER) {
            Some("" | "+gzip" | "+zstd") => Ok(()),
            _ => Err(unsupported(&name, format!("its type is {}", short(kind)))),
        },
    }
}

/// The type of a document that does not state it.
pub(crate) fn guessed_type(bytes: &[u8]) -> &'static str {
    match parse_any(bytes, "", &[]) {
        Ok(Document::Index(_)) => OCI_INDEX,
        Ok(Document::Manifest(manifest)) if manifest.config.media_type == DOCKER_CONFIG => {
            DOCKER_MANIFEST
        }
        _ => OCI_MANIFEST,
    }
}

/// The best of an index's entries for `platform`.
///
/// # Errors
/// [`DocumentError::Platform`] if none fits.
pub(crate) fn choose<'d>(
    children: &'d [Descriptor],
    platform: &Platform,
) -> Result<&'d Descriptor, DocumentError> {
    let rank = |child: &Descriptor| {
        let offered = child.platform.as_ref()?;
        platform.rank(
            &offered.os,
            &offered.architecture,
            offered.variant.as_deref(),
        )
    };
    let best = children
        .iter()
        .filter_map(|child| Some((rank(child)?, child)))
        // The first of equals, as everybody takes.
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, child)| child);
    if let Some(best) = best {
        return Ok(best);
    }
    // An entry that does not say is meant for anybody if it is the only one.
    if let [only] = children
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let mut offered: Vec<String> = children
        .iter()
        .filter_map(|child| child.platform.as_ref())
        .filter(|platform| platform.os != "unknown")
        .map(ToString::to_string)
        .take(20)
        .collect();
    if offered.is_empty() {
        offered.push("no platform at all".to_owned());
    }
    Err(DocumentError::Platform {
        platform: platform.to_string(),
        offered: offered.join(", "),
    })
}

/// A manifest for content that came without one.
pub(crate) fn synthesise(config: (Digest, u64), layers: &[(Digest, u64, Compression)]) -> Vec<u8> {
    let descriptor = |media_type: &str, digest: &Digest, size: u64| serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size });
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size, compression)| {
            let kind = format!("{OCI_LAYER}{}", compression.suffix());
            descriptor(&kind, digest, *size)
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &config.0, config.1),
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

fn is_known(kind: &str) -> bool {
    matches!(
        kind,
        OCI_INDEX | OCI_MANIFEST | DOCKER_INDEX | DOCKER_MANIFEST
    )
}

/// A media type without its parameters.
fn essence(kind: &str) -> &str {
    kind.split(';').next().unwrap_or(kind).trim()
}

fn short(kind: &str) -> String {
    kind.chars().take(100).collect()
}

fn schema1(name: &str) -> DocumentError {
    let why = "it is in Docker's schema 1, which was withdrawn; push the image again with a \
               current tool";
    unsupported(name, why.to_owned())
}

fn unsupported(name: &str, why: String) -> DocumentError {
    DocumentError::Unsupported {
        name: name.to_owned(),
        why,
    }
}

fn invalid(name: &str, why: &str) -> DocumentError {
    DocumentError::Invalid {
        what: "manifest",
        name: name.to_owned(),
        why: why.to_owned(),
    }
}

fn too_large(name: &str, limit: u64, unit: &'static str) -> DocumentError {
    DocumentError::TooLarge {
        what: "manifest",
        name: name.to_owned(),
        limit,
        unit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str, declared: &[&str]) -> Result<Document, DocumentError> {
        parse_document(text.as_bytes(), "test", declared)
    }

    fn manifest(config: &str, layer: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"{D}","size":2}},
            "layers":[{{"mediaType":"{layer}","digest":"{D}","size":3}}]}}"#
        )
    }

    #[test]
    fn a_document_of_two_kinds_is_refused_whatever_it_is_declared_as() {
        let both = manifest(OCI_CONFIG, OCI_LAYER).replacen('{', r#"{"manifests":[],"#, 1);
        for declared in [OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST, "application/json"] {
            let error = parse(&both, &[declared]).unwrap_err();
            assert!(matches!(error, DocumentError::Invalid { .. }), "{error}");
        }
    }

    #[test]
    fn types_inside_and_outside_must_agree() {
        let plain = manifest(OCI_CONFIG, OCI_LAYER);
        assert!(parse(&plain, &[OCI_MANIFEST]).is_ok());
        assert!(parse(&plain, &["text/plain"]).is_ok());
        assert!(parse(&plain, &[OCI_INDEX]).is_err());
        let typed = plain.replacen('{', &format!(r#"{{"mediaType":"{OCI_MANIFEST}","#), 1);
        assert!(parse(&typed, &[OCI_MANIFEST, "application/json; charset=utf-8"]).is_ok());
        assert!(parse(&typed, &[DOCKER_MANIFEST]).is_err());
        assert!(parse(&typed, &[OCI_MANIFEST, DOCKER_MANIFEST]).is_err());
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let check = |text: &str, words: &str| {
            let error = parse(text, &[]).unwrap_err();
            assert!(
                matches!(error, DocumentError::Unsupported { .. }),
                "{error}"
            );
            assert!(error.to_string().contains(words), "{error}");
        };
        check(r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1");
        check(
            &manifest("application/vnd.cncf.helm.config.v1+json", OCI_LAYER),
            "helm",
        );
        check(&manifest(OCI_CONFIG, &format!("{OCI_LAYER}+br")), "+br");
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        check(&manifest(OCI_CONFIG, foreign), "other servers");
        let urls = manifest(OCI_CONFIG, OCI_LAYER)
            .replace(r#""size":3"#, r#""size":3,"urls":["http://evil/x"]"#);
        check(&urls, "other servers");
    }

    #[test]
    fn bad_digests_are_refused_where_the_json_is() {
        for bad in ["sha256:../../../../etc/x", "sha256:", "md5:00", ""] {
            let text = manifest(OCI_CONFIG, OCI_LAYER).replace(D, bad);
            assert!(
                matches!(parse(&text, &[]), Err(DocumentError::Malformed { .. })),
                "{bad}"
            );
        }
        let none = manifest(OCI_CONFIG, OCI_LAYER).replace(&format!(r#""digest":"{D}","#), "");
        assert!(parse(&none, &[]).is_err());
    }

    #[test]
    fn endless_lists_are_refused() {
        let child = format!(r#"{{"digest":"{D}","size":1}}"#);
        let many = vec![child; CHILDREN_MAX + 1].join(",");
        let index = format!(r#"{{"manifests":[{many}]}}"#);
        assert!(matches!(
            parse(&index, &[]),
            Err(DocumentError::TooLarge { .. })
        ));
        let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
        assert!(parse(&deep, &[]).is_err());
    }

    #[test]
    fn attestations_are_never_chosen() {
        let index = format!(
            r#"{{"manifests":[
            {{"digest":"{D}","size":1,"platform":{{"os":"unknown","architecture":"unknown"}}}},
            {{"digest":"{D}","size":2,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
        );
        let Document::Index(children) = parse(&index, &[]).unwrap() else {
            panic!("not an index");
        };
        let platform = |architecture: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: None,
        };
        assert_eq!(choose(&children, &platform("amd64")).unwrap().size, 2);
        let error = choose(&children, &platform("s390x"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("linux/s390x") && error.contains("linux/amd64"),
            "{error}"
        );
    }
}
