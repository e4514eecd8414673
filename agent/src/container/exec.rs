//! ExecSync.

use std::{os::fd::AsFd as _, sync::Arc, time::Duration};

use berth_engine::ExecStreams;
use berth_proto::shim::ExecExited;
use berth_streaming::ExecOptions;
use nix::{fcntl::OFlag, unistd::pipe2};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{command, convert};
use crate::{
    error::{Error, Kind, Result},
    node::Node,
};

/// Most that is kept of one stream. A CRI client takes 16 MiB for a whole
/// message, so that the two together must stay below that.
const OUTPUT_LIMIT: usize = 8 * 1024 * 1024 - 64 * 1024;
/// How long output is awaited from children that outlive the command and hold
/// its streams open.
const DRAIN: Duration = Duration::from_millis(500);
/// How long the end of a killed command may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct ExecOutput {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit_code: i32,
}

/// Runs `command` in a container and returns its output, cut at a limit.
///
/// # Errors
/// DeadlineExceeded after `limit`, when everything that it started is dead;
/// FailedPrecondition if the container does not run.
pub(crate) async fn exec_sync(
    node: &Arc<Node>,
    id: &str,
    command: Vec<String>,
    limit: Option<Duration>,
) -> Result<ExecOutput> {
    let container = node.container(id)?;
    if command.is_empty() {
        return Err(Error::invalid("ExecSync without a command"));
    }
    let live = container.running()?;
    let mut running = RunningExec::expect(&live)?;
    let (stdout, stdout_writer) = stream()?;
    let (stderr, stderr_writer) = stream()?;
    let process = command::plain(&live, command, false);
    let deadline = limit.map(|limit| Instant::now() + limit);
    let streams = ExecStreams {
        stdin: None,
        stdout: Some(stdout_writer.as_fd()),
        stderr: Some(stderr_writer.as_fd()),
    };
    live.shim
        .exec(running.id(), process, streams)
        .await
        .map_err(exec_failure)?;
    // Ours would keep the streams from ending.
    drop((stdout_writer, stderr_writer));
    let stdout = Reader::spawn(stdout);
    let stderr = Reader::spawn(stderr);
    let exited = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, running.exited()).await,
        None => Ok(running.exited().await),
    };
    let Ok(exited) = exited else {
        running.kill().await?;
        return Err(Error::deadline(format!(
            "command in container {} did not end within {:.1} s and was killed",
            container.id.short(),
            limit.unwrap_or_default().as_secs_f64()
        )));
    };
    let until = Instant::now() + DRAIN;
    let stdout = stdout.collect(until).await;
    let stderr = stderr.collect(until).await;
    let exited = exited.ok_or_else(|| {
        Error::precondition(format!(
            "container {} ended while a command ran in it",
            container.id.short()
        ))
    })?;
    Ok(ExecOutput {
        stdout,
        stderr,
        exit_code: exited.exit_code,
    })
}

/// Runs a command to which nobody is connected, and does not wait for its end.
/// Returns its process id.
///
/// # Errors
/// FailedPrecondition if the container does not run; InvalidArgument if the command
/// cannot be executed.
pub(crate) async fn exec_detached(
    node: &Arc<Node>,
    id: &str,
    words: Vec<String>,
    options: ExecOptions,
) -> Result<i32> {
    let container = node.container(id)?;
    if words.is_empty() {
        return Err(Error::invalid("Exec without a command"));
    }
    let live = container.running()?;
    let process = command::with_options(&container, &live, words, false, options).await?;
    let mut running = RunningExec::expect(&live)?;
    let pid = live
        .shim
        .exec(running.id(), process, ExecStreams::default())
        .await
        .map_err(exec_failure)?;
    // The shim reaps it whenever it ends.
    running.armed = false;
    Ok(pid)
}

/// Why a command could not be started.
pub(crate) fn exec_failure(error: berth_engine::Error) -> Error {
    let kind = if error.is_execute() {
        Kind::InvalidArgument
    } else if error.is_state() || matches!(error, berth_engine::Error::Closed { .. }) {
        Kind::FailedPrecondition
    } else {
        Kind::Internal
    };
    Error::new(kind, "run a command in the container").with_source(error)
}

fn stream() -> Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> {
    // Only our end does not block: the flag belongs to the open file, and each
    // end of a pipe is one of its own.
    let (reader, writer) =
        pipe2(OFlag::O_CLOEXEC).map_err(|errno| Error::io("make a pipe", errno.into()))?;
    nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|errno| Error::io("make a pipe non-blocking", errno.into()))?;
    Ok((reader, writer))
}

/// A command of which somebody waits for the end. Dropped before that, it is
/// killed with all that it started.
pub(crate) struct RunningExec {
    live: Arc<super::Live>,
    id: String,
    ended: oneshot::Receiver<ExecExited>,
    armed: bool,
}

impl RunningExec {
    /// Waits, from before it is started, for the end of a command.
    ///
    /// # Errors
    /// Internal without randomness for its name.
    pub(crate) fn expect(live: &Arc<super::Live>) -> Result<Self> {
        let id = crate::ids::ContainerId::random()?.short().to_owned();
        Ok(Self {
            ended: live.expect_exec(&id),
            live: live.clone(),
            id,
            armed: true,
        })
    }

    /// What the shim knows it by.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// How it ended; `None` if its container ended first.
    pub(crate) async fn exited(&mut self) -> Option<ExecExited> {
        let ended = (&mut self.ended).await;
        self.armed = false;
        ended.ok()
    }

    /// Kills it with all that it started and waits for its end, within a limit.
    ///
    /// # Errors
    /// If the shim cannot.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.live
            .shim
            .kill_exec(&self.id)
            .await
            .map_err(convert("kill a command"))?;
        drop(timeout(KILL_LIMIT, self.exited()).await);
        self.armed = false;
        Ok(())
    }
}

impl Drop for RunningExec {
    fn drop(&mut self) {
        self.live.forget_exec(&self.id);
        if self.armed {
            let (live, id) = (self.live.clone(), std::mem::take(&mut self.id));
            tokio::spawn(async move {
                if let Err(error) = live.shim.kill_exec(&id).await {
                    tracing::debug!(%error, "killing a command whose caller went away");
                }
            });
        }
    }
}

/// Reads one stream, keeping at most the limit.
struct Reader {
    task: JoinHandle<()>,
    kept: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl Reader {
    fn spawn(fd: std::os::fd::OwnedFd) -> Self {
        let kept = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = kept.clone();
        let task = tokio::spawn(async move {
            let Ok(mut pipe) = Receiver::from_owned_fd(fd) else {
                return;
            };
            let mut buffer = vec![0; 32 * 1024];
            while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
                let mut kept = sink
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let room = OUTPUT_LIMIT.saturating_sub(kept.len());
                // Beyond the limit it is read and dropped, or the command would block.
                kept.extend_from_slice(&buffer[..count.min(room)]);
            }
        });
        Self { task, kept }
    }

    /// What was read until the stream ended, or until `until`.
    async fn collect(mut self, until: Instant) -> Vec<u8> {
        if tokio::time::timeout_at(until, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
        std::mem::take(
            &mut *self
                .kept
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}
