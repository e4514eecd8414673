//! The image configuration (OCI image specification, "Image Configuration").

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DOCUMENT_MAX, DocumentError, manifest::nullable, parse_object};
use crate::name::{Digest, Platform};

/// What an image says about how it wants to be run. All of it is untrusted text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments after the entrypoint, or the program if there is none.
    pub cmd: Vec<String>,
    /// Where the program starts; empty means `/`.
    pub working_dir: String,
    /// `port/protocol`.
    pub exposed_ports: Vec<String>,
    /// Paths meant for volumes.
    pub volumes: Vec<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to end, such as `SIGTERM`; empty means the default.
    pub stop_signal: String,
    /// Architecture in Go's words.
    pub architecture: String,
    /// Variant of the architecture, may be empty.
    pub variant: String,
    /// Operating system, `linux`.
    pub os: String,
    /// RFC 3339 time, may be empty; not checked.
    pub created: String,
    /// Who made it, may be empty.
    pub author: String,
    /// How it was made.
    pub history: Vec<HistoryEntry>,
}

/// One step of an image's making.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// RFC 3339 time, may be empty.
    #[serde(deserialize_with = "nullable")]
    pub created: String,
    /// The command.
    #[serde(deserialize_with = "nullable")]
    pub created_by: String,
    /// A remark.
    #[serde(deserialize_with = "nullable")]
    pub comment: String,
    /// It made no layer.
    #[serde(deserialize_with = "nullable")]
    pub empty_layer: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    #[serde(deserialize_with = "nullable")]
    architecture: String,
    #[serde(deserialize_with = "nullable")]
    variant: String,
    #[serde(deserialize_with = "nullable")]
    os: String,
    #[serde(deserialize_with = "nullable")]
    created: String,
    #[serde(deserialize_with = "nullable")]
    author: String,
    #[serde(deserialize_with = "nullable")]
    config: RawConfig,
    rootfs: Option<RawRootfs>,
    #[serde(deserialize_with = "nullable")]
    history: Vec<HistoryEntry>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RawConfig {
    #[serde(deserialize_with = "nullable")]
    user: String,
    #[serde(deserialize_with = "nullable")]
    env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    working_dir: String,
    #[serde(deserialize_with = "nullable")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "nullable")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "nullable")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    stop_signal: String,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    diff_ids: Vec<Digest>,
}

/// A configuration that has been checked.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    pub(crate) config: ImageConfig,
    /// Digests of the uncompressed layers, lowest first.
    pub(crate) diff_ids: Vec<Digest>,
}

/// Reads a configuration for an image of `layers` layers that is to run on `platform`.
///
/// # Errors
/// [`DocumentError`].
pub(crate) fn parse_config(
    bytes: &[u8],
    name: &str,
    layers: usize,
    platform: &Platform,
) -> Result<Parsed, DocumentError> {
    let invalid = |why: String| DocumentError::Invalid {
        what: "configuration",
        name: name.to_owned(),
        why,
    };
    if bytes.len() as u64 > DOCUMENT_MAX {
        return Err(DocumentError::TooLarge {
            what: "configuration",
            name: name.to_owned(),
            limit: DOCUMENT_MAX,
            unit: "bytes",
        });
    }
    let raw: Raw = parse_object(bytes, "configuration", name)?;
    let Some(rootfs) = raw.rootfs else {
        return Err(invalid(
            "has no rootfs: it is not a container image's".to_owned(),
        ));
    };
    if rootfs.kind != "layers" {
        return Err(invalid(
            "has a rootfs that is not made of layers".to_owned(),
        ));
    }
    if rootfs.diff_ids.len() != layers {
        let counted = rootfs.diff_ids.len();
        return Err(invalid(format!(
            "counts {counted} layers, but its manifest has {layers}"
        )));
    }
    let variant = (!raw.variant.is_empty()).then_some(raw.variant.as_str());
    if platform.rank(&raw.os, &raw.architecture, variant).is_none() {
        let short = |text: &str| text.chars().take(32).collect::<String>();
        let mut actual = format!("{}/{}", short(&raw.os), short(&raw.architecture));
        if let Some(variant) = variant {
            actual = format!("{actual}/{}", short(variant));
        }
        return Err(DocumentError::Architecture {
            platform: platform.to_string(),
            actual,
        });
    }
    let config = raw.config;
    Ok(Parsed {
        config: ImageConfig {
            user: config.user,
            env: config.env,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            working_dir: config.working_dir,
            exposed_ports: config.exposed_ports.into_keys().collect(),
            volumes: config.volumes.into_keys().collect(),
            labels: config.labels,
            stop_signal: config.stop_signal,
            architecture: raw.architecture,
            variant: raw.variant,
            os: raw.os,
            created: raw.created,
            author: raw.author,
            history: raw.history,
        },
        diff_ids: rootfs.diff_ids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str, layers: usize) -> Result<Parsed, DocumentError> {
        let platform = Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: Some("v3".into()),
        };
        parse_config(text.as_bytes(), "test", layers, &platform)
    }

    fn config(inner: &str) -> String {
        format!(
            r#"{{"os":"linux","architecture":"amd64","config":{inner},
            "rootfs":{{"type":"layers","diff_ids":["{D}"]}},"history":null}}"#
        )
    }

    #[test]
    fn null_means_nothing_as_go_writes_it() {
        let parsed = parse(
            &config(r#"{"Env":null,"Cmd":["sh"],"Volumes":{"/v":{}}}"#),
            1,
        );
        let config = parsed.unwrap().config;
        assert_eq!(
            (config.env.len(), config.cmd, config.volumes),
            (0, vec!["sh".into()], vec!["/v".into()])
        );
        assert!(parse(&self::config("null"), 1).is_ok());
    }

    #[test]
    fn each_fault_says_what_it_is() {
        let says = |text: &str, layers, words: &str| {
            let error = parse(text, layers).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        says(r#"{"os":"linux","architecture":"amd64"}"#, 1, "no rootfs");
        says(&config("{}"), 2, "counts 1 layers, but its manifest has 2");
        says(
            &config("{}").replace("amd64", "riscv64"),
            1,
            "the image is for linux/riscv64",
        );
        says(&config("{}").replace(D, "sha256:x"), 1, "malformed");
        says("[]", 1, "no JSON object");
        says("", 1, "malformed");
    }
}
