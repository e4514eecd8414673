//! Further processes in a running container.
//!
//! Two clones: the first child enters the container's groups and namespaces, the
//! second is born in its PID namespace as a child of the shim (CLONE_PARENT), so
//! that the shim itself never enters anything.
//!
//! Two clients: the shim of a container, and the role that serves one exec for a
//! container that has no shim any more ([`crate::one_exec`]).

use std::{
    fs::File,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
};

use berth_proto::shim::{Exec, Failure, ProcessPlan};
use berth_sys::{
    clone::{self, Request, Side},
    credentials, message, namespace, process,
    resolve::{self, Scope},
};
use nix::libc;

use crate::{
    child::{self, Word},
    console, init,
    label::{self, Labels},
    listener::{self, Receiver},
    process::{self as steps, Program},
    stdio::{self, Inside, Preserved},
    wire::{Slots, Step as _, invalid, system},
};

/// Longest that entering the container and execve may take.
const LIMIT_MS: i32 = 60_000;

/// Kinds of namespaces that a container can differ in; all are entered at once
/// through its init's pidfd, those that it shares with the shim being no change.
const NAMESPACES: i32 = libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// A process that was started by an exec.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// The master of its terminal, if it has one.
    pub(crate) console: Option<OwnedFd>,
    /// Wishes that the kernel did not grant in full.
    pub(crate) notes: Vec<String>,
}

/// The container of an exec.
pub(crate) struct Target<'a> {
    /// Its init.
    pub(crate) init: &'a OwnedFd,
    /// It has a user namespace of its own.
    pub(crate) user_namespace: bool,
    /// It has clocks of its own.
    pub(crate) time_namespace: bool,
    /// Its own filter.
    pub(crate) seccomp: &'a [u8],
}

/// Where an exec'd process belongs.
pub(crate) struct Groups {
    /// The v2 group in which it is born: entering one through `cgroup.procs` would
    /// wait for a grace period (10 ms).
    pub(crate) own: Option<OwnedFd>,
    /// The `tasks` files of the container's v1 groups.
    pub(crate) tasks: Vec<OwnedFd>,
}

/// Starts the process of `exec` in the container `target`.
pub(crate) fn start(
    exec: &Exec,
    target: &Target<'_>,
    groups: Groups,
    slots: &mut Slots,
) -> Result<Started, Failure> {
    let plan = exec
        .process
        .as_ref()
        .ok_or_else(|| invalid("the exec has no process"))?;
    let seccomp = if plan.inherit_seccomp {
        target.seccomp
    } else {
        &plan.seccomp
    };
    label::check(plan, false)?;
    let receiver = Receiver::take(exec.listener.as_ref(), slots)?;
    let program = Program::prepare(plan)?;
    // A terminal takes their place once it is there.
    let stream =
        |slots: &mut Slots, slot| stdio::given(slots, if plan.terminal { -1 } else { slot });
    let inside = Inside {
        stdin: stream(slots, exec.stdin_slot)?,
        stdout: stream(slots, exec.stdout_slot)?,
        stderr: stream(slots, exec.stderr_slot)?,
    };
    let preserved = Preserved::take(slots, &exec.preserve_slots)?;
    let (ours, theirs) = message::pair().step("clone", || "making the handshake".to_owned())?;
    process::assert_single_threaded().step("clone", || "counting threads".to_owned())?;
    let affinity = Affinity::change(&plan.cpus_before)?;
    // SAFETY: the line above proved that there is one thread.
    #[allow(unsafe_code, reason = "cloning is what this file is for")]
    let side = unsafe {
        clone::clone3(Request {
            flags: 0,
            cgroup: groups.own.as_ref().map(OwnedFd::as_fd),
        })
    };
    if !matches!(side, Ok(Side::Child)) {
        affinity.restore()?;
    }
    match side.step("clone", || "cloning for an exec".to_owned())? {
        Side::Child => {
            drop(ours);
            // Out of the way of the preserved descriptors' numbers.
            let theirs = match process::above(theirs.as_fd(), preserved.end()) {
                Ok(moved) => moved,
                Err(error) => {
                    let failure = system("clone", "moving the handshake", &error);
                    child::give_up(&theirs, &failure)
                }
            };
            let newborn = Newborn {
                plan,
                seccomp,
                program: &program,
                inside,
                preserved,
            };
            let failure = newborn.enter_and_clone(target, groups.tasks, &theirs);
            child::give_up(&theirs, &failure)
        }
        Side::Parent { pidfd: first, .. } => {
            drop((theirs, inside, preserved));
            let started = follow(&ours, receiver.as_ref());
            // The first child ends by itself; on failure it is made to.
            if started.is_err() {
                drop(process::pidfd_send_signal(&first, libc::SIGKILL));
            }
            process::wait_pidfd(&first).step("clone", || "reaping the helper".to_owned())?;
            started
        }
    }
}

