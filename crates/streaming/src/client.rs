//! Opens streaming URLs, over SPDY/3.1, which every CRI runtime serves, plain or over TLS.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, StatusCode, Uri,
    header::{CONNECTION, HOST, UPGRADE},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};

pub use crate::trust::{Trust, TrustError, TrustFiles};
use crate::{
    CREATION_MAX, Verdict, forward, remote,
    server::watch,
    spdy::{Connection, Role, StreamReader, StreamWriter, Transport},
};

/// The server is on this machine or near it.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest text that is shown of a refusal.
const REFUSAL_MAX: usize = 4096;
/// Longest word about the end of a session.
const VERDICT_MAX: usize = 64 * 1024;

/// Why a URL could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It is no URL that can be opened here.
    #[error("{url} is not a streaming URL: {why}")]
    Url {
        /// The URL without its token.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody answers there.
    #[error("cannot connect to {host}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// There is no TLS with whoever answers.
    #[error("no TLS with {host}")]
    Tls {
        /// Host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The server answered with something else than an upgrade.
    #[error("{host} refuses to stream: {status} {text}")]
    Refused {
        /// Host and port.
        host: String,
        /// The HTTP status.
        status: StatusCode,
        /// What it says.
        text: String,
    },
    /// The exchange broke off.
    #[error("streaming from {host} failed")]
    Broken {
        /// Host and port.
        host: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Which streams to open; as they were asked for by gRPC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Bytes for the process.
    pub stdin: bool,
    /// What it writes.
    pub stdout: bool,
    /// What it writes as errors; never with a terminal.
    pub stderr: bool,
    /// Whether it has a terminal, whose size can be set then.
    pub tty: bool,
}

/// The streams of an exec or attach.
#[derive(Debug)]
pub struct Remote {
    /// See [`Wanted::stdin`].
    pub stdin: Option<StreamWriter>,
    /// See [`Wanted::stdout`].
    pub stdout: Option<StreamReader>,
    /// See [`Wanted::stderr`].
    pub stderr: Option<StreamReader>,
    /// JSON objects with Width and Height; see [`resize_message`].
    pub resize: Option<StreamWriter>,
    /// How it ended; see [`Ending::verdict`].
    pub ending: Ending,
}

/// The error stream, and the connection that all streams are on.
#[derive(Debug)]
pub struct Ending {
    error: StreamReader,
    json: bool,
    connection: Connection,
}

/// Connections into a pod.
#[derive(Debug)]
pub struct Forwarder {
    connection: Connection,
    next: std::sync::atomic::AtomicU32,
}

/// What tells a server a terminal's size.
#[must_use]
pub fn resize_message(width: u16, height: u16) -> Vec<u8> {
    format!("{{\"Width\":{width},\"Height\":{height}}}\n").into_bytes()
}

impl Remote {
    /// Opens `url`, which an Exec or Attach was answered with.
    ///
    /// # Errors
    /// [`ClientError`]. The URL is used up.
    pub async fn open(url: &str, wanted: Wanted) -> Result<Self, ClientError> {
        Self::open_trusting(&Trust::default(), url, wanted).await
    }

    /// As [`Remote::open`]; `trust` is for URLs that begin with https.
    ///
    /// # Errors
    /// As [`Remote::open`].
    pub async fn open_trusting(
        trust: &Trust,
        url: &str,
        wanted: Wanted,
    ) -> Result<Self, ClientError> {
        let (connection, protocol, host) = connect(trust, url, remote::PROTOCOLS).await?;
        let opening = async {
            let open = async |kind: &'static str| {
                let stream = connection.open(&[("streamtype", kind)]).await?;
                stream.replied().await?;
                Ok::<_, io::Error>(stream.split())
            };
            // In this order: old servers want it so.
            let (error, mut writer) = open("error").await?;
            writer.finish().await?;
            let stdin = if wanted.stdin {
                Some(open("stdin").await?.1)
            } else {
                None
            };
            let stdout = if wanted.stdout {
                Some(open("stdout").await?.0)
            } else {
                None
            };
            let stderr = if wanted.stderr && !wanted.tty {
                Some(open("stderr").await?.0)
            } else {
                None
            };
            let sized = wanted.tty && !matches!(&*protocol, "channel.k8s.io" | "v2.channel.k8s.io");
            let resize = if sized {
                Some(open("resize").await?.1)
            } else {
                None
            };
            Ok::<_, io::Error>((error, stdin, stdout, stderr, resize))
        };
        let opened = timeout(CREATION_MAX, opening).await;
        let opened = opened.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        let (error, stdin, stdout, stderr, resize) = opened.map_err(broken(&host))?;
        Ok(Self {
            stdin,
            stdout,
            stderr,
            resize,
            ending: Ending {
                error,
                json: protocol == "v4.channel.k8s.io",
                connection,
            },
        })
    }
}

impl Ending {
    /// Waits for the end and returns how it was. `None` if the connection ended
    /// without a word: the other side has died.
    pub async fn verdict(mut self) -> Option<Verdict> {
        let mut words = Vec::new();
        while let Some(bytes) = self.error.next().await {
            words.extend_from_slice(&bytes);
            if words.len() > VERDICT_MAX {
                break;
            }
        }
        // Old servers say nothing when all went well, but none that speaks v4 does.
        let verdict = match (self.json, words.is_empty()) {
            (true, true) => None,
            (true, false) => Some(Verdict::from_json(&words)),
            (false, true) => Some(Verdict::Success),
            (false, false) => Some(Verdict::Failure(
                String::from_utf8_lossy(&words).into_owned(),
            )),
        };
        self.connection.close().await;
        verdict
    }
}

impl Forwarder {
    /// Opens `url`, which a PortForward was answered with.
    ///
    /// # Errors
    /// [`ClientError`]. The URL is used up.
    pub async fn open(url: &str) -> Result<Self, ClientError> {
        Self::open_trusting(&Trust::default(), url).await
    }

    /// As [`Forwarder::open`]; `trust` is for URLs that begin with https.
    ///
    /// # Errors
    /// As [`Forwarder::open`].
    pub async fn open_trusting(trust: &Trust, url: &str) -> Result<Self, ClientError> {
        let (connection, _, _) = connect(trust, url, &[forward::PROTOCOL]).await?;
        Ok(Self {
            connection,
            next: std::sync::atomic::AtomicU32::new(0),
        })
    }

    /// A connection to `port` of the pod: its data stream's two halves, and the
    /// stream on which the server says what went wrong, empty if nothing did.
    ///
    /// # Errors
    /// If the server has gone or refuses more streams.
    pub async fn connect(
        &self,
        port: u16,
    ) -> io::Result<(StreamReader, StreamWriter, StreamReader)> {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (port, id) = (port.to_string(), id.to_string());
        let open = async |kind: &str| {
            let headers = [("streamtype", kind), ("port", &*port), ("requestid", &*id)];
            let stream = self.connection.open(&headers).await?;
            let replied = timeout(CREATION_MAX, stream.replied()).await;
            replied.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))?;
            Ok::<_, io::Error>(stream.split())
        };
        let (error, mut unused) = open("error").await?;
        unused.finish().await?;
        let (reader, writer) = open("data").await?;
        Ok((reader, writer, error))
    }

    /// Cancelled when the server has gone.
    #[must_use]
    pub fn gone(&self) -> tokio_util::sync::CancellationToken {
        self.connection.gone()
    }
}

