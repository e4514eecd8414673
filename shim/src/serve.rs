//! The shim's loop: connections, output, children, deadlines.

use std::{
    io,
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use berth_proto::shim::{OomKill, request::Verb, response::Body};
use berth_sys::{message, process};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use crate::{
    container::{Container, Source, is_later},
    wire::{self, Answer, Incoming, complain, unknown_verb},
};

/// Descriptors that the launcher passes.
const LISTENER: i32 = 3;
const DIRECTORY: i32 = 4;
/// A shim that nobody has given a container by then was forgotten.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// After this long without output the buffers of a busy time are given back.
const QUIET: Duration = Duration::from_millis(500);
/// More clients than this at once is a mistake of theirs.
const MOST_CONNECTIONS: usize = 64;
/// Longest wait for a client to take the last event.
const FAREWELL: Duration = Duration::from_millis(200);

struct Connection {
    socket: OwnedFd,
    /// Hello came first and a common version was found.
    greeted: bool,
    events: bool,
}

struct Server {
    listener: OwnedFd,
    signals: SignalFd,
    connections: Vec<Connection>,
    container: Container,
    born: Instant,
}

/// What woke the loop.
#[derive(Clone, Copy)]
enum Woken {
    Listener,
    Signals,
    Connection(usize),
    Container(Source),
}

/// Serves container `id` until its end.
pub(crate) fn run(id: &str) -> io::Result<()> {
    process::set_name(c"berth-shim")?;
    // SAFETY: the launcher passes exactly these two, and nothing has touched them.
    #[allow(unsafe_code, reason = "descriptors inherited by number")]
    let listener = unsafe { OwnedFd::from_raw_fd(LISTENER) };
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "descriptors inherited by number")]
    let directory = unsafe { OwnedFd::from_raw_fd(DIRECTORY) };
    process::cloexec_from(LISTENER)?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    // Ended only with its container: a stop of the agent's service must not reach it.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut server = Server {
        listener,
        signals,
        connections: Vec::new(),
        container: Container::new(id, directory),
        born: Instant::now(),
    };
    while server.turn()? {}
    Ok(())
}

impl Server {
    /// Waits once and does what there is to do; `false` at the end.
    fn turn(&mut self) -> io::Result<bool> {
        let woken = self.wait()?;
        let mut quiet = true;
        // From the last to the first, so that removing one keeps the others' places.
        for what in woken.into_iter().rev() {
            match what {
                Woken::Listener => self.accept(),
                Woken::Connection(index) => self.receive(index),
                Woken::Container(Source::Output(index)) => {
                    quiet = false;
                    self.container.output_ready(index);
                }
                Woken::Container(Source::Oom) => {
                    if let Some(count) = self.container.oom_ready() {
                        self.tell(&Body::OomKill(OomKill { count }));
                    }
                }
                Woken::Container(Source::Init) => return Ok(false),
                Woken::Signals => {
                    while matches!(self.signals.read_signal(), Ok(Some(_))) {}
                    if self.reap() {
                        return Ok(false);
                    }
                }
            }
        }
        if self
            .container
            .deadline()
            .is_some_and(|at| at <= Instant::now())
        {
            self.container.deadline_passed();
        }
        if quiet {
            self.container.idle();
        }
        if self.container.has_left() {
            return Ok(false);
        }
        let forgotten = self.container.is_idle()
            && self.connections.is_empty()
            && self.born.elapsed() > IDLE_LIMIT;
        Ok(!forgotten)
    }

