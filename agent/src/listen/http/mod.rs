//! Metrics, health and profiles over HTTP/1.1, on a unix socket and where configured on TCP.

mod pages;
mod profile;
mod serve;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

pub(crate) use pages::{MetricsFormat, Pages};

use super::{ListenError, bind};

/// Serves `pages` on the unix socket `socket` and on `address`, until `stop`.
/// Returns once both are bound.
///
/// A TCP address that cannot be had is logged and done without: somebody
/// else's port must not keep a node's containers from being managed.
///
/// # Errors
/// If the unix socket cannot be bound.
pub(crate) async fn serve(
    socket: &Path,
    address: Option<SocketAddr>,
    pages: Pages,
    stop: CancellationToken,
) -> Result<Addresses, ListenError> {
    let pages = std::sync::Arc::new(pages);
    let bound = bind::bind(socket)?;
    let listener =
        UnixListener::from_std(bound.listener).map_err(ListenError::io("wait on", socket))?;
    let file = bound.file;
    let path = bound.path.clone();
    tokio::spawn(serve::unix(
        listener,
        bound.path,
        file,
        pages.clone(),
        stop.clone(),
    ));
    let mut addresses = Addresses {
        socket: path,
        tcp: None,
    };
    if let Some(wanted) = address {
        match TcpListener::bind(wanted).await {
            Ok(listener) => {
                addresses.tcp = listener.local_addr().ok();
                tokio::spawn(serve::tcp(listener, pages, stop));
            }
            Err(error) => tracing::warn!(
                address = %wanted,
                %error,
                "metrics are not served over TCP; set telemetry.listen to a free address, or \"off\""
            ),
        }
    }
    tracing::debug!(
        socket = %addresses.socket.display(),
        tcp = addresses.tcp.map(tracing::field::display),
        "metrics and health are served"
    );
    Ok(addresses)
}

/// Where metrics and health are served.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// The unix socket.
    pub(crate) socket: PathBuf,
    /// The TCP address, if one is served.
    pub(crate) tcp: Option<SocketAddr>,
}
