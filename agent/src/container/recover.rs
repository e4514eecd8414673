//! Containers after a start of the agent.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use berth_engine::Shim;
use berth_phase::Phase;
use berth_proto::shim::{ProcessPlan, state_reply::Phase as ShimPhase};
use prost::Message as _;
use tokio::sync::mpsc;

use super::{
    Container, Live, files,
    remove::{forget, tear_down},
    state::{Event, Exit, Processes, Reason, State},
    watch,
};
use crate::{
    error::Result,
    ids::Process,
    node::{Node, now},
    recovery::{Findings, kind},
    store::ContainerRecord,
};

/// A shim that does not answer by then hangs; its container is Unknown until Stop.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Puts a record from the store into memory.
pub(crate) fn adopt(node: &Node, record: ContainerRecord) {
    node.add_container(Container::new(record));
}

/// Asks every shim and settles each container: running ones are watched again,
/// ended ones get their exit, half-made and half-removed ones are undone. Returns
/// what was undone.
///
/// # Errors
/// Only a failpoint's.
pub(crate) async fn settle(
    node: &Arc<Node>,
    tracker: &berth_phase::Tracker,
    rebooted: bool,
) -> Result<Findings> {
    tracker.enter(Phase::Recover, "containers")?;
    let mut tasks = tokio::task::JoinSet::new();
    for container in node.containers() {
        let node = node.clone();
        tasks.spawn(async move {
            let outcome = settle_one(&node, &container, rebooted).await;
            outcome.unwrap_or_else(|error| {
                tracing::warn!(container = %container.id, error = error.sentence(), "container could not be settled");
                false
            })
        });
    }
    let mut undone = Findings::default();
    while let Some(outcome) = tasks.join_next().await {
        if outcome.unwrap_or(false) {
            undone.add(kind::CONTAINER, 1);
        }
    }
    Ok(undone)
}

/// Whether it was half-made and is undone.
async fn settle_one(node: &Arc<Node>, container: &Arc<Container>, rebooted: bool) -> Result<bool> {
    let record = container.record();
    match &record.state {
        State::Exited { .. } => Ok(false),
        State::Creating => {
            tracing::info!(container = %container.id, "a half-made container is undone");
            kill_shim(node, container).await;
            watch::kill(node, container).await?;
            tear_down(node, container).await?;
            forget(node, &container.id).await?;
            Ok(true)
        }
        _ if rebooted => {
            let why = "the node was started anew while the container ran".to_owned();
            let exit = Exit::lost(Reason::NodeReboot, why, now());
            watch::ended(node, container, exit).await;
            Ok(false)
        }
        _ => {
            reconnect(node, container).await?;
            Ok(false)
        }
    }
}

async fn reconnect(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    let dir = node.dirs.shim(&container.id);
    let (sender, events) = mpsc::unbounded_channel();
    let asked = tokio::time::timeout(ANSWER_LIMIT, async {
        let shim = Shim::connect(&dir, sender).await?;
        let state = shim.state().await?;
        Ok::<_, berth_engine::Error>((shim, state))
    })
    .await;
    let (shim, state) = match asked {
        Ok(Ok(answer)) => answer,
        Ok(Err(berth_engine::Error::Version(why))) => {
            let event = Event::Obscured {
                at: now(),
                reason: why,
            };
            return container.apply(node, event).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(container = %container.id, %error, "shim is gone");
            let init = pinned_init(container);
            let exit = watch::lost(node, container, init.as_ref()).await;
            watch::ended(node, container, exit).await;
            return Ok(());
        }
        Err(_elapsed) => {
            let event = Event::Obscured {
                at: now(),
                reason: "its shim does not answer".to_owned(),
            };
            return container.apply(node, event).await;
        }
    };
    if state.phase() == ShimPhase::Idle {
        // It never got its container; nothing of it can be running.
        kill_shim(node, container).await;
        let why = "its shim has no container".to_owned();
        watch::ended(node, container, Exit::lost(Reason::Unknown, why, now())).await;
        return Ok(());
    }
    let processes = Processes {
        shim: Process {
            pid: shim.pid(),
            start_ticks: berth_sys::process::start_ticks(shim.pid()).unwrap_or(0),
        },
        init: Process {
            pid: state.pid,
            start_ticks: state.start_ticks,
        },
    };
    let seen = Event::Seen {
        processes,
        started_at: (state.started_at != 0).then_some(state.started_at),
    };
    container.apply(node, seen).await?;
    if state.started_at == 0 {
        node.reply_may_be_lost(container.id.as_str());
    }
    let process = std::fs::read(dir.join(files::PROCESS))
        .ok()
        .and_then(|bytes| ProcessPlan::decode(bytes.as_slice()).ok())
        .unwrap_or_default();
    let live = Live::new(shim, pinned_init(container), process);
    container.set_live(Some(live.clone()));
    watch::spawn(node.clone(), container.clone(), live, events);
    Ok(())
}

/// A pidfd of the init, if its pid still stands for the same process.
fn pinned_init(container: &Container) -> Option<OwnedFd> {
    let init = container.record().state.processes()?.init;
    let pidfd = berth_sys::process::pidfd_open(init.pid).ok()?;
    let ticks = berth_sys::process::start_ticks(init.pid).ok()?;
    (ticks == init.start_ticks).then_some(pidfd)
}

/// Kills the shim of a container, found by whom its socket belongs to.
async fn kill_shim(node: &Arc<Node>, container: &Container) {
    let (sender, _events) = mpsc::unbounded_channel();
    let dir = node.dirs.shim(&container.id);
    let connected = Shim::connect(&dir, sender);
    if let Ok(Ok(shim)) = tokio::time::timeout(ANSWER_LIMIT, connected).await
        && let Ok(pidfd) = berth_sys::process::pidfd_open(shim.pid())
        // Still connected, so that the pid cannot have been given to another.
        && !shim.is_closed()
    {
        berth_sys::process::pidfd_send_signal(pidfd, nix::libc::SIGKILL).ok();
    }
}
