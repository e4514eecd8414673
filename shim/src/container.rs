//! The one container of this shim and its verbs.
//!
//! ```text
//!   Idle ──create──▶ Created ──start──▶ Running ──▶ (end)
//!                        └────────────────────────────▲
//! ```
//! At its end the exit record is on disk, everybody is told, and the shim exits:
//! the record is what remains, so that no process has to.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use berth_cgroup::{Dir, Group};
use berth_proto::shim::{
    Assembled, Attach, Attached, Created, Done, Exec, ExecExited, ExecStarted, Exited, Failure,
    Plan, Start, Started, StateReply, response::Body, state_reply::Phase,
};
use berth_sys::{memfd, process};
use nix::libc;
use prost::Message as _;

use crate::{
    exec, exit,
    listener::Receiver,
    log::Log,
    spawn::{self, Init},
    stdio::Turn,
    time,
    wire::{Answer, Slots, Step as _, complain, invalid, system, wrong_state},
};

/// Largest plan that is taken.
const PLAN_LIMIT: u64 = 16 * 1024 * 1024;
/// Longest wait for what is left of a container whose init has ended.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for the last output when something outside the container's
/// groups still holds its pipes.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

pub(crate) struct Container {
    id: String,
    dir: OwnedFd,
    live: Option<Live>,
}

/// What exists from Create on.
struct Live {
    /// The container is its caller's: no log, no record, and nothing to do once it runs.
    detached: bool,
    init: Init,
    group: Group,
    oom: Option<OwnedFd>,
    oom_kills: u64,
    log: Log,
    terminal: bool,
    user_namespace: bool,
    time_namespace: bool,
    /// The container's own filter, for its execs.
    seccomp: Vec<u8>,
    stop_signal: i32,
    stop: Option<Stop>,
    started_at: i64,
    start_failure: Option<Failure>,
    execs: Vec<Running>,
}

struct Stop {
    kill_at: Instant,
    killed: bool,
}

struct Running {
    id: String,
    started: exec::Started,
}

/// What a descriptor in the poll set means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Output(usize),
    Oom,
    /// A detached init has ended before it was started.
    Init,
}

