//! Serving until told to stop.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, Result};
use berth_proto::{
    berth::v1::node_server::NodeServer,
    cri::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    berth::Service,
    config::{self, Args, Config},
    cri::{Images, Runtime},
    listen::{self, Progress, http::Pages, notify},
    node::Node,
    start::{leave, start},
    telemetry::{NodeState, Telemetry},
};

/// How long operations may go on after the signal to stop. Containers stay; what
/// is half done by then is undone at the next start.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the agent of `config` until SIGTERM or SIGINT.
pub(crate) async fn serve(config: Config, args: Args) -> Result<()> {
    // The default provider of TLS, for whoever asks for none.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let telemetry = Telemetry::start(&config.telemetry)?;
    let stop = CancellationToken::new();
    let (ready, is_ready) = watch::channel(false);
    listen::private_directory(&config.run_dir)?;
    let progress = Progress::new();
    let sockets = listen::open(&config.listen())?;
    let paths: Vec<String> = sockets
        .paths()
        .map(|path| path.display().to_string())
        .collect();
    let late = Arc::new(OnceLock::new());
    serve_pages(&config, &late, &telemetry, is_ready.clone(), stop.clone()).await?;
    let always = always(is_ready).await?;
    let server = listen::grpc::server()
        .layer(telemetry.rpc_layer(&config.limits))
        .serve_with_incoming_shutdown(
            progress.gate(always),
            sockets.incoming(),
            stop.clone().cancelled_owned(),
        );
    let server = tokio::spawn(server);
    notify::doing("recovering");

    let node = start(config.clone(), args.shim.clone(), &telemetry, &progress).await?;
    late.get_or_init(|| node.clone());
    progress.open(services(&node));
    ready.send_replace(true);
    notify::ready("serving");
    tracing::info!(
        listen = paths.join(" "),
        version = crate::cri::VERSION,
        pods = node.sandboxes().len(),
        containers = node.containers().len(),
        undone = %node.facts.ledger_undone(),
        took = ?progress.took(),
        "serving"
    );
    let watchdog = {
        let node = node.clone();
        tokio::spawn(notify::watchdog(move || {
            let node = node.clone();
            async move { node.store.ledger_of("watchdog").await.is_ok() }
        }))
    };

    wait_for_signal(&args, &telemetry).await?;
    notify::stopping();
    tracing::info!("stopping; containers keep running");
    ready.send_replace(false);
    stop.cancel();
    watchdog.abort();
    let drained = node.operations.drain(DRAIN).await;
    tracing::debug!(?drained, "operations have ended");
    // Streams of clients that never end must not keep the agent.
    tokio::time::timeout(Duration::from_secs(2), server)
        .await
        .ok();
    leave(&node).await;
    node.store.close().await;
    telemetry.shutdown().await;
    Ok(())
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

/// Waits for the signal to stop; SIGHUP reads the configuration again, of which the
/// log level can change while the agent runs.
async fn wait_for_signal(args: &Args, telemetry: &Telemetry) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    let mut reload = signal(SignalKind::hangup()).context("waiting for SIGHUP")?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = reload.recv() => match config::load(args) {
                Ok(config) => {
                    let level = config.telemetry.log_level;
                    match telemetry.set_log_level(&level) {
                        Ok(()) => tracing::info!(level, "configuration is read again"),
                        Err(error) => tracing::error!(%error, "log level stays as it was"),
                    }
                }
                Err(findings) => {
                    tracing::error!(%findings, "configuration stays as it was");
                }
            },
        }
    }
}

async fn serve_pages(
    config: &Config,
    node: &Arc<OnceLock<Arc<Node>>>,
    telemetry: &Telemetry,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
) -> Result<()> {
    let metrics = telemetry.metrics();
    let source = node.clone();
    metrics.set_state(move || source.get().map(|node| state(node)).unwrap_or_default());
    let tasks = node.clone();
    let pages = Pages::new(
        ready,
        move |format| metrics.render(format),
        move || {
            let list: Vec<serde_json::Value> = tasks
                .get()
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
    let addresses = listen::http::serve(
        &config.metrics_socket(),
        config.telemetry.listen,
        pages,
        stop,
    )
    .await?;
    tracing::info!(socket = %addresses.socket.display(), tcp = ?addresses.tcp, "metrics and health are served");
    Ok(())
}

fn state(node: &Node) -> NodeState {
    let mut operations = BTreeMap::new();
    for operation in node.operations.list() {
        *operations.entry(operation.verb.name()).or_insert(0) += 1;
    }
    let mut pod_sandboxes = BTreeMap::new();
    for sandbox in node.sandboxes() {
        *pod_sandboxes
            .entry(sandbox.record().state.name())
            .or_insert(0) += 1;
    }
    let mut containers = BTreeMap::new();
    for container in node.containers() {
        *containers
            .entry(container.record().state.name())
            .or_insert(0) += 1;
    }
    NodeState {
        operations,
        pod_sandboxes,
        containers,
    }
}