fn broken<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    host: &str,
) -> impl FnOnce(E) -> ClientError {
    let host = host.to_owned();
    move |source| ClientError::Broken {
        host,
        source: source.into(),
    }
}

/// Upgrades to SPDY; returns the protocol that the server chose, and its name for messages.
async fn connect(
    trust: &Trust,
    url: &str,
    protocols: &[&str],
) -> Result<(Connection, String, String), ClientError> {
    let uri: Uri = url.parse().ok().ok_or(ClientError::Url {
        url: String::new(),
        why: "it does not parse",
    })?;
    let host = uri
        .authority()
        .map_or_else(String::new, ToString::to_string);
    let refused = |why| ClientError::Url {
        url: format!("{}://{host}", uri.scheme_str().unwrap_or_default()),
        why,
    };
    let Some(name) = uri.host().filter(|name| !name.is_empty()) else {
        return Err(refused("it names no host"));
    };
    let (secure, port) = match uri.scheme_str() {
        Some("http") => (false, 80),
        Some("https") => (true, 443),
        _ => return Err(refused("only http and https are spoken here")),
    };
    let address = match uri.port() {
        Some(_) => host.clone(),
        None => format!("{host}:{port}"),
    };
    let connecting = timeout(CONNECT_MAX, TcpStream::connect(&address)).await;
    let connected = connecting.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
    let stream = connected
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|source| ClientError::Connect {
            host: host.clone(),
            source,
        })?;
    let upgrading = async {
        if !secure {
            return upgrade(stream, &uri, &host, protocols).await;
        }
        // An IPv6 address has brackets in a URL and none in a certificate.
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_no_name| refused("its host cannot be in a certificate"))?;
        let config = trust
            .config()
            .ok_or_else(|| refused("this client is set up for http alone"))?;
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|source| ClientError::Tls {
                host: host.clone(),
                source,
            })?;
        upgrade(stream, &uri, &host, protocols).await
    };
    let (upgraded, protocol) = timeout(CREATION_MAX, upgrading)
        .await
        .unwrap_or_else(|elapsed| Err(broken(&host)(elapsed)))?;
    let transport = transport(upgraded).map_err(broken(&host))?;
    // Servers open no streams.
    let connection = Connection::start(transport, Role::Client, forward::STREAMS_MAX);
    Ok((connection, protocol, host))
}

