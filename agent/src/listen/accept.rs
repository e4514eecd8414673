//! Accepting on several sockets as one stream that never ends by an error.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{Connection, ListenError, Peer, bind::Bound, file::SocketFile};

/// Connections at the same time, over all sockets. A kubelet has a handful;
/// this leaves most of a default descriptor limit of 1024 to the work itself.
const MAX_CONNECTIONS: usize = 512;

/// Pause after an accept that failed for want of a resource. Descriptors come
/// back when calls end; a loop without a pause would burn the processor that
/// they need for it.
const RETRY: Duration = Duration::from_millis(100);

/// Between two log lines about the same trouble, so that it cannot fill a disk.
const QUIET: Duration = Duration::from_secs(10);

/// Connections that are accepted and not yet taken by the server.
const WAITING: usize = 16;

/// The sockets that the agent serves.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    all: Vec<Arc<Socket>>,
    /// Files of sockets that the agent before served and this one does not.
    unwanted: Vec<SocketFile>,
}

#[derive(Debug)]
struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// A socket that goes from one agent to the next.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) listener: OwnedFd,
    pub(crate) path: PathBuf,
    /// See [`SocketFile::identity`].
    pub(crate) file: Option<(u64, u64)>,
}

impl Sockets {
    pub(super) fn add(&mut self, bound: Bound) -> Result<(), ListenError> {
        let file = SocketFile::made(bound.path, bound.file);
        self.wait_on(bound.listener, file)
    }

    pub(super) fn add_activated(
        &mut self,
        listener: std::os::unix::net::UnixListener,
    ) -> Result<(), ListenError> {
        let address = listener.local_addr();
        let path = address
            .ok()
            .and_then(|address| address.as_pathname().map(Path::to_owned))
            .unwrap_or_default();
        self.wait_on(listener, SocketFile::of_others(path, None))
    }

    /// Adds a socket of the agent before, if it is wanted. Its file stays that agent's
    /// until [`Sockets::keep`].
    pub(super) fn add_given(&mut self, given: Given, wanted: bool) -> Result<(), ListenError> {
        let file = SocketFile::of_others(given.path, given.file);
        if wanted {
            self.wait_on(given.listener.into(), file)
        } else {
            self.unwanted.push(file);
            Ok(())
        }
    }

    fn wait_on(
        &mut self,
        listener: std::os::unix::net::UnixListener,
        file: SocketFile,
    ) -> Result<(), ListenError> {
        listener
            .set_nonblocking(true)
            .map_err(ListenError::io("set O_NONBLOCK on", file.path()))?;
        let listener =
            UnixListener::from_std(listener).map_err(ListenError::io("wait on", file.path()))?;
        self.all.push(Arc::new(Socket { listener, file }));
        Ok(())
    }

    pub(super) fn serves(&self, path: &Path) -> bool {
        self.all.iter().any(|socket| socket.file.path() == path)
    }

    /// The paths that are served.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.all.iter().map(|socket| socket.file.path())
    }

    /// Accepts on all sockets until `stop` or until the stream is dropped. The files of
    /// sockets that were bound here are removed when both are gone, `self` and it.
    pub(crate) fn incoming(
        &self,
        stop: &CancellationToken,
    ) -> ReceiverStream<io::Result<Connection>> {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (sender, receiver) = mpsc::channel(WAITING);
        for socket in &self.all {
            let accepting = accept(socket.clone(), sender.clone(), places.clone());
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(accepting).await });
        }
        ReceiverStream::new(receiver)
    }

    /// Further handles of the sockets, for the agent that takes this one's place.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn give(&self) -> io::Result<Vec<Given>> {
        let give = |socket: &Arc<Socket>| {
            Ok(Given {
                listener: socket.listener.as_fd().try_clone_to_owned()?,
                path: socket.file.path().to_owned(),
                file: socket.file.identity(),
            })
        };
        self.all.iter().map(give).collect()
    }

    /// This agent serves for good: the files are its own, and those that it does not
    /// serve are removed.
    pub(crate) fn keep(&mut self) {
        let served = self.all.iter().map(|socket| &socket.file);
        served
            .chain(&self.unwanted)
            .for_each(|file| file.is_ours(true));
        self.unwanted.clear();
    }

    /// Another agent serves for good: the files are its own.
    pub(crate) fn leave(&self) {
        self.all
            .iter()
            .for_each(|socket| socket.file.is_ours(false));
    }
}

