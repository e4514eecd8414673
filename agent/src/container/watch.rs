//! The task of each container that hears of its end.

use std::{sync::Arc, time::Duration};

use berth_engine::{Event, read_exit_record};
use berth_proto::shim::Exited;
use tokio::sync::mpsc;

use super::{
    Container, Live, death,
    state::{Event as Change, Exit, Reason},
};
use crate::{
    error::{Error, Result},
    ids::Process,
    node::{Node, blocking, now},
    timeline::Entry,
};

/// A record that cannot be written is tried again at this interval: an exit must
/// not be lost because the disk was full for a while.
const RETRY: Duration = Duration::from_secs(1);
/// How long a dead init may go unreaped before its exit status is given up.
const STATUS_LIMIT: Duration = Duration::from_millis(500);
/// Longest wait for the processes of a container whose shim was killed.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Starts the task.
pub(super) fn spawn(
    node: Arc<Node>,
    container: Arc<Container>,
    live: Arc<Live>,
    mut events: mpsc::UnboundedReceiver<Event>,
) {
    tokio::spawn(async move {
        loop {
            match events.recv().await {
                Some(Event::ExecExited(exited)) => live.exec_ended(exited),
                Some(Event::OomKill(count)) => {
                    tracing::info!(container = %container.id, count, "processes were killed for lack of memory");
                }
                Some(Event::Exited(exited)) => {
                    ended(&node, &container, exit_of(exited)).await;
                    break;
                }
                Some(Event::Closed) | None => {
                    let exit = lost(&node, &container, live.init.as_ref()).await;
                    ended(&node, &container, exit).await;
                    break;
                }
            }
        }
        live.all_execs_ended();
        container.set_live(None);
    });
}

/// Writes the exit down, however long that takes.
pub(super) async fn ended(node: &Arc<Node>, container: &Container, exit: Exit) {
    let exit = death::examine(node, container, exit).await;
    tracing::info!(
        container = %container.id,
        code = exit.code,
        reason = exit.reason.name(),
        "container has exited"
    );
    loop {
        if container.record().state.exit().is_some() {
            return;
        }
        let change = Change::Exited(exit.clone());
        if node.retired.is_cancelled() {
            // Whoever is attached is told; the record is written by the agent that came after.
            if let Err(error) = container.learn(change).await {
                tracing::debug!(container = %container.id, error = error.sentence(), "an exit comes too late");
            }
            return;
        }
        match container.apply(node, change).await {
            Ok(()) => {
                let pod = container.record().sandbox_id.clone();
                let ids = [pod.as_str(), container.id.as_str()];
                let mut note = format!("code {}, {}", exit.code, exit.reason.name());
                if !exit.message.is_empty() {
                    note = format!("{note}: {}", exit.message);
                }
                node.timeline.add(Entry::event("exited", &ids, note));
                return;
            }
            // The store was handed over at this very moment.
            Err(_) if node.retired.is_cancelled() => {}
            Err(error) => {
                tracing::warn!(container = %container.id, error = error.sentence(), "exit could not be recorded; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What the shim says of the end.
pub(super) fn exit_of(exited: Exited) -> Exit {
    let mut exit = match exited.start_failure {
        Some(failure) if exited.started_at == 0 => {
            let message = berth_engine::Error::Remote(failure).to_string();
            Exit::of_failed_start(message, exited.finished_at)
        }
        _ => Exit::of_program(
            exited.exit_code,
            exited.signal,
            exited.oom_killed,
            exited.started_at,
            exited.finished_at,
        ),
    };
    exit.memory_peak = exited.memory_peak;
    exit
}

/// The shim is gone without a word: its record on disk says how it ended, or it
/// was killed. Then the container's processes are killed, and the kernel may
/// still know the exit status of the init.
pub(super) async fn lost(
    node: &Arc<Node>,
    container: &Container,
    init: Option<&std::os::fd::OwnedFd>,
) -> Exit {
    match read_exit_record(&node.dirs.shim(&container.id)) {
        Ok(Some(exited)) => return exit_of(exited),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(container = %container.id, %error, "exit record cannot be read");
        }
    }
    if node.retired.is_cancelled() {
        let why = "its shim has ended, and another agent looks after it".to_owned();
        return Exit::lost(Reason::Unknown, why, now());
    }
    node.metrics.shim_lost();
    tracing::warn!(container = %container.id, "shim is lost; killing its container");
    if let Err(error) = kill(node, container).await {
        tracing::warn!(container = %container.id, error = error.sentence(), "killing a container without a shim");
    }
    let mut exit = Exit::lost(
        Reason::ShimLost,
        "the shim of this container was killed, and the container with it".to_owned(),
        now(),
    );
    if let Some(status) = status_of(init).await {
        exit.code = status.code();
        exit.signal = status.signal();
    }
    exit
}

/// The exit status of an init that nobody of ours has reaped. The kernel gives it
/// away once somebody else has, which takes the launcher no time.
async fn status_of(init: Option<&std::os::fd::OwnedFd>) -> Option<berth_sys::process::Ending> {
    let pidfd = init?;
    let until = tokio::time::Instant::now() + STATUS_LIMIT;
    loop {
        // An older kernel cannot tell at all.
        match berth_sys::process::pidfd_exit_status(pidfd) {
            Ok(None) => {}
            Ok(status) => return status,
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(_) => return None,
        }
        if tokio::time::Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Kills every process of the container by its group.
pub(super) async fn kill(node: &Arc<Node>, container: &Container) -> Result<()> {
    let layout = node.layout.clone();
    let path = container.record().cgroup.clone();
    blocking("kill a container", move || {
        crate::cgroup::kill(&layout, &path, KILL_LIMIT)
    })
    .await
}

/// Kills a process, if its pid still stands for it.
pub(super) fn kill_process(process: Process) -> Result<()> {
    // Opened first: then the pid cannot be given to another between look and signal.
    let Ok(pidfd) = berth_sys::process::pidfd_open(process.pid) else {
        return Ok(());
    };
    let same = berth_sys::process::start_ticks(process.pid)
        .is_ok_and(|ticks| ticks == process.start_ticks);
    if !same {
        return Ok(());
    }
    match berth_sys::process::pidfd_send_signal(pidfd, nix::libc::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => {
            Err(Error::io("kill a shim", error))
        }
        _ => Ok(()),
    }
}
