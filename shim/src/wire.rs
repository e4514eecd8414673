//! Messages of the shim protocol over a connection.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use berth_proto::shim::{
    self, Failure, Hello, HelloReply, Request, Response, failure::Kind, request::Verb,
    response::Body,
};
use berth_sys::message;
use prost::Message as _;

/// A verb's answer: its body and the descriptors that go with it.
pub(crate) struct Answer {
    pub(crate) body: Body,
    pub(crate) fds: Vec<OwnedFd>,
}

impl From<Body> for Answer {
    fn from(body: Body) -> Self {
        Self {
            body,
            fds: Vec::new(),
        }
    }
}

/// One request with its descriptors, each of which can be taken once.
pub(crate) struct Incoming {
    pub(crate) id: u64,
    pub(crate) verb: Option<Verb>,
    pub(crate) fds: Slots,
}

/// The descriptors of a request by slot.
pub(crate) struct Slots(Vec<Option<OwnedFd>>);

impl Slots {
    pub(crate) fn take(&mut self, slot: u32) -> Result<OwnedFd, Failure> {
        self.0
            .get_mut(slot as usize)
            .and_then(Option::take)
            .ok_or_else(|| invalid(format!("descriptor {slot} is missing or used twice")))
    }

    pub(crate) fn get(&self, slot: u32) -> Result<BorrowedFd<'_>, Failure> {
        self.0
            .get(slot as usize)
            .and_then(Option::as_ref)
            .map(AsFd::as_fd)
            .ok_or_else(|| invalid(format!("descriptor {slot} is missing")))
    }
}

/// Receives the next request; `None` when the peer has closed.
pub(crate) fn receive(connection: impl AsFd) -> io::Result<Option<Incoming>> {
    let Some(datagram) = message::receive(connection)? else {
        return Ok(None);
    };
    let request = Request::decode(datagram.bytes.as_slice())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    crate::trace::is(request.trace);
    Ok(Some(Incoming {
        id: request.id,
        verb: request.verb,
        fds: Slots(datagram.fds.into_iter().map(Some).collect()),
    }))
}

/// Sends an answer or, with id 0, an event.
pub(crate) fn send(connection: impl AsFd, id: u64, body: Body, fds: &[OwnedFd]) -> io::Result<()> {
    let response = Response {
        id,
        body: Some(body),
    };
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    message::send(connection, &response.encode_to_vec(), &raw)
}

/// The answer to Hello: the common version, or why there is none.
pub(crate) fn hello(hello: &Hello, role: &str) -> Body {
    match shim::negotiate(hello.oldest, hello.newest) {
        Some(protocol) => Body::Hello(HelloReply {
            protocol,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: role.to_owned(),
            pid: i32::try_from(std::process::id()).unwrap_or(0),
        }),
        None => Body::Failure(Failure {
            kind: Kind::Version.into(),
            step: "hello".to_owned(),
            errno: 0,
            detail: format!(
                "berth-{role} {} speaks protocol {}-{}, the caller ({}) {}-{}",
                env!("CARGO_PKG_VERSION"),
                shim::PROTOCOL_OLDEST,
                shim::PROTOCOL_NEWEST,
                hello.version,
                hello.oldest,
                hello.newest
            ),
        }),
    }
}

/// A system call failed in `step`, while doing what `detail` says.
pub(crate) fn system(step: &str, detail: impl Into<String>, error: &io::Error) -> Failure {
    let detail = detail.into();
    let errno = error.raw_os_error().unwrap_or(0);
    // An error of our own has words but no errno; they must not get lost.
    let detail = if errno == 0 {
        format!("{detail}: {error}")
    } else {
        detail
    };
    Failure {
        kind: Kind::System.into(),
        step: step.to_owned(),
        errno,
        detail,
    }
}

/// The request contradicts itself.
pub(crate) fn invalid(detail: impl Into<String>) -> Failure {
    Failure {
        kind: Kind::Invalid.into(),
        step: String::new(),
        errno: 0,
        detail: detail.into(),
    }
}

/// Not in this state.
pub(crate) fn wrong_state(detail: impl Into<String>) -> Failure {
    Failure {
        kind: Kind::State.into(),
        step: String::new(),
        errno: 0,
        detail: detail.into(),
    }
}

/// The verb is of a newer protocol, or of the other role.
pub(crate) fn unknown_verb() -> Failure {
    Failure {
        kind: Kind::UnknownVerb.into(),
        step: String::new(),
        errno: 0,
        detail: "this verb is not known here".to_owned(),
    }
}

/// Adds the step and the object to an `io::Result`.
pub(crate) trait Step<T> {
    fn step(self, step: &str, detail: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &str, detail: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| system(step, detail(), &error))
    }
}

/// One line on standard error, which is the agent's log; a closed one is ignored,
/// since there is nobody left to tell.
pub(crate) fn complain(text: &str) {
    use std::io::Write as _;
    let trace = crate::trace::words();
    let line = format!("berth-shim[{}]: {text}{trace}\n", std::process::id());
    drop(io::stderr().write_all(line.as_bytes()));
}
