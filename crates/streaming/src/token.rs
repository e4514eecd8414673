//! What was asked for by gRPC, kept until its URL is opened.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// As long as other servers keep them.
const LIFE: Duration = Duration::from_secs(60);
/// As many as other servers keep.
const OUTSTANDING_MAX: usize = 1000;
/// 192 bits from the kernel: the token is all that protects what is behind it.
const BYTES: usize = 24;

/// A command in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exec {
    /// The container.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Which streams the client opens.
    pub stdin: bool,
    /// As `stdin`.
    pub stdout: bool,
    /// As `stdin`; never with a terminal.
    pub stderr: bool,
}

/// The streams of a container's own process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// The container.
    pub container: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Which streams the client opens.
    pub stdin: bool,
    /// As `stdin`.
    pub stdout: bool,
    /// As `stdin`; never with a terminal.
    pub stderr: bool,
}

/// Connections into a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortForward {
    /// The pod sandbox.
    pub pod: String,
    /// Which ports; only old WebSocket clients need them, others say the port with each connection.
    pub ports: Vec<u16>,
}

/// What a URL stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// See [`Exec`].
    Exec(Exec),
    /// See [`Attach`].
    Attach(Attach),
    /// See [`PortForward`].
    PortForward(PortForward),
}

/// A request that no client could use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// No container or pod is named.
    #[error("the id of what to stream from is missing")]
    Id,
    /// A terminal has one output.
    #[error("a terminal has no stderr of its own: ask for tty or for stderr")]
    TtyWithStderr,
    /// Nothing would be streamed.
    #[error("none of stdin, stdout and stderr is asked for")]
    NoStream,
}

/// Too many URLs wait to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{OUTSTANDING_MAX} streaming requests wait for their clients; open or let expire some (60 s)"
)]
pub struct TooMany;

impl Request {
    /// The first part of its path.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }

    /// Whether a client could use it.
    ///
    /// # Errors
    /// [`InvalidRequest`].
    pub fn validate(&self) -> Result<(), InvalidRequest> {
        let (id, streams) = match self {
            Self::Exec(exec) => (
                &exec.container,
                Some((exec.tty, [exec.stdin, exec.stdout, exec.stderr])),
            ),
            Self::Attach(attach) => (
                &attach.container,
                Some((attach.tty, [attach.stdin, attach.stdout, attach.stderr])),
            ),
            Self::PortForward(forward) => (&forward.pod, None),
        };
        if id.is_empty() {
            return Err(InvalidRequest::Id);
        }
        match streams {
            Some((true, [.., true])) => Err(InvalidRequest::TtyWithStderr),
            Some((_, [false, false, false])) => Err(InvalidRequest::NoStream),
            _ => Ok(()),
        }
    }
}

/// The requests whose URLs have not been opened.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<String, (Instant, Request)>>);

impl Tokens {
    /// Keeps `request` and returns its token.
    pub(crate) fn keep(&self, request: Request) -> Result<String, TooMany> {
        let mut bytes = [0; BYTES];
        // Without randomness no token may be given out.
        getrandom::fill(&mut bytes).map_err(|_broken| TooMany)?;
        let token = URL_SAFE_NO_PAD.encode(bytes);
        let mut kept = self.kept();
        let now = Instant::now();
        kept.retain(|_, (at, _)| now.duration_since(*at) < LIFE);
        if kept.len() >= OUTSTANDING_MAX {
            return Err(TooMany);
        }
        kept.insert(token.clone(), (now, request));
        Ok(token)
    }

    /// Takes the request of `token`, which is used up by that whatever follows.
    ///
    /// A hash table finds it: what its timing tells is the keyed hash of a guess
    /// at 192 bits.
    pub(crate) fn redeem(&self, kind: &str, token: &str) -> Option<Request> {
        let mut kept = self.kept();
        let (at, request) = kept.get(token)?;
        if request.kind() != kind {
            return None;
        }
        let fresh = at.elapsed() < LIFE;
        let request = request.clone();
        kept.remove(token);
        fresh.then_some(request)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, (Instant, Request)>> {
        // One insertion or removal at a time: a panic leaves no half.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::Exec(Exec {
            container: "c".to_owned(),
            stdout: true,
            ..Exec::default()
        })
    }

    #[test]
    fn a_token_is_good_once_and_for_its_own_kind() {
        let tokens = Tokens::default();
        let token = tokens.keep(request()).unwrap();
        assert_eq!(token.len(), 32);
        assert_eq!(tokens.redeem("attach", &token), None);
        assert_eq!(tokens.redeem("exec", &token), Some(request()));
        assert_eq!(tokens.redeem("exec", &token), None);
    }

    #[test]
    fn an_old_token_is_worth_nothing_and_makes_room() {
        let tokens = Tokens::default();
        let all: Vec<_> = (0..OUTSTANDING_MAX)
            .map(|_| tokens.keep(request()).unwrap())
            .collect();
        assert_eq!(tokens.keep(request()), Err(TooMany));
        for (at, _) in tokens.kept().values_mut() {
            *at = at.checked_sub(LIFE).unwrap();
        }
        assert_eq!(tokens.redeem("exec", &all[0]), None);
        tokens.keep(request()).unwrap();
        assert_eq!(tokens.kept().len(), 1);
    }

    #[test]
    fn requests_that_no_client_could_use_are_refused() {
        let exec = |tty, stdout, stderr| {
            Request::Exec(Exec {
                container: "c".to_owned(),
                tty,
                stdout,
                stderr,
                ..Exec::default()
            })
            .validate()
        };
        assert_eq!(exec(true, true, true), Err(InvalidRequest::TtyWithStderr));
        assert_eq!(exec(false, false, false), Err(InvalidRequest::NoStream));
        assert_eq!(exec(true, true, false), Ok(()));
        let nameless = Request::PortForward(PortForward::default());
        assert_eq!(nameless.validate(), Err(InvalidRequest::Id));
    }
}
