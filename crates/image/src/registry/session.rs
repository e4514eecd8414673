//! One repository of one registry, during one pull or push.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use reqwest::{
    Method, RequestBuilder, Response, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};

use super::{
    Auth, RegistryError,
    auth::{Challenge, bearer, challenges, fetch_token, pull_scope},
    hosts::{self, Capability, Host},
    http::{Clients, credentials, host, read_capped},
    origin::same_origin,
};
use crate::{
    document::{self, DOCUMENT_MAX, Descriptor},
    name::{Digest, Reference},
};

/// The first try and three more: enough for a restarted registry behind a balancer.
pub(super) const ATTEMPTS: u32 = 4;
/// Tries with other authorizations: the one at hand, a token that was kept from earlier
/// or that another request has got meanwhile, and a new one.
pub(super) const ROUNDS: u32 = 3;
/// Doubled each time; together below two seconds.
const BACKOFF: Duration = Duration::from_millis(200);
/// A mirror's answer to a request; longer than that, the registry itself is quicker.
const MIRROR_ANSWER_MAX: Duration = Duration::from_secs(10);

/// What all requests of one pull or push share: which hosts answer, and what each of
/// them has accepted last.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Read once, so that a file that changes meanwhile changes nothing halfway.
    hosts: OnceLock<Arc<[Host]>>,
    accepted: Mutex<HashMap<usize, HeaderValue>>,
    /// A mirror has given something else than was asked for.
    distrusted: AtomicBool,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Reading, from mirrors too.
    Pull,
    /// Writing, to the one host that is meant for it.
    Push,
}

/// A repository with what is needed to use it.
#[derive(Debug)]
pub(crate) struct Session<'c> {
    clients: &'c Clients,
    hosts: Arc<[Host]>,
    /// The registry itself among them, or for a push the host that takes it.
    at: usize,
    base: Url,
    registry: String,
    repository: String,
    auth: Auth,
    shared: Arc<Shared>,
}

/// Raw bytes of a manifest or index and what they were declared to be.
#[derive(Debug)]
pub(crate) struct RawDocument {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) content_type: String,
}

impl<'c> Session<'c> {
    /// # Errors
    /// [`RegistryError::Hosts`] for a broken `hosts.toml`, [`RegistryError::NoHost`] if
    /// no host may do what `action` needs.
    pub(crate) fn new(
        clients: &'c Clients,
        reference: &Reference,
        auth: Auth,
        shared: Arc<Shared>,
        action: Action,
    ) -> Result<Self, RegistryError> {
        let hosts = match shared.hosts.get() {
            Some(hosts) => Arc::clone(hosts),
            None => {
                let read = hosts::hosts(clients.registries(), reference)?.into();
                Arc::clone(shared.hosts.get_or_init(|| read))
            }
        };
        let found = match action {
            Action::Pull => hosts.iter().rposition(|host| !host.mirror),
            Action::Push => hosts
                .iter()
                .position(|host| host.capabilities.has(Capability::Push)),
        };
        let at = found.ok_or_else(|| RegistryError::NoHost {
            registry: reference.registry().to_owned(),
            capability: "push",
        })?;
        let repository = reference.repository().to_owned();
        let base = join(&hosts[at], &format!("{repository}/"))?;
        let session = Self {
            clients,
            hosts,
            at,
            base,
            registry: reference.registry().to_owned(),
            repository,
            auth,
            shared,
        };
        if let Some(token) = session.auth.registry_token().and_then(bearer) {
            for (index, host) in session.hosts.iter().enumerate() {
                if !host.mirror {
                    session.accept(index, token.clone());
                }
            }
        }
        Ok(session)
    }