    fn wait(&self) -> io::Result<Vec<Woken>> {
        let mut meanings = vec![Woken::Listener];
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        for (index, connection) in self.connections.iter().enumerate() {
            meanings.push(Woken::Connection(index));
            fds.push(PollFd::new(connection.socket.as_fd(), PollFlags::POLLIN));
        }
        for (fd, source) in self.container.sources() {
            meanings.push(Woken::Container(source));
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
        }
        // Last, so that it is handled first: reaping an exec before its connection
        // is read keeps the order of events; output goes before the end either way.
        meanings.push(Woken::Signals);
        fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, self.timeout()) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        Ok(fds
            .iter()
            .zip(meanings)
            .filter(|(fd, _)| fd.any().unwrap_or(false))
            .map(|(_, meaning)| meaning)
            .collect())
    }

    fn timeout(&self) -> PollTimeout {
        let deadline = self
            .container
            .deadline()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let quiet = self.container.is_busy().then_some(QUIET);
        let idle = self.container.is_idle().then_some(IDLE_LIMIT);
        match [deadline, quiet, idle].into_iter().flatten().min() {
            // Rounded up: a deadline a fraction of a millisecond away must not spin.
            Some(wait) => {
                PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        }
    }

    fn accept(&mut self) {
        match message::accept(&self.listener) {
            Ok(socket) if self.connections.len() < MOST_CONNECTIONS => {
                // The socket's directory is closed to others already; this is the second lock.
                let allowed = message::peer(&socket)
                    .is_ok_and(|(_, uid)| uid == 0 || uid == nix::unistd::geteuid().as_raw());
                if allowed {
                    self.connections.push(Connection {
                        socket,
                        greeted: false,
                        events: false,
                    });
                }
            }
            Ok(_) => complain("too many connections, one refused"),
            Err(error) if is_later(&error) => {}
            Err(error) => complain(&format!("accepting a connection: {error}")),
        }
    }

    fn receive(&mut self, index: usize) {
        let Some(connection) = self.connections.get(index) else {
            return;
        };
        match wire::receive(&connection.socket) {
            Ok(Some(incoming)) => self.handle(index, incoming),
            Ok(None) => drop(self.connections.remove(index)),
            Err(error) if is_later(&error) => {}
            Err(error) => {
                complain(&format!("a connection is dropped: {error}"));
                drop(self.connections.remove(index));
            }
        }
    }

    fn handle(&mut self, index: usize, incoming: Incoming) {
        let id = incoming.id;
        // An exec waits for its answer; its memory goes back when it has ended.
        let in_haste = matches!(incoming.verb, Some(Verb::Exec(_)));
        let answer = match (self.connections[index].greeted, incoming.verb) {
            (_, Some(Verb::Hello(hello))) => {
                let body = wire::hello(&hello, "shim");
                let greeted = matches!(body, Body::Hello(_));
                self.connections[index].greeted = greeted;
                self.connections[index].events = hello.events && greeted;
                Ok(body.into())
            }
            (false, _) => Err(wire::wrong_state("Hello comes first")),
            (true, verb) => self.dispatch(verb, incoming.fds),
        };
        let answer = answer.unwrap_or_else(|failure| Body::Failure(failure).into());
        if let Err(error) = wire::send(
            &self.connections[index].socket,
            id,
            answer.body,
            &answer.fds,
        ) {
            // It went away, or does not read its answers; it can connect again.
            complain(&format!("a connection is dropped: {error}"));
            drop(self.connections.remove(index));
        }
        if !in_haste {
            give_memory_back();
        }
    }

    fn dispatch(
        &mut self,
        verb: Option<Verb>,
        fds: wire::Slots,
    ) -> Result<Answer, berth_proto::shim::Failure> {
        let container = &mut self.container;
        match verb {
            Some(Verb::Create(_)) => container.create(fds),
            Some(Verb::Assemble(assemble)) => container.assemble(&assemble.state),
            Some(Verb::Start(start)) => container.start(&start, fds),
            Some(Verb::Exec(exec)) => container.exec(&exec, fds),
            Some(Verb::KillExec(kill)) => container.kill_exec(&kill.exec_id),
            Some(Verb::Signal(signal)) => container.signal(signal.signal, signal.all),
            Some(Verb::Stop(stop)) => container.stop(stop.grace_ms, stop.signal),
            Some(Verb::State(_)) => Ok(container.state()),
            Some(Verb::ReopenLog(_)) => container.reopen_log(fds),
            Some(Verb::Attach(attach)) => container.attach(&attach, fds),
            Some(Verb::CloseStdin(_)) => container.close_stdin(),
            _ => Err(unknown_verb()),
        }
    }

    /// Reaps what has ended; `true` if that was the container.
    fn reap(&mut self) -> bool {
        let execs = self.container.reap_execs();
        for event in &execs {
            self.tell(event);
        }
        if !execs.is_empty() {
            give_memory_back();
        }
        let Some(exited) = self.container.reap_init() else {
            return false;
        };
        // Execs die with the container; whoever waits for one hears of it first.
        for event in self.container.reap_execs() {
            self.tell(&event);
        }
        self.tell(&exited);
        true
    }

    fn tell(&mut self, event: &Body) {
        self.connections.retain(|connection| {
            if !connection.events {
                return true;
            }
            let until = Instant::now() + FAREWELL;
            loop {
                match wire::send(&connection.socket, 0, event.clone(), &[]) {
                    Ok(()) => return true,
                    Err(error) if is_later(&error) && Instant::now() < until => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(_) => return false,
                }
            }
        });
    }
}

/// What a verb has used up is not needed until the next; there are as many shims as
/// containers, and most of them wait.
fn give_memory_back() {
    // SAFETY: a shim has one thread, that of `main`.
    #[allow(unsafe_code, reason = "the stack below is given up")]
    unsafe {
        process::give_memory_back();
    }
}
