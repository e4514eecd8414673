//! One connection of the shim protocol, seen from the agent's side.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use berth_proto::shim::{
    self, ExecExited, Exited, Hello, HelloReply, Request, Response, failure::Kind, request::Verb,
    response::Body,
};
use berth_sys::message;
use prost::Message as _;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::Error;

/// Hello is answered by a process that does nothing else yet.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// What a shim tells without being asked.
#[derive(Debug)]
pub enum Event {
    /// The container is gone with all its processes.
    Exited(Exited),
    /// A process that was started by an exec has ended.
    ExecExited(ExecExited),
    /// Processes of the container were killed for lack of memory; the total.
    OomKill(u64),
    /// The connection has ended; nothing follows.
    Closed,
}

static TRACE: OnceLock<fn() -> Vec<String>> = OnceLock::new();

/// Sets what tells whose trace a call belongs to, as `NAME=value`; the first call counts.
/// It is asked for every request, in the task that makes it.
pub fn trace_by(source: fn() -> Vec<String>) {
    TRACE.get_or_init(|| source);
}

fn trace() -> Vec<String> {
    TRACE.get().map(|source| source()).unwrap_or_default()
}

type Reply = (Body, Vec<OwnedFd>);
type Pending = Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>;

/// A connection on which a common version was agreed.
#[derive(Debug)]
pub struct Connection {
    socket: Arc<AsyncFd<OwnedFd>>,
    pending: Arc<Pending>,
    next: AtomicU64,
    peer: String,
    hello: HelloReply,
    reader: JoinHandle<()>,
}

impl Connection {
    /// Says Hello on `socket`. `peer` names the other side in errors; events, if
    /// wanted, go to `events`.
    ///
    /// # Errors
    /// [`Error::Version`] if the sides have no version in common.
    pub async fn open(
        socket: OwnedFd,
        peer: String,
        events: Option<mpsc::UnboundedSender<Event>>,
    ) -> Result<Self, Error> {
        nix::fcntl::fcntl(
            &socket,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )
        .map_err(io::Error::from)
        .map_err(Error::system("making a connection non-blocking"))?;
        // SAFETY: an OwnedFd stays open and the same until it is dropped, and the
        // AsyncFd owns it until then.
        #[allow(unsafe_code, reason = "tokio asks for a promise that OwnedFd keeps")]
        let socket = unsafe { AsyncFd::register(socket) }
            .map_err(io::Error::from)
            .map_err(Error::system("registering a connection"))?;
        let socket = Arc::new(socket);
        let pending: Arc<Pending> = Arc::new(Mutex::new(Some(HashMap::new())));
        let wants_events = events.is_some();
        let reader = tokio::spawn(read_all(socket.clone(), pending.clone(), events));
        let mut connection = Self {
            socket,
            pending,
            next: AtomicU64::new(1),
            peer,
            hello: HelloReply::default(),
            reader,
        };
        let hello = Hello {
            oldest: shim::PROTOCOL_OLDEST,
            newest: shim::PROTOCOL_NEWEST,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            events: wants_events,
        };
        let answer = connection
            .call("Hello", Verb::Hello(hello), &[], HELLO_LIMIT)
            .await;
        match answer {
            Ok((Body::Hello(hello), _)) => connection.hello = hello,
            Ok(_) => return Err(connection.unexpected("Hello")),
            Err(Error::Remote(failure)) if failure.kind() == Kind::Version => {
                return Err(Error::Version(failure.detail));
            }
            Err(error) => return Err(error),
        }
        Ok(connection)
    }

    /// What the other side said of itself.
    #[must_use]
    pub fn hello(&self) -> &HelloReply {
        &self.hello
    }

