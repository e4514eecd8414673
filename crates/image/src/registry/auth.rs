//! Credentials, challenges and tokens (RFC 9110 section 11, distribution token authentication).

use std::fmt;

use reqwest::{
    Url,
    header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{
    RegistryError,
    guard::Inner,
    hosts::Host,
    http::{self, Clients, host, read_capped},
    origin::{is_loopback, may_see_credentials, same_origin},
    token::Purpose,
};

/// A token is a few kilobytes; more does not fit into a header of any server.
const TOKEN_MAX: usize = 16 << 10;
/// Browsers take so much for a URL; nobody needs a tenth of it.
const REALM_MAX: usize = 2048;
/// An answer may hold the token twice, a refresh token, and words around them.
const ANSWER_MAX: u64 = 256 << 10;

/// Credentials for one registry; empty strings count as absent.
#[derive(Clone, Default)]
pub struct Auth {
    /// User name for basic authentication.
    pub username: Option<String>,
    /// Password for basic authentication.
    pub password: Option<String>,
    /// A refresh token to be exchanged for an access token.
    pub identity_token: Option<String>,
    /// An access token to be sent as it is.
    pub registry_token: Option<String>,
}

impl fmt::Debug for Auth {
    // No secret in any log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

impl Auth {
    pub(super) fn user(&self) -> Option<(&str, &str)> {
        Some((given(&self.username)?, given(&self.password).unwrap_or("")))
    }

    pub(super) fn registry_token(&self) -> Option<&str> {
        given(&self.registry_token)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.user().is_none()
            && self.registry_token().is_none()
            && given(&self.identity_token).is_none()
    }

    /// For errors: who was refused.
    pub(super) fn who(&self) -> String {
        match self.user() {
            Some((user, _)) => format!("user {:?}", user.chars().take(64).collect::<String>()),
            None if self.is_empty() => "anonymous users".to_owned(),
            None => "the given token".to_owned(),
        }
    }
}

/// One way to authenticate that a 401 offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// All challenges of an answer that are understood.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(parse_challenges)
        .collect()
}

/// Where the challenges of a header's value send for a token.
pub(crate) fn realms(text: &str) -> Vec<String> {
    let realm = |challenge| match challenge {
        Challenge::Basic => None,
        Challenge::Bearer { realm, .. } => Some(realm),
    };
    parse_challenges(text)
        .into_iter()
        .filter_map(realm)
        .collect()
}

/// A scheme, then parameters; several challenges may share one header.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let end = rest.find([' ', ',', '=', '\t']).unwrap_or(rest.len());
        let word = &rest[..end];
        let after = rest[end..].trim_start_matches([' ', '\t']);
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']));
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            if !word.is_empty() {
                found.push((word.to_ascii_lowercase(), Vec::new()));
            }
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    found
        .into_iter()
        .filter_map(|(scheme, parameters)| {
            let get = |name: &str| {
                let found = parameters.iter().find(|(key, _)| key == name);
                found.map(|(_, value)| value.clone())
            };
            match scheme.as_str() {
                "basic" => Some(Challenge::Basic),
                "bearer" => Some(Challenge::Bearer {
                    realm: get("realm")?,
                    service: get("service"),
                    scope: get("scope"),
                }),
                _ => None,
            }
        })
        .collect()
}

/// A token or quoted string, and what follows.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

