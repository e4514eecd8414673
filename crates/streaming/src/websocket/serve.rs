//! Exec, attach and port-forward over the channels of a WebSocket.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::{task::JoinSet, time::timeout};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use tokio_util::sync::CancellationToken;

use super::{
    Framing,
    channels::{self, ChannelWriter, Sender},
    config,
};
use crate::{
    Backend, PortForward, Session, SizeReader, Verdict, forward,
    queue::queue,
    remote::Command,
    session::{Input, Output},
    spdy::Transport,
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// How long a client may take to answer the close frame.
const LINGER: Duration = Duration::from_secs(5);
/// Ports of one old port-forward request: their channels have one byte.
const PORTS_MAX: usize = 127;

/// A socket that is being served.
struct Socket {
    sender: Arc<Sender>,
    gone: CancellationToken,
    reader: tokio::task::JoinHandle<()>,
}

impl Socket {
    async fn open(
        transport: Transport,
        framing: Framing,
        queues: HashMap<u8, crate::queue::Sender>,
    ) -> Self {
        let io = tokio::io::join(transport.reader, transport.writer);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await;
        let (sink, source) = socket.split();
        let gone = CancellationToken::new();
        let sender = Arc::new(Sender::new(sink, gone.clone()));
        let (replies, ended) = (Arc::clone(&sender), gone.clone());
        let reader = tokio::spawn(async move {
            let reading = channels::read(source, &replies, framing, queues, &transport.gone);
            let fault = tokio::select! {
                fault = reading => fault,
                () = ended.cancelled() => return,
            };
            if let Some(fault) = fault {
                drop(timeout(LINGER, replies.close(Some(fault))).await);
            }
            ended.cancel();
        });
        Self {
            sender,
            gone,
            reader,
        }
    }

    fn writer(&self, framing: Framing, channel: u8) -> ChannelWriter {
        ChannelWriter::new(&self.sender, framing, channel)
    }

    /// Says that all is over, and waits until the client has closed too.
    async fn close(self) {
        let both = async {
            self.sender.close(None).await;
            // It is read on until the client's close frame: unread bytes would make
            // the kernel destroy what the client has not read yet.
            drop(self.reader.await);
        };
        drop(timeout(LINGER, both).await);
        self.gone.cancel();
    }
}

/// Serves one exec or attach to its end.
pub(crate) async fn serve_remote<B: Backend>(
    transport: Transport,
    framing: Framing,
    command: Command,
    backend: &B,
) {
    let shape = command.shape();
    let (stdin, stdin_input) = queue();
    let (resize, resize_input) = queue();
    let mut queues = HashMap::new();
    if shape.stdin {
        queues.insert(STDIN, stdin);
    }
    if shape.tty {
        queues.insert(RESIZE, resize);
    }
    let socket = Socket::open(transport, framing, queues).await;
    let output =
        |wanted: bool, channel| wanted.then(|| Output::from(socket.writer(framing, channel)));
    // Tells the client that the channels are there.
    let first = match (shape.stdout, shape.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    let mut greeter = socket.writer(framing, first);
    if greeter.write(&[]).await.is_err() {
        return socket.close().await;
    }
    let session = Session {
        stdin: shape.stdin.then(|| Input::from(stdin_input)),
        stdout: output(shape.stdout, STDOUT),
        stderr: output(shape.stderr, STDERR),
        resize: shape.tty.then(|| SizeReader::new(resize_input.into())),
        gone: socket.gone.clone(),
    };
    let verdict = Verdict::from(command.run(backend, session).await);
    let words = if framing.json {
        verdict.to_json()
    } else {
        verdict.to_text().into_bytes()
    };
    if !words.is_empty() {
        let told = socket.writer(framing, ERROR).write(&words).await;
        if let Err(gone) = told {
            tracing::debug!(error = %gone, "the end of a session could not be told");
        }
    }
    socket.close().await;
}

/// Serves the ports of a request, one connection each, to their end.
pub(crate) async fn serve_forward<B: Backend>(
    transport: Transport,
    framing: Framing,
    request: PortForward,
    backend: Arc<B>,
) {
    let ports = request.ports.iter().copied().take(PORTS_MAX);
    let mut queues = HashMap::new();
    let mut inputs = Vec::new();
    for (channel, port) in (0_u8..).step_by(2).zip(ports) {
        let (sender, receiver) = queue();
        queues.insert(channel, sender);
        inputs.push((channel, port, Input::from(receiver)));
    }
    let socket = Socket::open(transport, framing, queues).await;
    let mut tasks = JoinSet::new();
    for (channel, port, input) in inputs {
        let data = Output::from(socket.writer(framing, channel));
        let error = Output::from(socket.writer(framing, channel + 1));
        let (backend, pod) = (Arc::clone(&backend), request.pod.clone());
        tasks.spawn(async move {
            forward::serve_channels(&*backend, &pod, port, input, data, error).await;
        });
    }
    tokio::select! {
        () = socket.gone.cancelled() => tasks.shutdown().await,
        () = async { while tasks.join_next().await.is_some() {} } => {}
    }
    socket.close().await;
}
