//! What `--listen` takes.

use std::{path::PathBuf, str::FromStr};

/// `sun_path` of unix(7) with its NUL.
const MAX_SOCKET_PATH: usize = 108;

/// The path of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint(pub(crate) PathBuf);

/// Why something is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointError {
    /// TCP.
    #[error(
        "{0}: TCP is not served, since whoever reaches the agent owns the node; \
         use unix:///PATH, and ssh to reach it from elsewhere"
    )]
    Tcp(String),
    /// The abstract name space has no permissions, and is that of the network
    /// namespace: every container on the host's network could connect.
    #[error(
        "{0}: abstract sockets are not served, since they have no permissions; use unix:///PATH"
    )]
    Abstract(String),
    /// Something else.
    #[error("{0:?}: allowed: unix:///PATH, or an absolute path")]
    Other(String),
    /// The address does not fit.
    #[error("{path}: {len} bytes; the path of a socket has at most 107")]
    TooLong {
        /// The path.
        path: String,
        /// Its bytes.
        len: usize,
    },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let other = || EndpointError::Other(text.to_owned());
        if text.starts_with("tcp:") || text.starts_with("http") {
            return Err(EndpointError::Tcp(text.to_owned()));
        }
        let path = match text.strip_prefix("unix:") {
            // `unix:PATH` and `unix:///PATH` are both in use; `unix://HOST/PATH` is neither.
            Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
            None => text,
        };
        if path.starts_with('@') || path.starts_with('\0') || text.starts_with("unix-abstract:") {
            return Err(EndpointError::Abstract(text.to_owned()));
        }
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(other());
        }
        if path.split('/').any(|part| part == "..") {
            return Err(other());
        }
        if path.len() >= MAX_SOCKET_PATH {
            return Err(EndpointError::TooLong {
                path: path.to_owned(),
                len: path.len(),
            });
        }
        Ok(Self(PathBuf::from(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_bare_paths_are_endpoints() {
        for text in ["unix:///run/a.sock", "unix:/run/a.sock", "/run/a.sock"] {
            assert_eq!(text.parse(), Ok(Endpoint(PathBuf::from("/run/a.sock"))));
        }
    }

    #[test]
    fn what_is_not_a_path_is_refused_with_the_reason() {
        let long = format!("unix:///{}", "x".repeat(107));
        for (text, reason) in [
            ("tcp://127.0.0.1:1", "owns the node"),
            ("https://x", "owns the node"),
            ("unix://@berth", "no permissions"),
            ("@berth", "no permissions"),
            ("unix://run/a.sock", "allowed"),
            ("unix:///", "allowed"),
            ("unix:///a/../b", "allowed"),
            ("", "allowed"),
            ("npipe:////./pipe/x", "allowed"),
            (&long, "at most 107"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }
}