impl Container {
    pub(crate) fn new(id: &str, dir: OwnedFd) -> Self {
        Self {
            id: id.to_owned(),
            dir,
            live: None,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.live.is_none()
    }

    // ------------------------------------------------------------ verbs

    pub(crate) fn create(&mut self, mut slots: Slots) -> Result<Answer, Failure> {
        if self.live.is_some() {
            return Err(wrong_state("the container is created already"));
        }
        let memory = slots.take(0)?;
        let bytes = memfd::read_sealed_message(&memory, PLAN_LIMIT)
            .step("plan", || "reading the plan".to_owned())?;
        let plan = Plan::decode(bytes.as_slice())
            .map_err(|error| invalid(format!("the plan does not decode: {error}")))?;
        drop(bytes);

        let mut init = spawn::spawn(&plan, &mut slots)?;
        let dirs = plan.cgroup.iter().flat_map(|cgroup| &cgroup.dirs);
        let mut group_dirs = Vec::new();
        for dir in dirs {
            group_dirs.push(Dir {
                controllers: dir.controllers.clone(),
                v2: dir.v2,
                fd: slots.take(dir.slot)?,
            });
        }
        let group = Group::from_dirs(group_dirs);
        // Without memory accounting there is nothing to watch.
        let oom = if plan.detached {
            None
        } else {
            group.oom_watch().unwrap_or_else(|error| {
                complain(&format!("no OOM events for {}: {error}", self.id));
                None
            })
        };
        let io_plan = plan.io.unwrap_or_default();
        let log_file = u32::try_from(io_plan.log_slot)
            .ok()
            .map(|slot| slots.take(slot))
            .transpose()?;
        let answer = Answer {
            body: Body::Created(Created {
                pid: init.pid,
                start_ticks: init.start_ticks,
                oom_score_adj: init.oom_score_adj,
                oom_score_adj_clamped: init.oom_score_adj_clamped,
                notes: std::mem::take(&mut init.notes),
            }),
            fds: [init
                .pidfd
                .try_clone()
                .step("clone", || "duplicating the pidfd".to_owned())?]
            .into_iter()
            .chain(init.console.take())
            .collect(),
        };
        self.live = Some(Live {
            detached: plan.detached,
            init,
            oom,
            oom_kills: group.oom_kill_count().unwrap_or(0),
            group,
            log: Log::new(log_file, io_plan.max_line, plan.terminal),
            terminal: plan.terminal,
            user_namespace: spawn::has_users(&plan),
            time_namespace: spawn::has_time(&plan),
            seccomp: plan
                .process
                .map(|process| process.seccomp)
                .unwrap_or_default(),
            stop_signal: plan.stop_signal,
            stop: None,
            started_at: 0,
            start_failure: None,
            execs: Vec::new(),
        });
        Ok(answer)
    }

    pub(crate) fn assemble(&mut self, state: &[u8]) -> Result<Answer, Failure> {
        let live = self.created()?;
        if !live.init.held {
            return Err(wrong_state("the container does not wait for it"));
        }
        if let Err(failure) = live.init.assemble(state) {
            live.fail(&failure);
            return Err(failure);
        }
        Ok(Answer {
            body: Body::Assembled(Assembled {
                notes: std::mem::take(&mut live.init.notes),
            }),
            fds: live.init.console.take().into_iter().collect(),
        })
    }

    pub(crate) fn start(&mut self, start: &Start, mut slots: Slots) -> Result<Answer, Failure> {
        let live = self.created()?;
        if live.init.held {
            return Err(wrong_state("the container is still being created"));
        }
        if live.started_at != 0 || live.start_failure.is_some() {
            return Err(wrong_state("the container was started already"));
        }
        let receiver = Receiver::take(start.listener.as_ref(), &mut slots)?;
        if let Err(failure) = live.init.execute(&start.state, receiver.as_ref()) {
            live.fail(&failure);
            return Err(failure);
        }
        live.started_at = time::now_ns();
        Ok(Body::Started(Started {
            started_at: live.started_at,
        })
        .into())
    }

    pub(crate) fn exec(&mut self, exec: &Exec, mut slots: Slots) -> Result<Answer, Failure> {
        let live = self.created()?;
        if live.started_at == 0 {
            return Err(wrong_state("the container is not running"));
        }
        if live.execs.iter().any(|running| running.id == exec.exec_id) {
            return Err(invalid(format!("exec {} exists already", exec.exec_id)));
        }
        if let Some(other) = live.init.other() {
            let started = other.exec(exec, &mut slots)?;
            return Ok(live.began(exec, started));
        }
        let opening = || "opening the container's groups".to_owned();
        let own = live
            .group
            .exec_group(&exec.exec_id)
            .step("cgroup", opening)?;
        let groups = exec::Groups {
            own: own
                .map(|group| group.fd().try_clone())
                .transpose()
                .step("cgroup", opening)?,
            tasks: live.group.tasks_files().step("cgroup", opening)?,
        };
        let target = exec::Target {
            init: &live.init.pidfd,
            user_namespace: live.user_namespace,
            time_namespace: live.time_namespace,
            seccomp: &live.seccomp,
        };
        let started = exec::start(exec, &target, groups, &mut slots);
        match started {
            Ok(started) => Ok(live.began(exec, started)),
            Err(failure) => {
                live.group.forget_exec(&exec.exec_id);
                Err(failure)
            }
        }
    }

    pub(crate) fn kill_exec(&mut self, exec_id: &str) -> Result<Answer, Failure> {
        let live = self.created()?;
        if let Some(running) = live.execs.iter().find(|running| running.id == exec_id) {
            live.group
                .kill_exec(exec_id, running.started.pid)
                .step("kill", || format!("killing exec {exec_id}"))?;
        }
        Ok(Body::Done(Done {}).into())
    }

    pub(crate) fn signal(&mut self, signal: i32, all: bool) -> Result<Answer, Failure> {
        let live = self.created()?;
        if all {
            live.group
                .signal_all(signal)
                .step("signal", || format!("signal {signal} to every process"))?;
        } else {
            process::pidfd_send_signal(&live.init.pidfd, signal)
                .step("signal", || format!("signal {signal}"))?;
        }
        Ok(Body::Done(Done {}).into())
    }

    pub(crate) fn stop(&mut self, grace_ms: u64, signal: i32) -> Result<Answer, Failure> {
        let live = self.created()?;
        let kill_at = Instant::now() + Duration::from_millis(grace_ms);
        match &mut live.stop {
            Some(stop) => stop.kill_at = stop.kill_at.min(kill_at),
            None => {
                live.stop = Some(Stop {
                    kill_at,
                    killed: false,
                });
                let signal = match signal {
                    0 => live.stop_signal,
                    given => given,
                };
                // An init that has not executed yet would not react to it.
                if live.started_at != 0 && grace_ms > 0 {
                    process::pidfd_send_signal(&live.init.pidfd, signal)
                        .step("signal", || format!("stop signal {signal}"))?;
                }
            }
        }
        if live.started_at == 0 {
            live.stop = Some(Stop {
                kill_at: Instant::now(),
                killed: false,
            });
        }
        Ok(Body::Done(Done {}).into())
    }

    pub(crate) fn reopen_log(&mut self, mut slots: Slots) -> Result<Answer, Failure> {
        let live = self.created()?;
        let file = slots.take(0)?;
        // What the container had written before the call belongs to the old file.
        live.pump_all();
        live.log.reopen(file);
        Ok(Body::Done(Done {}).into())
    }

    /// Connects a client to the container's streams from now on.
    pub(crate) fn attach(&mut self, attach: &Attach, mut slots: Slots) -> Result<Answer, Failure> {
        let live = self.created()?;
        let mut writer = |slot: i32| u32::try_from(slot).ok().map(|slot| slots.take(slot));
        let stdout = writer(attach.stdout_slot).transpose()?;
        let stderr = writer(attach.stderr_slot).transpose()?;
        let outside = &live.init.outside;
        let master = outside.outputs.first().filter(|_| live.terminal);
        let input = match (master, &outside.stdin) {
            (Some(master), _) => Some(master.fd()),
            (None, stdin) => stdin.as_ref().map(OwnedFd::as_fd),
        };
        let input = input
            .map(|input| input.try_clone_to_owned())
            .transpose()
            .step("attach", || "duplicating the container's stdin".to_owned())?;
        // What was written before belongs to the log alone.
        live.pump_all();
        live.log
            .audience
            .add(stdout, stderr)
            .step("attach", || "adding a client".to_owned())?;
        Ok(Answer {
            body: Body::Attached(Attached {
                input_slot: if input.is_some() { 0 } else { -1 },
            }),
            fds: input.into_iter().collect(),
        })
    }

    /// The container's stdin ends when all who were attached to it have left.
    pub(crate) fn close_stdin(&mut self) -> Result<Answer, Failure> {
        self.created()?.init.outside.stdin = None;
        Ok(Body::Done(Done {}).into())
    }

    pub(crate) fn state(&self) -> Answer {
        let reply = match &self.live {
            None => StateReply::default(),
            Some(live) => StateReply {
                phase: if live.started_at == 0 {
                    Phase::Created.into()
                } else {
                    Phase::Running.into()
                },
                pid: live.init.pid,
                start_ticks: live.init.start_ticks,
                started_at: live.started_at,
                exited: None,
                oom_kills: live.group.oom_kill_count().unwrap_or(live.oom_kills),
                log_bytes_lost: live.log.lost,
                execs: u32::try_from(live.execs.len()).unwrap_or(u32::MAX),
            },
        };
        Body::State(reply).into()
    }

    fn created(&mut self) -> Result<&mut Live, Failure> {
        self.live
            .as_mut()
            .ok_or_else(|| wrong_state("there is no container yet"))
    }

    // ------------------------------------------------------------ events

    /// Whether the container goes on without its shim: it was started, or could not be.
    pub(crate) fn has_left(&self) -> bool {
        self.live.as_ref().is_some_and(|live| {
            live.detached && (live.started_at != 0 || live.start_failure.is_some())
        })
    }

    /// Descriptors to wait on.
    pub(crate) fn sources(&self) -> Vec<(BorrowedFd<'_>, Source)> {
        let Some(live) = &self.live else {
            return Vec::new();
        };
        let outputs = live.init.outside.outputs.iter().enumerate();
        outputs
            .map(|(index, output)| (output.fd(), Source::Output(index)))
            .chain(live.oom.iter().map(|fd| (fd.as_fd(), Source::Oom)))
            // The end of a child comes as a signal; this one is not ours.
            .chain(
                live.detached
                    .then(|| (live.init.pidfd.as_fd(), Source::Init)),
            )
            .collect()
    }

    /// When something has to happen without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let stop = self.live.as_ref()?.stop.as_ref()?;
        (!stop.killed).then_some(stop.kill_at)
    }

