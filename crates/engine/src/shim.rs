//! The client of one shim.

use std::{
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use berth_proto::shim::{
    Assemble, Attach, CloseStdin, Create, Exec, KillExec, Plan, ProcessPlan, ReopenLog, Signal,
    Start, State, StateReply, Stop, request::Verb, response::Body,
};
use berth_sys::{memfd, message};
use prost::Message as _;
use tokio::sync::mpsc;

use crate::{
    Connection, Error, Event,
    launcher::{open_directory, socket_path},
};

/// Verbs that only change the shim's mind.
const SHORT: Duration = Duration::from_secs(10);
/// Create mounts and may touch slow storage; the shim's own limit is a little shorter.
const CREATE: Duration = Duration::from_secs(125);
/// Start and Exec load a program; the shim's own limit is a little shorter.
pub(crate) const EXECUTE: Duration = Duration::from_secs(65);

/// A shim that was started.
#[derive(Debug)]
pub struct ShimProcess {
    /// Its process id.
    pub pid: i32,
    /// Refers to it however pids are reused.
    pub pidfd: OwnedFd,
}

/// A container that is set up and waits before execve.
#[derive(Debug)]
pub struct CreatedContainer {
    /// Process id of its init.
    pub pid: i32,
    /// When that was started, in clock ticks since boot.
    pub start_ticks: u64,
    /// Refers to the init.
    pub pidfd: OwnedFd,
    /// What holds.
    pub oom_score_adj: i32,
    /// Whether the kernel did not allow what was asked.
    pub oom_score_adj_clamped: bool,
    /// Other wishes that the kernel did not grant in full, a sentence each.
    pub notes: Vec<String>,
    /// The terminal's master, if the plan is detached and has one.
    pub console: Option<OwnedFd>,
}

/// What an exec'd process gets as its streams; `None` is /dev/null.
#[derive(Debug, Default)]
pub struct ExecStreams<'fd> {
    /// Standard input.
    pub stdin: Option<BorrowedFd<'fd>>,
    /// Standard output.
    pub stdout: Option<BorrowedFd<'fd>>,
    /// Standard error.
    pub stderr: Option<BorrowedFd<'fd>>,
}

/// Whoever answers for the system calls that a seccomp filter hands over: is told of the
/// process with `head`, its pid in digits and `tail`, and gets the listener beside that.
#[derive(Debug)]
pub struct Listener<'fd> {
    /// A connected stream socket.
    pub socket: BorrowedFd<'fd>,
    /// What comes before the pid.
    pub head: Vec<u8>,
    /// And behind it.
    pub tail: Vec<u8>,
}

impl Listener<'_> {
    pub(crate) fn at(self, slot: u32) -> berth_proto::shim::Listener {
        berth_proto::shim::Listener {
            slot,
            head: self.head,
            tail: self.tail,
        }
    }
}

/// A connection to the shim of one container.
#[derive(Debug)]
pub struct Shim(Connection);

impl Shim {
    /// Connects to the shim whose directory is `shim_dir`.
    ///
    /// # Errors
    /// [`Error::System`] if nobody listens, [`Error::Version`] if it speaks another protocol.
    pub async fn connect(
        shim_dir: &Path,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, Error> {
        let dir = open_directory(shim_dir)?;
        let socket = message::connect_to(&socket_path(&dir)).map_err(Error::system(format!(
            "connecting to the shim in {}",
            shim_dir.display()
        )))?;
        let name = shim_dir
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let peer = format!("the shim of {name}");
        Connection::open(socket, peer, Some(events)).await.map(Self)
    }

    /// Process id of the shim.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.hello().pid
    }

