//! Where clients come in: unix sockets for gRPC, a small HTTP server for
//! metrics and health, and systemd's readiness protocol.
//!
//! ```ignore
//! let sockets = listen::open(&config.listen())?;          // binds, or takes what systemd passed
//! listen::grpc::server()
//!     .layer(telemetry.rpc_layer(&config.limits))
//!     .add_service(listen::health(ready.clone()).await)
//!     .serve_with_incoming_shutdown(sockets.incoming(&stop), shutdown)
//!     .await?;
//! ```
//!
//! Every socket is root-equivalent: whoever can speak to the agent owns the
//! node. So there is no TCP, the sockets have mode 0600, and the credentials of
//! each peer are checked as well, since a mode can be changed by mistake.

mod accept;
mod activation;
mod authority;
mod bind;
mod connection;
mod directory;
mod doors;
mod endpoint;
mod file;
mod gate;
pub(crate) mod grpc;
mod health;
pub(crate) mod http;
pub(crate) mod notify;

use std::{io, path::PathBuf};

pub(crate) use accept::{Given, Sockets};
pub(crate) use connection::{Connection, Peer};
pub(crate) use directory::private_directory;
pub(crate) use doors::Doors;
pub(crate) use endpoint::{Endpoint, EndpointError};
pub(crate) use gate::Progress;
pub(crate) use health::health;

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// The endpoint is none.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Somebody answers on the socket.
    #[error("{0}: another process serves this socket; stop it, or choose another endpoint")]
    Taken(PathBuf),
    /// Something else lies where the socket should be.
    #[error("{0}: is there already and is not a socket; remove it, or choose another endpoint")]
    NotASocket(PathBuf),
    /// Something else lies where a directory should be.
    #[error("{0}: is not a directory, or not one of this user")]
    NotADirectory(PathBuf),
    /// The kernel refused.
    #[error("{what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// systemd passed something that is no listening unix socket.
    #[error("descriptor {index} that systemd passed is not a listening unix stream socket")]
    Activation {
        /// Its number, from 0.
        index: usize,
        /// What is wrong with it.
        source: io::Error,
    },
}

impl ListenError {
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

/// Opens every endpoint. A socket that systemd passed stands for the endpoint
/// of its path; the others are bound.
///
/// # Errors
/// The first endpoint that cannot be opened; those before it are closed again.
pub(crate) fn open(endpoints: &[String]) -> Result<Sockets, ListenError> {
    let mut sockets = Sockets::default();
    for listener in activation::take()? {
        sockets.add_activated(listener)?;
    }
    bind_others(&mut sockets, endpoints)?;
    Ok(sockets)
}

/// As [`open`], with the sockets of the agent before, which stay its own until
/// [`Sockets::keep`].
///
/// # Errors
/// The first endpoint that cannot be opened.
pub(crate) fn adopt(endpoints: &[String], given: Vec<Given>) -> Result<Sockets, ListenError> {
    let wanted: Vec<Endpoint> = endpoints
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let mut sockets = Sockets::default();
    for socket in given {
        // What systemd opened is wanted by its unit.
        let is_wanted = socket.file.is_none() || wanted.contains(&Endpoint(socket.path.clone()));
        sockets.add_given(socket, is_wanted)?;
    }
    bind_others(&mut sockets, endpoints)?;
    Ok(sockets)
}

fn bind_others(sockets: &mut Sockets, endpoints: &[String]) -> Result<(), ListenError> {
    for text in endpoints {
        let Endpoint(path) = text.parse()?;
        if !sockets.serves(&path) {
            let bound = bind::bind(&path)?;
            sockets.add(bound)?;
        }
    }
    Ok(())
}
