//! Requests with deadlines, and redirects that do not carry secrets along.

use std::{
    error::Error as _,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    Client, RequestBuilder, Response, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION},
};

use super::{
    RegistryError,
    dead::Dead,
    guard::{Guard, Inner},
    hosts::{Host, Transport},
    origin::{Registries, is_loopback, may_see_credentials, same_host, same_origin},
    patience::{Patience, seconds},
    tls::{self, NodeRoots},
    token::Tokens,
};

/// TCP and TLS handshake together; an unreachable host is known by then.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// As [`CONNECT_MAX`] for a mirror, which is only a short cut.
const MIRROR_CONNECT_MAX: Duration = Duration::from_secs(1);
/// The distribution specification needs one or two; more is a loop.
const REDIRECTS_MAX: usize = 5;
/// Connections kept for the next request of the same pull.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Kinds of connections kept ready; a node talks to a handful of registries.
const CLIENTS_MAX: usize = 16;

const USER_AGENT: &str = concat!("berth/", env!("CARGO_PKG_VERSION"));

/// The HTTP clients of one store.
#[derive(Debug)]
pub(crate) struct Clients {
    registries: Registries,
    roots: NodeRoots,
    /// Least recently used first.
    made: Mutex<Vec<(Way, Client)>>,
    pub(super) dead: Dead,
    pub(super) tokens: Tokens,
}

/// How a connection is made; files count with their age, so that a renewed
/// certificate is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    tls: bool,
    guarded: bool,
    connect: Duration,
    transport: Transport,
    ages: Vec<Option<(SystemTime, u64)>>,
}

