//! Serving until told to stop.

use std::{collections::BTreeMap, os::fd::OwnedFd, path::Path, sync::PoisonError};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};

use crate::{
    config::{self, Args, Config},
    generation::{Current, Generation, Upgrade},
    listen::{self, Doors, notify},
    node::Node,
    start,
    telemetry::{NodeState, Telemetry},
    upgrade::{Predecessor, Successor, stop_all},
};

/// Runs the agent of `config` until SIGTERM or SIGINT, or until another agent has taken
/// its place, which SIGUSR2 starts from the file `program`.
pub(crate) async fn serve(config: Config, args: Args, program: &Path) -> Result<()> {
    // The default provider of TLS, for whoever asks for none.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let telemetry = Telemetry::start(&config.telemetry)?;
    // First of all: one that nobody waits for would kill.
    let mut signals = Signals::new()?;
    listen::private_directory(&config.run_dir)?;
    let mut predecessor = Predecessor::find()?;
    let (mut doors, mut handed_over) = match &mut predecessor {
        None => (Doors::open(&config).await?, None),
        Some(predecessor) => {
            start::check(&config, args.shim.clone())?;
            let inventory = predecessor.take_over(&config).await?;
            let (doors, handed_over) = Doors::adopt(&config, inventory).await?;
            (doors, Some(handed_over))
        }
    };
    let current = Current::default();
    let source = current.clone();
    telemetry.metrics().set_state(move || {
        let node = source.read().unwrap_or_else(PoisonError::into_inner);
        node.as_ref().map(|node| state(node)).unwrap_or_default()
    });
    let mut before = Vec::new();
    // Generations that only serve streams any more.
    let mut retired = JoinSet::new();
    let generation = loop {
        let generation = Generation::start(
            &config,
            &args,
            &telemetry,
            &doors,
            handed_over.take(),
            &current,
        )
        .await?;
        match predecessor.take() {
            None => notify::ready("serving"),
            Some(predecessor) => {
                before = took_over(predecessor, &mut doors).await;
            }
        }
        let came_of = loop {
            match signals.next().await {
                Told::Stop => break None,
                Told::Reload => reload(&args, &telemetry),
                Told::Upgrade => {
                    let came_of = generation.upgrade(program, &config, &doors, &before).await;
                    if !matches!(came_of, Upgrade::Stays) {
                        break Some(came_of);
                    }
                }
            }
        };
        match came_of {
            None | Some(Upgrade::Stays) => break generation,
            Some(Upgrade::Back(streaming)) => {
                retired.spawn(generation.streams());
                handed_over = Some(streaming);
            }
            Some(Upgrade::Replaced(successor)) => {
                retired.spawn(generation.streams());
                linger(retired, successor, &mut signals).await;
                telemetry.shutdown().await;
                return Ok(());
            }
        }
    };
    notify::stopping();
    tracing::info!("stopping; containers keep running");
    stop_all(before).await;
    generation.stop().await;
    telemetry.shutdown().await;
    Ok(())
}

/// Tells the agent before that this one serves; returns the channels to all before it.
async fn took_over(predecessor: Predecessor, doors: &mut Doors) -> Vec<OwnedFd> {
    doors.keep();
    if let Err(error) = predecessor.serving().await {
        // It has died meanwhile, and with it its streams.
        tracing::warn!(%error, "the agent before is not told that this one serves");
    }
    notify::took_over("serving");
    predecessor.all().unwrap_or_else(|error| {
        tracing::warn!(%error, "agents before this one will not be told to stop");
        Vec::new()
    })
}

/// Serves streams to their end, unless this agent or the other is told to stop.
async fn linger(mut retired: JoinSet<()>, successor: Successor, signals: &mut Signals) {
    let stopped = async {
        loop {
            match signals.next().await {
                Told::Stop => return,
                Told::Reload | Told::Upgrade => {
                    tracing::warn!("another agent serves: that is whom to send signals");
                }
            }
        }
    };
    tokio::select! {
        () = async { while retired.join_next().await.is_some() {} } => {}
        () = successor.stop() => {}
        () = stopped => {}
    }
    tracing::info!("this agent ends; another one serves");
}

/// Reads the configuration again, of which the log level can change while the agent runs.
fn reload(args: &Args, telemetry: &Telemetry) {
    match config::load(args) {
        Ok(config) => {
            let level = config.telemetry.log_level;
            match telemetry.set_log_level(&level) {
                Ok(()) => tracing::info!(level, "configuration is read again"),
                Err(error) => tracing::error!(%error, "log level stays as it was"),
            }
        }
        Err(findings) => tracing::error!(%findings, "configuration stays as it was"),
    }
}

/// What a signal means.
#[derive(Clone, Copy, Debug)]
enum Told {
    Stop,
    Reload,
    Upgrade,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind, name| signal(kind).with_context(|| format!("waiting for {name}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            hangup: listen(SignalKind::hangup(), "SIGHUP")?,
            upgrade: listen(SignalKind::user_defined2(), "SIGUSR2")?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
            _ = self.upgrade.recv() => Told::Upgrade,
        }
    }
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
