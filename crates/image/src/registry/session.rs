//! One repository of one registry, during one pull.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{
    Response, Url,
    header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE, RETRY_AFTER},
};

use super::{
    Auth, RegistryError,
    auth::{Challenge, bearer, challenges, fetch_token},
    http::{Clients, chunk, host, read_capped},
};
use crate::{
    document::{self, DOCUMENT_MAX, Descriptor},
    name::{Digest, Reference},
};

/// The first try and three more: enough for a restarted registry behind a balancer.
pub(super) const ATTEMPTS: u32 = 4;
/// Doubled each time; together below two seconds.
const BACKOFF: Duration = Duration::from_millis(200);
/// A registry that asks for more patience than this is reported instead.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// At least so many bytes in each such time, or the transfer counts as stalled:
/// a server that feeds single bytes would else hold the pull for ever.
const PROGRESS_BYTES: u64 = 16 << 10;
const PROGRESS_TIME: Duration = Duration::from_secs(60);

/// The header that a registry accepted last, shared by all requests of a pull.
pub(crate) type Authorization = Mutex<Option<HeaderValue>>;

/// A repository with what is needed to read it.
#[derive(Debug)]
pub(crate) struct Session<'c> {
    clients: &'c Clients,
    base: Url,
    repository: String,
    auth: Auth,
    authorization: Arc<Authorization>,
}

/// Raw bytes of a manifest or index and what they were declared to be.
#[derive(Debug)]
pub(crate) struct RawDocument {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) content_type: String,
}

impl<'c> Session<'c> {
    pub(crate) fn new(
        clients: &'c Clients,
        reference: &Reference,
        auth: Auth,
        authorization: Arc<Authorization>,
    ) -> Result<Self, RegistryError> {
        let api = reference.api_host();
        let scheme = clients.registries().scheme(api);
        let repository = reference.repository().to_owned();
        let base = Url::parse(&format!("{scheme}://{api}/v2/{repository}/"))
            .ok()
            .ok_or_else(|| RegistryError::Refused {
                host: api.to_owned(),
                why: "is not a host that a URL can have".to_owned(),
            })?;
        if let Some(token) = auth.registry_token() {
            *authorization.lock().unwrap_or_else(PoisonError::into_inner) = bearer(token);
        }
        Ok(Self {
            clients,
            base,
            repository,
            auth,
            authorization,
        })
    }

