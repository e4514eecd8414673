//! A registry that takes uploads, and spoils them as a test wants it.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use berth_image::Digest;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// One request and how it was answered.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HashMap<String, String>,
    /// Bytes of the body that were read.
    pub received: usize,
    pub status: u16,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Default)]
pub struct State {
    pub blobs: HashMap<String, Vec<u8>>,
    /// Other repositories' blobs: `repository digest`.
    pub mountable: Vec<String>,
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
    pub uploads: HashMap<String, Vec<u8>>,
    pub calls: Vec<Call>,
    /// `OCI-Chunk-Min-Length`.
    pub chunk_min: Option<usize>,
    /// The connection breaks after so many bytes of a body, so many times.
    pub break_after: usize,
    pub breaks: usize,
    /// Statuses that are answered first, by the beginning of `METHOD path`.
    pub refusals: Vec<(&'static str, u16, usize)>,
    /// A bearer token that is wanted, with the scope it is given for.
    pub token_scope: Option<&'static str>,
    /// Another origin that uploads are sent to.
    pub elsewhere: Option<String>,
    next: usize,
}

#[derive(Clone)]
pub struct Uploads {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

impl Uploads {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service =
                    service_fn(move |request| serve(Arc::clone(&state), address, request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, state }
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    /// The calls so far that begin with `METHOD path`; they are forgotten.
    pub fn calls(&self, beginning: &str) -> Vec<Call> {
        let mut calls = std::mem::take(&mut self.state.lock().unwrap().calls);
        calls.retain(|call| format!("{} {}", call.method, call.path).starts_with(beginning));
        calls
    }
}

struct Answer(u16, Vec<(&'static str, String)>, Vec<u8>);

/// An error ends the connection.
async fn serve(
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or("").to_owned();
    let method = parts.method.to_string();
    let breaking = {
        let state = state.lock().unwrap();
        let sends = matches!(method.as_str(), "PATCH" | "PUT") && path.contains("/uploads/");
        (sends && state.breaks > 0).then_some(state.break_after)
    };
    let mut received = Vec::new();
    let mut broken = false;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        received.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if let Some(limit) = breaking
            && received.len() >= limit
        {
            received.truncate(limit);
            broken = true;
            break;
        }
    }
    let headers = parts.headers.iter();
    let headers: HashMap<String, String> = headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("").to_owned()))
        .collect();
    let mut state = state.lock().unwrap();
    state.breaks -= usize::from(broken);
    let mut call = Call {
        method,
        path,
        query,
        headers,
        received: received.len(),
        status: 0,
    };
    let answer = answer(&mut state, address, &call, received, broken);
    call.status = answer.0;
    state.calls.push(call);
    if broken {
        return Err(std::io::Error::other("broken as the test wants it"));
    }
    let mut response = Response::builder().status(answer.0);
    for (name, value) in answer.1 {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::from(answer.2))).unwrap())
}

fn answer(
    state: &mut State,
    address: SocketAddr,
    call: &Call,
    body: Vec<u8>,
    broken: bool,
) -> Answer {
    let plain = |status| Answer(status, Vec::new(), Vec::new());
    let line = format!("{} {}", call.method, call.path);
    if call.path == "/token" {
        let scope = query(&call.query, "scope");
        return Answer(
            200,
            Vec::new(),
            format!(r#"{{"token":"for {scope}"}}"#).into_bytes(),
        );
    }
    if let Some(scope) = state.token_scope
        && !call
            .header("authorization")
            .starts_with("Bearer for repository:team/app:pull,push")
    {
        let challenge =
            format!(r#"Bearer realm="http://{address}/token",service="s",scope="{scope}""#);
        return Answer(401, vec![("www-authenticate", challenge)], Vec::new());
    }
    for (beginning, status, times) in &mut state.refusals {
        if *times > 0 && line.starts_with(*beginning) {
            *times -= 1;
            let body =
                br#"{"errors":[{"code":"BLOB_UPLOAD_INVALID","message":"as the test wants it"}]}"#;
            return Answer(*status, Vec::new(), body.to_vec());
        }
    }
    if let Some((_, tag)) = call.path.split_once("/manifests/") {
        let digest = Digest::of(&body).to_string();
        let kind = call.header("content-type").to_owned();
        state.manifests.insert(tag.to_owned(), (kind, body));
        return Answer(201, vec![("docker-content-digest", digest)], Vec::new());
    }
    let Some((_, id)) = call.path.split_once("/blobs/uploads/") else {
        let digest = call.path.rsplit('/').next().unwrap();
        return plain(if state.blobs.contains_key(digest) {
            200
        } else {
            404
        });
    };
    let id = id.to_owned();
    let base = state.elsewhere.clone().unwrap_or_default();
    let place = |id: &str| {
        (
            "location",
            format!("{base}/v2/team/app/blobs/uploads/{id}?_state=a%2Bb"),
        )
    };
    match call.method.as_str() {
        "POST" => {
            let (mount, from) = (query(&call.query, "mount"), query(&call.query, "from"));
            if state.mountable.contains(&format!("{from} {mount}")) {
                state.blobs.insert(mount, Vec::new());
                return plain(201);
            }
            state.next += 1;
            let id = state.next.to_string();
            state.uploads.insert(id.clone(), Vec::new());
            let mut headers = vec![place(&id)];
            headers.extend(
                state
                    .chunk_min
                    .map(|min| ("oci-chunk-min-length", min.to_string())),
            );
            Answer(202, headers, Vec::new())
        }
        method => {
            let Some(upload) = state.uploads.get_mut(&id) else {
                return plain(404);
            };
            let range = |length: usize| ("range", format!("0-{}", length.saturating_sub(1)));
            let there = upload.len();
            if method == "PATCH"
                && !call
                    .header("content-range")
                    .starts_with(&format!("{there}-"))
            {
                return Answer(416, vec![range(there)], Vec::new());
            }
            upload.extend_from_slice(&body);
            let length = upload.len();
            match method {
                "GET" => Answer(204, vec![place(&id), range(length)], Vec::new()),
                "PATCH" => Answer(202, vec![place(&id), range(length)], Vec::new()),
                _ if broken => plain(0),
                _ => {
                    let digest = query(&call.query, "digest");
                    let upload = state.uploads.remove(&id).unwrap();
                    if Digest::of(&upload).to_string() != digest
                        || !call.query.contains("_state=a%2Bb")
                    {
                        return plain(400);
                    }
                    state.blobs.insert(digest, upload);
                    plain(201)
                }
            }
        }
    }
}

/// A parameter, decoded as far as these tests need it.
fn query(query: &str, name: &str) -> String {
    let found = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(&format!("{name}=")));
    let text = found.unwrap_or("").replace("%3A", ":").replace("%2F", "/");
    text.replace("%2C", ",").replace('+', " ")
}
