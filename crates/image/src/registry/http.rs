//! Requests with deadlines, and redirects that do not carry secrets along.

use std::{error::Error as _, sync::Arc, sync::OnceLock, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, RequestBuilder, Response, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

use super::{
    RegistryError, SILENCE_MAX,
    origin::{Registries, is_loopback, same_origin},
};

/// TCP and TLS handshake together; an unreachable host is known by then.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Storage behind registries takes its time to the first byte.
const HEADERS_MAX: Duration = Duration::from_secs(30);
/// The distribution specification needs one or two; more is a loop.
const REDIRECTS_MAX: usize = 5;
/// Connections kept for the next request of the same pull.
const IDLE_MAX: Duration = Duration::from_secs(20);

const USER_AGENT: &str = concat!("berth/", env!("CARGO_PKG_VERSION"));

/// The HTTP clients of one store.
#[derive(Debug)]
pub(crate) struct Clients {
    registries: Registries,
    plain: OnceLock<Client>,
    tls: OnceLock<Client>,
}

impl Clients {
    pub(crate) fn new(registries: Registries) -> Self {
        Self {
            registries,
            plain: OnceLock::new(),
            tls: OnceLock::new(),
        }
    }

    pub(crate) fn registries(&self) -> &Registries {
        &self.registries
    }

    /// The client for a URL's scheme. The one for TLS is made at first use: it
    /// holds all certificate authorities of the node in memory.
    pub(super) fn for_url(&self, url: &Url) -> Result<&Client, RegistryError> {
        let tls = url.scheme() == "https";
        let cell = if tls { &self.tls } else { &self.plain };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let setup = |error: reqwest::Error| RegistryError::Setup {
            why: error.to_string(),
        };
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_MAX)
            .pool_idle_timeout(IDLE_MAX)
            .referer(false)
            // Ours decide what a redirect may take along.
            .redirect(reqwest::redirect::Policy::none());
        builder = builder.tls_backend_preconfigured(self.tls_config(tls)?);
        if !tls {
            // Plain HTTP is for this machine and listed neighbours, not for a proxy to read.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(setup)?;
        Ok(cell.get_or_init(|| client))
    }

    fn tls_config(&self, wanted: bool) -> Result<ClientConfig, RegistryError> {
        let setup = |why: String| RegistryError::Setup { why };
        let mut roots = RootCertStore::empty();
        if wanted {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
            for file in &self.registries.extra_ca {
                let pem = std::fs::read(file)
                    .map_err(|error| setup(format!("{}: {error}", file.display())))?;
                for certificate in pem_certificates(&pem) {
                    let certificate = certificate
                        .map_err(|error| setup(format!("{}: {error}", file.display())))?;
                    roots
                        .add(certificate)
                        .map_err(|error| setup(format!("{}: {error}", file.display())))?;
                }
            }
            if roots.is_empty() {
                return Err(setup(
                    "the node has no certificate authorities; install ca-certificates".to_owned(),
                ));
            }
        }
        // Passed by value: a process-wide default could be set twice and would panic.
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| setup(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Sends one request, following nothing.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        url: &Url,
        what: &'static str,
    ) -> Result<Response, RegistryError> {
        match tokio::time::timeout(HEADERS_MAX, request.send()).await {
            Ok(answer) => answer.map_err(|error| transport(url, error)),
            Err(_) => Err(RegistryError::Stalled {
                host: host(url),
                what,
                seconds: HEADERS_MAX.as_secs(),
            }),
        }
    }

    /// GETs `url` and follows redirects; the authorization stays with its origin.
    pub(super) async fn get(
        &self,
        url: &Url,
        authorization: Option<&HeaderValue>,
        headers: &HeaderMap,
        what: &'static str,
    ) -> Result<Response, RegistryError> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.for_url(&at)?.get(at.clone()).headers(headers.clone());
            if let Some(value) = authorization.filter(|_| same_origin(url, &at)) {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let answer = self.send(request, &at, what).await?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            at = self.next(&at, answer.headers().get(LOCATION))?;
        }
        Err(refused(
            url,
            format!("redirects more than {REDIRECTS_MAX} times"),
        ))
    }

    /// Where a `Location` leads, if it may be followed.
    pub(super) fn next(
        &self,
        at: &Url,
        location: Option<&HeaderValue>,
    ) -> Result<Url, RegistryError> {
        let location = location
            .and_then(|value| value.to_str().ok())
            .and_then(|text| at.join(text).ok())
            .ok_or_else(|| refused(at, "redirects to nowhere".to_owned()))?;
        let target = host(&location);
        match location.scheme() {
            "https" => {}
            "http" if at.scheme() == "https" => {
                let why = format!("redirects from TLS to plain HTTP at {target}");
                return Err(refused(at, why));
            }
            "http" => {
                let port = location
                    .port()
                    .map_or(String::new(), |port| format!(":{port}"));
                let plain = self.registries.scheme(&format!("{target}{port}")) == "http";
                if !same_origin(at, &location) && !plain && !is_loopback(&location) {
                    let why = format!("redirects to plain HTTP at {target}, which is not allowed");
                    return Err(refused(at, why));
                }
            }
            _ => {
                return Err(refused(
                    at,
                    "redirects to something that is not HTTP".to_owned(),
                ));
            }
        }
        Ok(location)
    }
}

fn refused(url: &Url, why: String) -> RegistryError {
    RegistryError::Refused {
        host: host(url),
        why,
    }
}

/// PEM sections of certificates; others are skipped.
fn pem_certificates(
    pem: &[u8],
) -> impl Iterator<Item = Result<CertificateDer<'static>, rustls::pki_types::pem::Error>> + '_ {
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::pem_slice_iter(pem)
}

/// HOST, without port, for messages.
pub(super) fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

/// Tells a name that does not resolve from a host that does not answer.
pub(super) fn transport(url: &Url, error: reqwest::Error) -> RegistryError {
    // The URL may carry a signed query of the storage behind the registry.
    let error = error.without_url();
    let mut cause = error.source();
    let mut unknown = false;
    while let Some(inner) = cause {
        // hyper's connector has no type for it in its public interface, only this text.
        unknown |= inner.to_string().starts_with("dns error");
        cause = inner.source();
    }
    let host = host(url);
    match unknown {
        true => RegistryError::UnknownHost {
            host,
            source: error,
        },
        false => RegistryError::Connection {
            host,
            source: error,
        },
    }
}

/// The next chunk of an answer; `None` at its end.
pub(super) async fn chunk(
    answer: &mut Response,
    url: &Url,
    what: &'static str,
) -> Result<Option<Bytes>, RegistryError> {
    match tokio::time::timeout(SILENCE_MAX, answer.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| transport(url, error)),
        Err(_) => Err(RegistryError::Stalled {
            host: host(url),
            what,
            seconds: SILENCE_MAX.as_secs(),
        }),
    }
}

/// The whole of a small answer.
pub(super) async fn read_capped(
    mut answer: Response,
    url: &Url,
    what: &'static str,
    limit: u64,
) -> Result<Vec<u8>, RegistryError> {
    let too_large = || RegistryError::TooLarge {
        host: host(url),
        what: what.to_owned(),
        limit,
    };
    if answer.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    // A trickle of bytes, each within the limit for silence, must not last for ever.
    let whole = async {
        while let Some(chunk) = chunk(&mut answer, url, what).await? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(())
    };
    match tokio::time::timeout(SILENCE_MAX * 2, whole).await {
        Ok(result) => result.map(|()| body),
        Err(_) => Err(RegistryError::Stalled {
            host: host(url),
            what,
            seconds: SILENCE_MAX.as_secs() * 2,
        }),
    }
}
