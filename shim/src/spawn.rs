//! Cloning the container's init and the parent's half of its birth.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use berth_proto::shim::{
    Failure, IdMapping, NamespacePlan, NamespaceTarget, OtherRuntime, Plan, namespace_target::Mode,
};
use berth_sys::{
    clone::{self, Request, Side},
    credentials, message, namespace, process,
};
use nix::libc;

use crate::{
    child::{self, Word},
    init, label,
    listener::{self, Receiver},
    log::Stream,
    other::Other,
    stdio::{self, Inside, Output, Outside},
    wire::{Slots, Step as _, invalid},
};

/// Longest that init may take to set itself up. Mounting may touch storage that
/// hangs; the agent's own deadline is usually shorter.
const SETUP_LIMIT_MS: i32 = 120_000;
/// Longest that execve may take; it reads the program from storage.
const EXECUTE_LIMIT_MS: i32 = 60_000;

/// An init that has set itself up and waits.
pub(crate) struct Init {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) start_ticks: u64,
    pub(crate) oom_score_adj: i32,
    pub(crate) oom_score_adj_clamped: bool,
    pub(crate) outside: Outside,
    /// The terminal's master, for whoever the container belongs to.
    pub(crate) console: Option<OwnedFd>,
    /// Wishes that the kernel did not grant in full.
    pub(crate) notes: Vec<String>,
    /// It is a child of the shim's parent.
    detached: bool,
    /// It waits before its root is made.
    pub(crate) held: bool,
    birth: Birth,
}

/// Who brings the init to its program.
enum Birth {
    /// The init itself, told over this socket.
    Own(OwnedFd),
    /// Another runtime.
    Other(Other),
}

/// The mode of a namespace in the plan; absent means the host's.
pub(crate) fn mode(target: Option<&NamespaceTarget>) -> Mode {
    target.map_or(Mode::Host, NamespaceTarget::mode)
}

fn mode_of(plan: &Plan, which: impl Fn(&NamespacePlan) -> Option<&NamespaceTarget>) -> Mode {
    mode(plan.namespaces.as_ref().and_then(which))
}

/// Whether a user namespace is made for the container.
pub(crate) fn has_new_users(plan: &Plan) -> bool {
    mode_of(plan, |all| all.user.as_ref()) == Mode::New
}

/// Whether the container is in another user namespace than the shim.
pub(crate) fn has_users(plan: &Plan) -> bool {
    mode_of(plan, |all| all.user.as_ref()) != Mode::Host
}

/// Whether its clocks are not the node's.
pub(crate) fn has_time(plan: &Plan) -> bool {
    mode_of(plan, |all| all.time.as_ref()) != Mode::Host
}

/// Whether the container lives among mounts that somebody else has made.
pub(crate) fn joins_mounts(plan: &Plan) -> bool {
    mode_of(plan, |all| all.mount.as_ref()) == Mode::Join
}

/// Whether the init is cloned by a helper that has entered a user or time namespace:
/// the shim could not leave it again.
pub(crate) fn has_helper(plan: &Plan) -> bool {
    let joins = |target: Option<&NamespaceTarget>| mode(target) == Mode::Join;
    plan.namespaces
        .as_ref()
        .is_some_and(|all| joins(all.user.as_ref()) || joins(all.time.as_ref()))
}

/// Whether the overlay of the root must be mounted before a user namespace is entered:
/// its markers are for the node's root alone.
fn makes_root_outside(plan: &Plan) -> bool {
    let layers = plan
        .root
        .as_ref()
        .is_some_and(|root| !root.layers.is_empty());
    layers && mode_of(plan, |all| all.user.as_ref()) == Mode::Join
}

/// Makes a time namespace for the children of the shim: its clocks can only be set
/// while nobody is in it (time_namespaces(7)).
fn new_time(namespaces: &NamespacePlan) -> Result<(), Failure> {
    namespace::unshare(libc::CLONE_NEWTIME)
        .step("clone", || "making a time namespace".to_owned())?;
    for offset in &namespaces.time_offsets {
        let line = format!("{} {} {}", offset.clock, offset.seconds, offset.nanoseconds);
        fs::write("/proc/self/timens_offsets", &line)
            .step("clone", || format!("setting the clock {line}"))?;
    }
    Ok(())
}