    /// Whether the other side has gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.reader.is_finished()
    }

    /// Calls `verb` with `fds` as its slots and waits at most `limit`.
    ///
    /// # Errors
    /// [`Error::Remote`] with the other side's failure, [`Error::Timeout`], [`Error::Closed`].
    pub async fn call(
        &self,
        name: &'static str,
        verb: Verb,
        fds: &[RawFd],
        limit: Duration,
    ) -> Result<Reply, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let request = Request {
            id,
            trace: trace(),
            verb: Some(verb),
        };
        let bytes = request.encode_to_vec();
        let (sender, receiver) = oneshot::channel();
        match &mut *lock(&self.pending) {
            Some(pending) => pending.insert(id, sender),
            None => return Err(self.closed()),
        };
        let exchange = async {
            self.send(&bytes, fds).await?;
            receiver.await.map_err(|_closed| self.closed())
        };
        let reply = tokio::time::timeout(limit, exchange).await;
        if let Some(pending) = &mut *lock(&self.pending) {
            pending.remove(&id);
        }
        match reply {
            Err(_elapsed) => Err(Error::Timeout {
                verb: name,
                peer: self.peer.clone(),
                limit,
            }),
            Ok(Err(error)) => Err(error),
            Ok(Ok((Body::Failure(failure), _))) => Err(Error::Remote(failure)),
            Ok(Ok(reply)) => Ok(reply),
        }
    }

    /// Closes both directions now; dropping would wait for the reading task to be.
    pub(crate) fn hang_up(&self) {
        use nix::sys::socket::{Shutdown, shutdown};
        // ENOTCONN: the other side was faster.
        shutdown(self.socket.get_ref().as_raw_fd(), Shutdown::Both).ok();
    }

    async fn send(&self, bytes: &[u8], fds: &[RawFd]) -> Result<(), Error> {
        loop {
            let mut ready = self
                .socket
                .writable()
                .await
                .map_err(Error::system("waiting to send"))?;
            match ready.try_io(|socket| message::send(socket.get_ref(), bytes, fds)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(self.closed());
                }
                Ok(Err(error)) => {
                    return Err(Error::System {
                        what: format!("sending to {}", self.peer),
                        source: error,
                    });
                }
                Err(_would_block) => {}
            }
        }
    }

    pub(crate) fn unexpected(&self, verb: &'static str) -> Error {
        Error::Unexpected {
            verb,
            peer: self.peer.clone(),
        }
    }

    fn closed(&self) -> Error {
        Error::Closed {
            peer: self.peer.clone(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lock(
    pending: &Pending,
) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Reply>>>> {
    // Only whole insertions and removals happen under it.
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read_all(
    socket: Arc<AsyncFd<OwnedFd>>,
    pending: Arc<Pending>,
    events: Option<mpsc::UnboundedSender<Event>>,
) {
    if let Err(error) = read_until_end(&socket, &pending, events.as_ref()).await {
        tracing::debug!(%error, fd = socket.get_ref().as_raw_fd(), "connection to a shim failed");
    }
    // Whoever waits for an answer hears at once that none will come.
    lock(&pending).take();
    if let Some(events) = events {
        // Nobody listens any more: then nobody needs to know.
        events.send(Event::Closed).ok();
    }
}

async fn read_until_end(
    socket: &AsyncFd<OwnedFd>,
    pending: &Pending,
    events: Option<&mpsc::UnboundedSender<Event>>,
) -> io::Result<()> {
    loop {
        let mut ready = socket.readable().await?;
        let datagram = match ready.try_io(|socket| message::receive(socket.get_ref())) {
            Err(_would_block) => continue,
            Ok(received) => match received? {
                Some(datagram) => datagram,
                None => return Ok(()),
            },
        };
        let response = Response::decode(datagram.bytes.as_slice())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // A body of a newer version: it cannot be an answer that is waited for.
        let Some(body) = response.body else { continue };
        if response.id != 0 {
            let waiter = lock(pending).as_mut().and_then(|p| p.remove(&response.id));
            if let Some(waiter) = waiter {
                // The caller gave up meanwhile; the descriptors close themselves.
                waiter.send((body, datagram.fds)).ok();
            }
            continue;
        }
        let event = match body {
            Body::Exited(exited) => Event::Exited(exited),
            Body::ExecExited(exited) => Event::ExecExited(exited),
            Body::OomKill(kill) => Event::OomKill(kill.count),
            // An event of a newer version.
            _ => continue,
        };
        if let Some(events) = events {
            events.send(event).ok();
        }
    }
}
