//! From a request to its answer.

use std::{convert::Infallible, sync::Mutex, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use tokio_stream::StreamExt as _;

use super::{Act, Seen, State, lock};
use crate::image::digest;

/// Longer than any limit a client could sensibly set.
const SILENCE: Duration = Duration::from_secs(600);

type Body = BoxBody<Bytes, std::io::Error>;

/// An honest answer before it is spoilt.
struct Honest {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Honest {
    fn new(status: StatusCode) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }
}

pub(super) async fn answer(state: &Mutex<State>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts
        .uri
        .path_and_query()
        .map_or_else(String::new, ToString::to_string);
    let act = {
        let mut state = lock(state);
        state.seen.push(Seen {
            method: parts.method.clone(),
            path: path.clone(),
            headers: parts.headers.clone(),
        });
        let headers = &parts.headers;
        state
            .rules
            .iter_mut()
            .find_map(|rule| rule.take(&path, headers))
    };
    let received = body.collect().await.map(|b| b.to_bytes());
    let received = received.unwrap_or_default();
    let head = parts.method == Method::HEAD;
    let media_type = parts.headers.get(header::CONTENT_TYPE);
    let media_type = media_type.and_then(|v| v.to_str().ok()).unwrap_or_default();
    let honest = honest(&mut lock(state), &parts.method, &path, media_type, received);
    spoil(honest, act, head).await
}

/// The distribution specification, as far as the clients here use it.
fn honest(
    state: &mut State,
    method: &Method,
    path: &str,
    media_type: &str,
    received: Bytes,
) -> Honest {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if path == "/v2/" {
        return Honest::new(StatusCode::OK);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Honest::new(StatusCode::NOT_FOUND);
    };
    if let Some((repository, reference)) = rest.split_once("/manifests/") {
        let key = (repository.to_owned(), reference.to_owned());
        if method == Method::PUT {
            let by_digest = (repository.to_owned(), digest(&received));
            let value = (media_type.to_owned(), received);
            state.manifests.insert(by_digest, value.clone());
            state.manifests.insert(key, value);
            return Honest::new(StatusCode::CREATED);
        }
        let Some((media_type, bytes)) = state.manifests.get(&key) else {
            let mut answer = Honest::new(StatusCode::NOT_FOUND);
            answer.body = Bytes::from_static(br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
            return answer;
        };
        return content(media_type.clone(), bytes.clone());
    }
    if rest.contains("/blobs/uploads/") {
        if method == Method::POST {
            let mut answer = Honest::new(StatusCode::ACCEPTED);
            answer.headers.push(("location", format!("{path}1")));
            return answer;
        }
        let name = query.strip_prefix("digest=").unwrap_or_default();
        if digest(&received) != name {
            return Honest::new(StatusCode::BAD_REQUEST);
        }
        state.blobs.insert(name.to_owned(), received);
        return Honest::new(StatusCode::CREATED);
    }
    let blob = rest.split_once("/blobs/");
    match blob.and_then(|(_, name)| state.blobs.get(name)) {
        Some(bytes) => content("application/octet-stream".into(), bytes.clone()),
        None => Honest::new(StatusCode::NOT_FOUND),
    }
}

fn content(media_type: String, body: Bytes) -> Honest {
    Honest {
        status: StatusCode::OK,
        headers: vec![
            ("content-type", media_type),
            ("docker-content-digest", digest(&body)),
        ],
        body,
    }
}

async fn spoil(honest: Honest, act: Option<Act>, head: bool) -> Response<Body> {
    let mut builder = Response::builder().status(honest.status);
    for (name, value) in &honest.headers {
        builder = builder.header(*name, value);
    }
    let whole = honest.body;
    let length = whole.len();
    let body = match act {
        Some(Act::Answer {
            status,
            headers,
            body,
        }) => {
            builder = Response::builder().status(status);
            for (name, value) in headers {
                builder = builder.header(name, value);
            }
            full(body)
        }
        Some(Act::Delay(time)) => {
            tokio::time::sleep(time).await;
            full(whole)
        }
        _ if head => {
            builder = builder.header(header::CONTENT_LENGTH, length);
            full(Bytes::new())
        }
        Some(Act::Truncate(bytes)) => {
            builder = builder.header(header::CONTENT_LENGTH, length);
            let sent = whole.slice(..bytes.min(length));
            cut(sent, Duration::ZERO)
        }
        Some(Act::Stall(bytes)) => {
            builder = builder.header(header::CONTENT_LENGTH, length);
            cut(whole.slice(..bytes.min(length)), SILENCE)
        }
        Some(Act::Corrupt) => {
            let mut bytes = whole.to_vec();
            if let Some(byte) = bytes.get_mut(length / 2) {
                *byte ^= 0xff;
            }
            full(bytes.into())
        }
        Some(Act::Extend(more)) => {
            let mut bytes = whole.to_vec();
            bytes.resize(length + more, 0);
            full(bytes.into())
        }
        Some(Act::Drip { bytes, every }) => {
            builder = builder.header(header::CONTENT_LENGTH, length);
            drip(whole, bytes, every)
        }
        Some(Act::HangUp) => {
            builder = builder.header(header::CONTENT_LENGTH, length + 1);
            cut(Bytes::new(), Duration::ZERO)
        }
        None => full(whole),
    };
    // The parts are this file's own, so only a rule with an impossible header fails here.
    builder.body(body).unwrap_or_else(|error| {
        let text = Bytes::from(format!("the test's rule is not valid HTTP: {error}"));
        let mut response = Response::new(full(text));
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    })
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(infallible).boxed()
}

fn infallible(never: Infallible) -> std::io::Error {
    match never {}
}

/// `sent`, a pause, then an error, at which the server drops the connection.
fn cut(sent: Bytes, pause: Duration) -> Body {
    let first = tokio_stream::once(Ok(Frame::data(sent)));
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
    let last = tokio_stream::once(Err(broken));
    // Without a moment between them the bytes are lost with the connection.
    let pause = pause.max(Duration::from_millis(50));
    let last = last.then(move |end| async move {
        tokio::time::sleep(pause).await;
        end
    });
    BoxBody::new(StreamBody::new(SyncStream::new(first.chain(last))))
}

fn drip(whole: Bytes, bytes: usize, every: Duration) -> Body {
    let pieces: Vec<Bytes> = whole
        .chunks(bytes.max(1))
        .map(Bytes::copy_from_slice)
        .collect();
    let pieces = tokio_stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(every).await;
        Ok(Frame::data(piece))
    });
    BoxBody::new(StreamBody::new(SyncStream::new(pieces)))
}

type Piece = Result<Frame<Bytes>, std::io::Error>;

/// `BoxBody` wants `Sync`, which a stream of futures is not; only one task
/// ever polls a body, so the lock is never waited for.
struct SyncStream(Mutex<std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Piece> + Send>>>);

impl SyncStream {
    fn new(stream: impl tokio_stream::Stream<Item = Piece> + Send + 'static) -> Self {
        Self(Mutex::new(Box::pin(stream)))
    }
}

impl tokio_stream::Stream for SyncStream {
    type Item = Piece;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Piece>> {
        let mut inner = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.as_mut().poll_next(context)
    }
}
