//! The HTTP server behind the URLs.

use std::{
    convert::Infallible,
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Response, StatusCode,
    header::{
        CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn, upgrade::Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::tungstenite::{handshake::derive_accept_key, protocol::Role as WsRole};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{
    Backend, CREATION_MAX, Request, TooMany, forward,
    remote::{self, Command},
    spdy::{Connection, Role, Transport},
    token::{Redeemed, Tokens, Waiting},
    websocket::{self, Framing},
};

/// Clients at once; more wait.
const CONNECTIONS_MAX: usize = 4096;
/// Head of a request, everything included.
const HEAD_MAX: usize = 64 * 1024;
/// How long a TLS handshake may take.
const TLS_MAX: Duration = Duration::from_secs(10);
/// How long a server whose place another takes waits for the requests of those who
/// have connected already. A client sends its request at once.
const HEADS_MAX: Duration = Duration::from_secs(1);

/// Offered by clients and answered by servers: the protocol on the streams.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";

/// How the server is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen; port 0 takes any.
    pub address: SocketAddr,
    /// `HOST:PORT` in URLs. Default: the address that is listened on.
    pub advertise: Option<String>,
    /// Certificate and key; without, plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// What a server takes over from the one before.
#[derive(Debug)]
pub struct HandedOver {
    /// The socket that is listened on.
    pub listener: OwnedFd,
    /// The requests whose URLs have not been opened.
    pub waiting: Vec<Waiting>,
}

/// A running server. Dropping it stops listening and ends all sessions.
pub struct Server {
    base: String,
    tokens: Arc<Tokens>,
    sessions: TaskTracker,
    /// Clients whose request has not come.
    arriving: TaskTracker,
    /// Another handle of the socket.
    listener: OwnedFd,
    accepting: CancellationToken,
    stop: CancellationToken,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Shared<B> {
    backend: Arc<B>,
    tokens: Arc<Tokens>,
    sessions: TaskTracker,
    arriving: TaskTracker,
    accepting: CancellationToken,
    stop: CancellationToken,
    tls: Option<TlsAcceptor>,
}

impl Server {
    /// Begins to listen. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start<B: Backend>(settings: Settings, backend: Arc<B>) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.address).await?;
        Self::on(listener, Vec::new(), settings, backend)
    }

    /// As [`Server::start`], in the place of another server: on its socket, if that is
    /// where the settings say, and with the URLs that it gave out.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn take_over<B: Backend>(
        from: HandedOver,
        settings: Settings,
        backend: Arc<B>,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::from(from.listener);
        let local = listener.local_addr()?;
        let wanted = settings.address;
        let is_the_same =
            local.ip() == wanted.ip() && (wanted.port() == 0 || local.port() == wanted.port());
        let listener = if is_the_same {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)?
        } else {
            drop(listener);
            TcpListener::bind(wanted).await?
        };
        Self::on(listener, from.waiting, settings, backend)
    }

    fn on<B: Backend>(
        listener: TcpListener,
        waiting: Vec<Waiting>,
        settings: Settings,
        backend: Arc<B>,
    ) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let scheme = if settings.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let host = settings.advertise.unwrap_or_else(|| local.to_string());
        let stop = CancellationToken::new();
        let accepting = stop.child_token();
        let (sessions, arriving) = (TaskTracker::new(), TaskTracker::new());
        let tokens = Arc::new(Tokens::adopt(waiting));
        let kept = listener.as_fd().try_clone_to_owned()?;
        let shared = Arc::new(Shared {
            backend,
            tokens: Arc::clone(&tokens),
            sessions: sessions.clone(),
            arriving: arriving.clone(),
            accepting: accepting.clone(),
            stop: stop.clone(),
            tls: settings.tls.map(TlsAcceptor::from),
        });
        tokio::spawn(listen(listener, shared));
        Ok(Self {
            base: format!("{scheme}://{host}"),
            tokens,
            sessions,
            arriving,
            listener: kept,
            accepting,
            stop,
        })
    }

    /// The URL under which a client gets the streams of `request`, once and within a minute.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn url(&self, request: Request) -> Result<String, TooMany> {
        let kind = request.kind();
        let token = self.tokens.keep(request)?;
        Ok(format!("{}/{kind}/{token}", self.base))
    }

    /// Sessions that are being served.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Accepts no more clients and gives the socket and the URLs that were not opened
    /// away. Sessions go on; those who connect meanwhile wait in the socket's queue.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub async fn hand_over(&self) -> io::Result<HandedOver> {
        let listener = self.listener.try_clone()?;
        self.accepting.cancel();
        self.arriving.close();
        // Whoever says nothing is told to connect again.
        drop(tokio::time::timeout(HEADS_MAX, self.arriving.wait()).await);
        Ok(HandedOver {
            listener,
            waiting: self.tokens.hand_over(),
        })
    }

    /// Waits for the end of the last session.
    pub async fn ended(&self) {
        self.sessions.close();
        self.sessions.wait().await;
    }
}

