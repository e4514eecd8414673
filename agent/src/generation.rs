//! A node that is served, from its start to its end or to the agent that takes over.
//!
//! A process has one, unless an agent that was to take its place has failed: then a
//! new one serves in the same process, and the old one only its streams.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context as _, Result};
use berth_proto::{
    berth::v1::node_server::NodeServer,
    cri::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
};
use berth_streaming::HandedOver;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    berth::Service,
    config::{Args, Config},
    cri::{Images, Runtime},
    listen::{self, Doors, Progress, http::Pages, notify},
    node::Node,
    start::{leave, start},
    telemetry::Telemetry,
    upgrade::{Inventory, Successor},
};

/// How long operations may go on after the signal to stop. Containers stay; what
/// is half done by then is undone at the next start.
const DRAIN: Duration = Duration::from_secs(10);
/// How long they may before they are called off, when another agent takes over.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long streams are served after that: whoever leaves a shell open over a weekend
/// gets the other agent's for it.
const STREAMS: Duration = Duration::from_secs(24 * 60 * 60);

/// The node that is served now, for what lasts longer.
pub(crate) type Current = Arc<RwLock<Option<Arc<Node>>>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Generation {
    node: Arc<Node>,
    progress: Progress,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    /// Ends accepting, and thereby the gRPC server when its calls have ended.
    accepting: CancellationToken,
    pages: CancellationToken,
    watchdog: JoinHandle<()>,
    ready: watch::Sender<bool>,
}

/// What came of an upgrade.
#[derive(Debug)]
pub(crate) enum Upgrade {
    /// Another agent serves.
    Replaced(Successor),
    /// Nothing: this one serves as before.
    Stays,
    /// The other agent failed when it had been given everything, which is now for
    /// another generation of this one.
    Back(HandedOver),
}

impl Generation {
    /// Starts to listen, brings the node into agreement with the kernel, and serves.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) async fn start(
        config: &Config,
        args: &Args,
        telemetry: &Telemetry,
        doors: &Doors,
        handed_over: Option<HandedOver>,
        current: &Current,
    ) -> Result<Self> {
        let (ready, is_ready) = watch::channel(false);
        let (accepting, pages) = (CancellationToken::new(), CancellationToken::new());
        let progress = Progress::new();
        serve_pages(doors, current, telemetry, is_ready.clone(), &pages);
        let always = always(is_ready).await?;
        let server = listen::grpc::server()
            .layer(telemetry.rpc_layer(&config.limits))
            .serve_with_incoming_shutdown(
                progress.gate(always),
                doors.grpc.incoming(&accepting),
                accepting.clone().cancelled_owned(),
            );
        let server = tokio::spawn(server);
        notify::doing("recovering");

        let node = start(
            config.clone(),
            args.shim.clone(),
            telemetry,
            &progress,
            handed_over,
        )
        .await?;
        *current.write().unwrap_or_else(PoisonError::into_inner) = Some(node.clone());
        progress.open(services(&node));
        ready.send_replace(true);
        let paths: Vec<String> = doors
            .grpc
            .paths()
            .map(|path| path.display().to_string())
            .collect();
        tracing::info!(
            listen = paths.join(" "),
            version = crate::cri::VERSION,
            pods = node.sandboxes().len(),
            containers = node.containers().len(),
            undone = %node.facts.ledger_undone(),
            took = ?progress.took(),
            "serving"
        );
        let probed = node.clone();
        let watchdog = tokio::spawn(notify::watchdog(move || {
            let node = probed.clone();
            async move { node.store.ledger_of("watchdog").await.is_ok() }
        }));
        Ok(Self {
            node,
            progress,
            server,
            accepting,
            pages,
            watchdog,
            ready,
        })
    }

    /// Ends all that is served. Containers go on.
    pub(crate) async fn stop(self) {
        self.ready.send_replace(false);
        self.accepting.cancel();
        self.pages.cancel();
        self.watchdog.abort();
        let drained = self.node.operations.drain(DRAIN).await;
        tracing::debug!(?drained, "operations have ended");
        // Streams of clients that never end must not keep the agent.
        tokio::time::timeout(Duration::from_secs(2), self.server)
            .await
            .ok();
        leave(&self.node).await;
        self.node.store.close().await;
    }

    /// Starts `program` as the agent that takes this one's place, and hands over.
    pub(crate) async fn upgrade(
        &self,
        program: &Path,
        config: &Config,
        doors: &Doors,
        before: &[OwnedFd],
    ) -> Upgrade {
        notify::reloading();
        tracing::info!(program = %program.display(), "another agent is to take this one's place");
        let outcome = self.try_upgrade(program, config, doors, before).await;
        match &outcome {
            Upgrade::Replaced(_) => {}
            Upgrade::Stays => notify::ready("serving; another agent could not take over"),
            Upgrade::Back(_) => notify::doing("another agent could not take over"),
        }
        outcome
    }

    async fn try_upgrade(
        &self,
        program: &Path,
        config: &Config,
        doors: &Doors,
        before: &[OwnedFd],
    ) -> Upgrade {
        let node = &self.node;
        let mut successor = match Successor::start(program, config).await {
            Ok(successor) => successor,
            Err(error) => {
                tracing::error!(error = error.sentence(), "this agent goes on serving");
                return Upgrade::Stays;
            }
        };
        let (inventory, handed_over) = match self.prepare(doors, before).await {
            Ok(prepared) => prepared,
            Err(error) => {
                tracing::error!(%error, "this agent goes on serving");
                successor.give_up().await;
                node.operations.resume();
                return Upgrade::Stays;
            }
        };
        // From here on this generation only serves streams.
        self.accepting.cancel();
        self.pages.cancel();
        self.watchdog.abort();
        node.retired.cancel();
        self.progress.close();
        node.store.close().await;
        let inventory = inventory(handed_over);
        match successor.hand_over(&inventory).await {
            Ok(()) => {
                doors.leave();
                Upgrade::Replaced(successor)
            }
            Err(error) => {
                tracing::error!(error = error.sentence(), "this agent serves again");
                Upgrade::Back(inventory.streaming)
            }
        }
    }

    /// Everything after which this generation could still go on.
    async fn prepare(
        &self,
        doors: &Doors,
        before: &[OwnedFd],
    ) -> io::Result<(impl FnOnce(HandedOver) -> Inventory + use<>, HandedOver)> {
        let Some(streaming) = self.node.streaming.get() else {
            return Err(io::Error::other("streams are not served yet"));
        };
        let left = self.node.operations.pause(PATIENCE, DRAIN).await;
        if let Some(left) = left.first() {
            return Err(io::Error::other(format!(
                "{} {} did not end within {} s",
                left.verb,
                left.object,
                DRAIN.as_secs()
            )));
        }
        let inventory = doors.give(before)?;
        // The last, since it cannot be taken back.
        Ok((inventory, streaming.hand_over().await?))
    }

    /// Waits for the end of the last stream and of the last call, at most for a day.
    pub(crate) async fn streams(mut self) {
        let sessions = self.node.streaming.get().map_or(0, |s| s.sessions());
        tracing::info!(sessions, "streams are served to their end");
        let ended = async {
            if let Some(streaming) = self.node.streaming.get() {
                streaming.ended().await;
            }
            // Commands without streams.
            drop((&mut self.server).await);
        };
        if tokio::time::timeout(STREAMS, ended).await.is_err() {
            tracing::warn!("streams that last for more than a day are ended");
        }
    }
}

