//! Waiting for a process that this program runs in the foreground: its signals, its
//! terminal, its end.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use berth_sys::process;
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use crate::console;

/// What is not the process's: our own children's, the terminal's, and what cannot be.
const NOT_FORWARDED: [Signal; 6] = [
    Signal::SIGCHLD,
    Signal::SIGWINCH,
    Signal::SIGPIPE,
    Signal::SIGURG,
    Signal::SIGKILL,
    Signal::SIGSTOP,
];
/// What one read takes.
const CHUNK: usize = 16 * 1024;

/// Waits for the child behind `pidfd` and returns its code as a shell says it.
/// Signals are passed on; with a terminal the bytes are too.
pub(crate) fn wait(pidfd: &OwnedFd, master: Option<&OwnedFd>) -> Result<i32> {
    let mut mask = SigSet::all();
    // A crash of ours is ours.
    for signal in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
    ] {
        mask.remove(signal);
    }
    mask.thread_block().context("blocking signals")?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("watching signals")?;
    let mut pump = master.map(Pump::new).transpose()?;
    if let Some(master) = master {
        console::copy_size(master);
    }
    loop {
        let ended = turn(pidfd, &signals, pump.as_mut(), master)?;
        if ended {
            break;
        }
    }
    let ending = process::wait_pidfd(pidfd).context("waiting for the process")?;
    if let Some(pump) = &mut pump {
        // What it wrote before its end.
        while pump.output_ready()? {}
    }
    Ok(ending.code())
}

/// Waits once; `true` when the process has ended.
fn turn(
    pidfd: &OwnedFd,
    signals: &SignalFd,
    pump: Option<&mut Pump>,
    master: Option<&OwnedFd>,
) -> Result<bool> {
    let stdin = io::stdin();
    let mut fds = vec![
        PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    if let (Some(master), Some(pump)) = (master, &pump) {
        if pump.output {
            fds.push(PollFd::new(master.as_fd(), PollFlags::POLLIN));
        }
        if pump.input {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
    }
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(false),
        Err(errno) => return Err(errno).context("waiting for the process"),
    }
    let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
    drop(fds);
    if ready[1] {
        while let Ok(Some(info)) = signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if number == libc::SIGWINCH
                && let Some(master) = master
            {
                console::copy_size(master);
            }
            let own = NOT_FORWARDED.iter().any(|signal| *signal as i32 == number);
            if !own {
                // ESRCH: it has just ended.
                drop(process::pidfd_send_signal(pidfd, number));
            }
        }
    }
    if let Some(pump) = pump {
        let mut next = 2;
        if pump.output {
            if ready[next] {
                pump.output = pump.output_ready()?;
            }
            next += 1;
        }
        if pump.input && ready.get(next) == Some(&true) {
            pump.input = pump.input_ready()?;
        }
    }
    Ok(ready[0])
}

/// The two directions between our terminal and the container's.
struct Pump {
    master: File,
    input: bool,
    output: bool,
}

impl Pump {
    fn new(master: &OwnedFd) -> Result<Self> {
        let master = File::from(master.try_clone().context("duplicating the terminal")?);
        Ok(Self {
            master,
            input: true,
            output: true,
        })
    }

    /// `false` at the end.
    fn output_ready(&mut self) -> Result<bool> {
        let mut buffer = [0; CHUNK];
        // EIO is how a terminal says that its last user has gone.
        let count = match process::wait_readable(&self.master, 0)? {
            true => self.master.read(&mut buffer).unwrap_or(0),
            false => return Ok(false),
        };
        if count == 0 {
            return Ok(false);
        }
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(&buffer[..count])
            .and_then(|()| stdout.flush())
            .context("writing the output")?;
        Ok(true)
    }

    fn input_ready(&mut self) -> Result<bool> {
        let mut buffer = [0; CHUNK];
        let count = nix::unistd::read(io::stdin(), &mut buffer).unwrap_or(0);
        if count == 0 {
            return Ok(false);
        }
        // The other side may have gone; its end is seen elsewhere.
        Ok(self.master.write_all(&buffer[..count]).is_ok())
    }
}