/// Clones the init of `plan` and waits until it is ready to execute.
pub(crate) fn spawn(plan: &Plan, slots: &mut Slots) -> Result<Init, Failure> {
    let namespaces = plan
        .namespaces
        .as_ref()
        .ok_or_else(|| invalid("the plan has no namespaces"))?;
    if let Some(other) = &plan.other {
        return spawn_by_other(plan, other, slots);
    }
    if let Some(process) = &plan.process {
        label::check(process, plan.mount_labels)?;
    }
    let io_plan = plan.io.unwrap_or_default();
    let (inside, outside) = if plan.terminal {
        (None, Outside::default())
    } else if let Some(given) = io_plan.given {
        let inside = Inside {
            stdin: stdio::given(slots, given.stdin)?,
            stdout: stdio::given(slots, given.stdout)?,
            stderr: stdio::given(slots, given.stderr)?,
        };
        (Some(inside), Outside::default())
    } else {
        let (inside, outside) =
            stdio::pipes(io_plan.stdin).step("clone", || "making pipes".to_owned())?;
        (Some(inside), outside)
    };
    let (ours, theirs) = message::pair().step("clone", || "making the handshake".to_owned())?;

    // A process can never change its own PID namespace, only its children's.
    if mode(namespaces.pid.as_ref()) == Mode::Join {
        let slot = namespaces.pid.map(|target| target.slot).unwrap_or_default();
        namespace::setns(slots.get(slot)?, libc::CLONE_NEWPID)
            .step("clone", || "joining the pod's PID namespace".to_owned())?;
    }
    let mut flags = 0;
    if !joins_mounts(plan) {
        flags |= libc::CLONE_NEWNS as u64;
    }
    let parent = if plan.detached {
        libc::CLONE_PARENT as u64
    } else {
        0
    };
    for (target, flag) in [
        (&namespaces.pid, libc::CLONE_NEWPID),
        (&namespaces.net, libc::CLONE_NEWNET),
        (&namespaces.ipc, libc::CLONE_NEWIPC),
        (&namespaces.uts, libc::CLONE_NEWUTS),
    ] {
        if mode(target.as_ref()) == Mode::New {
            flags |= flag as u64;
        }
    }
    if has_new_users(plan) {
        flags |= libc::CLONE_NEWUSER as u64;
        if !has_helper(plan) {
            join_outside(namespaces, slots)?;
        }
    }
    if mode(namespaces.time.as_ref()) == Mode::New {
        new_time(namespaces)?;
    }
    process::assert_single_threaded().step("clone", || "counting threads".to_owned())?;
    // On v2 the child is born in its group: moving it later waits for a grace period.
    let group = plan
        .cgroup
        .iter()
        .flat_map(|cgroup| &cgroup.dirs)
        .find(|dir| dir.v2)
        .map(|dir| dir.slot);
    let cgroup = group.map(|slot| slots.get(slot)).transpose()?;
    let helped = has_helper(plan);
    let request = Request {
        flags: match (helped, makes_root_outside(plan)) {
            (false, _) => flags | parent,
            (true, false) => parent,
            // What is mounted on the way stays with the helper.
            (true, true) => parent | libc::CLONE_NEWNS as u64,
        },
        cgroup,
    };
    // SAFETY: the line above proved that there is one thread.
    #[allow(unsafe_code, reason = "cloning is what this file is for")]
    let side = unsafe { clone::clone3(request) };
    match side.step("clone", || "cloning the init".to_owned())? {
        Side::Child => {
            // With the parent's end open here too, a dead shim would not be noticed.
            drop((ours, outside));
            if helped {
                help(plan, namespaces, flags, slots, inside, &theirs)
            }
            init::run(plan, slots, inside, &theirs, None)
        }
        Side::Parent { pid, pidfd } => {
            drop((theirs, inside));
            let (pid, pidfd) = if helped {
                let cloned = await_cloned(&ours);
                if !plan.detached {
                    if cloned.is_err() {
                        // It has given up by itself, or hangs in the kernel.
                        drop(process::pidfd_send_signal(&pidfd, libc::SIGKILL));
                    }
                    process::wait_pidfd(&pidfd)
                        .step("clone", || "reaping the helper".to_owned())?;
                }
                cloned?
            } else {
                (pid, pidfd)
            };
            let new_users = has_new_users(plan);
            let mapped = if new_users {
                write_maps(pid, &namespaces.uid_mappings, &namespaces.gid_mappings)
            } else {
                Ok(())
            };
            let woken = mapped.and_then(|()| {
                if new_users || helped {
                    child::say_go(&ours).step("clone", || "waking the init".to_owned())?;
                }
                Ok(())
            });
            let ready = woken.and_then(|()| await_ready(&ours));
            let ready = ready.and_then(|(fds, notes)| {
                let start_ticks = process::start_ticks(pid)
                    .step("clone", || "reading the init's start time".to_owned())?;
                Ok((fds, notes, start_ticks))
            });
            let (fds, notes, start_ticks) = match ready {
                Ok(ready) => ready,
                Err(failure) => {
                    abandon(&pidfd);
                    return Err(failure);
                }
            };
            let wanted = plan.process.as_ref().and_then(|p| p.oom_score_adj);
            let (oom_score_adj, oom_score_adj_clamped) = set_oom_score_adj(pid, wanted)
                .step("clone", || "setting oom_score_adj".to_owned())?;
            let mut init = Init {
                pid,
                pidfd,
                start_ticks,
                oom_score_adj,
                oom_score_adj_clamped,
                outside,
                console: None,
                notes,
                detached: plan.detached,
                held: plan.hold,
                birth: Birth::Own(ours),
            };
            init.take_terminal(fds)?;
            Ok(init)
        }
    }
}

