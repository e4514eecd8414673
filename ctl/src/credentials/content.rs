//! What a credential file says: its text, the entries for a registry, its helpers.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use berth_proto::cri::AuthConfig;
use serde_json::{Map, Value, json};

use super::Registry;

/// Some write the padding, some do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The members of a file; those that are not about credentials stay as they are.
#[derive(Debug, Default)]
pub(crate) struct Content(Map<String, Value>);

impl Content {
    /// Reads a file's text; an empty one says nothing.
    ///
    /// # Errors
    /// Where the mistake is, and never what stands there.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => Err("it is JSON, but no object".to_owned()),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                Err(format!("it is not JSON at line {line}, column {column}"))
            }
        }
    }

    /// As it is written.
    ///
    /// # Errors
    /// If a number in it cannot be written.
    pub(crate) fn text(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(&self.0)
    }

    /// What the file itself has for a repository: of several entries the one that fits best.
    pub(crate) fn find(&self, registry: &Registry, repository: &str) -> Option<AuthConfig> {
        let entries = self.0.get("auths").and_then(Value::as_object);
        let fitting = entries.into_iter().flatten().filter_map(|(key, entry)| {
            let fit = registry.fit(key, repository)?;
            Some((fit, decode(registry, entry)?))
        });
        fitting.max_by_key(|(fit, _)| *fit).map(|(_, auth)| auth)
    }

    /// The helper that the file names for a registry.
    pub(crate) fn helper(&self, registry: &Registry) -> Option<&str> {
        let by_host = self.0.get("credHelpers").and_then(Value::as_object);
        let own = by_host.into_iter().flatten();
        let own = own.filter(|(key, _)| registry.fit(key, "") == Some(0));
        let own = own.map(|(_, name)| name).next();
        own.or(self.0.get("credsStore"))?
            .as_str()
            .filter(|name| !name.is_empty())
    }

    /// Puts credentials in the place of those that were there.
    pub(crate) fn put(&mut self, registry: &Registry, auth: &AuthConfig) {
        self.remove(registry);
        let pair = BASE64.encode(format!("{}:{}", auth.username, auth.password));
        let auths = self.0.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths[registry.key()] = json!({ "auth": pair });
    }

    /// Removes what is for the whole registry; what is for a part of it stays. Says
    /// whether there was anything.
    pub(crate) fn remove(&mut self, registry: &Registry) -> bool {
        let Some(auths) = self.0.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = auths.len();
        auths.retain(|key, _| registry.fit(key, "") != Some(0));
        auths.len() != before
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
