//! A client of the distribution API (OCI distribution specification).
//!
//! Credentials belong to one origin (scheme, host, port): they go there, to the
//! token service of the same domain over TLS, and nowhere else.

mod auth;
mod blob;
mod dead;
mod guard;
mod hosts;
mod http;
pub(crate) mod login;
mod origin;
mod patience;
mod proxy;
pub(crate) mod push;
mod session;
mod tls;
mod token;

pub use auth::Auth;
pub(crate) use auth::realms;
pub(crate) use hosts::places;
pub(crate) use http::Clients;
pub use origin::{Registries, TraceHeaders};
pub use patience::Patience;
pub use proxy::Proxies;
pub(crate) use session::{Action, RawDocument, Session, Shared};

/// Why a registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name does not resolve.
    #[error("registry host {host} is not known; check its spelling and the node's name servers")]
    UnknownHost {
        /// The host.
        host: String,
        /// What the resolver said.
        #[source]
        source: reqwest::Error,
    },
    /// No connection, or one that broke.
    #[error("cannot talk to {host} about {what}")]
    Connection {
        /// The host.
        host: String,
        /// What was awaited or sent.
        what: String,
        /// What went wrong.
        #[source]
        source: reqwest::Error,
    },
    /// TLS with somebody who cannot prove to be that host.
    #[error(
        "the certificate of {host} is not trusted ({why}); if it is right, name its authority \
         as `ca` in the hosts.toml of the registry, or in image.extra_ca"
    )]
    Untrusted {
        /// The host.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// Silence.
    #[error("{host} made no progress for {seconds} s while {what} was awaited")]
    Stalled {
        /// The host.
        host: String,
        /// What was awaited.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// Bytes come, but too few for them ever to be the whole.
    #[error("{host} sent only {bytes} bytes of {what} in {seconds} s")]
    Slow {
        /// The host.
        host: String,
        /// What was awaited.
        what: String,
        /// Bytes that came.
        bytes: u64,
        /// In how long.
        seconds: u64,
    },
    /// The answer ended early.
    #[error("{host} ended {what} after {got} of {size} bytes")]
    Truncated {
        /// The host.
        host: String,
        /// What it was.
        what: String,
        /// Bytes received.
        got: u64,
        /// Bytes promised.
        size: u64,
    },
    /// More bytes than the manifest says.
    #[error("{host} sends more than the {size} bytes that the manifest says {what} has")]
    Longer {
        /// The host.
        host: String,
        /// What it was.
        what: String,
        /// Bytes promised.
        size: u64,
    },
    /// 401 with or after credentials, or where none were given.
    #[error("{host} does not let {who} read {repository}: {hint}")]
    Unauthorized {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
        /// A user's name or "anonymous users".
        who: String,
        /// What to do.
        hint: &'static str,
    },
    /// The credentials themselves are not accepted.
    #[error("{host} does not accept the password of {who}")]
    LoginRefused {
        /// The registry.
        host: String,
        /// A user's name.
        who: String,
    },
    /// As [`Self::Unauthorized`], for writing.
    #[error("{host} does not let {who} push to {repository}: {hint}")]
    MayNotWrite {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
        /// A user's name or "anonymous users".
        who: String,
        /// What to do.
        hint: &'static str,
    },
    /// As [`Self::Forbidden`], for writing.
    #[error("{host} forbids pushing to {repository}")]
    WriteForbidden {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
    },
    /// 403.
    #[error("{host} forbids reading {repository}")]
    Forbidden {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
    },
    /// 404.
    #[error("{what} is not at {host}/{repository}")]
    NotFound {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
        /// Which tag, manifest or blob.
        what: String,
    },
    /// 429 for too long.
    #[error(
        "{host} limits the rate of requests; {}or log in",
        .seconds.map_or("try again later ".to_owned(), |s| format!("it wants {s} s of patience; try again then "))
    )]
    RateLimited {
        /// The registry.
        host: String,
        /// What it asks to wait, if that is longer than a pull waits.
        seconds: Option<u64>,
    },
    /// A `hosts.toml` that cannot be read.
    #[error("the hosts of this registry are not known: {place}: {why}")]
    Hosts {
        /// File and line.
        place: String,
        /// What is wrong there.
        why: String,
    },
    /// The files leave nobody to be asked.
    #[error(
        "no host of {registry} may be asked to {capability}; see `capabilities` in its hosts.toml"
    )]
    NoHost {
        /// The registry.
        registry: String,
        /// pull, resolve or push.
        capability: &'static str,
    },
    /// Neither a mirror nor the registry.
    #[error("no mirror of {registry} helped ({mirrors}), nor did the registry itself")]
    Mirrors {
        /// The registry.
        registry: String,
        /// What each of them said.
        mirrors: String,
        /// What the registry said.
        #[source]
        source: Box<RegistryError>,
    },
    /// Any other status.
    #[error(
        "{host} answered {status} for {what}{}",
        .seconds.map_or(String::new(), |s| format!(", and wants {s} s of patience; try again then"))
    )]
    Status {
        /// The host.
        host: String,
        /// The status code.
        status: u16,
        /// What was asked for.
        what: String,
        /// What it asks to wait, if that is longer than a pull waits.
        seconds: Option<u64>,
    },
    /// More bytes than a document or answer may have.
    #[error("{host} sends more than {limit} bytes for {what}")]
    TooLarge {
        /// The host.
        host: String,
        /// What it was.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A redirect or token service that must not be followed.
    #[error("{host} {why}")]
    Refused {
        /// The host.
        host: String,
        /// What it did.
        why: String,
    },
    /// The client itself cannot be set up.
    #[error("cannot set up TLS: {why}")]
    Setup {
        /// What is missing.
        why: String,
    },
    /// Content that is not what its digest says.
    #[error("{host} sent {what} with digest {actual}, but {expected} was asked for")]
    Digest {
        /// The host.
        host: String,
        /// What it was.
        what: String,
        /// The digest of what came.
        actual: String,
        /// The one wanted.
        expected: String,
    },
}