    /// Reads one stream; `true` if it may have more.
    pub(crate) fn output_ready(&mut self, index: usize) -> bool {
        let Some(live) = &mut self.live else {
            return false;
        };
        let Some(output) = live.init.outside.outputs.get_mut(index) else {
            return false;
        };
        match output.pump(&mut live.log) {
            Turn::More => true,
            Turn::Empty => false,
            Turn::End => {
                live.init.outside.outputs.remove(index);
                false
            }
        }
    }

    /// Whether a stream holds the buffers of a busy time.
    pub(crate) fn is_busy(&self) -> bool {
        self.live.as_ref().is_some_and(|live| {
            live.init
                .outside
                .outputs
                .iter()
                .any(crate::stdio::Output::is_busy)
        })
    }

    /// Gives back the memory of a busy time.
    pub(crate) fn idle(&mut self) {
        if let Some(live) = &mut self.live {
            live.log.idle();
            for output in &mut live.init.outside.outputs {
                output.idle();
            }
        }
    }

    /// Returns the new count if processes were killed for lack of memory.
    pub(crate) fn oom_ready(&mut self) -> Option<u64> {
        let live = self.live.as_mut()?;
        if let Some(fd) = &live.oom {
            // Only the wake-up is of interest; the count comes from the group.
            let mut event = [0_u8; 4096];
            if nix::unistd::read(fd, &mut event).is_ok_and(|count| count == 0) {
                live.oom = None;
            }
        }
        let count = live.group.oom_kill_count().unwrap_or(live.oom_kills);
        let more = count > live.oom_kills;
        live.oom_kills = live.oom_kills.max(count);
        more.then_some(count)
    }

