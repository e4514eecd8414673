//! Access tokens that are still good.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::header::HeaderValue;
use sha2::{Digest as _, Sha256};

use super::Auth;

/// What a token lives if its service does not say (distribution token specification).
const LIFE: Duration = Duration::from_secs(60);
/// One that claims more is asked for again anyway: credentials may have been withdrawn.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// A request that begins now must find it valid when it arrives.
const MARGIN: Duration = Duration::from_secs(5);
/// With a token of 16 KiB at most 2 MiB.
const MOST: usize = 128;

/// For what a token was given; a digest, so that no credential stays in memory here.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Purpose([u8; 32]);

impl Purpose {
    pub(super) fn new(origin: &str, realm: &str, service: &str, scope: &str, auth: &Auth) -> Self {
        let mut hash = Sha256::new();
        let secrets = [
            &auth.username,
            &auth.password,
            &auth.identity_token,
            &auth.registry_token,
        ];
        let secrets = secrets.map(|part| part.as_deref().unwrap_or_default());
        for part in [origin, realm, service, scope].into_iter().chain(secrets) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

/// The tokens of one store.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Purpose, (HeaderValue, Instant)>>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// A token for `purpose` that is not `refused`, which the registry has just refused.
    pub(super) fn get(
        &self,
        purpose: &Purpose,
        refused: Option<&HeaderValue>,
    ) -> Option<HeaderValue> {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, until) = tokens.get(purpose)?;
        if Some(token) == refused || *until <= Instant::now() {
            tokens.remove(purpose);
            return None;
        }
        Some(token.clone())
    }

    /// Keeps a token for as long as it is good, `expires_in` seconds.
    pub(super) fn put(&self, purpose: Purpose, token: &HeaderValue, expires_in: Option<u64>) {
        let life = expires_in.map_or(LIFE, Duration::from_secs).min(LIFE_MAX);
        let Some(life) = life.checked_sub(MARGIN) else {
            return;
        };
        let now = Instant::now();
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, (_, until)| *until > now);
        if tokens.len() >= MOST {
            let soonest = tokens.iter().min_by_key(|(_, (_, until))| *until);
            if let Some(purpose) = soonest.map(|(purpose, _)| *purpose) {
                tokens.remove(&purpose);
            }
        }
        tokens.insert(purpose, (token.clone(), now + life));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(scope: &str, user: &str) -> Purpose {
        let auth = Auth {
            username: Some(user.to_owned()),
            ..Auth::default()
        };
        Purpose::new("https://r", "https://r/token", "s", scope, &auth)
    }

    #[test]
    fn a_token_serves_its_own_purpose_until_it_is_refused_or_over() {
        let tokens = Tokens::default();
        let token = HeaderValue::from_static("Bearer x");
        tokens.put(purpose("a", "u"), &token, None);
        assert_eq!(tokens.get(&purpose("a", "u"), None), Some(token.clone()));
        assert_eq!(tokens.get(&purpose("b", "u"), None), None);
        assert_eq!(tokens.get(&purpose("a", "v"), None), None);
        assert_eq!(tokens.get(&purpose("a", "u"), Some(&token)), None);
        assert_eq!(tokens.get(&purpose("a", "u"), None), None);
        // Over before it could be used.
        tokens.put(purpose("a", "u"), &token, Some(5));
        assert_eq!(tokens.get(&purpose("a", "u"), None), None);
    }

    #[test]
    fn tokens_have_a_bound() {
        let tokens = Tokens::default();
        let token = HeaderValue::from_static("Bearer x");
        for n in 0..1000 {
            tokens.put(purpose(&n.to_string(), "u"), &token, Some(u64::MAX));
        }
        assert_eq!(tokens.0.lock().unwrap().len(), MOST);
    }
}
