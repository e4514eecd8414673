//! A registry that says what a test wants it to say.
//!
//! Without rules it serves the images that it was given, by the OCI
//! distribution specification, over plain HTTP. A [`Rule`] changes the answer
//! to some requests; every request is kept with its headers.

mod answer;
mod rule;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use crate::{NetNs, image::Image};

pub use rule::{Act, Rule};

/// One request that came in.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Its headers.
    pub headers: http::HeaderMap,
}

#[derive(Debug, Default)]
struct State {
    /// (repository, tag or digest) to (media type, bytes).
    manifests: BTreeMap<(String, String), (String, Bytes)>,
    blobs: BTreeMap<String, Bytes>,
    rules: Vec<Rule>,
    seen: Vec<Seen>,
}

/// A running registry; it ends when this value is dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Registry {
    /// Listens on a free port of the loopback address of `netns`.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn start(netns: &NetNs) -> Result<Self> {
        Self::start_at(netns, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// As [`Registry::start`], at `address`.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_at(netns: &NetNs, address: SocketAddr) -> Result<Self> {
        let listener = netns.enter(|| {
            let listener = std::net::TcpListener::bind(address).context("bind")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let address = listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            // A failed accept (the peer left already) concerns that peer alone.
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&shared)));
                }
            }
        });
        Ok(Self {
            address,
            state,
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Offers `image` as `repository:tag`; returns the reference to pull it by.
    pub fn add(&self, repository: &str, tag: &str, image: &Image) -> String {
        let mut state = self.lock();
        let top = (
            image.media_type.to_owned(),
            Bytes::from(image.manifest.clone()),
        );
        let own = |reference: &str| (repository.to_owned(), reference.to_owned());
        state.manifests.insert(own(&image.digest()), top.clone());
        state.manifests.insert(own(tag), top);
        for (digest, bytes) in &image.manifests {
            let entry = (crate::image::MANIFEST.to_owned(), bytes.clone().into());
            state.manifests.insert(own(digest), entry);
        }
        for (digest, bytes) in &image.blobs {
            state.blobs.insert(digest.clone(), bytes.clone().into());
        }
        format!("{}/{repository}:{tag}", self.address)
    }

    /// Offers any bytes as a manifest.
    pub fn add_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        let value = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
        let mut state = self.lock();
        let by_digest = (repository.to_owned(), crate::image::digest(bytes));
        state.manifests.insert(by_digest, value.clone());
        state
            .manifests
            .insert((repository.to_owned(), tag.to_owned()), value);
    }

    /// Adds a rule; of several that fit a request the oldest is used.
    pub fn rule(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// Forgets all rules.
    pub fn clear_rules(&self) {
        self.lock().rules.clear();
    }

    /// The requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// How many requests so far had `part` in their path.
    #[must_use]
    pub fn count(&self, part: &str) -> usize {
        let state = self.lock();
        state.seen.iter().filter(|s| s.path.contains(part)).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// A test that panicked while it held the lock has failed already.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(stream: tokio::net::TcpStream, state: Arc<Mutex<State>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer::answer(&state, request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that hangs up, or an answer that is cut short on purpose.
    drop(connection.await);
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    async fn get(registry: &Registry, netns: &NetNs, path: &str) -> String {
        let address = registry.address();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut stream = netns
            .enter(|| Ok(std::net::TcpStream::connect(address)?))
            .unwrap();
        tokio::task::spawn_blocking(move || {
            stream.write_all(request.as_bytes()).unwrap();
            let mut all = Vec::new();
            // An answer that is cut short on purpose ends in a reset.
            drop(stream.read_to_end(&mut all));
            String::from_utf8_lossy(&all).into_owned()
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn a_rule_changes_the_answers_it_is_for_and_no_others() {
        let netns = NetNs::new().unwrap();
        let registry = Registry::start(&netns).unwrap();
        let image = Image::new(&[], serde_json::json!({})).unwrap();
        registry.add("some/image", "v1", &image);
        let manifest = "/v2/some/image/manifests/v1";
        registry.rule(Rule::on("manifests", Act::status(503)).times(1));

        let first = get(&registry, &netns, manifest).await;
        assert!(first.starts_with("HTTP/1.1 503"), "{first}");
        let second = get(&registry, &netns, manifest).await;
        assert!(second.starts_with("HTTP/1.1 200"), "{second}");
        assert!(
            second.contains("docker-content-digest: sha256:"),
            "{second}"
        );

        let blob = format!("/v2/some/image/blobs/{}", image.id);
        registry.rule(Rule::on("blobs", Act::Truncate(3)));
        let cut = get(&registry, &netns, &blob).await;
        let (head, body) = cut.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.len(), 3);
        assert!(!head.contains("content-length: 3\r\n"), "{head}");
        assert_eq!(registry.count("manifests"), 2);
        assert!(
            get(&registry, &netns, "/v2/no/manifests/v1")
                .await
                .contains("404")
        );
    }

    #[tokio::test]
    async fn an_image_that_is_pushed_can_be_read_back() {
        let netns = NetNs::new().unwrap();
        let registry = Registry::start(&netns).unwrap();
        let image = crate::image::overlaying(b"busybox").unwrap();
        crate::image::push(&image, &netns, registry.address(), "a/b", "c")
            .await
            .unwrap();
        let back = get(&registry, &netns, "/v2/a/b/manifests/c").await;
        assert!(back.contains(&image.id), "{back}");
        assert_eq!(registry.lock().blobs.len(), 3);
    }
}
