//! Connections into a pod's network.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use tokio::net::TcpStream;

use crate::{
    container::convert,
    error::{Error, Kind, Result},
    node::Node,
};

/// A service on the loopback address answers at once or not at all.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// The full id of pod `id`, if it is there to be connected to.
///
/// # Errors
/// NotFound; FailedPrecondition if it is not ready.
pub(super) fn ready(node: &Node, id: &str) -> Result<String> {
    let sandbox = node.sandbox(id)?;
    if !sandbox.record().state.is_ready() {
        return Err(Error::precondition(format!(
            "pod sandbox {} is not ready",
            sandbox.id.short()
        )));
    }
    Ok(sandbox.id.to_string())
}

/// Connects to `port` on the loopback address in the network of pod `id`: IPv4
/// first, then IPv6. For a pod in the host's network that is the host's.
///
/// # Errors
/// NotFound, FailedPrecondition, or Unavailable with what the kernel says.
pub(super) async fn connect(node: &Node, id: &str, port: u16) -> Result<TcpStream> {
    let id = ready(node, id)?;
    let pod = node
        .launcher
        .open_pod(&id)
        .await
        .map_err(convert("open the pod's namespaces"))?;
    let (sender, connected) = tokio::sync::oneshot::channel();
    // A thread of its own: it enters the pod's network and never comes back.
    std::thread::Builder::new()
        .name("port-forward".to_owned())
        .spawn(move || {
            // The client may have gone meanwhile; the connection goes with it.
            drop(sender.send(dial(pod.net, port)));
        })
        .map_err(|error| Error::io("start a thread", error))?;
    let stream = connected
        .await
        .map_err(|_gone| Error::new(Kind::Internal, "the connecting thread ended"))??;
    stream
        .set_nonblocking(true)
        .and_then(|()| TcpStream::from_std(stream))
        .map_err(|error| Error::io("take a connection over", error))
}

fn dial(network: Option<OwnedFd>, port: u16) -> Result<std::net::TcpStream> {
    if let Some(network) = network {
        berth_sys::namespace::setns(&network, libc::CLONE_NEWNET)
            .map_err(|error| Error::io("enter the pod's network", error))?;
    }
    let dial = |address: SocketAddr| std::net::TcpStream::connect_timeout(&address, CONNECT_MAX);
    let stream = dial((Ipv4Addr::LOCALHOST, port).into())
        .or_else(|first| dial((Ipv6Addr::LOCALHOST, port).into()).map_err(|_second| first))
        .map_err(|error| {
            let refused = format!("connect to localhost:{port} in the pod");
            Error::new(Kind::Unavailable, refused).with_source(error)
        })?;
    // What is small, such as a key press, should not wait for more.
    stream
        .set_nodelay(true)
        .map_err(|error| Error::io("set up a connection", error))?;
    Ok(stream)
}