/// The CPUs that the caller had, where a clone begins its life on others.
struct Affinity(Option<Vec<u64>>);

impl Affinity {
    fn change(wanted: &[u64]) -> Result<Self, Failure> {
        if wanted.is_empty() {
            return Ok(Self(None));
        }
        let what = || "the CPUs of an exec before it enters the container".to_owned();
        let before = process::affinity().step("exec", what)?;
        process::set_affinity(wanted).step("exec", what)?;
        Ok(Self(Some(before)))
    }

    fn restore(self) -> Result<(), Failure> {
        match self.0 {
            Some(before) => {
                process::set_affinity(&before).step("exec", || "going back to all CPUs".to_owned())
            }
            None => Ok(()),
        }
    }
}

/// The parent's half: the pidfd comes first, "go" is said, then the handshake ends.
fn follow(handshake: &OwnedFd, receiver: Option<&Receiver>) -> Result<Started, Failure> {
    let waiting = || "waiting for the exec'd process".to_owned();
    let pidfd = match child::listen(handshake, LIMIT_MS).step("exec", waiting)? {
        Word::Ready(fds, _) => fds
            .into_iter()
            .next()
            .ok_or_else(|| invalid("no pidfd came back"))?,
        Word::Failed(failure) => return Err(failure),
        Word::End | Word::Listener(_) => return Err(child::died("exec")),
    };
    let pid = process::pid_of(&pidfd).step("exec", || "reading the pid of an exec".to_owned())?;
    child::say_go(handshake).step("exec", || "waking the exec'd process".to_owned())?;
    let mut console = None;
    let mut notes = Vec::new();
    let outcome = loop {
        match child::listen(handshake, LIMIT_MS).step("exec", waiting) {
            Ok(Word::Ready(fds, said)) => {
                console = fds.into_iter().next();
                notes = said;
            }
            Ok(Word::Listener(number)) => {
                if let Err(failure) = listener::pass_on(receiver, (pid, &pidfd), number, handshake)
                {
                    break failure;
                }
            }
            Ok(Word::End) if child::has_executed(pid).unwrap_or(false) => {
                return Ok(Started {
                    pid,
                    pidfd,
                    console,
                    notes,
                });
            }
            Ok(Word::Failed(failure)) | Err(failure) => break failure,
            Ok(Word::End) => break child::died("exec"),
        }
    };
    drop(process::pidfd_send_signal(&pidfd, libc::SIGKILL));
    process::wait_pidfd(&pidfd).step("exec", || "reaping a failed exec".to_owned())?;
    Err(outcome)
}

/// What the process is made of, on the children's side.
struct Newborn<'exec> {
    plan: &'exec ProcessPlan,
    seccomp: &'exec [u8],
    program: &'exec Program,
    inside: Inside,
    preserved: Preserved,
}