async fn accept(
    socket: Arc<Socket>,
    sender: mpsc::Sender<io::Result<Connection>>,
    places: Arc<Semaphore>,
) {
    let mut complaints = Complaints::default();
    loop {
        let accepted = tokio::select! {
            accepted = socket.listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // EMFILE, ENFILE, ENOBUFS, ENOMEM pass; ECONNABORTED and EINTR
                // concern one client. None of them is a reason to stop.
                complaints.say(|| {
                    tracing::warn!(path = %socket.file.path().display(), %error, "cannot accept; trying on");
                });
                if !is_of_one_client(&error) {
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            }
        };
        let peer = match peer_of(&stream) {
            Ok(peer) if may_speak(peer.uid) => peer,
            refused => {
                complaints.say(|| {
                    tracing::warn!(path = %socket.file.path().display(), ?refused,
                    "connection refused: only root may speak to the agent")
                });
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            complaints.say(|| {
                tracing::warn!(
                    limit = MAX_CONNECTIONS,
                    ?peer,
                    "connection refused: too many at the same time"
                );
            });
            continue;
        };
        let connection = Connection::new(stream, peer, place);
        if sender.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let credentials = stream.peer_cred()?;
    Ok(Peer {
        pid: credentials.pid().filter(|pid| *pid > 0),
        uid: credentials.uid(),
    })
}

/// Root, and the user that the agent runs as (in tests).
fn may_speak(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

#[derive(Debug, Default)]
struct Complaints(Option<tokio::time::Instant>);

impl Complaints {
    fn say(&mut self, log: impl FnOnce()) {
        let now = tokio::time::Instant::now();
        if self.0.is_none_or(|last| now.duration_since(last) >= QUIET) {
            self.0 = Some(now);
            log();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;
    use tonic::transport::server::Connected as _;

    use super::*;
    use crate::listen;

    fn endpoints(home: &tempfile::TempDir, names: &[&str]) -> Vec<String> {
        let path = |name| format!("unix://{}/{name}", home.path().display());
        names.iter().map(path).collect()
    }

    #[tokio::test]
    async fn several_sockets_are_one_stream_and_are_gone_with_it() {
        let home = tempfile::tempdir().unwrap();
        let sockets = listen::open(&endpoints(&home, &["a", "b"])).unwrap();
        assert_eq!(sockets.paths().count(), 2);
        let mut incoming = sockets.incoming(&CancellationToken::new());
        for name in ["a", "b"] {
            let _client = UnixStream::connect(home.path().join(name)).await.unwrap();
            let connection = incoming.next().await.unwrap().unwrap();
            assert_eq!(
                connection.connect_info().uid,
                nix::unistd::geteuid().as_raw()
            );
            assert_eq!(
                connection.connect_info().pid,
                i32::try_from(std::process::id()).ok()
            );
        }
        drop((incoming, sockets));
        while home.path().join("a").exists() || home.path().join("b").exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn an_agent_that_goes_leaves_its_successors_socket() {
        let home = tempfile::tempdir().unwrap();
        let old = listen::open(&endpoints(&home, &["a"])).unwrap();
        std::fs::remove_file(home.path().join("a")).unwrap();
        let new = listen::open(&endpoints(&home, &["a"])).unwrap();
        drop(old);
        assert!(home.path().join("a").exists());
        drop(new);
        assert!(!home.path().join("a").exists());
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_closed_and_earlier_ones_go_on() {
        let home = tempfile::tempdir().unwrap();
        let sockets = listen::open(&endpoints(&home, &["a"])).unwrap();
        let mut incoming = sockets.incoming(&CancellationToken::new());
        let path = home.path().join("a");
        let mut clients = Vec::new();
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            clients.push(UnixStream::connect(&path).await.unwrap());
            held.push(incoming.next().await.unwrap().unwrap());
        }
        let mut beyond = UnixStream::connect(&path).await.unwrap();
        let read = tokio::io::AsyncReadExt::read(&mut beyond, &mut [0; 1]).await;
        assert!(matches!(read, Ok(0) | Err(_)));
        held.pop();
        let _again = UnixStream::connect(&path).await.unwrap();
        assert!(incoming.next().await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn sockets_go_from_one_agent_to_the_next_without_a_gap() {
        let home = tempfile::tempdir().unwrap();
        let old = listen::open(&endpoints(&home, &["a", "b"])).unwrap();
        let stop = CancellationToken::new();
        let mut incoming = old.incoming(&stop);
        let path = home.path().join("a");
        let _early = UnixStream::connect(&path).await.unwrap();
        incoming.next().await.unwrap().unwrap();
        stop.cancel();
        // Nobody accepts; whoever connects waits in the queue.
        let _waiting = UnixStream::connect(&path).await.unwrap();
        assert!(incoming.next().await.is_none());
        // One that fails before it serves leaves everything as it is.
        let failed = listen::adopt(&endpoints(&home, &["a"]), old.give().unwrap()).unwrap();
        drop(failed);
        assert!(path.exists() && home.path().join("b").exists());
        let mut new = listen::adopt(&endpoints(&home, &["a", "c"]), old.give().unwrap()).unwrap();
        let mut incoming = new.incoming(&CancellationToken::new());
        assert!(incoming.next().await.unwrap().is_ok());
        new.keep();
        old.leave();
        drop(old);
        let there = |name: &str| home.path().join(name).exists();
        assert!(there("a") && !there("b") && there("c"));
        drop((new, incoming));
        while there("a") || there("c") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn only_root_and_the_agents_own_user_may_speak() {
        assert!(may_speak(0));
        assert!(may_speak(nix::unistd::geteuid().as_raw()));
        assert!(!may_speak(65534));
    }
}
