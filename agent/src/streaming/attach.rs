//! A client at the streams of a container's own process.

use std::{io, os::fd::AsFd as _, sync::Arc, time::Duration};

use berth_streaming::{Attach, Outcome, Session};
use rustix::pipe::fcntl_setpipe_size;
use tokio::{io::Interest, sync::watch, task::JoinSet};

use super::{
    exec::{duplicate, pipe, pollable, resize},
    pump::{inward, outward},
};
use crate::{
    container::{Container, convert, state::State},
    error::{Error, Result},
    node::Node,
};

/// How far a client may fall behind the container's output before it is cut off,
/// in bytes. Where the user's pages for pipes are used up it is what a pipe has.
const BEHIND_MAX: usize = 1024 * 1024;
/// How long the record of an end may follow the end itself.
const SETTLE: Duration = Duration::from_secs(5);

/// Whether somebody can be attached: it need not have started, so that the first
/// word is not lost.
///
/// # Errors
/// FailedPrecondition.
pub(super) fn attachable(container: &Container) -> Result<()> {
    let record = container.record();
    match record.state {
        State::Created { .. } | State::Running { .. } | State::Paused { .. } => Ok(()),
        _ => Err(Error::precondition(format!(
            "container {} is {}: there is nothing to attach to",
            container.id.short(),
            record.state.name()
        ))),
    }
}

/// Connects the client until it leaves or the container ends.
pub(super) async fn attach(node: &Arc<Node>, request: Attach, session: Session) -> Outcome {
    match run(node, request, session).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failed(error.sentence()),
    }
}

async fn run(node: &Arc<Node>, request: Attach, session: Session) -> Result<Outcome> {
    let container = node.container(&request.container)?;
    attachable(&container)?;
    let live = container.live().ok_or_else(|| {
        Error::precondition(format!("container {} has ended", container.id.short()))
    })?;
    let config = &container.record().config;
    let (end, ended) = watch::channel(false);
    let mut outputs: JoinSet<io::Result<()>> = JoinSet::new();
    let mut writers = [const { None }; 2];
    for (writer, output) in writers.iter_mut().zip([session.stdout, session.stderr]) {
        if let Some(output) = output {
            let (ours, theirs) = pipe()?;
            // Only a wish: pages of pipes are limited per user (pipe(7)).
            fcntl_setpipe_size(ours.as_fd(), BEHIND_MAX).ok();
            *writer = Some(theirs);
            let reader = pollable(ours, Interest::READABLE)?;
            outputs.spawn(outward(reader, output, ended.clone()));
        }
    }
    let [stdout, stderr] = writers;
    let input = live
        .shim
        .attach(
            stdout.as_ref().map(std::os::fd::OwnedFd::as_fd),
            stderr.as_ref().map(std::os::fd::OwnedFd::as_fd),
        )
        .await
        .map_err(convert("attach to the container"))?;
    // Ours would keep the streams from ending.
    drop((stdout, stderr));
    let mut sizes = JoinSet::new();
    if let (Some(reader), Some(master), true) = (session.resize, &input, config.tty) {
        sizes.spawn(resize(reader, duplicate(master)?));
    }
    // What the client types and nobody reads is dropped.
    let typing = match (session.stdin, input, config.stdin) {
        (Some(from), Some(to), true) => Some((from, pollable(to, Interest::WRITABLE)?)),
        _ => None,
    };
    let typed = async {
        let never = std::future::pending::<Result<()>>();
        let Some((from, to)) = typing else {
            return never.await;
        };
        let typed = inward(from, &to).await;
        // Held any longer it would keep the container's stdin from ending.
        drop(to);
        if let Err(error) = typed {
            tracing::debug!(%error, "a container does not read its stdin");
            return never.await;
        }
        if config.stdin_once && !config.tty {
            live.shim
                .close_stdin()
                .await
                .map_err(convert("end the container's stdin"))?;
            return never.await;
        }
        Ok(())
    };
    let outcome = tokio::select! {
        () = session.gone.cancelled() => return Ok(Outcome::Ended),
        typed = typed => {
            end.send_replace(true);
            typed.map(|()| Outcome::Ended)?
        }
        () = all(&mut outputs), if !outputs.is_empty() => {
            // The shim ends before its end is written down.
            match tokio::time::timeout(SETTLE, container.exited()).await {
                Ok(_) => Outcome::Ended,
                Err(_) => Outcome::Failed(format!(
                    "this client fell too far behind the output of container {}",
                    container.id.short()
                )),
            }
        }
        _ = container.exited() => {
            end.send_replace(true);
            Outcome::Ended
        }
    };
    all(&mut outputs).await;
    Ok(outcome)
}

async fn all(outputs: &mut JoinSet<io::Result<()>>) {
    while outputs.join_next().await.is_some() {}
}