    /// Fetches a manifest or index by tag or digest.
    pub(crate) async fn document(
        &self,
        wanted: &str,
        digest: Option<&Digest>,
    ) -> Result<RawDocument, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(document::ACCEPT));
        let url = self.url(&format!("manifests/{wanted}"))?;
        retry(|| async {
            let answer = self.get(&url, &headers, wanted, "a manifest").await?;
            let header = |name: &str| {
                let value = answer.headers().get(name)?;
                value.to_str().ok().map(str::to_owned)
            };
            let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
            let stated = header("docker-content-digest").and_then(|text| text.parse().ok());
            let bytes = read_capped(answer, &url, "a manifest", DOCUMENT_MAX).await?;
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
        })
        .await
    }

    /// Fetches a small blob whole and checks it.
    pub(crate) async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let url = self.url(&format!("blobs/{}", blob.digest))?;
        let name = blob.digest.to_string();
        retry(|| async {
            let answer = self.get(&url, &HeaderMap::new(), &name, "a blob").await?;
            let bytes = read_capped(answer, &url, "a configuration", DOCUMENT_MAX).await?;
            if (bytes.len() as u64) < blob.size {
                return Err(RegistryError::Truncated {
                    host: host(&url),
                    what: name.clone(),
                    got: bytes.len() as u64,
                    size: blob.size,
                });
            }
            if bytes.len() as u64 != blob.size || !blob.digest.matches(&bytes) {
                return Err(RegistryError::Digest {
                    host: host(&url),
                    what: "a configuration".to_owned(),
                    actual: Digest::of(&bytes).to_string(),
                    expected: name.clone(),
                });
            }
            Ok(bytes)
        })
        .await
    }

    /// A blob to be read chunk by chunk, from its byte `from` on.
    pub(crate) fn blob<'s>(
        &'s self,
        descriptor: &Descriptor,
        from: u64,
    ) -> Result<Blob<'s>, RegistryError> {
        Ok(Blob {
            session: self,
            url: self.url(&format!("blobs/{}", descriptor.digest))?,
            name: descriptor.digest.to_string(),
            size: descriptor.size,
            got: from,
            failures: 0,
            answer: None,
            window: (Duration::ZERO, 0),
        })
    }

    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        // Digests, tags and repositories are validated, so joining cannot leave /v2/NAME/.
        self.base
            .join(&format!("./{path}"))
            .ok()
            .ok_or_else(|| RegistryError::Refused {
                host: host(&self.base),
                why: format!("has no address for {path}"),
            })
    }

    /// One GET; answers a challenge once.
    async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
        wanted: &str,
        what: &'static str,
    ) -> Result<Response, RegistryError> {
        let sent = self.authorization();
        let mut answer = self.clients.get(url, sent.as_ref(), headers, what).await?;
        // A refusal by storage behind a redirect says nothing about the registry's credentials.
        if answer.status().as_u16() == 401 && super::origin::same_origin(answer.url(), url) {
            let authorization = self.authorize(&challenges(answer.headers()), &sent).await?;
            answer = self
                .clients
                .get(url, Some(&authorization), headers, what)
                .await?;
        }
        let status = answer.status().as_u16();
        if matches!(status, 200 | 206) {
            return Ok(answer);
        }
        let (host, repository) = (host(&self.base), self.repository.clone());
        Err(match status {
            401 => self.unauthorized("check the credentials and that the repository exists"),
            403 => RegistryError::Forbidden { host, repository },
            404 => RegistryError::NotFound {
                host,
                repository,
                what: format!("{what} {wanted}"),
            },
            429 => {
                self.wait_as_told(&answer).await;
                RegistryError::RateLimited { host }
            }
            status => RegistryError::Status {
                host,
                status,
                what: format!("{what} {wanted}"),
            },
        })
    }

    /// Waits for as long as the registry asks, if that is bearable; the caller then tries again.
    pub(super) async fn wait_as_told(&self, answer: &Response) {
        let header = answer.headers().get(RETRY_AFTER);
        let seconds = header.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if let Some(wait) = seconds.map(Duration::from_secs)
            && wait <= RETRY_AFTER_MAX
        {
            tokio::time::sleep(wait).await;
        }
    }

    pub(super) async fn authorize(
        &self,
        offered: &[Challenge],
        sent: &Option<HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let now = self.authorization();
        if now.is_some() && now != *sent {
            // Another layer's request has got a token meanwhile.
            return now.ok_or_else(|| self.unauthorized("no token"));
        }
        if self.auth.registry_token().is_some() {
            return Err(self.unauthorized("the given registry token is not accepted"));
        }
        let token = offered.iter().find_map(|challenge| match challenge {
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        let authorization = match (token, self.auth.user()) {
            (Some((realm, service, scope)), _) => {
                let challenge = (realm.as_str(), service.as_deref(), scope.as_deref());
                fetch_token(
                    self.clients,
                    &self.base,
                    &self.repository,
                    &self.auth,
                    challenge,
                )
                .await?
            }
            (None, Some((user, password))) if offered.contains(&Challenge::Basic) => {
                basic(user, password).ok_or_else(|| self.unauthorized("malformed credentials"))?
            }
            (None, None) => return Err(self.unauthorized("log in, or give credentials")),
            (None, Some(_)) => {
                return Err(self.unauthorized("it offers no way to log in that is known"));
            }
        };
        let mut slot = self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Some(authorization.clone());
        Ok(authorization)
    }

    pub(super) fn clients(&self) -> &Clients {
        self.clients
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        // Replaced whole, so a panic elsewhere cannot have torn it.
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn unauthorized(&self, hint: &'static str) -> RegistryError {
        RegistryError::Unauthorized {
            host: host(&self.base),
            repository: self.repository.clone(),
            who: self.auth.who(),
            hint,
        }
    }
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

/// A transfer that continues where it broke.
#[derive(Debug)]
pub(crate) struct Blob<'s> {
    session: &'s Session<'s>,
    url: Url,
    name: String,
    size: u64,
    got: u64,
    failures: u32,
    answer: Option<(Response, u64)>,
    /// Time spent waiting for the network and bytes it brought meanwhile.
    window: (Duration, u64),
}

impl Blob<'_> {
    /// The next bytes; `None` when all of them came.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.got == self.size && self.answer.is_none() {
                return Ok(None);
            }
            match self.step().await {
                Ok(chunk) => return Ok(chunk),
                Err(error) if error.is_transient() && self.failures + 1 < ATTEMPTS => {
                    self.answer = None;
                    back_off(self.failures, &error).await;
                    self.failures += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Bytes>, RegistryError> {
        const WHAT: &str = "a layer";
        loop {
            let (answer, skip) = match &mut self.answer {
                Some(open) => open,
                None => {
                    let open = self.open().await?;
                    self.answer.insert(open)
                }
            };
            let began = Instant::now();
            let chunk = chunk(answer, &self.url, WHAT).await?;
            self.window.0 += began.elapsed();
            let Some(mut chunk) = chunk else {
                if self.got < self.size {
                    return Err(RegistryError::Truncated {
                        host: host(&self.url),
                        what: self.name.clone(),
                        got: self.got,
                        size: self.size,
                    });
                }
                self.answer = None;
                return Ok(None);
            };
            if *skip > 0 {
                let known = usize::try_from(*skip)
                    .unwrap_or(usize::MAX)
                    .min(chunk.len());
                *skip -= known as u64;
                chunk = chunk.split_off(known);
            }
            self.window.1 += chunk.len() as u64;
            if self.window.0 > PROGRESS_TIME {
                if self.window.1 < PROGRESS_BYTES {
                    return Err(RegistryError::Stalled {
                        host: host(&self.url),
                        what: WHAT,
                        seconds: PROGRESS_TIME.as_secs(),
                    });
                }
                self.window = (Duration::ZERO, 0);
            }
            if chunk.is_empty() {
                continue;
            }
            if self.got + chunk.len() as u64 > self.size {
                return Err(RegistryError::Longer {
                    host: host(&self.url),
                    what: self.name.clone(),
                    size: self.size,
                });
            }
            self.got += chunk.len() as u64;
            return Ok(Some(chunk));
        }
    }

    /// Asks for what is missing; a server without ranges sends all again, which is skipped.
    async fn open(&self) -> Result<(Response, u64), RegistryError> {
        let mut headers = HeaderMap::new();
        if self.got > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.got))
        {
            headers.insert(RANGE, range);
        }
        let answer = self
            .session
            .get(&self.url, &headers, &self.name, "a blob")
            .await?;
        if answer.status().as_u16() != 206 {
            return Ok((answer, self.got));
        }
        let range = answer.headers().get(CONTENT_RANGE);
        let range = range.and_then(|value| value.to_str().ok());
        if !range.is_some_and(|range| range.starts_with(&format!("bytes {}-", self.got))) {
            return Err(RegistryError::Refused {
                host: host(&self.url),
                why: "answers another range than it was asked for".to_owned(),
            });
        }
        Ok((answer, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
