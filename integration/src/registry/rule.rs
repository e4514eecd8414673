//! What to answer instead of the truth.

use std::time::Duration;

use bytes::Bytes;

/// An answer that is not the honest one.
#[derive(Clone, Debug)]
pub enum Act {
    /// A status with headers and a body, nothing else.
    Answer {
        /// HTTP status.
        status: u16,
        /// Headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: Bytes,
    },
    /// The honest answer, this much later.
    Delay(Duration),
    /// The honest headers, then only so many bytes, then the connection ends.
    Truncate(usize),
    /// The honest headers and so many bytes, then silence on an open connection.
    Stall(usize),
    /// The honest length with one byte changed.
    Corrupt,
    /// The honest body and so many bytes more, with a length that says so.
    Extend(usize),
    /// The honest body in pieces of `bytes`, one every `every`.
    Drip {
        /// Bytes at a time.
        bytes: usize,
        /// Pause between pieces.
        every: Duration,
    },
    /// The connection ends without an answer.
    HangUp,
}

impl Act {
    /// A bare status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// A redirect.
    #[must_use]
    pub fn redirect(to: &str) -> Self {
        Self::Answer {
            status: 307,
            headers: vec![("location".into(), to.into())],
            body: Bytes::new(),
        }
    }

    /// A 401 that asks for a bearer token of `realm`.
    #[must_use]
    pub fn unauthorized(realm: &str) -> Self {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"test\"");
        Self::Answer {
            status: 401,
            headers: vec![("www-authenticate".into(), challenge)],
            body: Bytes::from_static(br#"{"errors":[{"code":"UNAUTHORIZED"}]}"#),
        }
    }
}

/// Which requests an [`Act`] is for.
#[derive(Clone, Debug)]
pub struct Rule {
    part: String,
    act: Act,
    skip: usize,
    left: Option<usize>,
    unless: Option<(String, String)>,
}

impl Rule {
    /// For requests whose path has `part` in it.
    #[must_use]
    pub fn on(part: &str, act: Act) -> Self {
        Self {
            part: part.to_owned(),
            act,
            skip: 0,
            left: None,
            unless: None,
        }
    }

    /// Not for requests with this value of a header.
    #[must_use]
    pub fn unless(mut self, header: &str, value: &str) -> Self {
        self.unless = Some((header.to_owned(), value.to_owned()));
        self
    }

    /// Only so often.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.left = Some(times);
        self
    }

    /// Not for the first `skip` requests that fit.
    #[must_use]
    pub fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// The act for a request of `path`, counted.
    pub(super) fn take(&mut self, path: &str, headers: &http::HeaderMap) -> Option<Act> {
        if !path.contains(&self.part) || self.left == Some(0) {
            return None;
        }
        if let Some((name, value)) = &self.unless
            && headers.get(name).is_some_and(|given| given == value)
        {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Some(self.act.clone())
    }
}