/// Has another runtime create the container.
fn spawn_by_other(plan: &Plan, given: &OtherRuntime, slots: &mut Slots) -> Result<Init, Failure> {
    let other = Other::prepare(given, plan, slots)?;
    let (inside, outside) = if plan.terminal {
        (None, Outside::default())
    } else {
        let (inside, outside) = stdio::pipes(plan.io.unwrap_or_default().stdin)
            .step("clone", || "making pipes".to_owned())?;
        (Some(inside), outside)
    };
    let created = other.create(inside).and_then(|left| {
        let read = || "reading what the runtime has made".to_owned();
        let start_ticks = process::start_ticks(left.pid).step("clone", read)?;
        let adjusted = fs::read_to_string(format!("/proc/{}/oom_score_adj", left.pid));
        let adjusted = adjusted.step("clone", read)?.trim().parse().unwrap_or(0);
        Ok((left, start_ticks, adjusted))
    });
    let (left, start_ticks, oom_score_adj) = match created {
        Ok(created) => created,
        Err(failure) => {
            // It may have got half way; if that fails too, the first reason counts.
            drop(other.delete());
            return Err(failure);
        }
    };
    let mut init = Init {
        pid: left.pid,
        pidfd: left.pidfd,
        start_ticks,
        oom_score_adj,
        oom_score_adj_clamped: false,
        outside,
        console: None,
        notes: Vec::new(),
        detached: false,
        held: false,
        birth: Birth::Other(other),
    };
    init.take_terminal(left.console.into_iter().collect())?;
    Ok(init)
}

