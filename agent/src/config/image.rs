//! Section `[image]`.

use std::{fmt, path::PathBuf, str::FromStr};

/// Registries and images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageConfig {
    /// Registries, `HOST` or `HOST:PORT`, that are spoken to over plain http.
    pub(crate) insecure_registries: Vec<String>,
    /// Registries on the loopback address that speak TLS; others there are
    /// spoken to over plain http.
    pub(crate) tls_registries: Vec<String>,
    /// PEM files with authorities to trust besides the system's.
    pub(crate) extra_ca: Vec<PathBuf>,
    /// Directories of `hosts.toml`, one directory in them per registry.
    pub(crate) hosts_dirs: Vec<PathBuf>,
    /// The platform to choose from an index; the node's own by default.
    pub(crate) platform: Option<Platform>,
    /// Most bytes that an image may come to when unpacked, against bombs. Each
    /// layer is held to it.
    pub(crate) max_image_bytes: u64,
    /// Most bytes of one request of a push; larger blobs go in several.
    pub(crate) push_chunk_bytes: u64,
    /// Whether compressed layers are kept, which push and save need.
    pub(crate) keep_blobs: bool,
    /// Seconds between two deletions of what no image owns, such as the layers of pulls that
    /// failed; it is done after each removal of an image too.
    pub(crate) collect_seconds: u64,
    /// What pulls leave free on the image store's file system.
    pub(crate) disk_reserve: Reserve,
}

/// A part of a file system: `N%`, or bytes as `NMiB` or `NGiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reserve {
    Bytes(u64),
    Percent(u8),
}

impl FromStr for Reserve {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
            true => text.parse::<u64>().map_err(|_too_large| ()),
            false => Err(()),
        };
        if let Some(percent) = text.strip_suffix('%') {
            let percent = u8::try_from(digits(percent)?).map_err(|_too_large| ())?;
            return match percent {
                0..=90 => Ok(Self::Percent(percent)),
                _ => Err(()),
            };
        }
        let (number, unit) = match (text.strip_suffix("MiB"), text.strip_suffix("GiB")) {
            (Some(number), _) => (number, 1 << 20),
            (_, Some(number)) => (number, 1 << 30),
            _ => return Err(()),
        };
        let bytes = digits(number)?.checked_mul(unit).ok_or(())?;
        Ok(Self::Bytes(bytes))
    }
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            tls_registries: Vec::new(),
            extra_ca: Vec::new(),
            hosts_dirs: ["/etc/berth/hosts.d", "/etc/containerd/certs.d"]
                .map(PathBuf::from)
                .into(),
            platform: None,
            max_image_bytes: 64 << 30,
            push_chunk_bytes: 64 << 20,
            keep_blobs: true,
            collect_seconds: 3600,
            disk_reserve: Reserve::Bytes(256 << 20),
        }
    }
}

/// An OCI platform: `OS/ARCHITECTURE` or `OS/ARCHITECTURE/VARIANT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

impl FromStr for Platform {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let word = |part: &str| {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            (!part.is_empty() && part.bytes().all(fits)).then(|| part.to_owned())
        };
        let mut parts = text.split('/');
        let os = parts.next().and_then(word).ok_or(())?;
        let architecture = parts.next().and_then(word).ok_or(())?;
        let variant = match parts.next() {
            Some(part) => Some(word(part).ok_or(())?),
            None => None,
        };
        match parts.next() {
            Some(_) => Err(()),
            None => Ok(Self {
                os,
                architecture,
                variant,
            }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}