impl Newborn<'_> {
    /// The first child: enters everything and makes the second.
    fn enter_and_clone(
        self,
        target: &Target<'_>,
        tasks: Vec<OwnedFd>,
        handshake: &OwnedFd,
    ) -> Failure {
        let entered = (|| -> Result<Side, Failure> {
            for file in tasks {
                init::join::move_self(file)
                    .step("cgroup", || "entering the container's groups".to_owned())?;
            }
            process::reset_signals().step("clone", || "resetting signals".to_owned())?;
            credentials::own_session_keyring().step("clone", || "a session keyring".to_owned())?;
            // Entering one's own user namespace again is EINVAL.
            let users = if target.user_namespace {
                libc::CLONE_NEWUSER
            } else {
                0
            };
            let time = if target.time_namespace {
                libc::CLONE_NEWTIME
            } else {
                0
            };
            namespace::setns(target.init.as_fd(), NAMESPACES | users | time)
                .step("clone", || "entering the container's namespaces".to_owned())?;
            if target.user_namespace {
                // What is made from here on, such as a terminal, must belong to somebody.
                credentials::set_ids(0, 0, &[])
                    .step("clone", || "becoming root of the user namespace".to_owned())?;
            }
            // The shim's own streams are the agent's, too.
            init::wire_streams(Some(self.inside), None, (0, 0))?;
            self.preserved
                .close_others(&[handshake.as_raw_fd()])
                .step("clone", || "closing the shim's descriptors".to_owned())?;
            let request = Request {
                flags: libc::CLONE_PARENT as u64,
                cgroup: None,
            };
            // SAFETY: this process is a clone of a single-threaded one and has made no thread.
            #[allow(unsafe_code, reason = "cloning is what this file is for")]
            let side = unsafe { clone::clone3(request) };
            side.step("clone", || "cloning in the container".to_owned())
        })();
        match entered {
            Ok(Side::Child) => {
                // The shim must hold the pidfd before this process can end.
                child::await_go(handshake);
                match prepare(self.plan, handshake) {
                    Ok(labels) => {
                        let kept = (&self.preserved, labels);
                        init::finish(self.plan, self.seccomp, self.program, kept, handshake)
                    }
                    Err(failure) => failure,
                }
            }
            Ok(Side::Parent { pidfd, .. }) => {
                let told = child::say_ready(handshake, &[pidfd.as_raw_fd()], &[]);
                process::exit_now(i32::from(told.is_err()))
            }
            Err(failure) => failure,
        }
    }
}

fn prepare(plan: &ProcessPlan, handshake: &OwnedFd) -> Result<Labels, Failure> {
    process::setsid().step("exec", || "starting a session".to_owned())?;
    if !plan.cpus_after.is_empty() {
        process::set_affinity(&plan.cpus_after)
            .step("exec", || "the CPUs of an exec".to_owned())?;
    }
    let notes = steps::apply_limits(plan)?;
    let root = File::open("/").step("exec", || "opening the root".to_owned())?;
    let cwd = resolve::open(
        &root,
        Path::new(std::ffi::OsStr::new(
            std::str::from_utf8(&plan.cwd)
                .map_err(|error| invalid(format!("working directory: {error}")))?,
        )),
        libc::O_PATH | libc::O_DIRECTORY,
        0,
        Scope::InRoot,
    )
    .step("exec", || {
        format!("working directory {}", String::from_utf8_lossy(&plan.cwd))
    })?;
    let labels = Labels::open(plan, &root)?;
    process::fchdir(&cwd).step("exec", || "entering the working directory".to_owned())?;
    let masters = if plan.terminal {
        let console = console::open_pair(&root.into())?;
        let size = (plan.terminal_rows, plan.terminal_columns);
        init::wire_streams(None, Some(console), size)?
    } else {
        Vec::new()
    };
    if !masters.is_empty() || !notes.is_empty() {
        child::say_ready(handshake, &child::raw(&masters), &notes)
            .step("exec", || "passing the terminal".to_owned())?;
    }
    Ok(labels)
}
