//! What the fuzz targets reach of the parsers that are not part of the API.

use crate::{
    document::{Document, choose, parse_config, parse_document},
    name::Platform,
    registry,
};

/// Layers that a configuration is read for.
const LAYERS_MAX: usize = 3;

/// Reads `bytes` as index, manifest and configuration. What an index offers is
/// chosen from.
pub fn documents(bytes: &[u8]) {
    let platform = Platform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        variant: Some("v2".to_owned()),
    };
    let declared = ["application/vnd.oci.image.manifest.v1+json"];
    for declared in [&declared[..], &[]] {
        if let Ok(Document::Index(children)) = parse_document(bytes, "fuzz", declared)
            && let Ok(chosen) = choose(&children, &platform)
        {
            assert!(chosen.platform.is_some() || children.len() == 1);
        }
    }
    for layers in 0..=LAYERS_MAX {
        if let Ok(parsed) = parse_config(bytes, "fuzz", layers, &platform) {
            assert_eq!(parsed.diff_ids.len(), layers);
        }
    }
}

/// Reads `text` as a WWW-Authenticate header; what was found stands in it.
pub fn challenges(text: &str) {
    for realm in registry::realms(text) {
        assert!(realm.len() <= text.len());
    }
}

/// Reads `text` as a `hosts.toml`; whoever is asked then is asked over HTTP.
pub fn hosts(text: &str) {
    let Ok(own) = reqwest::Url::parse("https://registry.example/v2/") else {
        return;
    };
    let Some((places, mirrors)) = registry::places(text, &own) else {
        return;
    };
    assert_eq!(places.len(), mirrors + 1);
    for place in places {
        assert!(matches!(place.scheme(), "http" | "https"), "{place}");
        assert!(place.host_str().is_some_and(|host| !host.is_empty()));
        // Anything else would be sent to it with each request, or shown in messages.
        assert!(place.username().is_empty() && place.password().is_none());
        assert!(place.path().ends_with('/'), "{place}");
    }
}
