//! Credentials for registries, as Docker and the containers tools keep them.
//!
//! Read from, in this order, and the first that knows the registry decides:
//! `$REGISTRY_AUTH_FILE` (which alone is read if it is set),
//! `$DOCKER_CONFIG/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json` (or
//! `/run/containers/UID/auth.json`), `~/.docker/config.json`. `login` writes
//! to `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or
//! `~/.docker/config.json`.
//!
//! Only what is for the registry of the image at hand is ever given to the agent.

mod content;
mod file;
mod helper;
mod registry;

use std::{
    env,
    path::{Path, PathBuf},
};

use berth_proto::cri::AuthConfig;

use crate::failure::{Failure, Outcome};
use file::CredentialFile;
pub(crate) use registry::Registry;

/// The credentials for an image's repository, if anybody has kept some. What is
/// wrong with a file is told and the next one asked: most images need none.
pub(crate) async fn for_image(reference: &str) -> Option<AuthConfig> {
    let (registry, repository) = Registry::of_image(reference);
    for path in places() {
        let found = match CredentialFile::read(&path) {
            Ok(Some(file)) => file.find(&registry, &repository).await,
            Ok(None) => Ok(None),
            Err(failure) => Err(failure),
        };
        match found {
            Ok(Some(auth)) => return Some(auth),
            Ok(None) => {}
            Err(failure) => failure.warn(),
        }
    }
    None
}

/// The user name that is kept for a registry.
pub(crate) async fn known_user(registry: &Registry) -> Option<String> {
    let auth = for_image(&format!("{}/x/x", registry.name())).await?;
    Some(auth.username).filter(|user| !user.is_empty())
}

/// Where credentials were put.
pub(crate) struct Kept {
    pub(crate) path: PathBuf,
    /// Not by a helper but in the file itself.
    pub(crate) plain: bool,
}

/// Keeps credentials that a registry has accepted.
pub(crate) async fn keep(registry: &Registry, auth: &AuthConfig) -> Outcome<Kept> {
    let path = own_place()?;
    let mut file = CredentialFile::read(&path)?.unwrap_or_else(|| CredentialFile::empty(&path));
    let plain = file.keep(registry, auth).await?;
    Ok(Kept { path, plain })
}

/// Forgets a registry. Gives the file that knew it, if one did, and another
/// file that still does and is not ours to change.
pub(crate) async fn forget(registry: &Registry) -> Outcome<(Option<PathBuf>, Option<PathBuf>)> {
    let own = own_place()?;
    let mut from = None;
    if let Some(mut file) = CredentialFile::read(&own)?
        && file.forget(registry).await?
    {
        from = Some(file.path().to_owned());
    }
    for path in places().into_iter().filter(|path| *path != own) {
        if let Ok(Some(file)) = CredentialFile::read(&path)
            && matches!(file.find(registry, "").await, Ok(Some(_)))
        {
            return Ok((from, Some(path)));
        }
    }
    Ok((from, None))
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn docker(home: &Path) -> PathBuf {
    home.join("config.json")
}

/// Where credentials may lie.
fn places() -> Vec<PathBuf> {
    if let Some(only) = set("REGISTRY_AUTH_FILE") {
        return vec![only];
    }
    let runtime = set("XDG_RUNTIME_DIR").map(|dir| dir.join("containers"));
    let uid = rustix::process::getuid().as_raw();
    let runtime = runtime.unwrap_or_else(|| PathBuf::from(format!("/run/containers/{uid}")));
    let named = set("DOCKER_CONFIG").map(|dir| docker(&dir));
    let home = set("HOME").map(|home| docker(&home.join(".docker")));
    // A directory that was named takes the place of the one at home.
    let home = home.filter(|_| named.is_none());
    named
        .into_iter()
        .chain([runtime.join("auth.json")])
        .chain(home)
        .collect()
}

/// Where `login` writes.
fn own_place() -> Outcome<PathBuf> {
    set("REGISTRY_AUTH_FILE")
        .or_else(|| set("DOCKER_CONFIG").map(|dir| docker(&dir)))
        .or_else(|| set("HOME").map(|home| docker(&home.join(".docker"))))
        .ok_or_else(|| {
            Failure::new(
                "there is no place for credentials",
                "neither HOME nor DOCKER_CONFIG is set",
            )
        })
}
