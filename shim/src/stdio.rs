//! The container's standard streams: what it gets, and the ends that the shim keeps.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};

use berth_proto::shim::Failure;
use berth_sys::process;

use crate::{
    log::{Log, Stream},
    wire::{Slots, Step as _},
};

/// What an idle stream costs.
const SMALL_READ: usize = 4 * 1024;
/// Beyond this larger reads gain nothing (measured against `cat`).
const LARGE_READ: usize = 128 * 1024;
/// Room in the pipe once a stream has proven busy. Not from the start: pages of
/// pipes are limited per user (pipe(7)), and beyond the limit every new pipe
/// shrinks to one page.
const LARGE_PIPE: i32 = 256 * 1024;
/// The default capacity of a pipe.
const SMALL_PIPE: i32 = 64 * 1024;
/// Reads in a row before other descriptors get their turn.
const TURNS: usize = 16;

/// The ends that become descriptors 0, 1 and 2 of the container.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The ends that the shim keeps.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// Held open so that the container's stdin does not end.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) outputs: Vec<Output>,
}

/// Pipes for a container without a terminal.
pub(crate) fn pipes(keep_stdin: bool) -> io::Result<(Inside, Outside)> {
    let (stdin, stdin_writer) = if keep_stdin {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        (reader, Some(writer))
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let (stdout, stdout_writer) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, stderr_writer) = pipe2(OFlag::O_CLOEXEC)?;
    let outside = Outside {
        stdin: stdin_writer,
        outputs: vec![
            Output::new(stdout, Stream::Stdout)?,
            Output::new(stderr, Stream::Stderr)?,
        ],
    };
    let inside = Inside {
        stdin,
        stdout: stdout_writer,
        stderr: stderr_writer,
    };
    Ok((inside, outside))
}

/// The stream in `slot`, or /dev/null for a negative one.
pub(crate) fn given(slots: &mut Slots, slot: i32) -> Result<OwnedFd, Failure> {
    match u32::try_from(slot) {
        Ok(slot) => slots.take(slot),
        Err(_negative) => File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map(OwnedFd::from)
            .step("clone", || "/dev/null".to_owned()),
    }
}

/// Descriptors for the program beyond the standard streams, on their way to the
/// numbers from 3 on.
#[derive(Debug, Default)]
pub(crate) struct Preserved(Vec<OwnedFd>);

impl Preserved {
    pub(crate) fn take(slots: &mut Slots, given: &[u32]) -> Result<Self, Failure> {
        let fds = given.iter().map(|&slot| slots.take(slot));
        fds.collect::<Result<_, _>>().map(Self)
    }

    /// Closes what this process has from the shim and neither these nor `more` are.
    /// Whoever shares the container's PID namespace may look into /proc/PID/fd of what
    /// has not executed yet, and directories of the node are none of its business.
    ///
    /// The caller needs and drops nothing else from here on.
    pub(crate) fn close_others(&self, more: &[RawFd]) -> io::Result<()> {
        let mut keep: Vec<RawFd> = self.0.iter().map(AsRawFd::as_raw_fd).collect();
        keep.extend(more);
        // SAFETY: the caller's promise; this process ends in execve or _exit, so that
        // nothing of the shim's is ever dropped in it.
        #[allow(unsafe_code, reason = "what a clone copied has owners that never act")]
        unsafe {
            process::close_all_but(&keep)
        }
    }

    /// The first number that is none of theirs.
    pub(crate) fn end(&self) -> i32 {
        3 + i32::try_from(self.0.len()).unwrap_or(i32::MAX - 3)
    }

    /// Puts them where they belong. The caller owns nothing below [`Preserved::end`]
    /// that it still needs.
    pub(crate) fn put(&self) -> io::Result<()> {
        let above = |fd: &OwnedFd| process::above(fd.as_fd(), self.end());
        let fds = self.0.iter().map(above).collect::<io::Result<Vec<_>>>()?;
        for (number, fd) in (3..).zip(&fds) {
            // SAFETY: the caller needs nothing of these numbers any more.
            #[allow(unsafe_code, reason = "descriptors are passed by number")]
            unsafe { process::dup_onto(fd, number) }?;
        }
        Ok(())
    }
}

/// One stream of output, read without blocking.
#[derive(Debug)]
pub(crate) struct Output {
    file: File,
    stream: Stream,
    /// Empty while idle.
    buffer: Vec<u8>,
    wanted: usize,
    pipe: bool,
}

/// What a turn of reading found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing more for now.
    Empty,
    /// There may be more.
    More,
    /// The other side is closed.
    End,
}

impl Output {
    pub(crate) fn new(fd: OwnedFd, stream: Stream) -> io::Result<Self> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let pipe = fcntl(&fd, FcntlArg::F_GETPIPE_SZ).is_ok();
        Ok(Self {
            file: File::from(fd),
            stream,
            buffer: Vec::new(),
            wanted: SMALL_READ,
            pipe,
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Reads what is there, within a bound, into the log.
    pub(crate) fn pump(&mut self, log: &mut Log) -> Turn {
        for _ in 0..TURNS {
            self.buffer.resize(self.wanted, 0);
            match self.file.read(&mut self.buffer) {
                Ok(0) => return Turn::End,
                Ok(count) => {
                    log.write(self.stream, &self.buffer[..count]);
                    if count == self.wanted && self.wanted < LARGE_READ {
                        self.resize(self.wanted * 8, LARGE_PIPE);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Empty,
                // EIO is how a terminal says that its last user has gone.
                Err(_) => return Turn::End,
            }
        }
        Turn::More
    }

    /// Gives back what a busy time had taken.
    pub(crate) fn idle(&mut self) {
        if self.wanted > SMALL_READ {
            self.resize(SMALL_READ, SMALL_PIPE);
        }
        self.buffer = Vec::new();
    }

    fn resize(&mut self, read: usize, pipe: i32) {
        self.wanted = read.min(LARGE_READ);
        if self.pipe {
            // Only a wish: EPERM beyond the user's limit, EBUSY while the pipe is fuller.
            fcntl(&self.file, FcntlArg::F_SETPIPE_SZ(pipe)).ok();
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.buffer.is_empty()
    }
}