    /// The grace is over.
    pub(crate) fn deadline_passed(&mut self) {
        let Some(live) = &mut self.live else {
            return;
        };
        if let Some(stop) = &mut live.stop {
            stop.killed = true;
        }
        // First the init: if killing the rest takes long, it is on its way.
        drop(process::pidfd_send_signal(&live.init.pidfd, libc::SIGKILL));
        if let Err(error) = live.group.kill_all(KILL_LIMIT) {
            complain(&format!("killing {}: {error}", self.id));
        }
    }

    /// Reaps exec'd processes that have ended.
    pub(crate) fn reap_execs(&mut self) -> Vec<Body> {
        let Some(live) = &mut self.live else {
            return Vec::new();
        };
        let mut ended = Vec::new();
        live.execs.retain(|running| {
            match process::try_wait_pidfd(&running.started.pidfd) {
                Ok(None) => true,
                Ok(Some(ending)) => {
                    ended.push((running.id.clone(), ending.code(), ending.signal()));
                    false
                }
                // Somebody else reaped it, which nobody does; its code is not known.
                Err(_) => {
                    ended.push((running.id.clone(), 255, 0));
                    false
                }
            }
        });
        ended
            .into_iter()
            .map(|(exec_id, exit_code, signal)| {
                live.group.forget_exec(&exec_id);
                Body::ExecExited(ExecExited {
                    exec_id,
                    exit_code,
                    signal,
                })
            })
            .collect()
    }