    /// Fetches a manifest or index by tag or digest.
    pub(crate) async fn document(
        &self,
        wanted: &str,
        digest: Option<&Digest>,
    ) -> Result<RawDocument, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(document::ACCEPT));
        let path = format!("manifests/{wanted}");
        let what = format!("manifest {wanted}");
        let needed = match digest {
            Some(_) => Capability::Pull,
            None => Capability::Resolve,
        };
        let (path, headers, what) = (&path, &headers, what.as_str());
        let ask = |index: usize| async move {
            let answer = self.get(index, path, headers, what).await?;
            let url = answer.url().clone();
            let header = |name: &str| {
                let value = answer.headers().get(name)?;
                value.to_str().ok().map(str::to_owned)
            };
            let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
            let stated = header("docker-content-digest").and_then(|text| text.parse().ok());
            let bytes =
                read_capped(answer, &url, what, DOCUMENT_MAX, self.clients.patience()).await?;
            for expected in digest.into_iter().chain(&stated) {
                if !expected.matches(&bytes) {
                    return Err(RegistryError::Digest {
                        host: host(&url),
                        what: "a manifest".to_owned(),
                        actual: Digest::of(&bytes).to_string(),
                        expected: expected.to_string(),
                    });
                }
            }
            Ok(RawDocument {
                digest: digest.cloned().unwrap_or_else(|| Digest::of(&bytes)),
                bytes,
                content_type,
            })
        };
        retry(|| self.across(needed, 0, ask)).await
    }

    /// Fetches a small blob whole and checks it.
    pub(crate) async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{}", blob.digest);
        let what = format!("configuration {}", blob.digest);
        let (path, what, none) = (&path, what.as_str(), &HeaderMap::new());
        let ask = |index: usize| async move {
            let answer = self.get(index, path, none, what).await?;
            let url = answer.url().clone();
            let bytes =
                read_capped(answer, &url, what, DOCUMENT_MAX, self.clients.patience()).await?;
            if (bytes.len() as u64) < blob.size {
                return Err(RegistryError::Truncated {
                    host: host(&url),
                    what: what.to_owned(),
                    got: bytes.len() as u64,
                    size: blob.size,
                });
            }
            if bytes.len() as u64 != blob.size || !blob.digest.matches(&bytes) {
                return Err(RegistryError::Digest {
                    host: host(&url),
                    what: "a configuration".to_owned(),
                    actual: Digest::of(&bytes).to_string(),
                    expected: blob.digest.to_string(),
                });
            }
            Ok(bytes)
        };
        retry(|| self.across(Capability::Pull, 0, ask)).await
    }

    /// Asks the hosts that may be asked, from `first` on, until one of them gives it.
    /// Mirrors that did not answer a moment ago come last.
    pub(super) async fn across<T, F>(
        &self,
        needed: Capability,
        first: usize,
        mut ask: impl FnMut(usize) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let distrusted = self.shared.distrusted.load(Ordering::Relaxed);
        let able = |index: &usize| {
            let host = &self.hosts[*index];
            host.capabilities.has(needed) && !(host.mirror && distrusted)
        };
        let (dead, alive): (Vec<usize>, Vec<usize>) =
            (first..self.hosts.len()).filter(able).partition(|&index| {
                self.hosts[index].mirror && self.clients.dead.has(&self.hosts[index])
            });
        let (mut failure, mut last) = (None, None);
        let mut mirrors = Vec::new();
        for index in alive.into_iter().chain(dead) {
            let at = &self.hosts[index];
            let error = match ask(index).await {
                Ok(given) => return Ok(given),
                Err(error) => error,
            };
            if !at.mirror {
                failure = Some(error);
                continue;
            }
            if error.is_unreachable() {
                self.clients.dead.note(at);
            }
            let told = error.in_short();
            tracing::debug!(error = told, "a mirror did not help");
            mirrors.push(told);
            last = Some(error);
        }
        match (failure, last) {
            (Some(failure), None) => Err(failure),
            (Some(failure), Some(_)) => Err(RegistryError::Mirrors {
                registry: self.registry.clone(),
                mirrors: mirrors.join("; "),
                source: Box::new(failure),
            }),
            // The file keeps the registry itself out of it.
            (None, Some(error)) => Err(error),
            (None, None) => Err(RegistryError::NoHost {
                registry: self.registry.clone(),
                capability: match needed {
                    Capability::Pull => "pull",
                    Capability::Resolve => "resolve",
                    Capability::Push => "push",
                },
            }),
        }
    }

    /// From now on asks the registry itself alone. Returns whether that makes a difference:
    /// content that is wrong may have come from a mirror.
    pub(crate) fn distrust_mirrors(&self) -> bool {
        let other = |host: &Host| !host.mirror && host.capabilities.has(Capability::Pull);
        self.hosts.iter().any(|host| host.mirror)
            && self.hosts.iter().any(other)
            && !self.shared.distrusted.swap(true, Ordering::Relaxed)
    }

    /// An address of the host that takes a push.
    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.url_at(self.at, path)
    }

    fn url_at(&self, index: usize, path: &str) -> Result<Url, RegistryError> {
        // Digests, tags and repositories are validated, so joining cannot leave /v2/NAME/.
        let at = &self.hosts[index];
        let mut url = join(at, &format!("{}/{path}", self.repository))?;
        if let Some(namespace) = &at.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// One GET of one host; answers a challenge once.
    pub(super) async fn get(
        &self,
        index: usize,
        path: &str,
        headers: &HeaderMap,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let at = &self.hosts[index];
        let url = self.url_at(index, path)?;
        let asked = self.challenged(index, &url, headers, what);
        let answer = match at.mirror {
            false => asked.await?,
            true => tokio::time::timeout(MIRROR_ANSWER_MAX, asked)
                .await
                .unwrap_or_else(|_| {
                    Err(RegistryError::Stalled {
                        host: host(&url),
                        what: what.to_owned(),
                        seconds: MIRROR_ANSWER_MAX.as_secs(),
                    })
                })?,
        };
        let status = answer.status().as_u16();
        if matches!(status, 200 | 206) {
            return Ok(answer);
        }
        // A refusal by storage behind a redirect names that storage.
        let (host, repository) = (host(answer.url()), self.repository.clone());
        Err(match status {
            401 => self.refused(
                index,
                "check the credentials and that the repository exists",
            ),
            403 => RegistryError::Forbidden { host, repository },
            404 => RegistryError::NotFound {
                host,
                repository,
                what: what.to_owned(),
            },
            // The next host has no need to wait.
            429 if at.mirror => RegistryError::RateLimited {
                host,
                seconds: None,
            },
            429 => self.limited(&answer).await,
            status => RegistryError::Status {
                host,
                status,
                what: what.to_owned(),
                seconds: match status {
                    500.. if !at.mirror => self.wait_as_told(&answer).await,
                    _ => None,
                },
            },
        })
    }

    async fn challenged(
        &self,
        index: usize,
        url: &Url,
        headers: &HeaderMap,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let at = &self.hosts[index];
        let mut sent = self.accepted(index);
        let mut round = 1;
        loop {
            let answer = self
                .clients
                .get(at, url, sent.as_ref(), headers, what)
                .await?;
            // A refusal by storage behind a redirect says nothing about the registry's credentials.
            let own = same_origin(answer.url(), url);
            if answer.status().as_u16() != 401 || !own || round == ROUNDS {
                return Ok(answer);
            }
            let mut offered = challenges(answer.headers());
            for challenge in &mut offered {
                if let Challenge::Bearer { scope, .. } = challenge {
                    *scope = Some(pull_scope(scope.as_deref(), &self.repository));
                }
            }
            let authorization = Some(self.authorize_at(index, &offered, &sent).await?);
            if authorization == sent {
                return Ok(answer);
            }
            sent = authorization;
            round += 1;
        }
    }

    /// The error for a 429, after having waited as long as it says if that is bearable.
    pub(super) async fn limited(&self, answer: &Response) -> RegistryError {
        RegistryError::RateLimited {
            host: host(answer.url()),
            seconds: self.wait_as_told(answer).await,
        }
    }

    /// Waits as long as an answer asks for; the seconds that it asks for if they are too many.
    pub(super) async fn wait_as_told(&self, answer: &Response) -> Option<u64> {
        let header = answer.headers().get(RETRY_AFTER)?;
        let wait = patience(header.to_str().ok()?, SystemTime::now())?;
        if wait > self.clients.patience().retry_after {
            return Some(wait.as_secs());
        }
        tokio::time::sleep(wait).await;
        None
    }

    pub(super) async fn authorize(
        &self,
        offered: &[Challenge],
        sent: &Option<HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        self.authorize_at(self.at, offered, sent).await
    }

    async fn authorize_at(
        &self,
        index: usize,
        offered: &[Challenge],
        sent: &Option<HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let now = self.accepted(index);
        if let Some(now) = now.filter(|_| self.accepted(index) != *sent) {
            // Another layer's request has got a token meanwhile.
            return Ok(now);
        }
        let at = &self.hosts[index];
        let auth = self.auth_at(index);
        if auth.registry_token().is_some() {
            return Err(self.refused(index, "the given registry token is not accepted"));
        }
        let token = offered.iter().find_map(|challenge| match challenge {
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        let authorization = match (token, auth.user()) {
            (Some((realm, service, scope)), _) => {
                let challenge = (realm.as_str(), service.as_deref(), scope.as_deref());
                let for_what = (self.repository.as_str(), sent.as_ref());
                fetch_token(self.clients, at, for_what, &auth, challenge).await?
            }
            (None, Some((user, password))) if offered.contains(&Challenge::Basic) => {
                basic(user, password).ok_or_else(|| self.refused(index, "malformed credentials"))?
            }
            (None, None) => return Err(self.refused(index, "log in, or give credentials")),
            (None, Some(_)) => {
                return Err(self.refused(index, "it offers no way to log in that is known"));
            }
        };
        self.accept(index, authorization.clone());
        Ok(authorization)
    }

    /// Credentials are the registry's; a mirror is asked without.
    fn auth_at(&self, index: usize) -> Auth {
        match self.hosts[index].mirror {
            true => Auth::default(),
            false => self.auth.clone(),
        }
    }

    fn accepted(&self, index: usize) -> Option<HeaderValue> {
        // Replaced whole, so a panic elsewhere cannot have torn it.
        let accepted = self.shared.accepted.lock();
        let accepted = accepted.unwrap_or_else(PoisonError::into_inner);
        accepted.get(&index).cloned()
    }

    fn accept(&self, index: usize, value: HeaderValue) {
        let accepted = self.shared.accepted.lock();
        let mut accepted = accepted.unwrap_or_else(PoisonError::into_inner);
        accepted.insert(index, value);
    }

    /// A request with what the host's own origin is given, if `url` is of it.
    pub(super) fn request(
        &self,
        method: Method,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<RequestBuilder, RegistryError> {
        let at = &self.hosts[self.at];
        let request = self.clients.client(at, url)?.request(method, url.clone());
        Ok(match same_origin(&at.base, url) {
            true => credentials(request, at, authorization),
            false => request,
        })
    }

    pub(super) fn clients(&self) -> &Clients {
        self.clients
    }

    /// The hosts that may be asked, mirrors first.
    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// Where the interface itself answers: `/v2/`.
    pub(super) fn root(&self) -> Url {
        self.hosts[self.at].base.clone()
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        self.accepted(self.at)
    }

    pub(super) fn unauthorized(&self, hint: &'static str) -> RegistryError {
        self.refused(self.at, hint)
    }

    fn refused(&self, index: usize, hint: &'static str) -> RegistryError {
        RegistryError::Unauthorized {
            host: host(&self.hosts[index].base),
            repository: self.repository.clone(),
            who: self.auth_at(index).who(),
            hint,
        }
    }
}

fn join(at: &Host, path: &str) -> Result<Url, RegistryError> {
    at.base
        .join(&format!("./{path}"))
        .ok()
        .ok_or_else(|| RegistryError::Refused {
            host: host(&at.base),
            why: format!("has no address for {path}"),
        })
}

/// `Retry-After`: seconds, or the time of day as HTTP writes it.
fn patience(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let mut value =
        HeaderValue::from_str(&format!("Basic {}", base64(&format!("{user}:{password}"))));
    if let Ok(value) = &mut value {
        value.set_sensitive(true);
    }
    value.ok()
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in text.as_bytes().chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            if at <= group.len() {
                let digit = (bits >> (18 - 6 * at)) & 63;
                out.push(char::from(DIGITS[digit as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// Tries a request again while its failure may pass.
pub(super) async fn retry<T, F>(mut request: impl FnMut() -> F) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    let mut failures = 0;
    loop {
        match request().await {
            Err(error) if error.is_transient() && failures + 1 < ATTEMPTS => {
                back_off(failures, &error).await;
                failures += 1;
            }
            other => return other,
        }
    }
}

pub(super) async fn back_off(failures: u32, error: &RegistryError) {
    tracing::debug!(failures, %error, "registry request failed, trying again");
    let pause = BACKOFF * 2u32.pow(failures);
    // Clients that failed together should not come back together.
    let jitter = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_micros() % 100);
    tokio::time::sleep(pause + pause * jitter / 200).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_asked_for_in_seconds_or_by_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, expect) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:42 GMT", Some(5)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(
                patience(text, now),
                expect.map(Duration::from_secs),
                "{text}"
            );
        }
    }

    #[test]
    fn base64_pads_as_rfc_4648_says() {
        for (text, expect) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(text), expect);
        }
    }
}