impl RegistryError {
    /// The same for a request that was part of a push.
    pub(crate) fn writing(self) -> Self {
        match self {
            Self::Unauthorized {
                host,
                repository,
                who,
                hint,
            } => Self::MayNotWrite {
                host,
                repository,
                who,
                hint,
            },
            Self::Forbidden { host, repository } => Self::WriteForbidden { host, repository },
            other => other,
        }
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connection { .. }
            | Self::Stalled { .. }
            | Self::Slow { .. }
            | Self::Truncated { .. } => true,
            Self::Status {
                status, seconds, ..
            } => *status >= 500 && seconds.is_none(),
            Self::RateLimited { seconds, .. } => seconds.is_none(),
            Self::Mirrors { source, .. } => source.is_transient(),
            Self::UnknownHost { .. }
            | Self::Untrusted { .. }
            | Self::Unauthorized { .. }
            | Self::LoginRefused { .. }
            | Self::MayNotWrite { .. }
            | Self::WriteForbidden { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::TooLarge { .. }
            | Self::Longer { .. }
            | Self::Refused { .. }
            | Self::Setup { .. }
            | Self::Hosts { .. }
            | Self::NoHost { .. }
            | Self::Digest { .. } => false,
        }
    }

    /// Whether nobody answered.
    fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::UnknownHost { .. } | Self::Connection { .. } | Self::Stalled { .. }
        )
    }

    /// The message with its causes on one line of bounded length.
    fn in_short(&self) -> String {
        const LONGEST: usize = 300;
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(at) = cause {
            text.push_str(": ");
            text.push_str(&at.to_string());
            cause = at.source();
        }
        text.chars().take(LONGEST).collect()
    }
}
