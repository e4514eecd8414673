//! The launcher: makes and pins pods' namespaces and starts shims, since the
//! agent is threaded and can do neither well.
//!
//! It can be killed and started again at any time. What it has made is pinned
//! in a mount namespace of its own ([`tree`]), which outlives it.

mod pod_init;
mod pods;
mod start;
mod tree;

use std::{
    io,
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use berth_proto::shim::{Done, Failure, request::Verb, response::Body};
use berth_sys::{namespace, process};
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use crate::{
    init,
    wire::{self, Answer, Incoming, Step as _, unknown_verb},
};

pub(crate) use tree::{own_slim_namespace, own_whole_namespace};

/// What the launcher works with.
pub(crate) struct Launcher {
    /// Where shims live: proc, sys and nothing else.
    slim: OwnedFd,
    /// The program of this process, a sealed memory, to start shims from.
    program: OwnedFd,
}

/// Serves the agent on standard input until it closes that.
pub(crate) fn run(run_dir: &Path) -> io::Result<()> {
    process::set_name(c"berth-launcher")?;
    // Away from the agent's terminal: its Ctrl-C must not end what outlives it.
    process::setsid()?;
    // The init of a shim that was killed is reaped here: only then can the agent read
    // its exit status from the pidfd.
    process::become_subreaper()?;
    // SAFETY: standard input is the agent's socket, and nothing in here reads it.
    #[allow(unsafe_code, reason = "the connection is inherited by number")]
    let agent = unsafe { OwnedFd::from_raw_fd(0) };
    process::cloexec_from(3)?;
    let program: OwnedFd = nix::fcntl::open(
        "/proc/self/exe",
        nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    let trees = tree::open_or_make(run_dir)?;
    namespace::setns(&trees.pods, libc::CLONE_NEWNS)?;
    let launcher = Launcher {
        slim: trees.slim,
        program,
    };

    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    loop {
        let mut fds = [
            PollFd::new(agent.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let [from_agent, from_children] = fds.map(|fd| fd.any().unwrap_or(false));
        if from_children {
            while matches!(signals.read_signal(), Ok(Some(_))) {}
            // Shims and pod inits; whoever wants their end has their pidfd.
            while process::try_wait_any()?.is_some() {}
        }
        if from_agent {
            match wire::receive(&agent)? {
                None => return Ok(()),
                Some(incoming) => launcher.answer(&agent, incoming)?,
            }
        }
    }
}

impl Launcher {
    fn answer(&self, agent: &OwnedFd, mut incoming: Incoming) -> io::Result<()> {
        let answer = match incoming.verb.take() {
            Some(Verb::Hello(hello)) => Ok(wire::hello(&hello, "launcher").into()),
            verb => self.dispatch(verb, incoming.fds),
        };
        let answer = answer.unwrap_or_else(|failure| Body::Failure(failure).into());
        wire::send(agent, incoming.id, answer.body, &answer.fds)
    }

    fn dispatch(&self, verb: Option<Verb>, fds: wire::Slots) -> Result<Answer, Failure> {
        match verb {
            Some(Verb::Launch(launch)) => start::shim(self, &launch, fds),
            Some(Verb::EnterGroup(groups)) => enter_groups(&groups.cgroup_slots, fds),
            Some(Verb::CreatePod(pod)) => pods::create(&pod, fds),
            Some(Verb::OpenPod(pod)) => pods::open(&pod.id),
            Some(Verb::RemovePod(pod)) => {
                pods::remove(&pod.id).map(|()| Body::Done(Done {}).into())
            }
            Some(Verb::ListPods(_)) => pods::list().step("netns", || "listing pods".to_owned()),
            _ => Err(unknown_verb()),
        }
    }
}

/// Moves this process, in which there is one thread, as `tasks` asks for.
fn enter_groups(named: &[u32], mut fds: wire::Slots) -> Result<Answer, Failure> {
    for &slot in named {
        init::join::move_self(fds.take(slot)?)
            .step("cgroup", || "entering the group of the shims".to_owned())?;
    }
    Ok(Body::Done(Done {}).into())
}