/// The scope of a pull. What a registry asks for is believed only where it is about this
/// repository, which some know by a longer name, and never for more than reading.
pub(super) fn pull_scope(asked: Option<&str>, repository: &str) -> String {
    let own = |name: &&str| {
        let rest = name.strip_suffix(repository);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
    };
    let name = asked
        .filter(|scope| !scope.contains([' ', '\t']))
        .and_then(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'))
        .map(|(name, _)| name)
        .filter(own);
    format!("repository:{}:pull", name.unwrap_or(repository))
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Gets an access token for a repository of `home` as `realm` wants it; anonymous where
/// the credentials must not be shown to `realm`. The token that was `refused` is not
/// given again.
pub(super) async fn fetch_token(
    clients: &Clients,
    home: &Host,
    (repository, rejected): (&str, Option<&HeaderValue>),
    auth: &Auth,
    challenge: (&str, Option<&str>, Option<&str>),
) -> Result<HeaderValue, RegistryError> {
    let (realm, service, scope) = challenge;
    let registry = &home.base;
    let host = host(registry);
    let refused = |why: String| RegistryError::Refused {
        host: host.clone(),
        why,
    };
    let short: String = realm.chars().take(200).collect();
    let realm = Some(realm)
        .filter(|realm| realm.len() <= REALM_MAX)
        .and_then(|realm| Url::parse(realm).ok())
        .filter(|realm| realm.host_str().is_some())
        .ok_or_else(|| refused(format!("names {short:?} as token service, which is no URL")))?;
    // A service on plain HTTP is believed only where the registry itself is, on this machine.
    let plain = realm.scheme() == "http"
        && registry.scheme() == "http"
        && (same_origin(registry, &realm) || (is_loopback(registry) && is_loopback(&realm)));
    if realm.scheme() != "https" && !plain {
        return Err(refused(format!(
            "sends to a token service without TLS ({short}), which is not followed"
        )));
    }
    if let Some(why) = Inner::forbidden(registry, &realm) {
        return Err(refused(format!(
            "sends to a token service at {short}, {why}"
        )));
    }
    let pull = format!("repository:{repository}:pull");
    let scope = scope.unwrap_or(&pull);
    let trusted = may_see_credentials(registry, &realm);
    let nobody = Auth::default();
    let withheld = !trusted && !auth.is_empty();
    let auth = if trusted { auth } else { &nobody };
    let purpose = Purpose::new(
        registry.as_str(),
        realm.as_str(),
        service.unwrap_or(""),
        scope,
        auth,
    );
    if let Some(token) = clients.tokens.get(&purpose, rejected) {
        return Ok(token);
    }
    let client = clients.client(home, &realm)?;
    let request = match given(&auth.identity_token) {
        Some(token) => {
            let mut form = Url::parse("form:?")
                .ok()
                .ok_or_else(|| refused("cannot be asked for a token".to_owned()))?;
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service.unwrap_or(""))
                .append_pair("client_id", "berth")
                .append_pair("scope", scope)
                .append_pair("refresh_token", token);
            client
                .post(realm.clone())
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form.query().unwrap_or("").to_owned())
        }
        None => {
            let mut url = realm.clone();
            if let Some(service) = service {
                url.query_pairs_mut().append_pair("service", service);
            }
            // Nothing in particular is asked for where it is only about the login.
            if !scope.is_empty() {
                url.query_pairs_mut().append_pair("scope", scope);
            }
            let request = client.get(url);
            match auth.user() {
                Some((user, password)) => request.basic_auth(user, Some(password)),
                None => request,
            }
        }
    };
    let answer = clients.send(request, &realm, "a token").await?;
    let status = answer.status();
    if !status.is_success() {
        return Err(match status.as_u16() {
            401 | 403 => RegistryError::Unauthorized {
                host,
                repository: repository.to_owned(),
                who: auth.who(),
                hint: match withheld {
                    true => {
                        "its token service is of another domain, to which credentials are not given"
                    }
                    false => "its token service refused; check user name and password",
                },
            },
            429 => RegistryError::RateLimited {
                host,
                seconds: None,
            },
            status => RegistryError::Status {
                host: http::host(&realm),
                status,
                what: "a token".to_owned(),
                seconds: None,
            },
        });
    }
    let body = read_capped(answer, &realm, "a token", ANSWER_MAX, clients.patience()).await?;
    let answer: TokenAnswer = serde_json::from_slice(&body)
        .ok()
        .ok_or_else(|| refused("has a token service that does not answer in JSON".to_owned()))?;
    let token = given(&answer.token).or(given(&answer.access_token));
    let token = token.ok_or_else(|| refused("has a token service that gives none".to_owned()))?;
    if token.len() > TOKEN_MAX {
        let bytes = token.len();
        return Err(refused(format!(
            "has a token service that gives one of {bytes} bytes; at most {TOKEN_MAX} are allowed"
        )));
    }
    let token = bearer(token)
        .ok_or_else(|| refused("has a token service that gives a malformed one".to_owned()))?;
    clients.tokens.put(purpose, &token, answer.expires_in);
    Ok(token)
}

/// `Bearer TOKEN`, kept out of debug output.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_read_with_commas_quotes_and_several_at_once() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        };
        assert_eq!(
            parse_challenges(
                r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#
            ),
            [bearer(
                "https://a/t",
                Some("s"),
                Some("repository:x:pull,push")
            )]
        );
        assert_eq!(
            parse_challenges(r#"Basic realm="x", bearer Realm = https://b"#),
            [Challenge::Basic, bearer("https://b", None, None)]
        );
        assert_eq!(parse_challenges(r#"Bearer service="x""#), []);
        assert_eq!(parse_challenges(r#"Negotiate abc=="#), []);
        assert_eq!(
            parse_challenges(r#"Bearer realm="a\"b"#),
            [bearer("a\"b", None, None)]
        );
    }

    #[test]
    fn a_pull_asks_to_read_its_own_repository_and_for_nothing_else() {
        for (asked, expect) in [
            (None, "repository:a/b:pull"),
            (Some("repository:a/b:pull"), "repository:a/b:pull"),
            (
                Some("repository:a/b:pull,push,delete"),
                "repository:a/b:pull",
            ),
            (
                Some("repository:proxy/a/b:pull"),
                "repository:proxy/a/b:pull",
            ),
            (Some("repository:xa/b:pull"), "repository:a/b:pull"),
            (Some("repository:other:pull"), "repository:a/b:pull"),
            (Some("registry:catalog:*"), "repository:a/b:pull"),
            (
                Some("repository:other:push repository:a/b:pull"),
                "repository:a/b:pull",
            ),
        ] {
            assert_eq!(pull_scope(asked, "a/b"), expect, "{asked:?}");
        }
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let auth = Auth {
            username: Some("u".into()),
            password: Some("secret".into()),
            identity_token: Some("secret".into()),
            registry_token: Some("secret".into()),
        };
        assert!(!format!("{auth:?}").contains("secret"));
        assert!(!format!("{:?}", bearer("secret")).contains("secret"));
    }

    proptest! {
        #[test]
        fn no_header_panics(text in "\\PC{0,80}") {
            parse_challenges(&text);
        }

        #[test]
        fn no_near_header_panics(text in "[Bbearsic ,=\"\\\\a\t]{0,80}") {
            parse_challenges(&text);
        }
    }
}