async fn listen<B: Backend>(listener: TcpListener, shared: Arc<Shared<B>>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = shared.accepting.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: trying at once would only burn time.
                tracing::warn!(%error, "cannot accept a streaming client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        let arriving = Arriving::new(&shared.arriving);
        tokio::spawn(async move {
            let stop = shared.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = talk(stream, shared, arriving) => {}
            }
            drop(permit);
        });
    }
}

/// A client whose request has not come.
#[derive(Clone)]
struct Arriving(Arc<Mutex<Option<TaskTrackerToken>>>);

impl Arriving {
    fn new(among: &TaskTracker) -> Self {
        Self(Arc::new(Mutex::new(Some(among.token()))))
    }

    fn is_here(&self) {
        let mut token = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(token.take());
    }
}

async fn talk<B: Backend>(stream: TcpStream, shared: Arc<Shared<B>>, arriving: Arriving) {
    // Frames are written whole; waiting for more would only delay a keystroke.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client has gone");
        return;
    }
    match &shared.tls {
        None => http(TokioIo::new(stream), shared, arriving).await,
        Some(acceptor) => match tokio::time::timeout(TLS_MAX, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => http(TokioIo::new(stream), Arc::clone(&shared), arriving).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS with a streaming client"),
            Err(_) => tracing::debug!("a streaming client began no TLS in time"),
        },
    }
}

async fn http<B: Backend, I>(io: I, shared: Arc<Shared<B>>, arriving: Arriving)
where
    I: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        let answer = answer(request, shared);
        arriving.is_here();
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CREATION_MAX)
        .max_buf_size(HEAD_MAX)
        .serve_connection(io, service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a streaming client's request failed");
    }
}

type Answer = Response<Full<Bytes>>;

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn answer<B: Backend>(request: hyper::Request<Incoming>, shared: Arc<Shared<B>>) -> Answer {
    let mut parts = request.uri().path().rsplit('/');
    // A proxy may have put something in front; the last two parts are ours.
    let (Some(token), Some(kind)) = (parts.next(), parts.next()) else {
        return plain(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST\n");
    }
    // Used up even if the upgrade fails: what is retried needs a new one.
    let wanted = match shared.tokens.redeem(kind, token) {
        Redeemed::Request(wanted) => wanted,
        Redeemed::Unknown => return plain(StatusCode::NOT_FOUND, "404 page not found\n"),
        Redeemed::Elsewhere => {
            let text = "this server is being replaced: connect again\n";
            let mut answer = plain(StatusCode::SERVICE_UNAVAILABLE, text);
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
            return answer;
        }
    };
    match offer(request.headers(), &wanted) {
        Ok((protocol, answer)) => {
            let sessions = shared.sessions.clone();
            let stop = shared.stop.clone();
            let session = async move {
                let upgrading = tokio::time::timeout(CREATION_MAX, hyper::upgrade::on(request));
                match upgrading.await {
                    Ok(Ok(upgraded)) => match transport(upgraded) {
                        Ok(transport) => serve(transport, protocol, wanted, &shared).await,
                        Err(error) => tracing::warn!(%error, "cannot take a connection over"),
                    },
                    Ok(Err(error)) => tracing::debug!(%error, "a client left while upgrading"),
                    Err(_) => tracing::debug!("a client did not upgrade in time"),
                }
            };
            sessions.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = session => {}
                }
            });
            answer
        }
        Err(refused) => *refused,
    }
}

/// What is spoken on a connection after its upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Spdy(&'static str),
    WebSocket(&'static str),
}

