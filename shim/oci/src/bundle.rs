//! The bundle: `config.json` and what it refers to, made absolute.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::Spec;
use serde_json::Value;

/// Larger configurations are a mistake, or an attack on this program's memory.
const LARGEST: u64 = 16 * 1024 * 1024;

/// A container's configuration, as read.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) path: PathBuf,
    /// What is kept for later commands: relative paths are absolute in it.
    pub(crate) config: Value,
    pub(crate) spec: Spec,
    pub(crate) rootfs: PathBuf,
}

impl Bundle {
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = fs::canonicalize(dir).with_context(|| format!("bundle {}", dir.display()))?;
        let file = path.join("config.json");
        let mut config = read_json(&file)?;
        normalise(&mut config, &path).with_context(|| file.display().to_string())?;
        let spec = parse(&config).with_context(|| file.display().to_string())?;
        let root = spec
            .root()
            .as_ref()
            .context("config.json: root is missing")?;
        let rootfs = path.join(root.path());
        let rootfs = fs::canonicalize(&rootfs)
            .with_context(|| format!("root file system {}", rootfs.display()))?;
        if !rootfs.is_dir() {
            bail!("root file system {}: not a directory", rootfs.display());
        }
        if rootfs == Path::new("/") {
            bail!("root file system /: the node's own root cannot be a container's");
        }
        Ok(Self {
            path,
            config,
            spec,
            rootfs,
        })
    }
}

pub(crate) fn read_json(file: &Path) -> Result<Value> {
    let what = || file.display().to_string();
    let length = fs::metadata(file).with_context(what)?.len();
    if length > LARGEST {
        bail!("{}: {length} bytes, at most {LARGEST} are read", what());
    }
    let bytes = fs::read(file).with_context(what)?;
    serde_json::from_slice(&bytes).with_context(what)
}

/// The configuration as the specification's types, with the field in the error.
pub(crate) fn parse(config: &Value) -> Result<Spec> {
    Ok(serde_json::from_value(config.clone())?)
}

/// Checks the version and makes paths absolute that may be relative.
fn normalise(config: &mut Value, bundle: &Path) -> Result<()> {
    let version = config.get("ociVersion").and_then(Value::as_str);
    match version {
        None => bail!("ociVersion is missing"),
        Some(version) if version.split('.').next() != Some("1") => {
            bail!("ociVersion {version}: only versions 1.x are understood")
        }
        Some(_) => {}
    }
    let Some(mounts) = config.get_mut("mounts").and_then(Value::as_array_mut) else {
        return Ok(());
    };
    for mount in mounts {
        if is_bind(mount)
            && let Some(source) = mount.get("source").and_then(Value::as_str)
            && !source.is_empty()
            && !Path::new(source).is_absolute()
        {
            mount["source"] = lexical(&bundle.join(source)).into();
        }
        // Relative destinations are from before version 1.0 of the specification and
        // still written by some.
        if let Some(destination) = mount.get("destination").and_then(Value::as_str)
            && !destination.is_empty()
            && !destination.starts_with('/')
        {
            mount["destination"] = format!("/{destination}").into();
        }
    }
    Ok(())
}

fn is_bind(mount: &Value) -> bool {
    let bind = |word: Option<&str>| matches!(word, Some("bind" | "rbind"));
    let options = mount.get("options").and_then(Value::as_array);
    bind(mount.get("type").and_then(Value::as_str))
        || options
            .into_iter()
            .flatten()
            .any(|option| bind(option.as_str()))
}

/// Without `.`; `..` stays, since what is before it may be a link.
fn lexical(path: &Path) -> String {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    parts.collect::<PathBuf>().to_string_lossy().into_owned()
}
