//! Which hosts answer for a registry: `hosts.toml` directories, read at each pull.
//!
//! A directory of hosts has one directory per registry, named `HOST`,
//! `HOST:PORT` or `HOST_PORT_`, and `_default` for all that have none. The
//! format is containerd's, so that its directories can be used as they are:
//!
//! ```toml
//! server = "https://registry.example"     # the registry itself, asked last
//! [host."https://mirror.example:5000"]    # mirrors, in this order
//! capabilities = ["pull", "resolve"]
//! ```

mod entry;
mod file;
mod find;

use std::{path::PathBuf, time::Duration};

use reqwest::{Url, header::HeaderMap};

use super::{Registries, RegistryError, origin::same_origin};
use crate::name::Reference;

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capability {
    /// Blobs, and manifests by digest.
    Pull,
    /// What a tag stands for.
    Resolve,
    /// Uploads.
    Push,
}

/// A set of [`Capability`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) pull: bool,
    pub(super) resolve: bool,
    pub(super) push: bool,
}

impl Capabilities {
    pub(super) const ALL: Self = Self {
        pull: true,
        resolve: true,
        push: true,
    };
    pub(super) const NONE: Self = Self {
        pull: false,
        resolve: false,
        push: false,
    };

    fn or(self, other: Self) -> Self {
        Self {
            pull: self.pull || other.pull,
            resolve: self.resolve || other.resolve,
            push: self.push || other.push,
        }
    }

    pub(super) fn has(self, wanted: Capability) -> bool {
        match wanted {
            Capability::Pull => self.pull,
            Capability::Resolve => self.resolve,
            Capability::Push => self.push,
        }
    }
}

/// How a host is connected to; equal ones share their connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Transport {
    /// Certificates are not verified.
    pub(super) skip_verify: bool,
    /// Authorities besides the node's own.
    pub(super) ca: Vec<PathBuf>,
    /// Certificates of this client with their keys.
    pub(super) client: Vec<ClientPair>,
    /// Longest time for a connection with its TLS handshake.
    pub(super) dial: Option<Duration>,
}

/// A PEM file with a certificate chain, and the one with its key if it is another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientPair {
    pub(super) certificate: PathBuf,
    pub(super) key: Option<PathBuf>,
}

/// One host that answers for a registry.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// Where the repositories are: `https://HOST/v2/`.
    pub(super) base: Url,
    pub(super) capabilities: Capabilities,
    pub(super) transport: Transport,
    /// Sent with every request to this host, and to no other.
    pub(super) headers: HeaderMap,
    /// Whether this is a mirror; it then gets no credentials, and is told by
    /// `ns` for which registry it is asked.
    pub(super) mirror: bool,
    /// The registry, if the host does not know that it is asked as that one.
    pub(super) namespace: Option<String>,
}

/// Where the hosts of a `hosts.toml` are, mirrors first, and how many of them are mirrors;
/// `None` if it is refused.
pub(crate) fn places(text: &str, own: &Url) -> Option<(Vec<Url>, usize)> {
    let parsed = file::parse(text, std::path::Path::new("/hosts.d/registry")).ok()?;
    let mirrors = parsed.hosts.len();
    let hosts = parsed.hosts.into_iter().map(|entry| (entry, true));
    let hosts = hosts.chain([(parsed.server, false)]);
    let base = |(entry, mirror): (entry::Entry, bool)| {
        let host = entry.into_host(own, "registry.example", mirror);
        assert!(host.transport.ca.iter().all(|path| path.is_absolute()));
        host.base
    };
    Some((hosts.map(base).collect(), mirrors))
}

/// The hosts of `reference`'s registry in the order in which they are asked,
/// the registry itself last.
///
/// # Errors
/// [`RegistryError::Hosts`] with file and line.
pub(super) fn hosts(
    registries: &Registries,
    reference: &Reference,
) -> Result<Vec<Host>, RegistryError> {
    let registry = reference.registry();
    let found = find::find(&registries.hosts_dirs, registry)?;
    let api = reference.api_host();
    let own = format!("{}://{api}/v2/", registries.scheme(api));
    let own = Url::parse(&own)
        .ok()
        .ok_or_else(|| RegistryError::Refused {
            host: api.to_owned(),
            why: "is not a host that a URL can have".to_owned(),
        })?;
    let (server, mirrors) = match found {
        Some(found) => (found.server, found.hosts),
        None => (entry::Entry::default(), Vec::new()),
    };
    let mut hosts: Vec<Host> = mirrors
        .into_iter()
        .map(|entry| entry.into_host(&own, registry, true))
        .collect();
    let server = server.into_host(&own, registry, false);
    // A file may name the registry itself among its hosts; it is no mirror of itself then.
    for host in &mut hosts {
        if same_origin(&host.base, &server.base) || same_origin(&host.base, &own) {
            host.mirror = false;
            host.namespace = None;
        }
    }
    match hosts.iter_mut().find(|host| host.base == server.base) {
        // Asked once, and for what either entry allows.
        Some(host) => host.capabilities = host.capabilities.or(server.capabilities),
        None => hosts.push(server),
    }
    Ok(hosts)
}