fn age(file: &Path) -> Option<(SystemTime, u64)> {
    let meta = file.metadata().ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

impl Clients {
    pub(crate) fn new(registries: Registries) -> Self {
        Self {
            registries,
            roots: NodeRoots::default(),
            made: Mutex::default(),
            dead: Dead::default(),
            tokens: Tokens::default(),
        }
    }

    pub(crate) fn registries(&self) -> &Registries {
        &self.registries
    }

    /// The client for `url`, to which a request to `host` has led. What `host` is
    /// trusted with, others are not.
    pub(super) fn client(&self, host: &Host, url: &Url) -> Result<Client, RegistryError> {
        let own = same_origin(&host.base, url);
        let near = same_host(&host.base, url);
        let transport = if near {
            host.transport.clone()
        } else if may_see_credentials(&host.base, url) {
            Transport {
                ca: host.transport.ca.clone(),
                ..Transport::default()
            }
        } else {
            Transport::default()
        };
        let connect = match (own, host.transport.dial) {
            (true, Some(dial)) => dial,
            (true, None) if host.mirror => MIRROR_CONNECT_MAX,
            _ => CONNECT_MAX,
        };
        let tls = url.scheme() == "https";
        let files = transport.client.iter().flat_map(|pair| {
            let key = pair.key.as_deref();
            [Some(pair.certificate.as_path()), key]
        });
        let files = files.flatten().chain(transport.ca.iter().map(|ca| &**ca));
        let way = Way {
            tls,
            guarded: !near && !is_loopback(&host.base),
            connect,
            ages: files.map(age).collect(),
            transport: if tls {
                transport.clone()
            } else {
                Transport::default()
            },
        };
        if let Some(client) = self.ready(&way) {
            return Ok(client);
        }
        let client = self.make(&way)?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= CLIENTS_MAX {
            made.remove(0);
        }
        made.push((way, client.clone()));
        Ok(client)
    }

    fn ready(&self, way: &Way) -> Option<Client> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let at = made.iter().position(|(other, _)| other == way)?;
        let found = made.remove(at);
        let client = found.1.clone();
        made.push(found);
        Some(client)
    }

    fn make(&self, way: &Way) -> Result<Client, RegistryError> {
        // Without TLS the node's authorities need not be read.
        let tls = match way.tls {
            true => tls::config(&self.roots, &self.registries.extra_ca, &way.transport)?,
            false => tls::none()?,
        };
        let proxies = self.registries.proxies.clone();
        let proxy = reqwest::Proxy::custom(move |url| proxies.of(url).ok().flatten().cloned());
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(way.connect)
            .pool_idle_timeout(IDLE_MAX)
            .referer(false)
            // Ours decide what a redirect may take along.
            .redirect(reqwest::redirect::Policy::none())
            // Replaces the environment's, which is understood differently there.
            .proxy(proxy)
            .tls_backend_preconfigured(tls);
        if way.guarded {
            builder = builder.dns_resolver(Guard);
        }
        builder.build().map_err(|error| RegistryError::Setup {
            why: error.to_string(),
        })
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.registries.patience
    }

    /// Sends one request, following nothing.
    pub(super) async fn send(
        &self,
        mut request: RequestBuilder,
        url: &Url,
        what: &str,
    ) -> Result<Response, RegistryError> {
        for (name, value) in self
            .registries
            .trace
            .map(|trace| trace())
            .into_iter()
            .flatten()
        {
            request = request.header(name, value);
        }
        if let Err(variable) = self.registries.proxies.of(url) {
            return Err(RegistryError::Setup {
                why: format!("{variable} in the agent's environment is not the URL of a proxy"),
            });
        }
        let limit = self.patience().headers;
        match tokio::time::timeout(limit, request.send()).await {
            Ok(answer) => answer.map_err(|error| transport(url, what, error)),
            Err(_) => Err(RegistryError::Stalled {
                host: host(url),
                what: what.to_owned(),
                seconds: seconds(limit),
            }),
        }
    }

    /// GETs `url` of `from` and follows redirects; the authorization and the host's
    /// own headers stay with their origin.
    pub(super) async fn get(
        &self,
        from: &Host,
        url: &Url,
        authorization: Option<&HeaderValue>,
        headers: &HeaderMap,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.client(from, &at)?.get(at.clone());
            request = request.headers(headers.clone());
            if same_origin(url, &at) {
                request = credentials(request, from, authorization);
            }
            let answer = self.send(request, &at, what).await?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            at = self.next(&at, answer.headers().get(LOCATION))?;
        }
        Err(refused(
            url,
            format!("redirects more than {REDIRECTS_MAX} times for {what}"),
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
                let plain = self.registries.scheme(&target) == "http";
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
        if let Some(why) = Inner::forbidden(at, &location) {
            return Err(refused(at, format!("redirects to {target}, {why}")));
        }
        Ok(location)
    }
}

/// Adds what is for the host's own origin alone.
pub(super) fn credentials(
    request: RequestBuilder,
    host: &Host,
    authorization: Option<&HeaderValue>,
) -> RequestBuilder {
    let request = request.headers(host.headers.clone());
    match authorization {
        // What the file says stands for itself.
        Some(value) if !host.headers.contains_key(AUTHORIZATION) => {
            request.header(AUTHORIZATION, value.clone())
        }
        _ => request,
    }
}

fn refused(url: &Url, why: String) -> RegistryError {
    RegistryError::Refused {
        host: host(url),
        why,
    }
}

/// `HOST` or `HOST:PORT`, for messages.
pub(super) fn host(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}

/// Tells a name that does not resolve from a host that does not answer.
pub(super) fn transport(url: &Url, what: &str, error: reqwest::Error) -> RegistryError {
    // The URL may carry a signed query of the storage behind the registry.
    let error = error.without_url();
    let mut cause = error.source();
    let mut unknown = false;
    let mut inner = None;
    let mut untrusted = None;
    while let Some(at) = cause {
        untrusted = untrusted.or_else(|| about_certificate(at));
        // hyper's connector has no type for it in its public interface, only this text.
        unknown |= at.to_string().starts_with("dns error");
        inner = inner.or_else(|| at.downcast_ref::<Inner>());
        cause = at.source();
    }
    let host = host(url);
    if let Some(inner) = inner {
        return RegistryError::Refused {
            host,
            why: inner.to_string(),
        };
    }
    if let Some(why) = untrusted {
        return RegistryError::Untrusted { host, why };
    }
    match unknown {
        true => RegistryError::UnknownHost {
            host,
            source: error,
        },
        false => RegistryError::Connection {
            host,
            what: what.to_owned(),
            source: error,
        },
    }
}

/// What is wrong with the certificate that was shown, if that is what `error` is about.
fn about_certificate(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
        return Some(why.to_string());
    }
    // An io::Error hides what it carries from `source`, which may be another one.
    let carried = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    about_certificate(carried)
}

/// The next chunk of an answer; `None` at its end.
pub(super) async fn chunk(
    answer: &mut Response,
    url: &Url,
    what: &str,
    patience: &Patience,
) -> Result<Option<Bytes>, RegistryError> {
    match tokio::time::timeout(patience.silence, answer.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| transport(url, what, error)),
        Err(_) => Err(RegistryError::Stalled {
            host: host(url),
            what: what.to_owned(),
            seconds: seconds(patience.silence),
        }),
    }
}

/// The whole of a small answer.
pub(super) async fn read_capped(
    mut answer: Response,
    url: &Url,
    what: &str,
    limit: u64,
    patience: &Patience,
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
    let whole = async {
        while let Some(chunk) = chunk(&mut answer, url, what, patience).await? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(())
    };
    match tokio::time::timeout(patience.document(), whole).await {
        Ok(result) => result.map(|()| body),
        Err(_) => Err(RegistryError::Stalled {
            host: host(url),
            what: what.to_owned(),
            seconds: seconds(patience.document()),
        }),
    }
}