    /// If the init has ended: kills the rest, saves the last output, writes the
    /// record. The caller tells and exits.
    pub(crate) fn reap_init(&mut self) -> Option<Body> {
        let live = self.live.as_mut().filter(|live| !live.detached)?;
        let ending = match process::try_wait_pidfd(&live.init.pidfd) {
            Ok(None) => return None,
            Ok(Some(ending)) => ending,
            Err(error) => {
                complain(&format!("waiting for the init of {}: {error}", self.id));
                process::Ending::Exited(255)
            }
        };
        let finished_at = time::now_ns().max(live.started_at);
        // With a PID namespace of its own the kernel has done this; with a shared
        // one the container's other processes are still there.
        if let Err(error) = live.group.kill_all(KILL_LIMIT) {
            complain(&format!("killing what is left of {}: {error}", self.id));
        }
        live.drain();
        live.log.finish();
        if let Some(other) = live.init.other()
            && let Err(failure) = other.delete()
        {
            complain(&format!("{}: {}", self.id, failure.detail));
        }
        let kills = live.group.oom_kill_count().unwrap_or(live.oom_kills);
        let exited = Exited {
            id: self.id.clone(),
            exit_code: ending.code(),
            signal: ending.signal(),
            // A child of the container may have been killed too; it is the init's
            // own death that is asked for, also when a shell passed it on as 137.
            oom_killed: kills > 0 && ending.code() == 128 + libc::SIGKILL,
            finished_at,
            started_at: live.started_at,
            start_failure: live.start_failure.clone(),
            memory_peak: live.group.memory_peak().unwrap_or(0),
        };
        if let Err(error) = exit::write_record(&self.dir, &exited) {
            let failure = system("record", "exit record", &error);
            complain(&format!("{}: {} ({error})", self.id, failure.detail));
        }
        Some(Body::Exited(exited))
    }
}

impl Live {
    /// Keeps an exec that runs; what its caller gets.
    fn began(&mut self, exec: &Exec, mut started: exec::Started) -> Answer {
        let answer = Answer {
            body: Body::ExecStarted(ExecStarted {
                pid: started.pid,
                notes: std::mem::take(&mut started.notes),
            }),
            fds: started.console.take().into_iter().collect(),
        };
        self.execs.push(Running {
            id: exec.exec_id.clone(),
            started,
        });
        answer
    }

    fn fail(&mut self, failure: &Failure) {
        self.start_failure = Some(failure.clone());
        // The init has given up, or hangs in the kernel; either way it must go.
        drop(process::pidfd_send_signal(&self.init.pidfd, libc::SIGKILL));
    }

    fn pump_all(&mut self) {
        for output in &mut self.init.outside.outputs {
            output.pump(&mut self.log);
        }
    }

    /// Reads everything that was written before the end.
    fn drain(&mut self) {
        // The container's own writers are dead, so this ends by itself unless a
        // stranger holds a pipe or the terminal.
        let until = Instant::now() + DRAIN_LIMIT;
        self.init.outside.stdin = None;
        while !self.init.outside.outputs.is_empty() && Instant::now() < until {
            let log = &mut self.log;
            let mut empty = true;
            self.init
                .outside
                .outputs
                .retain_mut(|output| match output.pump(log) {
                    Turn::More => {
                        empty = false;
                        true
                    }
                    Turn::Empty => true,
                    Turn::End => {
                        empty = false;
                        false
                    }
                });
            if empty && self.terminal {
                // A master without users says EIO; one that is quiet has one left.
                break;
            }
            if empty {
                let wait = process::wait_readable(self.init.outside.outputs[0].fd(), 10);
                if wait.is_err() {
                    break;
                }
            }
        }
    }
}

/// Whether an error only says "later".
pub(crate) fn is_later(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
