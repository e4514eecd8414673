//! A registry on the loopback address that answers as a test wants it.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use berth_image::Digest;
use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::image::Image;

/// An answer, and how it is sent.
#[derive(Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// Break the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Send the body in pieces of 16 KiB with this pause before each.
    pub pause: Option<Duration>,
    /// Wait so long before the answer.
    pub delay: Duration,
    /// Never answer.
    pub hang: bool,
}

impl Answer {
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// What a registry makes of a range that is asked for.
    pub fn ranged(mut self, range: Option<&String>) -> Self {
        let Some(from) = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'))
        else {
            return self;
        };
        let (from, size): (usize, _) = (from.parse().unwrap(), self.body.len());
        if from >= size {
            return Self::status(416);
        }
        self.body = self.body.slice(from..);
        self.status = 206;
        let last = size - 1;
        self.header("content-range", &format!("bytes {from}-{last}/{size}"))
    }

    pub fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What a request looked like.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// A test's own answer for a request, or none for the usual one.
pub type Rule = Box<dyn Fn(&Seen, usize) -> Option<Answer> + Send + Sync>;

#[derive(Default)]
struct State {
    content: Mutex<HashMap<String, Answer>>,
    seen: Mutex<Vec<Seen>>,
    rules: Mutex<Vec<Rule>>,
}

#[derive(Clone)]
pub struct Registry {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Registry {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// As [`Registry::start`], over TLS.
    pub async fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::start_with(Some(Arc::new(config).into())).await
    }

    async fn start_with(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let tls = tls.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&state), request));
                    let http = http1::Builder::new();
                    // A client that does not trust this server hangs up.
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                let stream = TokioIo::new(stream);
                                drop(http.serve_connection(stream, service).await);
                            }
                        }
                    }
                });
            }
        });
        Self { address, state }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn reference(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn set(&self, path: &str, answer: Answer) {
        self.state
            .content
            .lock()
            .unwrap()
            .insert(path.to_owned(), answer);
    }

    /// `rule` is asked before the content; its second argument counts requests for that path.
    pub fn rule(&self, rule: impl Fn(&Seen, usize) -> Option<Answer> + Send + Sync + 'static) {
        self.state.rules.lock().unwrap().push(Box::new(rule));
    }

    pub fn clear_rules(&self) {
        self.state.rules.lock().unwrap().clear();
    }

    pub fn blob(&self, repository: &str, bytes: &[u8]) {
        let digest = Digest::of(bytes);
        self.set(
            &format!("/v2/{repository}/blobs/{digest}"),
            Answer::ok(bytes.to_vec()),
        );
    }

    pub fn manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) {
        let answer = Answer::ok(bytes.to_vec()).header("content-type", kind);
        for name in [tag.to_owned(), Digest::of(bytes).to_string()] {
            self.set(
                &format!("/v2/{repository}/manifests/{name}"),
                answer.clone(),
            );
        }
    }

    pub fn image(&self, repository: &str, tag: &str, image: &Image) {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        self.manifest(repository, tag, kind, &image.manifest);
        self.blob(repository, &image.config);
        for layer in &image.layers {
            self.blob(repository, layer);
        }
    }

    /// Requests for the blob with these bytes.
    pub fn asked_for(&self, bytes: &[u8]) -> Vec<Seen> {
        let digest = Digest::of(bytes).to_string();
        let mut seen = self.seen();
        seen.retain(|seen| seen.path.ends_with(&digest));
        seen
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.state.seen.lock().unwrap().clear();
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, std::io::Error>>, Infallible> {
    let (request, body) = request.into_parts();
    let path = request.uri.to_string();
    let body = body.collect().await.map(|body| body.to_bytes());
    let headers = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("").to_owned()))
        .collect();
    let seen = Seen {
        method: request.method.to_string(),
        path: path.clone(),
        headers,
        body: String::from_utf8_lossy(&body.unwrap_or_default()).into_owned(),
    };
    let count = {
        let mut all = state.seen.lock().unwrap();
        let count = all.iter().filter(|other| other.path == path).count();
        all.push(seen.clone());
        count
    };
    let ruled = state
        .rules
        .lock()
        .unwrap()
        .iter()
        .find_map(|rule| rule(&seen, count));
    let found = ruled.or_else(|| {
        let bare = path.split('?').next().unwrap_or("");
        let content = state.content.lock().unwrap().get(bare).cloned();
        content.map(|answer| answer.ranged(seen.headers.get("range")))
    });
    let answer = found.unwrap_or_else(|| Answer::status(404));
    if answer.hang {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(answer.delay).await;
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    if !answer
        .headers
        .iter()
        .any(|(name, _)| name == "content-length" || name == "transfer-encoding")
    {
        response = response.header("content-length", answer.body.len());
    }
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let cut = answer.cut.unwrap_or(usize::MAX);
        let mut sent = 0;
        for piece in answer.body.chunks(16 << 10) {
            if let Some(pause) = answer.pause {
                tokio::time::sleep(pause).await;
            }
            let piece = &piece[..piece.len().min(cut - sent)];
            sent += piece.len();
            if sender
                .send(Ok(Frame::data(Bytes::copy_from_slice(piece))))
                .await
                .is_err()
            {
                return;
            }
            if sent == cut {
                let broken = std::io::Error::other("cut as the test wants it");
                drop(sender.send(Err(broken)).await);
                return;
            }
        }
    });
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    Ok(response.body(StreamBody::new(stream).boxed()).unwrap())
}