/// The helper: enters what the shim must not, clones the init as a child of its own
/// parent, passes its pidfd on and ends. Never returns: the clone goes on as the init.
fn help(
    plan: &Plan,
    namespaces: &NamespacePlan,
    flags: u64,
    slots: &mut Slots,
    inside: Option<Inside>,
    handshake: &OwnedFd,
) -> ! {
    let cloned = (|| -> Result<(Side, Option<OwnedFd>), Failure> {
        init::join::as_root(plan, slots)?;
        let root = if makes_root_outside(plan) {
            Some(init::rootfs::make_outside(plan, slots)?)
        } else {
            None
        };
        join_outside(namespaces, slots)?;
        for (target, flag, name) in [
            (&namespaces.time, libc::CLONE_NEWTIME, "time"),
            // Last: from within it nothing of the node's can be joined.
            (&namespaces.user, libc::CLONE_NEWUSER, "user"),
        ] {
            join(target.as_ref(), flag, name, slots)?;
        }
        if mode(namespaces.user.as_ref()) == Mode::Join {
            credentials::set_ids(0, 0, &[])
                .step("clone", || "becoming root of the user namespace".to_owned())?;
        }
        let request = Request {
            flags: flags | libc::CLONE_PARENT as u64,
            cgroup: None,
        };
        // SAFETY: this process is a clone of a single-threaded one and has made no thread.
        #[allow(unsafe_code, reason = "cloning is what this file is for")]
        let side = unsafe { clone::clone3(request) };
        let side = side.step("clone", || "cloning the init".to_owned())?;
        Ok((side, root))
    })();
    match cloned {
        Ok((Side::Child, root)) => init::run(plan, slots, inside, handshake, root),
        Ok((Side::Parent { pidfd, .. }, _)) => {
            let told = child::say_ready(handshake, &[pidfd.as_raw_fd()], &[]);
            process::exit_now(i32::from(told.is_err()))
        }
        Err(failure) => child::give_up(handshake, &failure),
    }
}

/// What the helper has cloned.
fn await_cloned(handshake: &OwnedFd) -> Result<(i32, OwnedFd), Failure> {
    let (fds, _) = await_ready(handshake)?;
    let pidfd = fds
        .into_iter()
        .next()
        .ok_or_else(|| invalid("no pidfd came back"))?;
    let pid = process::pid_of(&pidfd).step("clone", || "reading the pid of the init".to_owned())?;
    Ok((pid, pidfd))
}

fn join(
    target: Option<&NamespaceTarget>,
    flag: i32,
    name: &str,
    slots: &Slots,
) -> Result<(), Failure> {
    if mode(target) != Mode::Join {
        return Ok(());
    }
    let slot = target.map(|target| target.slot).unwrap_or_default();
    namespace::setns(slots.get(slot)?, flag)
        .step("clone", || format!("joining the {name} namespace"))
}

/// Joins what belongs to the node, which a process of a new user namespace could not.
/// The shim has no use for any of them itself.
fn join_outside(namespaces: &NamespacePlan, slots: &Slots) -> Result<(), Failure> {
    for (target, flag, name) in [
        (&namespaces.net, libc::CLONE_NEWNET, "network"),
        (&namespaces.ipc, libc::CLONE_NEWIPC, "IPC"),
        (&namespaces.uts, libc::CLONE_NEWUTS, "UTS"),
        (&namespaces.cgroup, libc::CLONE_NEWCGROUP, "cgroup"),
    ] {
        join(target.as_ref(), flag, name, slots)?;
    }
    Ok(())
}

