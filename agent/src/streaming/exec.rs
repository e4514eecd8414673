//! A command with a client's streams.

use std::{io, os::fd::OwnedFd, sync::Arc};

use berth_engine::ExecStreams;
use berth_proto::shim::ProcessPlan;
use berth_streaming::{Exec, Outcome, Session, SizeReader};
use nix::{fcntl::OFlag, unistd::pipe2};
use rustix::termios::{Winsize, tcsetwinsize};
use std::os::fd::AsFd as _;
use tokio::{io::Interest, sync::watch, task::JoinSet};

use super::pump::{Pollable, inward, outward};
use crate::{
    container::{Live, RunningExec, command, exec_failure},
    error::{Error, Result},
    node::Node,
};

/// Runs the command of `request` to its end, or until the client goes away.
pub(super) async fn exec(node: &Arc<Node>, request: Exec, session: Session) -> Outcome {
    match run(node, request, session).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failed(error.sentence()),
    }
}

async fn run(node: &Arc<Node>, request: Exec, session: Session) -> Result<Outcome> {
    let container = node.container(&request.container)?;
    let live = container.running()?;
    let Exec {
        command,
        tty,
        options,
        ..
    } = request;
    let process = command::with_options(&container, &live, command, tty, options).await?;
    let mut running = RunningExec::expect(&live)?;
    let gone = session.gone.clone();
    let (ended, end) = watch::channel(false);
    let tasks = if tty {
        with_terminal(&live, &running, process, session, end).await?
    } else {
        with_pipes(&live, &running, process, session, end).await?
    };
    let exited = tokio::select! {
        exited = running.exited() => exited,
        () = gone.cancelled() => {
            // Nobody is left to see it.
            running.kill().await?;
            return Ok(Outcome::Ended);
        }
    };
    // Its pumps see this and end when they have sent what is there.
    ended.send_replace(true);
    tasks.finish().await;
    Ok(match exited {
        Some(exited) => Outcome::Exited(exited.exit_code),
        None => Outcome::Failed(format!(
            "container {} ended while a command ran in it",
            container.id.short()
        )),
    })
}

/// The tasks of one session; those that read from the client end with it.
struct Pumps {
    outward: JoinSet<io::Result<()>>,
    inward: JoinSet<()>,
}

impl Pumps {
    fn new() -> Self {
        Self {
            outward: JoinSet::new(),
            inward: JoinSet::new(),
        }
    }

    /// Waits until all output was sent. They end by themselves: after the process
    /// when its streams are empty, and before it when the client has gone.
    async fn finish(mut self) {
        while let Some(done) = self.outward.join_next().await {
            if let Ok(Err(error)) = done {
                tracing::debug!(%error, "output of a command did not reach its client");
            }
        }
        self.inward.shutdown().await;
    }
}

async fn with_pipes(
    live: &Arc<Live>,
    running: &RunningExec,
    process: ProcessPlan,
    session: Session,
    end: watch::Receiver<bool>,
) -> Result<Pumps> {
    let mut pumps = Pumps::new();
    let mut inside: [Option<OwnedFd>; 3] = [const { None }; 3];
    if let Some(input) = session.stdin {
        let (reader, writer) = pipe()?;
        inside[0] = Some(reader);
        let writer = pollable(writer, Interest::WRITABLE)?;
        pumps.inward.spawn(async move {
            if let Err(error) = inward(input, &writer).await {
                tracing::debug!(%error, "a command does not read its stdin");
            }
        });
    }
    for (slot, output) in [(1, session.stdout), (2, session.stderr)] {
        if let Some(output) = output {
            let (reader, writer) = pipe()?;
            inside[slot] = Some(writer);
            let reader = pollable(reader, Interest::READABLE)?;
            pumps.outward.spawn(outward(reader, output, end.clone()));
        }
    }
    let streams = ExecStreams {
        stdin: inside[0].as_ref().map(OwnedFd::as_fd),
        stdout: inside[1].as_ref().map(OwnedFd::as_fd),
        stderr: inside[2].as_ref().map(OwnedFd::as_fd),
    };
    live.shim
        .exec(running.id(), process, streams)
        .await
        .map_err(exec_failure)?;
    Ok(pumps)
}

async fn with_terminal(
    live: &Arc<Live>,
    running: &RunningExec,
    process: ProcessPlan,
    session: Session,
    end: watch::Receiver<bool>,
) -> Result<Pumps> {
    let (_, master) = live
        .shim
        .exec_terminal(running.id(), process)
        .await
        .map_err(exec_failure)?;
    let mut pumps = Pumps::new();
    if let Some(sizes) = session.resize {
        let master = duplicate(&master)?;
        pumps.inward.spawn(resize(sizes, master));
    }
    if let Some(input) = session.stdin {
        let master = pollable(duplicate(&master)?, Interest::WRITABLE)?;
        pumps.inward.spawn(async move {
            if let Err(error) = inward(input, &master).await {
                tracing::debug!(%error, "a terminal takes no more input");
            }
        });
    }
    if let Some(output) = session.stdout {
        let master = pollable(master, Interest::READABLE)?;
        pumps.outward.spawn(outward(master, output, end));
    }
    Ok(pumps)
}

/// Gives a terminal the sizes of its client's.
pub(super) async fn resize(mut sizes: SizeReader, master: OwnedFd) {
    while let Some(size) = sizes.next().await {
        let size = Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        if let Err(error) = tcsetwinsize(&master, size) {
            tracing::debug!(%error, "a terminal has no size any more");
            return;
        }
    }
}

pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe2(OFlag::O_CLOEXEC).map_err(|errno| Error::io("make a pipe", errno.into()))
}

pub(super) fn pollable(fd: OwnedFd, interest: Interest) -> Result<Pollable> {
    Pollable::new(fd, interest).map_err(|error| Error::io("wait for a stream", error))
}

pub(super) fn duplicate(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone()
        .map_err(|error| Error::io("duplicate a terminal", error))
}