    /// Program version of the shim.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.hello().version
    }

    /// Whether it is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Builds the container of `plan`, whose slots (from 1 on) are `fds`.
    ///
    /// # Errors
    /// [`Error::Remote`] with the step that failed.
    pub async fn create(&self, plan: &Plan, fds: &[OwnedFd]) -> Result<CreatedContainer, Error> {
        let memory = memfd::sealed_message(&plan.encode_to_vec())
            .map_err(Error::system("writing the plan"))?;
        let mut raw = vec![memory.as_raw_fd()];
        raw.extend(fds.iter().map(|fd| fd.as_raw_fd()));
        let verb = Verb::Create(Create {});
        match self.0.call("Create", verb, &raw, CREATE).await? {
            (Body::Created(created), fds) => {
                let mut fds = fds.into_iter();
                Ok(CreatedContainer {
                    pid: created.pid,
                    start_ticks: created.start_ticks,
                    pidfd: fds.next().ok_or_else(|| self.0.unexpected("Create"))?,
                    oom_score_adj: created.oom_score_adj,
                    oom_score_adj_clamped: created.oom_score_adj_clamped,
                    notes: created.notes,
                    console: fds.next(),
                })
            }
            _ => Err(self.0.unexpected("Create")),
        }
    }

    /// Goes on with a container whose plan holds before its root is made. `state` is
    /// what its hooks are told. Returns the terminal's master, if there is one, and
    /// wishes that were not granted in full.
    ///
    /// # Errors
    /// [`Error::Remote`] with the step that failed.
    pub async fn assemble(&self, state: Vec<u8>) -> Result<(Option<OwnedFd>, Vec<String>), Error> {
        let verb = Verb::Assemble(Assemble { state });
        match self.0.call("Assemble", verb, &[], CREATE).await? {
            (Body::Assembled(assembled), fds) => Ok((fds.into_iter().next(), assembled.notes)),
            _ => Err(self.0.unexpected("Assemble")),
        }
    }

    /// Lets the container's program run; returns when it does, in Unix nanoseconds.
    ///
    /// # Errors
    /// [`Error::Remote`] if it could not be executed.
    pub async fn start(&self) -> Result<i64, Error> {
        self.start_with(Vec::new(), None).await
    }

    /// As [`Shim::start`], with what the container's hooks are told, and who answers for
    /// its system calls.
    ///
    /// # Errors
    /// As [`Shim::start`].
    pub async fn start_with(
        &self,
        state: Vec<u8>,
        listener: Option<Listener<'_>>,
    ) -> Result<i64, Error> {
        let raw: Vec<_> = listener.iter().map(|one| one.socket.as_raw_fd()).collect();
        let verb = Verb::Start(Start {
            state,
            listener: listener.map(|one| one.at(0)),
        });
        match self.0.call("Start", verb, &raw, EXECUTE).await? {
            (Body::Started(started), _) => Ok(started.started_at),
            _ => Err(self.0.unexpected("Start")),
        }
    }

    /// Runs a process in the container; its end comes as [`Event::ExecExited`].
    ///
    /// # Errors
    /// [`Error::Remote`] if it could not be executed.
    pub async fn exec(
        &self,
        exec_id: &str,
        process: ProcessPlan,
        streams: ExecStreams<'_>,
    ) -> Result<i32, Error> {
        let mut raw = Vec::new();
        let mut slot = |stream: Option<BorrowedFd<'_>>| {
            stream.map_or(-1, |fd| {
                raw.push(fd.as_raw_fd());
                i32::try_from(raw.len() - 1).unwrap_or(-1)
            })
        };
        let verb = Verb::Exec(Exec {
            exec_id: exec_id.to_owned(),
            process: Some(process),
            stdin_slot: slot(streams.stdin),
            stdout_slot: slot(streams.stdout),
            stderr_slot: slot(streams.stderr),
            ..Exec::default()
        });
        match self.0.call("Exec", verb, &raw, EXECUTE).await? {
            (Body::ExecStarted(started), _) => Ok(started.pid),
            _ => Err(self.0.unexpected("Exec")),
        }
    }

    /// As [`Shim::exec`], with a terminal of its own, whose master is returned.
    ///
    /// # Errors
    /// [`Error::Remote`] if it could not be executed.
    pub async fn exec_terminal(
        &self,
        exec_id: &str,
        process: ProcessPlan,
    ) -> Result<(i32, OwnedFd), Error> {
        let verb = Verb::Exec(Exec {
            exec_id: exec_id.to_owned(),
            process: Some(ProcessPlan {
                terminal: true,
                ..process
            }),
            ..Exec::default()
        });
        match self.0.call("Exec", verb, &[], EXECUTE).await? {
            (Body::ExecStarted(started), fds) => {
                let master = fds.into_iter().next();
                Ok((
                    started.pid,
                    master.ok_or_else(|| self.0.unexpected("Exec"))?,
                ))
            }
            _ => Err(self.0.unexpected("Exec")),
        }
    }

    /// Kills an exec'd process with all that it started.
    ///
    /// # Errors
    /// [`Error::Remote`] if the kernel refuses.
    pub async fn kill_exec(&self, exec_id: &str) -> Result<(), Error> {
        let verb = Verb::KillExec(KillExec {
            exec_id: exec_id.to_owned(),
        });
        self.0.call("KillExec", verb, &[], SHORT).await.map(drop)
    }

    /// Sends `signal` to the init, or to every process of the container.
    ///
    /// # Errors
    /// [`Error::Remote`] if there is nobody to send it to.
    pub async fn signal(&self, signal: i32, all: bool) -> Result<(), Error> {
        let verb = Verb::Signal(Signal { signal, all });
        self.0.call("Signal", verb, &[], SHORT).await.map(drop)
    }

    /// Asks the container to end and kills it when `grace` is over. Returns at
    /// once; the shim keeps the deadline even if this agent dies.
    ///
    /// # Errors
    /// [`Error::Remote`] if there is no container.
    pub async fn stop(&self, grace: Duration, signal: i32) -> Result<(), Error> {
        let verb = Verb::Stop(Stop {
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
            signal,
        });
        self.0.call("Stop", verb, &[], SHORT).await.map(drop)
    }

    /// Connects pipes to what the container says from now on. Returns the container's
    /// stdin, or the master of its terminal, if it has one.
    ///
    /// # Errors
    /// [`Error::Remote`] if there is no container, or too many are attached.
    pub async fn attach(
        &self,
        stdout: Option<BorrowedFd<'_>>,
        stderr: Option<BorrowedFd<'_>>,
    ) -> Result<Option<OwnedFd>, Error> {
        let mut raw = Vec::new();
        let mut slot = |stream: Option<BorrowedFd<'_>>| {
            stream.map_or(-1, |fd| {
                raw.push(fd.as_raw_fd());
                i32::try_from(raw.len() - 1).unwrap_or(-1)
            })
        };
        let verb = Verb::Attach(Attach {
            stdout_slot: slot(stdout),
            stderr_slot: slot(stderr),
        });
        match self.0.call("Attach", verb, &raw, SHORT).await? {
            (Body::Attached(attached), fds) => Ok((attached.input_slot >= 0)
                .then(|| fds.into_iter().next())
                .flatten()),
            _ => Err(self.0.unexpected("Attach")),
        }
    }

    /// Lets the container's stdin end, when those who are attached to it leave.
    ///
    /// # Errors
    /// [`Error::Remote`] if there is no container.
    pub async fn close_stdin(&self) -> Result<(), Error> {
        let verb = Verb::CloseStdin(CloseStdin {});
        self.0.call("CloseStdin", verb, &[], SHORT).await.map(drop)
    }

    /// What the shim knows.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it hangs.
    pub async fn state(&self) -> Result<StateReply, Error> {
        match self
            .0
            .call("State", Verb::State(State {}), &[], SHORT)
            .await?
        {
            (Body::State(state), _) => Ok(state),
            _ => Err(self.0.unexpected("State")),
        }
    }

    /// From now on the log goes to `file`.
    ///
    /// # Errors
    /// [`Error::Remote`] if there is no container.
    pub async fn reopen_log(&self, file: BorrowedFd<'_>) -> Result<(), Error> {
        let verb = Verb::ReopenLog(ReopenLog {});
        let raw = [file.as_raw_fd()];
        self.0.call("ReopenLog", verb, &raw, SHORT).await.map(drop)
    }
}