/// Maps the ids of a new user namespace. As root nothing has to be given up for the
/// groups (user_namespaces(7)).
pub(crate) fn write_maps(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<(), Failure> {
    for (file, maps) in [("uid_map", uids), ("gid_map", gids)] {
        let lines = maps
            .iter()
            .map(|map| format!("{} {} {}\n", map.inside, map.outside, map.count));
        let lines: String = lines.collect();
        fs::write(format!("/proc/{pid}/{file}"), &lines).step("clone", || {
            format!("writing {file}: {}", lines.trim().replace('\n', ", "))
        })?;
    }
    Ok(())
}

fn await_ready(handshake: &OwnedFd) -> Result<(Vec<OwnedFd>, Vec<String>), Failure> {
    match child::listen(handshake, SETUP_LIMIT_MS).step("clone", || {
        "waiting for the init to set itself up".to_owned()
    })? {
        Word::Ready(fds, notes) => Ok((fds, notes)),
        Word::Failed(failure) => Err(failure),
        Word::End | Word::Listener(_) => Err(child::died("clone")),
    }
}

/// Kills and reaps an init that is of no use.
fn abandon(pidfd: &OwnedFd) {
    // ESRCH: it is dead already, which is what is wanted.
    drop(process::pidfd_send_signal(pidfd, libc::SIGKILL));
    drop(process::wait_pidfd(pidfd));
}

impl Init {
    /// The runtime that made the container, if it was not this program.
    pub(crate) fn other(&self) -> Option<&Other> {
        match &self.birth {
            Birth::Own(_) => None,
            Birth::Other(other) => Some(other),
        }
    }

    fn handshake(&self) -> Result<&OwnedFd, Failure> {
        match &self.birth {
            Birth::Own(handshake) => Ok(handshake),
            Birth::Other(_) => Err(invalid("another runtime makes the container")),
        }
    }

    /// Lets an init that is held make its root, and waits until it has.
    pub(crate) fn assemble(&mut self, state: &[u8]) -> Result<(), Failure> {
        let handshake = self.handshake()?;
        child::say_go_with(handshake, state).step("clone", || "waking the init".to_owned())?;
        let (fds, notes) = await_ready(handshake)?;
        self.notes = notes;
        self.held = false;
        self.take_terminal(fds)
    }

    fn take_terminal(&mut self, masters: Vec<OwnedFd>) -> Result<(), Failure> {
        for master in masters {
            if self.detached {
                self.console = Some(master);
                continue;
            }
            let output = Output::new(master, Stream::Stdout)
                .step("clone", || "taking over the terminal".to_owned())?;
            self.outside.outputs.push(output);
        }
        Ok(())
    }

    /// Lets the init execute its program and waits until it has.
    pub(crate) fn execute(&self, state: &[u8], receiver: Option<&Receiver>) -> Result<(), Failure> {
        let handshake = match &self.birth {
            Birth::Own(handshake) => handshake,
            Birth::Other(other) => return other.start(),
        };
        child::say_go_with(handshake, state).step("exec", || "waking the init".to_owned())?;
        loop {
            match child::listen(handshake, EXECUTE_LIMIT_MS)
                .step("exec", || "waiting for the program to run".to_owned())?
            {
                Word::Failed(failure) => return Err(failure),
                Word::Listener(number) => {
                    let init = (self.pid, &self.pidfd);
                    listener::pass_on(receiver, init, number, handshake)?;
                }
                Word::End if self.has_executed() => return Ok(()),
                Word::End | Word::Ready(..) => return Err(child::died("exec")),
            }
        }
    }
}

impl Init {
    /// The parent of a detached init reaps it as soon as it ends. What is gone by now
    /// has executed: an init that cannot says so before it ends.
    fn has_executed(&self) -> bool {
        child::has_executed(self.pid).unwrap_or(self.detached)
    }
}

/// Writes the wish; where the kernel does not allow less than the shim's own
/// (no CAP_SYS_RESOURCE), takes the least it allows. Returns what holds.
fn set_oom_score_adj(pid: i32, wanted: Option<i32>) -> io::Result<(i32, bool)> {
    let own = || -> io::Result<i32> {
        let text = fs::read_to_string("/proc/self/oom_score_adj")?;
        Ok(text.trim().parse().unwrap_or(0))
    };
    let Some(wanted) = wanted else {
        return Ok((own()?, false));
    };
    let wanted = wanted.clamp(-1000, 1000);
    let path = format!("/proc/{pid}/oom_score_adj");
    match fs::write(&path, wanted.to_string()) {
        Ok(()) => Ok((wanted, false)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let least = own()?;
            fs::write(&path, least.to_string())?;
            Ok((least, true))
        }
        Err(error) => Err(error),
    }
}

impl std::fmt::Debug for Init {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Init")
            .field("pid", &self.pid)
            .field("pidfd", &self.pidfd.as_fd())
            .finish_non_exhaustive()
    }
}
