//! The streams of exec, attach and port-forward, as Kubernetes' tools speak them:
//! remotecommand and port-forward over SPDY/3.1 and over WebSocket.
//!
//! A caller of the CRI is answered with a URL; whoever opens it gets the streams.
//! The URL's token is the secret: it is good for one request and for a minute.
//!
//! - [`Server`] serves the URLs; what is behind them is a [`Backend`]'s.
//! - [`client`] opens such URLs, of this and of other runtimes.
//! - [`spdy`] is the framing, usable alone.

pub mod client;
pub mod spdy;

mod backend;
mod forward;
mod queue;
mod remote;
mod resize;
mod server;
mod session;
mod status;
mod token;
mod trust;
mod websocket;

use std::time::Duration;

pub use backend::{Backend, Outcome};
pub use resize::{Size, SizeParser, SizeReader};
pub use server::{HandedOver, Server, Settings};
pub use session::{Input, Output, Session};
pub use status::Verdict;
pub use token::{
    Attach, Exec, ExecOptions, InvalidRequest, PortForward, Request, TooMany, Waiting,
};

/// A connection on which nothing moves for so long is closed; as other servers do.
pub const IDLE_MAX: Duration = Duration::from_secs(4 * 60 * 60);
/// How long a client may take to open all streams that it announced.
pub const CREATION_MAX: Duration = Duration::from_secs(30);
