//! The configuration files of `berthctl`: the user's own, then the machine's.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::failure::{Failure, Outcome};

const MACHINE: &str = "/etc/berth/ctl.toml";

/// Every key that a configuration file may have.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The agent's socket, `unix:///PATH`.
    endpoint: Option<String>,
}

/// The endpoint that a file names, with the file. The user's file wins.
pub(crate) fn endpoint() -> Outcome<Option<(String, PathBuf)>> {
    let home = env::var_os("XDG_CONFIG_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".config")))
        .map(|dir| dir.join("berth/ctl.toml"));
    for path in home.into_iter().chain([PathBuf::from(MACHINE)]) {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(Failure::new(
                    format!("cannot read {}", path.display()),
                    error.to_string(),
                ));
            }
        };
        if let Some(endpoint) = parse(&text, &path)?.endpoint.filter(|e| !e.is_empty()) {
            return Ok(Some((endpoint, path)));
        }
    }
    Ok(None)
}

fn parse(text: &str, path: &Path) -> Outcome<File> {
    toml::from_str(text).map_err(|error| {
        Failure::usage(
            format!("cannot read the configuration {}", path.display()),
            error.to_string(),
        )
        .next("the only key is: endpoint = \"unix:///run/berth/agent.sock\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_errors() {
        assert!(parse("endpont = \"/x\"", Path::new("/x")).is_err());
        let file = parse("endpoint = \"/x\"", Path::new("/x")).unwrap();
        assert_eq!(file.endpoint.as_deref(), Some("/x"));
    }
}
