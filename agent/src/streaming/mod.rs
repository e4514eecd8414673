//! Exec, Attach and PortForward: a URL for the caller, and what is behind it.

mod attach;
mod exec;
mod forward;
mod pump;

use std::sync::{Arc, Weak};

pub(crate) use berth_streaming::{Attach, Exec, PortForward, Request};
use berth_streaming::{Backend, HandedOver, Outcome, Server, Session, Settings};
use tokio::net::TcpStream;

use crate::{
    error::{Error, Kind, Result},
    node::Node,
};

/// Serves the URLs of a node.
#[derive(Debug)]
pub(crate) struct Streaming(Server);

impl Streaming {
    /// Begins to listen where the configuration says, in the place of the agent `before`.
    ///
    /// # Errors
    /// If the address is taken or the certificate cannot be used.
    pub(crate) async fn start(
        node: &Arc<Node>,
        before: Option<HandedOver>,
    ) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let config = &node.config.streaming;
        let settings = Settings {
            address: config.listen,
            advertise: config.advertise.clone(),
            tls: config.tls()?.map(Arc::new),
        };
        let streams = Arc::new(Streams(Arc::downgrade(node)));
        let server = match before {
            None => Server::start(settings, streams).await,
            Some(before) => Server::take_over(before, settings, streams).await,
        };
        let server =
            server.with_context(|| format!("listening on {} for streams", config.listen))?;
        Ok(Self(server))
    }

    /// Gives the socket and the URLs that were not opened away; sessions go on.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) async fn hand_over(&self) -> std::io::Result<HandedOver> {
        self.0.hand_over().await
    }

    /// Waits for the end of the last session.
    pub(crate) async fn ended(&self) {
        self.0.ended().await;
    }

    /// Sessions that are being served.
    pub(crate) fn sessions(&self) -> usize {
        self.0.sessions()
    }

    /// The URL for a request that was found to be possible.
    ///
    /// # Errors
    /// InvalidArgument for what no client could use, ResourceExhausted if too many wait.
    fn url(&self, request: Request) -> Result<String> {
        self.0
            .url(request)
            .map_err(|full| Error::new(Kind::ResourceExhausted, "give out a URL").with_source(full))
    }
}

/// Checks `request` and returns its URL.
///
/// # Errors
/// InvalidArgument, NotFound, or FailedPrecondition where nothing runs that could be streamed from.
pub(crate) fn url(node: &Node, request: Request) -> Result<String> {
    request
        .validate()
        .map_err(|invalid| Error::invalid(invalid.to_string()))?;
    // Full ids from here on: the object behind a prefix may be another one later.
    let request = match request {
        Request::Exec(mut exec) => {
            if exec.command.is_empty() {
                return Err(Error::invalid("Exec without a command"));
            }
            let container = node.container(&exec.container)?;
            container.running()?;
            exec.container = container.id.to_string();
            Request::Exec(exec)
        }
        Request::Attach(mut attach) => {
            let container = node.container(&attach.container)?;
            attach::attachable(&container)?;
            // What it was made with counts, not what the caller believes.
            attach.tty = container.record().config.tty;
            attach.stderr &= !attach.tty;
            attach.container = container.id.to_string();
            Request::Attach(attach)
        }
        Request::PortForward(mut forward) => {
            forward.pod = forward::ready(node, &forward.pod)?;
            Request::PortForward(forward)
        }
    };
    let streaming = node.streaming.get().ok_or_else(|| {
        Error::new(
            Kind::Unavailable,
            "the agent does not serve streams yet; try again",
        )
    })?;
    streaming.url(request)
}

/// The node's side of the streams. Weak: the server is part of the node.
#[derive(Debug)]
struct Streams(Weak<Node>);

impl Streams {
    fn node(&self) -> std::result::Result<Arc<Node>, String> {
        self.0
            .upgrade()
            .ok_or_else(|| "the agent is shutting down".to_owned())
    }
}

impl Backend for Streams {
    async fn exec(&self, request: Exec, session: Session) -> Outcome {
        match self.node() {
            Ok(node) => exec::exec(&node, request, session).await,
            Err(why) => Outcome::Failed(why),
        }
    }

    async fn attach(&self, request: Attach, session: Session) -> Outcome {
        match self.node() {
            Ok(node) => attach::attach(&node, request, session).await,
            Err(why) => Outcome::Failed(why),
        }
    }

    async fn connect(&self, pod: &str, port: u16) -> std::result::Result<TcpStream, String> {
        let node = self.node()?;
        forward::connect(&node, pod, port)
            .await
            .map_err(|error| error.sentence())
    }
}
