//! A collector of traces: the receiving end of OTLP over gRPC, as far as
//! names and parents go.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use anyhow::{Context as _, Result};
use prost::Message;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;

use crate::NetNs;

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

type Spans = Arc<Mutex<Vec<Span>>>;

/// A running collector; it ends when this value is dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: Spans,
    task: JoinHandle<()>,
}

impl Collector {
    /// Listens on a free port of the loopback address of `netns`.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn start(netns: &NetNs) -> Result<Self> {
        let listener = netns.enter(|| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").context("bind")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let address = listener.local_addr()?;
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?);
        let spans = Spans::default();
        let server = tonic::transport::Server::builder()
            .add_service(Traces(Arc::clone(&spans)))
            .serve_with_incoming(incoming);
        // A collector that fails is seen by the spans that do not arrive.
        let task = tokio::spawn(async move { drop(server.await) });
        Ok(Self {
            address,
            spans,
            task,
        })
    }

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has arrived so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Traces(Spans);

impl NamedService for Traces {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl UnaryService<Export> for Traces {
    type Response = Accepted;
    type Future = std::future::Ready<Result<Response<Accepted>, Status>>;

    fn call(&mut self, request: Request<Export>) -> Self::Future {
        let export = request.into_inner();
        let scopes = export.resources.into_iter().flat_map(|r| r.scopes);
        let spans = scopes.flat_map(|scope| scope.spans).map(|span| Span {
            trace: hex(&span.trace),
            id: hex(&span.id),
            parent: hex(&span.parent),
            name: span.name,
        });
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(spans);
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
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Accepted, Export>::default());
            Ok(grpc.unary(service, request).await)
        })
    }
}
