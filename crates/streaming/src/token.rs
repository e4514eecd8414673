//! What was asked for by gRPC, kept until its URL is opened.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

/// As long as other servers keep them.
const LIFE: Duration = Duration::from_secs(60);
/// As many as other servers keep.
const OUTSTANDING_MAX: usize = 1000;
/// 192 bits from the kernel: the token is all that protects what is behind it.
const BYTES: usize = 24;

/// A command in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What differs from the container's own process.
    #[serde(default)]
    pub options: ExecOptions,
}

/// What of a command differs from the process of its container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOptions {
    /// NAME=value each.
    pub env: Vec<String>,
    /// As people write it; empty is the same.
    pub user: String,
    /// Absolute; empty is the same.
    pub working_directory: String,
    /// Whether it may do everything.
    pub privileged: bool,
}

/// The streams of a container's own process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// The pod sandbox.
    pub pod: String,
    /// Which ports; only old WebSocket clients need them, others say the port with each connection.
    pub ports: Vec<u16>,
}

/// What a URL stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// A request whose URL has not been opened, on its way from one server to another
/// that takes its place.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    token: String,
    /// How long the URL is good.
    left: Duration,
    request: Request,
}

impl std::fmt::Debug for Waiting {
    // Its token is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting")
            .field("kind", &self.request.kind())
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// What became of a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Redeemed {
    /// It stands for this, and is used up now.
    Request(Request),
    /// Nobody has given it out, or it was used, or it is too old.
    Unknown,
    /// It may be good, but with the server that has taken this one's place.
    Elsewhere,
}

/// The requests whose URLs have not been opened.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    all: HashMap<String, (Instant, Request)>,
    handed_over: bool,
}

impl Tokens {
    /// Those of a server whose place this one takes.
    pub(crate) fn adopt(waiting: Vec<Waiting>) -> Self {
        let now = Instant::now();
        let all = waiting.into_iter().take(OUTSTANDING_MAX).map(|waiting| {
            // As old as it was there.
            let age = LIFE.saturating_sub(waiting.left);
            let since = now.checked_sub(age).unwrap_or(now);
            (waiting.token, (since, waiting.request))
        });
        Self(Mutex::new(Kept {
            all: all.collect(),
            handed_over: false,
        }))
    }

    /// Keeps `request` and returns its token.
    pub(crate) fn keep(&self, request: Request) -> Result<String, TooMany> {
        let mut bytes = [0; BYTES];
        // Without randomness no token may be given out.
        getrandom::fill(&mut bytes).map_err(|_broken| TooMany)?;
        let token = URL_SAFE_NO_PAD.encode(bytes);
        let mut kept = self.kept();
        let now = Instant::now();
        kept.all.retain(|_, (at, _)| now.duration_since(*at) < LIFE);
        // What is kept now that all was handed over nobody would ever find.
        if kept.all.len() >= OUTSTANDING_MAX || kept.handed_over {
            return Err(TooMany);
        }
        kept.all.insert(token.clone(), (now, request));
        Ok(token)
    }

    /// Takes the request of `token`, which is used up by that whatever follows.
    ///
    /// A hash table finds it: what its timing tells is the keyed hash of a guess
    /// at 192 bits.
    pub(crate) fn redeem(&self, kind: &str, token: &str) -> Redeemed {
        let mut kept = self.kept();
        if kept.handed_over {
            return Redeemed::Elsewhere;
        }
        match kept.all.get(token) {
            Some((_, request)) if request.kind() == kind => {}
            _ => return Redeemed::Unknown,
        }
        match kept.all.remove(token) {
            Some((at, request)) if at.elapsed() < LIFE => Redeemed::Request(request),
            _ => Redeemed::Unknown,
        }
    }

    /// Gives all away; from now on none is known here.
    pub(crate) fn hand_over(&self) -> Vec<Waiting> {
        let mut kept = self.kept();
        kept.handed_over = true;
        let all = kept.all.drain().map(|(token, (at, request))| Waiting {
            token,
            left: LIFE.saturating_sub(at.elapsed()),
            request,
        });
        all.filter(|waiting| !waiting.left.is_zero()).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
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
        assert_eq!(tokens.redeem("attach", &token), Redeemed::Unknown);
        assert_eq!(tokens.redeem("exec", &token), Redeemed::Request(request()));
        assert_eq!(tokens.redeem("exec", &token), Redeemed::Unknown);
    }

    #[test]
    fn tokens_are_handed_over_with_their_age_and_are_good_only_there() {
        let old = Tokens::default();
        let token = old.keep(request()).unwrap();
        let stale = old.keep(request()).unwrap();
        let aged = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        old.kept().all.get_mut(&token).unwrap().0 = aged(50).unwrap();
        old.kept().all.get_mut(&stale).unwrap().0 = aged(61).unwrap();
        let waiting = old.hand_over();
        assert_eq!(waiting.len(), 1);
        assert!(!format!("{waiting:?}").contains(&token));
        assert_eq!(old.redeem("exec", &token), Redeemed::Elsewhere);
        assert_eq!(old.keep(request()), Err(TooMany));
        let text = serde_json::to_string(&waiting).unwrap();
        let new = Tokens::adopt(serde_json::from_str(&text).unwrap());
        let age = new.kept().all[&token].0.elapsed();
        assert!(age >= Duration::from_secs(50), "{age:?}");
        assert_eq!(new.redeem("exec", &stale), Redeemed::Unknown);
        assert_eq!(new.redeem("exec", &token), Redeemed::Request(request()));
        assert_eq!(new.redeem("exec", &token), Redeemed::Unknown);
    }

    #[test]
    fn an_old_token_is_worth_nothing_and_makes_room() {
        let tokens = Tokens::default();
        let all: Vec<_> = (0..OUTSTANDING_MAX)
            .map(|_| tokens.keep(request()).unwrap())
            .collect();
        assert_eq!(tokens.keep(request()), Err(TooMany));
        for (at, _) in tokens.kept().all.values_mut() {
            *at = at.checked_sub(LIFE).unwrap();
        }
        assert_eq!(tokens.redeem("exec", &all[0]), Redeemed::Unknown);
        tokens.keep(request()).unwrap();
        assert_eq!(tokens.kept().all.len(), 1);
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