async fn upgrade(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    uri: &Uri,
    host: &str,
    protocols: &[&str],
) -> Result<(Upgraded, String), ClientError> {
    const PROTOCOL: &str = "x-stream-protocol-version";
    let target = uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let mut request = http::Request::builder()
        .method(Method::POST)
        .uri(target)
        .header(HOST, host)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1");
    for protocol in protocols {
        request = request.header(PROTOCOL, *protocol);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(broken(host))?;
    let (mut sender, exchange) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(broken(host))?;
    tokio::spawn(async move {
        if let Err(error) = exchange.with_upgrades().await {
            tracing::debug!(%error, "a streaming request failed");
        }
    });
    let answer = sender.send_request(request).await.map_err(broken(host))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = answer.status();
        let text = Limited::new(answer.into_body(), REFUSAL_MAX)
            .collect()
            .await;
        let text = text.map(|text| text.to_bytes()).unwrap_or_default();
        return Err(ClientError::Refused {
            host: host.to_owned(),
            status,
            text: String::from_utf8_lossy(&text).trim().to_owned(),
        });
    }
    let chosen = answer.headers().get(PROTOCOL).map(HeaderValue::to_str);
    let protocol = chosen.and_then(Result::ok).unwrap_or_default().to_owned();
    let upgraded = hyper::upgrade::on(answer).await.map_err(broken(host))?;
    Ok((upgraded, protocol))
}

/// The connection below an upgrade, with what was read of it already.
fn transport(upgraded: Upgraded) -> io::Result<Transport> {
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            let gone = watch(&stream)?;
            let (reader, writer) = stream.into_split();
            return Ok(Transport {
                reader: Box::new(io::Cursor::new(parts.read_buf).chain(reader)),
                writer: Box::new(writer),
                gone,
            });
        }
        Err(upgraded) => upgraded,
    };
    let parts = upgraded
        .downcast::<TokioIo<TlsStream<TcpStream>>>()
        .map_err(|_unknown| io::Error::other("a connection of an unknown kind"))?;
    let stream = parts.io.into_inner();
    let gone = watch(stream.get_ref().0)?;
    let (reader, writer) = tokio::io::split(stream);
    Ok(Transport {
        reader: Box::new(io::Cursor::new(parts.read_buf).chain(reader)),
        writer: Box::new(writer),
        gone,
    })
}
