//! A collector of traces: the receiving end of OTLP over gRPC and HTTP, as far
//! as names and parents go.

use std::{
    convert::Infallible,
    future::Future,
    io::Read as _,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use anyhow::{Context as _, Result, ensure};
use http_body_util::BodyExt as _;
use prost::Message;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::CompressionEncoding,
    server::{Grpc, UnaryService},
    transport::{Certificate, Identity, ServerTlsConfig},
};
use tonic_prost::ProstCodec;

use crate::NetNs;

/// Where traces go over HTTP.
const HTTP_PATH: &str = "/v1/traces";

/// A span as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Trace id in hex.
    pub trace: String,
    /// Span id in hex.
    pub id: String,
    /// Id of the parent in hex; empty for a root.
    pub parent: String,
    /// Name.
    pub name: String,
}

// The schema of opentelemetry-proto, without what is not looked at.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<Resource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scope>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Accepted {}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    requests: Vec<Arrival>,
}

type Shared = Arc<Mutex<Received>>;

/// How an export arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// `/v1/traces`, or the gRPC method.
    pub path: String,
    /// The compression, or empty.
    pub encoding: String,
    /// What `x-tenant` says.
    pub tenant: String,
}

/// Keys and certificates of an authority that nobody else trusts.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
}

impl Authority {
    /// Makes them: the authority's own, one for 127.0.0.1 and one for a client.
    ///
    /// # Errors
    /// If openssl is not there or fails.
    pub fn new() -> Result<Self> {
        const MAKE: &str = "
            new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
            openssl req -x509 $new -keyout ca.key -out ca.pem -days 2 -subj /CN=authority
            printf 'subjectAltName=IP:127.0.0.1' >extensions
            for who in server client; do
                openssl req $new -keyout $who.key -out $who.csr -subj /CN=$who
                openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
                    -days 2 -extfile extensions -out $who.pem
            done";
        let dir = tempfile::tempdir()?;
        let done = std::process::Command::new("sh")
            .args(["-ec", MAKE])
            .current_dir(dir.path())
            .output()
            .context("run openssl")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "openssl: {said}");
        Ok(Self { dir })
    }

    /// One of `ca.pem`, `client.pem`, `client.key`.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn server(&self) -> Result<ServerTlsConfig> {
        let read = |name| std::fs::read(self.file(name));
        let identity = Identity::from_pem(read("server.pem")?, read("server.key")?);
        let clients = Certificate::from_pem(read("ca.pem")?);
        Ok(ServerTlsConfig::new()
            .identity(identity)
            .client_ca_root(clients))
    }
}

/// A running collector; it ends when this value is dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    scheme: &'static str,
    received: Shared,
    task: JoinHandle<()>,
}

impl Collector {
    /// Listens on a free port of the loopback address of `netns`.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn start(netns: &NetNs) -> Result<Self> {
        Self::listen(netns, None)
    }

    /// The same with TLS, for clients that `authority` knows.
    ///
    /// # Errors
    /// As [`Collector::start`], and if the keys cannot be used.
    pub fn start_tls(netns: &NetNs, authority: &Authority) -> Result<Self> {
        Self::listen(netns, Some(authority))
    }

    fn listen(netns: &NetNs, authority: Option<&Authority>) -> Result<Self> {
        let listener = netns.enter(|| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").context("bind")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let address = listener.local_addr()?;
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?);
        let received = Shared::default();
        let mut server = tonic::transport::Server::builder().accept_http1(true);
        if let Some(authority) = authority {
            server = server.tls_config(authority.server()?)?;
        }
        let server = server.serve_with_incoming(Traces(Arc::clone(&received)), incoming);
        // A collector that fails is seen by the spans that do not arrive.
        let task = tokio::spawn(async move { drop(server.await) });
        Ok(Self {
            address,
            scheme: authority.map_or("http", |_| "https"),
            received,
            task,
        })
    }

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// What has arrived so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.received).spans.clone()
    }

    /// How it has arrived so far.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.received).requests.clone()
    }
}

fn lock(received: &Shared) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Traces(Shared);

impl Traces {
    fn keep(&self, export: Export) {
        let scopes = export.resources.into_iter().flat_map(|r| r.scopes);
        let spans = scopes.flat_map(|scope| scope.spans).map(|span| Span {
            trace: hex(&span.trace),
            id: hex(&span.id),
            parent: hex(&span.parent),
            name: span.name,
        });
        lock(&self.0).spans.extend(spans);
    }

    /// OTLP over HTTP: the message is the body.
    async fn post(&self, request: http::Request<Body>, encoding: &str) -> Result<()> {
        let body = request.into_body().collect().await?.to_bytes();
        let export = if encoding == "gzip" {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&*body).read_to_end(&mut plain)?;
            Export::decode(&*plain)?
        } else {
            Export::decode(body)?
        };
        self.keep(export);
        Ok(())
    }
}

impl UnaryService<Export> for Traces {
    type Response = Accepted;
    type Future = std::future::Ready<Result<Response<Accepted>, Status>>;

    fn call(&mut self, request: Request<Export>) -> Self::Future {
        self.keep(request.into_inner());
        std::future::ready(Ok(Response::new(Accepted {})))
    }
}

impl tower::Service<http::Request<Body>> for Traces {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        let header = |name: &str| {
            let value = request.headers().get(name).and_then(|v| v.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let path = request.uri().path().to_owned();
        let over_http = path == HTTP_PATH;
        let encoding = header(if over_http {
            "content-encoding"
        } else {
            "grpc-encoding"
        });
        lock(&self.0).requests.push(Arrival {
            path,
            encoding: encoding.clone(),
            tenant: header("x-tenant"),
        });
        Box::pin(async move {
            if over_http {
                let status = match service.post(request, &encoding).await {
                    Ok(()) => http::StatusCode::OK,
                    Err(_) => http::StatusCode::BAD_REQUEST,
                };
                let mut response = http::Response::new(Body::empty());
                *response.status_mut() = status;
                return Ok(response);
            }
            let codec = ProstCodec::<Accepted, Export>::default();
            let mut grpc = Grpc::new(codec).accept_compressed(CompressionEncoding::Gzip);
            Ok(grpc.unary(service, request).await)
        })
    }
}
