//! Where the agent is, and who said so: flag, environment, configuration, default.

use std::{fmt, path::PathBuf};

use crate::{
    config,
    failure::{Failure, Outcome},
};

/// Where the agent listens unless it is told otherwise.
const DEFAULT: &str = "unix:///run/berth/agent.sock";

/// A socket to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The socket's path.
    pub(crate) path: PathBuf,
    /// Who named it.
    pub(crate) source: Source,
}

/// Who named the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `-H` or `--endpoint`.
    Flag,
    /// An environment variable.
    Env(&'static str),
    /// A configuration file.
    File(PathBuf),
    /// Nobody.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("from --endpoint"),
            Self::Env(name) => write!(f, "from the environment variable {name}"),
            Self::File(path) => write!(f, "from {}", path.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

impl Endpoint {
    /// Finds the endpoint: the flag, then `BERTH_HOST`, then
    /// `CONTAINER_RUNTIME_ENDPOINT`, then the configuration, then the default.
    /// An empty variable counts as absent.
    pub(crate) fn find(flag: Option<&str>) -> Outcome<Self> {
        if let Some(flag) = flag {
            return Self::parse(flag, Source::Flag);
        }
        for name in ["BERTH_HOST", "CONTAINER_RUNTIME_ENDPOINT"] {
            match std::env::var(name) {
                Ok(value) if !value.is_empty() => return Self::parse(&value, Source::Env(name)),
                Ok(_) | Err(std::env::VarError::NotPresent) => {}
                Err(error @ std::env::VarError::NotUnicode(_)) => {
                    return Err(Failure::usage(
                        format!("cannot use the environment variable {name}"),
                        error.to_string(),
                    ));
                }
            }
        }
        if let Some((endpoint, path)) = config::endpoint()? {
            return Self::parse(&endpoint, Source::File(path));
        }
        Self::parse(DEFAULT, Source::Default)
    }

    fn parse(given: &str, source: Source) -> Outcome<Self> {
        let path = given.strip_prefix("unix://").unwrap_or(given);
        if path.starts_with('/') {
            return Ok(Self {
                path: PathBuf::from(path),
                source,
            });
        }
        let why = if given.starts_with("tcp://") || given.starts_with("http") {
            "berthctl does not speak TCP yet: a unix socket is needed"
        } else if given.starts_with("unix:") {
            "a unix endpoint has three slashes and an absolute path"
        } else {
            "this is neither unix:///PATH nor an absolute path"
        };
        Err(
            Failure::usage(format!("cannot use the endpoint {given} ({source})"), why)
                .next(format!("-H {DEFAULT}")),
        )
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_may_be_a_path_or_a_unix_url() {
        for given in ["unix:///run/x.sock", "/run/x.sock"] {
            let endpoint = Endpoint::find(Some(given)).unwrap();
            assert_eq!(endpoint.path, PathBuf::from("/run/x.sock"));
            assert_eq!(endpoint.source, Source::Flag);
        }
    }

    #[test]
    fn what_is_no_socket_is_a_usage_error() {
        for given in ["tcp://127.0.0.1:2375", "unix:run/x", "run/x.sock", ""] {
            let failure = Endpoint::find(Some(given)).unwrap_err();
            assert_eq!(failure.exit, crate::failure::EXIT_USAGE, "{given}");
        }
    }
}
