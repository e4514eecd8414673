//! Metrics, health and profiles over HTTP/1.1, on a unix socket and where configured on TCP.

mod pages;
mod profile;
mod serve;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

pub(crate) use pages::{MetricsFormat, Pages};

use super::{Given, ListenError, bind, file::SocketFile};

/// The sockets on which metrics and health are served.
#[derive(Debug)]
pub(crate) struct Listeners {
    unix: Arc<UnixListener>,
    file: Arc<SocketFile>,
    tcp: Option<Arc<TcpListener>>,
}

impl Listeners {
    /// Binds the unix socket `socket`, and `address`.
    ///
    /// A TCP address that cannot be had is logged and done without: somebody
    /// else's port must not keep a node's containers from being managed.
    ///
    /// # Errors
    /// If the unix socket cannot be bound.
    pub(crate) async fn open(
        socket: &Path,
        address: Option<SocketAddr>,
    ) -> Result<Self, ListenError> {
        let bound = bind::bind(socket)?;
        let file = SocketFile::made(bound.path, bound.file);
        Ok(Self {
            unix: wait_on(bound.listener.into(), &file)?,
            file: Arc::new(file),
            tcp: bind_tcp(address).await,
        })
    }

    /// As [`Listeners::open`], with the sockets of the agent before where they are
    /// those that are wanted. Its file stays its own until [`Listeners::keep`].
    ///
    /// # Errors
    /// As [`Listeners::open`].
    pub(crate) async fn adopt(
        socket: &Path,
        address: Option<SocketAddr>,
        unix: Option<Given>,
        tcp: Option<OwnedFd>,
    ) -> Result<Self, ListenError> {
        let Some(unix) = unix.filter(|given| given.path == socket) else {
            return Self::open(socket, address).await;
        };
        let file = SocketFile::of_others(unix.path, unix.file);
        let same = tcp.map(std::net::TcpListener::from).filter(|given| {
            address.is_some_and(|wanted| {
                given.local_addr().is_ok_and(|at| {
                    at.ip() == wanted.ip() && (wanted.port() == 0 || wanted.port() == at.port())
                })
            })
        });
        let tcp = match same.map(TcpListener::from_std) {
            Some(Ok(listener)) => Some(Arc::new(listener)),
            Some(Err(_)) | None => bind_tcp(address).await,
        };
        Ok(Self {
            unix: wait_on(unix.listener, &file)?,
            file: Arc::new(file),
            tcp,
        })
    }

    /// Serves `pages` until `stop`.
    pub(crate) fn serve(&self, pages: Pages, stop: &CancellationToken) {
        let pages = Arc::new(pages);
        tokio::spawn(serve::unix(
            self.unix.clone(),
            self.file.clone(),
            pages.clone(),
            stop.clone(),
        ));
        if let Some(tcp) = &self.tcp {
            tokio::spawn(serve::tcp(tcp.clone(), pages, stop.clone()));
        }
    }

    /// Further handles of the sockets, for the agent that takes this one's place.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn give(&self) -> io::Result<(Given, Option<OwnedFd>)> {
        let unix = Given {
            listener: self.unix.as_fd().try_clone_to_owned()?,
            path: self.file.path().to_owned(),
            file: self.file.identity(),
        };
        let tcp = self.tcp.as_ref();
        let tcp = tcp
            .map(|tcp| tcp.as_fd().try_clone_to_owned())
            .transpose()?;
        Ok((unix, tcp))
    }

    /// The file of the unix socket is this agent's.
    pub(crate) fn keep(&self) {
        self.file.is_ours(true);
    }

    /// The file of the unix socket is another agent's.
    pub(crate) fn leave(&self) {
        self.file.is_ours(false);
    }

    /// The unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.file.path().to_owned()
    }

    /// The TCP address, if one is served.
    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }
}

fn wait_on(listener: OwnedFd, file: &SocketFile) -> Result<Arc<UnixListener>, ListenError> {
    let listener = std::os::unix::net::UnixListener::from(listener);
    UnixListener::from_std(listener)
        .map(Arc::new)
        .map_err(ListenError::io("wait on", file.path()))
}

async fn bind_tcp(address: Option<SocketAddr>) -> Option<Arc<TcpListener>> {
    let wanted = address?;
    match TcpListener::bind(wanted).await {
        Ok(listener) => Some(Arc::new(listener)),
        Err(error) => {
            tracing::warn!(
                address = %wanted,
                %error,
                "metrics are not served over TCP; set telemetry.listen to a free address, or \"off\""
            );
            None
        }
    }
}
