//! A credential file: Docker's `config.json` or the containers tools' `auth.json`.
//!
//! It is somebody else's file, too: what is not about credentials stays in it
//! as it is.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use berth_proto::cri::AuthConfig;

use super::{content::Content, helper, registry::Registry};
use crate::failure::{Failure, Outcome};

/// Far above any file of credentials.
const LARGEST: u64 = 4 << 20;
/// A credential file as it was read.
#[derive(Debug)]
pub(super) struct CredentialFile {
    path: PathBuf,
    content: Content,
}

impl CredentialFile {
    /// Reads a file; `None` if it is not there.
    pub(super) fn read(path: &Path) -> Outcome<Option<Self>> {
        let failed = |why: String| {
            Failure::new(
                format!("cannot use the credentials in {}", path.display()),
                why,
            )
        };
        let file = match fs::File::open(path) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            other => other.map_err(|error| failed(error.to_string()))?,
        };
        let mut text = String::new();
        file.take(LARGEST)
            .read_to_string(&mut text)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Some(Self {
            path: path.to_owned(),
            content: Content::parse(&text).map_err(failed)?,
        }))
    }

    /// A file that is not there yet.
    pub(super) fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            content: Content::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file has for a repository, itself or through a helper.
    pub(super) async fn find(
        &self,
        registry: &Registry,
        repository: &str,
    ) -> Outcome<Option<AuthConfig>> {
        if let Some(name) = self.content.helper(registry)
            && let Some(pair) = helper::get(name, registry.key()).await?
        {
            let mut auth = AuthConfig {
                server_address: registry.key().to_owned(),
                ..AuthConfig::default()
            };
            if pair.is_token() {
                auth.identity_token = pair.secret;
            } else {
                auth.username = pair.username;
                auth.password = pair.secret;
            }
            return Ok(Some(auth));
        }
        Ok(self.content.find(registry, repository))
    }

    /// Keeps credentials, with the helper that the file names or in the file
    /// itself; says whether as plain text.
    pub(super) async fn keep(&mut self, registry: &Registry, auth: &AuthConfig) -> Outcome<bool> {
        if let Some(name) = self.content.helper(registry) {
            helper::store(name, registry.key(), &auth.username, &auth.password).await?;
            // What lay here before would win once the helper forgets it.
            self.content.remove(registry);
            self.write()?;
            return Ok(false);
        }
        self.content.put(registry, auth);
        self.write()?;
        Ok(true)
    }

    /// Forgets a registry; says whether anything was known.
    pub(super) async fn forget(&mut self, registry: &Registry) -> Outcome<bool> {
        let mut known = false;
        if let Some(name) = self.content.helper(registry) {
            // Helpers do not agree whether forgetting nothing is a failure.
            known = helper::get(name, registry.key()).await?.is_some()
                && helper::erase(name, registry.key()).await?;
        }
        if self.content.remove(registry) {
            known = true;
            self.write()?;
        }
        Ok(known)
    }

    /// Replaces the file in one step, readable by its owner alone.
    fn write(&self) -> Outcome<()> {
        let failed = |error: io::Error| {
            Failure::new(
                format!("cannot write {}", self.path.display()),
                error.to_string(),
            )
        };
        // A link stays one: some keep this file elsewhere.
        let path = match fs::canonicalize(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.path.clone(),
            other => other.map_err(failed)?,
        };
        let directory = path.parent().unwrap_or(Path::new("/"));
        if !directory.is_dir() {
            fs::create_dir_all(directory).map_err(failed)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        // Made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
        let text = self.content.text().map_err(|error| failed(error.into()))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}