/// What is served from the first moment: health, and the description of the rest.
async fn always(ready: watch::Receiver<bool>) -> Result<Routes> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(berth_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("reflection")?;
    Ok(Routes::new(listen::health(ready).await).add_service(reflection))
}

fn services(node: &Arc<Node>) -> Routes {
    let message = node.config.limits.max_message_bytes;
    Routes::new(
        RuntimeServiceServer::new(Runtime::new(node.clone()))
            .max_decoding_message_size(message)
            .max_encoding_message_size(message),
    )
    .add_service(
        ImageServiceServer::new(Images::new(node.clone()))
            .max_decoding_message_size(message)
            .max_encoding_message_size(message),
    )
    .add_service(
        NodeServer::new(Service::new(node.clone()))
            .max_decoding_message_size(message)
            .max_encoding_message_size(message),
    )
    .prepare()
}

fn serve_pages(
    doors: &Doors,
    current: &Current,
    telemetry: &Telemetry,
    ready: watch::Receiver<bool>,
    stop: &CancellationToken,
) {
    let metrics = telemetry.metrics();
    let current = current.clone();
    let pages = Pages::new(
        ready,
        move |format| metrics.render(format),
        move || {
            let node = current.read().unwrap_or_else(PoisonError::into_inner);
            let list: Vec<serde_json::Value> = node
                .as_ref()
                .map(|node| node.operations.list())
                .unwrap_or_default()
                .into_iter()
                .map(|operation| {
                    serde_json::json!({
                        "verb": operation.verb.name(),
                        "object": operation.object,
                        "phase": operation.phase.map(|phase| phase.name()),
                        "in_phase_ms": operation.in_phase.as_millis() as u64,
                        "waiters": operation.waiters,
                    })
                })
                .collect();
            serde_json::Value::Array(list)
        },
    );
    doors.metrics.serve(pages, stop);
    let (socket, tcp) = (doors.metrics.socket(), doors.metrics.tcp());
    tracing::info!(socket = %socket.display(), ?tcp, "metrics and health are served");
}