/// Chooses a protocol and makes the answer that says so, or the refusal.
fn offer(headers: &HeaderMap, wanted: &Request) -> Result<(Protocol, Answer), Box<Answer>> {
    let upgrades = |to: &str| {
        contains(headers, CONNECTION.as_str(), "upgrade") && contains(headers, UPGRADE.as_str(), to)
    };
    let refuse = |status, text: &str| Box::new(plain(status, format!("{text}\n")));
    let forwards = matches!(wanted, Request::PortForward(_));
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let set = answer.headers_mut();
    set.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if upgrades("websocket") {
        let key = headers.get(SEC_WEBSOCKET_KEY);
        let version = headers.get(SEC_WEBSOCKET_VERSION);
        let (Some(key), true) = (key, version.is_some_and(|version| version == "13")) else {
            return Err(refuse(
                StatusCode::BAD_REQUEST,
                "malformed WebSocket upgrade",
            ));
        };
        let known = if forwards {
            websocket::FORWARD
        } else {
            websocket::REMOTE
        };
        let offered = list(headers, SEC_WEBSOCKET_PROTOCOL.as_str());
        let Some(protocol) = choose(&offered, known) else {
            let text = format!("no common protocol; this server speaks {}", known.join(" "));
            return Err(refuse(StatusCode::FORBIDDEN, text.trim_end()));
        };
        set.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let accept = derive_accept_key(key.as_bytes());
        if let Ok(accept) = HeaderValue::from_str(&accept) {
            set.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if !protocol.is_empty() {
            set.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        return Ok((Protocol::WebSocket(protocol), answer));
    }
    let offered = list(headers, STREAM_PROTOCOL);
    if offered.is_empty() {
        let text = format!("{STREAM_PROTOCOL} is missing");
        return Err(refuse(StatusCode::BAD_REQUEST, &text));
    }
    let known: &[&'static str] = if forwards {
        &[forward::PROTOCOL]
    } else {
        remote::PROTOCOLS
    };
    let Some(protocol) = choose(&offered, known) else {
        let mut refused = refuse(StatusCode::FORBIDDEN, "no common protocol");
        for protocol in known {
            let value = HeaderValue::from_static(protocol);
            refused.headers_mut().append(ACCEPTED_PROTOCOLS, value);
        }
        return Err(refused);
    };
    if !upgrades("spdy/3.1") {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "this URL needs an upgrade to SPDY/3.1 or WebSocket",
        ));
    }
    set.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    set.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    Ok((Protocol::Spdy(protocol), answer))
}

/// Whether one of the headers `name` has `part` in it, in any case.
fn contains(headers: &HeaderMap, name: &str, part: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains(part))
}

/// The values of all headers `name`, which may be lists.
fn list<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .collect()
}

/// The first of the client's protocols that is known. A client that offers none
/// means the one without a name, where there is one.
fn choose(offered: &[&str], known: &[&'static str]) -> Option<&'static str> {
    let find = |offer: &str| known.iter().copied().find(|known| *known == offer);
    if offered.is_empty() {
        return find("");
    }
    offered.iter().find_map(|offer| find(offer))
}

async fn serve<B: Backend>(
    transport: Transport,
    protocol: Protocol,
    wanted: Request,
    shared: &Shared<B>,
) {
    let backend = &shared.backend;
    match (wanted, protocol) {
        (Request::PortForward(request), Protocol::Spdy(_)) => {
            let connection = Connection::start(transport, Role::Server, forward::STREAMS_MAX);
            forward::serve(connection, request, Arc::clone(backend)).await;
        }
        (Request::PortForward(request), Protocol::WebSocket(websocket::TUNNEL)) => {
            let inside = websocket::tunnel(transport, WsRole::Server).await;
            let connection = Connection::start(inside, Role::Server, forward::STREAMS_MAX);
            forward::serve(connection, request, Arc::clone(backend)).await;
        }
        (Request::PortForward(request), Protocol::WebSocket(protocol)) => {
            let framing = Framing::of(protocol);
            // Here the first protocol's errors are texts like all others.
            websocket::serve_forward(transport, framing, request, Arc::clone(backend)).await;
        }
        (Request::Exec(exec), protocol) => {
            serve_command(transport, protocol, Command::Exec(exec), backend).await;
        }
        (Request::Attach(attach), protocol) => {
            serve_command(transport, protocol, Command::Attach(attach), backend).await;
        }
    }
}

async fn serve_command<B: Backend>(
    transport: Transport,
    protocol: Protocol,
    command: Command,
    backend: &Arc<B>,
) {
    match protocol {
        Protocol::Spdy(protocol) => {
            let connection = Connection::start(transport, Role::Server, remote::STREAMS_MAX);
            remote::serve(connection, protocol, command, &**backend).await;
        }
        Protocol::WebSocket(protocol) => {
            let framing = Framing::of(protocol);
            websocket::serve_remote(transport, framing, command, &**backend).await;
        }
    }
}

/// The connection below an upgrade, with what was read of it already.
fn transport(upgraded: Upgraded) -> io::Result<Transport> {
    match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            let gone = watch(&stream)?;
            let (reader, writer) = stream.into_split();
            Ok(Transport {
                reader: Box::new(io::Cursor::new(parts.read_buf).chain(reader)),
                writer: Box::new(writer),
                gone,
            })
        }
        Err(upgraded) => {
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
    }
}

/// Tells whether the client has gone, without reading what it has sent.
pub(crate) fn watch(stream: &TcpStream) -> io::Result<Box<dyn Fn() -> bool + Send + Sync>> {
    let fd = stream.as_fd().try_clone_to_owned()?;
    Ok(Box::new(move || {
        let wanted = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut polled = [PollFd::new(&fd, PollFlags::RDHUP)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut polled, Some(&now)).is_ok_and(|count| count > 0)
            && polled[0].revents().intersects(wanted)
    }))
}
