//! One request with what it sends, its authorization and its limits.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use reqwest::{
    Method, RequestBuilder, Response, Url,
    header::{CONTENT_LENGTH, HeaderMap, HeaderValue, LOCATION},
};
use serde::Deserialize;

use super::piece::Piece;
use crate::registry::{
    Patience, RegistryError, Session,
    auth::{Challenge, challenges},
    http::{host, read_capped, transport},
    origin::same_origin,
    patience::seconds,
    session::ROUNDS,
};

/// From the last byte of a body to the answer: a registry hashes what it got,
/// and storage behind it copies a large blob into its final place.
const COMMIT_MAX: Duration = Duration::from_secs(300);
/// How often it is looked whether bytes flow.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The distribution specification needs one or two redirects; more is a loop.
const REDIRECTS_MAX: u32 = 5;
/// A registry's own words about a failure.
const WORDS_MAX: u64 = 64 << 10;

/// What a request sends.
pub(super) enum Sending<'s> {
    Nothing,
    Bytes(&'s [u8]),
    Piece(Piece),
}

impl Sending<'_> {
    fn length(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Piece(piece) => piece.length,
        }
    }

    fn put_into(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.header(CONTENT_LENGTH, self.length());
        match self {
            Self::Nothing => request,
            Self::Bytes(bytes) => request.body(bytes.to_vec()),
            Self::Piece(piece) => request.body(piece.body()),
        }
    }

    /// Bytes on their way so far.
    fn taken(&self) -> u64 {
        match self {
            Self::Piece(piece) => piece.taken.load(Ordering::Relaxed),
            Self::Nothing | Self::Bytes(..) => self.length(),
        }
    }
}

impl Session<'_> {
    /// Sends one request, with authorization to the registry's own origin alone,
    /// and answers challenges. Any other status is for the caller.
    pub(super) async fn exchange(
        &self,
        method: Method,
        url: &Url,
        headers: &HeaderMap,
        sending: &Sending<'_>,
        what: &'static str,
    ) -> Result<Response, RegistryError> {
        let own = same_origin(self.base(), url);
        let mut sent = self.authorization();
        let mut round = 1;
        loop {
            let request = self.request(method.clone(), url, sent.as_ref())?;
            let request = sending.put_into(request.headers(headers.clone()));
            let answer = watched(request, url, sending, what, self.clients().patience()).await?;
            if answer.status().as_u16() != 401 || !own || round == ROUNDS {
                return Ok(answer);
            }
            let offered = self.to_push(challenges(answer.headers()), url);
            sent = Some(self.authorize(&offered, &sent).await?);
            round += 1;
        }
    }

    /// Asks whether something is there, following redirects.
    pub(super) async fn head(&self, url: &Url) -> Result<Response, RegistryError> {
        const WHAT: &str = "whether a blob is there";
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self
                .exchange(
                    Method::HEAD,
                    &at,
                    &HeaderMap::new(),
                    &Sending::Nothing,
                    WHAT,
                )
                .await?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            at = self.clients().next(&at, answer.headers().get(LOCATION))?;
        }
        Err(self.odd(format!("redirects more than {REDIRECTS_MAX} times")))
    }

    /// Challenges with the scope that a push needs. What a registry asks for is
    /// what the request at hand needs (to look, say), and a token for just that
    /// would be asked for again with the next request.
    fn to_push(&self, offered: Vec<Challenge>, url: &Url) -> Vec<Challenge> {
        let own = format!("repository:{}:", self.repository());
        let mut scope = format!("{own}pull,push");
        let from = url.query_pairs().find(|(key, _)| key == "from");
        if let Some((_, from)) = from {
            scope.push_str(&format!(" repository:{from}:pull"));
        }
        let widen = |challenge| match challenge {
            Challenge::Bearer { realm, service, .. } => Challenge::Bearer {
                realm,
                service,
                scope: Some(scope.clone()),
            },
            Challenge::Basic => Challenge::Basic,
        };
        offered.into_iter().map(widen).collect()
    }

    /// Turns an answer that is none of those wanted into an error.
    pub(super) async fn refusal(&self, answer: Response, what: &'static str) -> RegistryError {
        let host = host(self.base());
        let repository = self.repository().to_owned();
        match answer.status().as_u16() {
            401 => self.unauthorized("check that this user may write there"),
            403 => RegistryError::Forbidden { host, repository },
            413 => self.odd(format!("does not take {what} of this size")),
            429 => self.limited(&answer).await,
            status => {
                let url = answer.url().clone();
                let seconds = match status {
                    500.. => self.wait_as_told(&answer).await,
                    _ => None,
                };
                let words = words(answer, &url, self.clients().patience()).await;
                RegistryError::Status {
                    host,
                    status,
                    what: format!("{what}{words}"),
                    seconds,
                }
            }
        }
    }

    /// For a registry that does what it must not.
    pub(super) fn odd(&self, why: String) -> RegistryError {
        RegistryError::Refused {
            host: host(self.base()),
            why,
        }
    }

    /// Where an answer says that an upload goes on.
    pub(super) fn location(&self, answer: &Response) -> Result<Url, RegistryError> {
        let header: Option<&HeaderValue> = answer.headers().get(LOCATION);
        if header.is_none() {
            return Err(self.odd("does not say where an upload goes on".to_owned()));
        }
        self.clients().next(answer.url(), header)
    }
}

/// Sends a request as long as bytes flow.
async fn watched(
    request: RequestBuilder,
    url: &Url,
    sending: &Sending<'_>,
    what: &'static str,
    patience: &Patience,
) -> Result<Response, RegistryError> {
    let answer = request.send();
    tokio::pin!(answer);
    let (mut before, mut since) = (sending.taken(), Instant::now());
    loop {
        tokio::select! {
            answer = &mut answer => return answer.map_err(|error| transport(url, what, error)),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = sending.taken();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        let all = now >= sending.length() && sending.length() > 0;
        let limit = if all { COMMIT_MAX } else { patience.silence };
        if since.elapsed() > limit {
            return Err(RegistryError::Stalled {
                host: host(url),
                what: what.to_owned(),
                seconds: seconds(limit),
            });
        }
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    code: String,
    #[serde(default)]
    message: String,
}

/// What the registry says about its refusal, if it does so as the specification
/// wants it.
async fn words(answer: Response, url: &Url, patience: &Patience) -> String {
    let Ok(body) = read_capped(answer, url, "an error", WORDS_MAX, patience).await else {
        return String::new();
    };
    let Ok(Errors { errors }) = serde_json::from_slice(&body) else {
        return String::new();
    };
    let short = |text: &str| text.chars().take(200).collect::<String>();
    errors.first().map_or(String::new(), |failure| {
        format!(" ({}: {})", short(&failure.code), short(&failure.message))
    })
}
