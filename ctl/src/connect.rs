//! The connection to the agent, and how long each kind of request may take.

use std::{io, sync::Mutex, time::Duration};

use berth_proto::{
    berth::v1::node_client::NodeClient,
    cri::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Request,
    transport::{Channel, Endpoint as Target},
};

use crate::{
    endpoint::Endpoint,
    failure::{Failure, Outcome},
};

/// A unix socket answers at once unless the listener's queue is full.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Reads take milliseconds; ten seconds mean that something is stuck.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// What a kubelet gives a changing request before it gives up (`runtimeRequestTimeout`).
const CHANGE_LIMIT: Duration = Duration::from_secs(120);
/// Lists of a node with thousands of containers exceed gRPC's usual 4 MiB.
const MESSAGE_LIMIT: usize = 256 << 20;

/// An open connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    channel: Channel,
    timeout: Option<Duration>,
}

impl Connection {
    /// Connects. `timeout` is what the user set for every request.
    pub(crate) async fn open(endpoint: &Endpoint, timeout: Option<Duration>) -> Outcome<Self> {
        // Connected here and not in the channel, which would hide the errno.
        let path = endpoint.path.clone();
        let limit = timeout.map_or(CONNECT_LIMIT, |own| own.min(CONNECT_LIMIT));
        let first = tokio::time::timeout(limit, UnixStream::connect(&path))
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| unreachable(endpoint, &error))?;
        let first = Mutex::new(Some(first));
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let ready = first.lock().ok().and_then(|mut slot| slot.take());
            let path = path.clone();
            async move {
                let stream = match ready {
                    Some(stream) => stream,
                    None => UnixStream::connect(path).await?,
                };
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        // Some servers refuse an authority that is not a host name.
        let channel = Target::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .map_err(|error| {
                Failure::new(
                    format!("cannot speak gRPC on {endpoint}"),
                    error.to_string(),
                )
            })?;
        Ok(Self { channel, timeout })
    }

    /// CRI's calls for pods and containers.
    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// CRI's calls for images.
    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// Our own calls.
    pub(crate) fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// A request that only reads.
    pub(crate) fn read<T>(&self, message: T) -> Request<T> {
        self.within(message, READ_LIMIT)
    }

    /// A request that changes something.
    pub(crate) fn change<T>(&self, message: T) -> Request<T> {
        self.within(message, CHANGE_LIMIT)
    }

    /// A request that changes something after having waited on purpose.
    pub(crate) fn change_after<T>(&self, message: T, wait: Duration) -> Request<T> {
        self.within(message, CHANGE_LIMIT.saturating_add(wait))
    }

    /// A request whose length is the caller's affair (a pull, a wait, a
    /// command): it ends by itself, by ctrl-C, or by the user's `--timeout`.
    pub(crate) fn open_ended<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }

    fn within<T>(&self, message: T, limit: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout.unwrap_or(limit));
        request
    }
}

fn unreachable(endpoint: &Endpoint, error: &io::Error) -> Failure {
    let what = format!("cannot reach the agent at {endpoint} ({})", endpoint.source);
    let start = format!(
        "start it with `systemctl start berth-agent`, or by hand with `berth-agent --listen {endpoint}`, \
         or name another socket with -H unix:///PATH"
    );
    match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(what, "there is no such socket: the agent is not running").next(start)
        }
        io::ErrorKind::ConnectionRefused => Failure::new(
            what,
            "the socket is there but nobody listens: the agent has stopped",
        )
        .next(start),
        io::ErrorKind::PermissionDenied => Failure::new(
            what,
            "permission denied: whoever can use this socket is root on this machine",
        )
        .next("run berthctl as root, for example with sudo"),
        io::ErrorKind::TimedOut => Failure::new(what, "the agent does not accept connections"),
        _ => Failure::new(what, error.to_string()),
    }
}
