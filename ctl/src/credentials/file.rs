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

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use berth_proto::cri::AuthConfig;
use serde_json::{Map, Value, json};

use super::{helper, registry::Registry};
use crate::failure::{Failure, Outcome};

/// Far above any file of credentials.
const LARGEST: u64 = 4 << 20;
/// Some write the padding, some do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A credential file as it was read.
#[derive(Debug)]
pub(super) struct CredentialFile {
    path: PathBuf,
    members: Map<String, Value>,
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
        if text.trim().is_empty() {
            return Ok(Some(Self::empty(path)));
        }
        // Where the mistake is, and never what stands there.
        let members = match serde_json::from_str(&text) {
            Ok(Value::Object(members)) => members,
            Ok(_) => return Err(failed("it is JSON, but no object".to_owned())),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                return Err(failed(format!(
                    "it is not JSON at line {line}, column {column}"
                )));
            }
        };
        Ok(Some(Self {
            path: path.to_owned(),
            members,
        }))
    }

    /// A file that is not there yet.
    pub(super) fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            members: Map::new(),
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
        if let Some(name) = self.helper(registry)
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
        let entries = self.auths().into_iter().flatten();
        let fitting = entries.filter_map(|(key, entry)| {
            let fit = registry.fit(key, repository)?;
            Some((fit, decode(registry, entry)?))
        });
        Ok(fitting.max_by_key(|(fit, _)| *fit).map(|(_, auth)| auth))
    }

    /// Keeps credentials, with the helper that the file names or in the file
    /// itself; says whether as plain text.
    pub(super) async fn keep(&mut self, registry: &Registry, auth: &AuthConfig) -> Outcome<bool> {
        if let Some(name) = self.helper(registry) {
            helper::store(name, registry.key(), &auth.username, &auth.password).await?;
            // What lay here before would win once the helper forgets it.
            self.remove_entries(registry);
            self.write()?;
            return Ok(false);
        }
        self.remove_entries(registry);
        let pair = BASE64.encode(format!("{}:{}", auth.username, auth.password));
        let auths = self.members.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths[registry.key()] = json!({ "auth": pair });
        self.write()?;
        Ok(true)
    }

    /// Forgets a registry; says whether anything was known.
    pub(super) async fn forget(&mut self, registry: &Registry) -> Outcome<bool> {
        let mut known = false;
        if let Some(name) = self.helper(registry) {
            // Helpers do not agree whether forgetting nothing is a failure.
            known = helper::get(name, registry.key()).await?.is_some()
                && helper::erase(name, registry.key()).await?;
        }
        if self.remove_entries(registry) {
            known = true;
            self.write()?;
        }
        Ok(known)
    }

    fn helper(&self, registry: &Registry) -> Option<&str> {
        let by_host = self.members.get("credHelpers").and_then(Value::as_object);
        let own = by_host.into_iter().flatten();
        let own = own.filter(|(key, _)| registry.fit(key, "") == Some(0));
        let own = own.map(|(_, name)| name).next();
        own.or(self.members.get("credsStore"))?
            .as_str()
            .filter(|name| !name.is_empty())
    }

    fn auths(&self) -> Option<&Map<String, Value>> {
        self.members.get("auths")?.as_object()
    }

    /// Removes what is for the whole registry; what is for a part of it stays.
    fn remove_entries(&mut self, registry: &Registry) -> bool {
        let Some(auths) = self.members.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = auths.len();
        auths.retain(|key, _| registry.fit(key, "") != Some(0));
        auths.len() != before
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
        let text =
            serde_json::to_string_pretty(&self.members).map_err(|error| failed(error.into()))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// One entry of `auths`; `None` if it says nothing (a helper's place holder).
fn decode(registry: &Registry, entry: &Value) -> Option<AuthConfig> {
    let text = |name: &str| {
        entry
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut auth = AuthConfig {
        username: text("username"),
        password: text("password"),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        server_address: registry.key().to_owned(),
        ..AuthConfig::default()
    };
    if auth.username.is_empty() {
        let bytes = BASE64.decode(text("auth").trim()).unwrap_or_default();
        let pair = String::from_utf8(bytes).unwrap_or_default();
        if let Some((username, password)) = pair.split_once(':') {
            auth.username = username.to_owned();
            // Old writers filled the last block with zero bytes.
            auth.password = password.trim_end_matches('\0').to_owned();
        }
    }
    let some = [&auth.username, &auth.identity_token, &auth.registry_token];
    some.iter().any(|part| !part.is_empty()).then_some(auth)
}
