//! One blob into one repository.

use std::{fs::File, sync::Arc};

use reqwest::{
    Method, Response, Url,
    header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue},
};

use super::{
    exchange::Sending,
    piece::Piece,
    place::{Place, received},
};
use crate::{
    name::Digest,
    registry::{
        RegistryError, Session,
        session::{ATTEMPTS, back_off},
    },
};

/// The blob: a file of this size.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: Arc<File>,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What becomes of an upload, told while it happens.
#[derive(Debug)]
pub(crate) enum Told {
    /// The registry has taken it over from this repository.
    Mounted(String),
    /// So many bytes are on their way or there.
    Sent(u64),
}

/// Sends a blob in pieces, going on where it broke.
pub(crate) struct Upload<'u> {
    pub(crate) session: &'u Session<'u>,
    pub(crate) source: &'u Source,
    /// Most bytes in one request.
    pub(crate) chunk: u64,
    pub(crate) tell: &'u (dyn Fn(Told) + Send + Sync),
}

/// What a step has come to.
enum Step {
    Done,
    More,
    /// The registry has lost the upload, or takes it for something else.
    Lost(RegistryError),
}

impl Upload<'_> {
    /// Asks the registry to take the blob over from one of `repositories`, else sends it.
    pub(crate) async fn run(&self, repositories: &[String]) -> Result<(), RegistryError> {
        let mut place = None;
        for from in repositories {
            match self.mount(from).await {
                Ok(None) => {
                    (self.tell)(Told::Mounted(from.clone()));
                    return Ok(());
                }
                Ok(Some(opened)) => {
                    // The registry does not have it there, or does not say so to this user.
                    place = Some(opened);
                    break;
                }
                // Taking it over is only a short cut.
                Err(error) => tracing::debug!(from, %error, "a blob could not be mounted"),
            }
        }
        self.send(place).await
    }

    async fn mount(&self, from: &str) -> Result<Option<Place>, RegistryError> {
        let mut url = self.session.url("blobs/uploads/")?;
        url.query_pairs_mut()
            .append_pair("mount", &self.source.digest.to_string())
            .append_pair("from", from);
        let answer = self.ask(Method::POST, &url, "an upload").await?;
        match answer.status().as_u16() {
            201 => Ok(None),
            202 => Ok(Some(self.opened(&answer)?)),
            _ => Err(self
                .session
                .refusal(answer, "a blob of another repository")
                .await),
        }
    }

    async fn send(&self, mut place: Option<Place>) -> Result<(), RegistryError> {
        let (mut failures, mut furthest) = (0, 0);
        loop {
            let error = match self.step(&mut place).await {
                Ok(Step::Done) => return Ok(()),
                Ok(Step::More) => {
                    let offset = place.as_ref().map_or(0, |place| place.offset);
                    // Only what was never there before counts as progress, or a registry
                    // that forgets could keep this going for ever.
                    if offset > furthest {
                        (failures, furthest) = (0, offset);
                    }
                    (self.tell)(Told::Sent(offset));
                    continue;
                }
                Ok(Step::Lost(error)) => {
                    place = None;
                    error
                }
                Err(error) if error.is_transient() => {
                    if let Some(place) = &mut place {
                        place.unsure = true;
                    }
                    error
                }
                Err(error) => return Err(error),
            };
            if failures + 1 >= ATTEMPTS {
                return Err(error);
            }
            back_off(failures, &error).await;
            failures += 1;
        }
    }

    async fn step(&self, place: &mut Option<Place>) -> Result<Step, RegistryError> {
        let Some(at) = place else {
            let url = self.session.url("blobs/uploads/")?;
            let answer = self.ask(Method::POST, &url, "an upload").await?;
            if answer.status().as_u16() != 202 {
                return Err(self.session.refusal(answer, "an upload").await);
            }
            *place = Some(self.opened(&answer)?);
            return Ok(Step::More);
        };
        if at.unsure {
            return self.look(at).await;
        }
        let left = self.source.size.saturating_sub(at.offset);
        let chunk = self.chunk.max(at.chunk_min).max(1);
        match (at.offset, left) {
            // All at once, which every registry understands and saves two requests.
            (0, left) if left <= chunk => self.finish(at, left).await,
            (_, 0) => self.finish(at, 0).await,
            (_, left) => self.patch(at, left.min(chunk)).await,
        }
    }

    /// Asks how much of the upload is there.
    async fn look(&self, place: &mut Place) -> Result<Step, RegistryError> {
        let answer = self
            .ask(Method::GET, &place.location, "the state of an upload")
            .await?;
        let known = received(&answer).filter(|&offset| offset <= self.source.size);
        match (answer.status().as_u16(), known) {
            (200 | 202 | 204, Some(offset)) => {
                if answer.headers().contains_key(reqwest::header::LOCATION) {
                    place.location = self.session.location(&answer)?;
                }
                place.offset = offset;
                place.unsure = false;
                Ok(Step::More)
            }
            (429 | 500.., _) => Err(self.session.refusal(answer, "the state of an upload").await),
            _ => {
                let what = "the state of an upload";
                Ok(Step::Lost(self.session.refusal(answer, what).await))
            }
        }
    }

    /// Sends the next chunk.
    async fn patch(&self, place: &mut Place, length: u64) -> Result<Step, RegistryError> {
        let mut headers = octets();
        let range = format!("{}-{}", place.offset, place.offset + length - 1);
        if let Ok(range) = HeaderValue::from_str(&range) {
            headers.insert(CONTENT_RANGE, range);
        }
        let answer = self
            .body(
                Method::PATCH,
                &place.location,
                &headers,
                (place.offset, length),
            )
            .await?;
        match answer.status().as_u16() {
            200..300 => {
                place.location = self.session.location(&answer)?;
                let sent = place.offset + length;
                // One that has taken less says so.
                place.offset = received(&answer)
                    .filter(|&there| there > 0)
                    .unwrap_or(sent)
                    .min(sent);
                Ok(Step::More)
            }
            _ => self.refused(answer, "a chunk").await,
        }
    }

    /// Sends what is left, if anything, and says what the whole must be.
    async fn finish(&self, place: &mut Place, left: u64) -> Result<Step, RegistryError> {
        let mut url = place.location.clone();
        url.query_pairs_mut()
            .append_pair("digest", &self.source.digest.to_string());
        let answer = self
            .body(Method::PUT, &url, &octets(), (place.offset, left))
            .await?;
        match answer.status().as_u16() {
            200..300 => {
                (self.tell)(Told::Sent(self.source.size));
                Ok(Step::Done)
            }
            _ => self.refused(answer, "a blob").await,
        }
    }

    /// A refusal of bytes: those that mean that the upload must begin anew, and others.
    async fn refused(&self, answer: Response, what: &'static str) -> Result<Step, RegistryError> {
        let lost = matches!(answer.status().as_u16(), 400 | 404 | 416);
        let error = self.session.refusal(answer, what).await;
        if lost {
            Ok(Step::Lost(error))
        } else {
            Err(error)
        }
    }

    fn opened(&self, answer: &Response) -> Result<Place, RegistryError> {
        Ok(Place::new(self.session.location(answer)?, answer))
    }

    async fn ask(
        &self,
        method: Method,
        url: &Url,
        what: &'static str,
    ) -> Result<Response, RegistryError> {
        self.session
            .exchange(method, url, &HeaderMap::new(), &Sending::Nothing, what)
            .await
    }

    /// Sends `length` bytes from `offset`, telling how far it is.
    async fn body(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        (offset, length): (u64, u64),
    ) -> Result<Response, RegistryError> {
        const WHAT: &str = "a blob";
        if length == 0 {
            return self
                .session
                .exchange(method, url, headers, &Sending::Nothing, WHAT)
                .await;
        }
        let piece = Piece::new(&self.source.file, offset, length);
        let taken = Arc::clone(&piece.taken);
        let sending = Sending::Piece(piece);
        let exchange = self.session.exchange(method, url, headers, &sending, WHAT);
        tokio::pin!(exchange);
        // Often enough for a smooth bar.
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            tokio::select! {
                answer = &mut exchange => return answer,
                _ = ticks.tick() => {
                    let taken = taken.load(std::sync::atomic::Ordering::Relaxed);
                    (self.tell)(Told::Sent(offset + taken));
                }
            }
        }
    }
}

fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers
}
