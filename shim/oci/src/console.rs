//! Terminals: passing a master on, and our own while it is in between.

use std::{
    io::{self, IsTerminal as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use berth_sys::{message, terminal};
use nix::sys::termios::{self, SetArg};

/// Passes the master to whoever listens at `socket`, as callers of OCI runtimes expect:
/// one descriptor, beside a name that nobody reads.
pub(crate) fn send(socket: &Path, master: BorrowedFd<'_>) -> Result<()> {
    let what = || format!("passing the terminal to {}", socket.display());
    let stream = UnixStream::connect(socket).with_context(what)?;
    message::send(&stream, b"/dev/ptmx", &[master.as_raw_fd()]).with_context(what)
}

/// Gives the container's terminal the size of ours, if we have one.
pub(crate) fn copy_size(master: &OwnedFd) {
    if let Ok((rows, columns)) = terminal::size(io::stdin()) {
        terminal::set_size(master, rows, columns).ok();
    }
}

/// Runs `body` with our terminal passing every byte through, and sets it back.
pub(crate) fn with_raw_terminal<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return body();
    }
    let before = termios::tcgetattr(&stdin).context("reading the terminal's settings")?;
    let mut raw = before.clone();
    termios::cfmakeraw(&mut raw);
    termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw).context("setting the terminal")?;
    let result = body();
    termios::tcsetattr(&stdin, SetArg::TCSANOW, &before).context("setting the terminal back")?;
    result
}
