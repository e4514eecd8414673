//! One blob from a repository, chunk by chunk.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{
    Response,
    header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE},
};

use super::{
    RegistryError, Session,
    hosts::Capability,
    http::{chunk, host},
    patience::seconds,
    session::{ATTEMPTS, back_off},
};
use crate::document::Descriptor;

impl Session<'_> {
    /// A blob to be read chunk by chunk, from its byte `from` on.
    pub(crate) fn blob<'s>(&'s self, descriptor: &Descriptor, from: u64) -> Blob<'s> {
        Blob {
            session: self,
            path: format!("blobs/{}", descriptor.digest),
            what: format!("layer {}", descriptor.digest),
            size: descriptor.size,
            got: from,
            failures: 0,
            first: 0,
            open: None,
            window: (Duration::ZERO, 0),
        }
    }
}

/// A transfer that continues where it broke.
#[derive(Debug)]
pub(crate) struct Blob<'s> {
    session: &'s Session<'s>,
    path: String,
    what: String,
    size: u64,
    got: u64,
    failures: u32,
    /// Hosts before this one have failed with this blob.
    first: usize,
    open: Option<Open>,
    /// Time spent waiting for the network and bytes it brought meanwhile.
    window: (Duration, u64),
}

#[derive(Debug)]
struct Open {
    answer: Response,
    /// Bytes that come once more.
    skip: u64,
    /// Which host it is of.
    host: usize,
}

impl Blob<'_> {
    /// The next bytes; `None` when all of them came.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.got == self.size && self.open.is_none() {
                return Ok(None);
            }
            let error = match self.step().await {
                Ok(chunk) => return Ok(chunk),
                Err(error) => error,
            };
            // Whatever a mirror does wrong, the next host may do right.
            let host = self.open.take().map(|open| open.host);
            let hosts = self.session.hosts();
            let next = host.filter(|&at| hosts[at].mirror && at + 1 < hosts.len());
            if let Some(mirror) = next {
                self.first = mirror + 1;
            }
            if (next.is_none() && !error.is_transient()) || self.failures + 1 >= ATTEMPTS {
                return Err(error);
            }
            back_off(self.failures, &error).await;
            self.failures += 1;
        }
    }

    async fn step(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let open = match &mut self.open {
                Some(open) => open,
                None => {
                    let open = self.begin().await?;
                    self.open.insert(open)
                }
            };
            let url = open.answer.url().clone();
            let began = Instant::now();
            let patience = self.session.clients().patience();
            let chunk = chunk(&mut open.answer, &url, &self.what, patience).await?;
            self.window.0 += began.elapsed();
            let Some(mut chunk) = chunk else {
                if self.got < self.size {
                    return Err(RegistryError::Truncated {
                        host: host(&url),
                        what: self.what.clone(),
                        got: self.got,
                        size: self.size,
                    });
                }
                self.open = None;
                return Ok(None);
            };
            if open.skip > 0 {
                let known = usize::try_from(open.skip)
                    .unwrap_or(usize::MAX)
                    .min(chunk.len());
                open.skip -= known as u64;
                chunk = chunk.split_off(known);
            }
            self.window.1 += chunk.len() as u64;
            if self.window.0 > patience.window {
                let (_, bytes) = std::mem::take(&mut self.window);
                if bytes < patience.least {
                    return Err(RegistryError::Slow {
                        host: host(&url),
                        what: self.what.clone(),
                        bytes,
                        seconds: seconds(patience.window),
                    });
                }
            }
            if chunk.is_empty() {
                continue;
            }
            if self.got + chunk.len() as u64 > self.size {
                return Err(RegistryError::Longer {
                    host: host(&url),
                    what: self.what.clone(),
                    size: self.size,
                });
            }
            self.got += chunk.len() as u64;
            return Ok(Some(chunk));
        }
    }

    /// Asks for what is missing; a server without ranges sends all again, which is skipped.
    async fn begin(&self) -> Result<Open, RegistryError> {
        let mut headers = HeaderMap::new();
        if self.got > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.got))
        {
            headers.insert(RANGE, range);
        }
        let headers = &headers;
        let ask = |index: usize| async move {
            let session = self.session;
            let answer = session.get(index, &self.path, headers, &self.what).await?;
            let skip = match answer.status().as_u16() {
                206 => 0,
                _ => self.got,
            };
            let range = answer.headers().get(CONTENT_RANGE);
            let range = range.and_then(|value| value.to_str().ok());
            let wanted = format!("bytes {}-", self.got);
            if skip != self.got && !range.is_some_and(|range| range.starts_with(&wanted)) {
                return Err(RegistryError::Refused {
                    host: host(answer.url()),
                    why: format!(
                        "answers another range of {} than it was asked for",
                        self.what
                    ),
                });
            }
            Ok(Open {
                answer,
                skip,
                host: index,
            })
        };
        let first = self.first;
        self.session.across(Capability::Pull, first, ask).await
    }
}
