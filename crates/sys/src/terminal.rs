//! Pseudo terminals.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::check_int;

/// TIOCGPTPEER: opens the other end of a pty by descriptor, whatever is mounted
/// where its name would be.
const TIOCGPTPEER: libc::c_ulong = 0x5441;

/// Opens the other end of the pseudo terminal whose master is `master`.
///
/// # Errors
/// EIO while it is locked; see [`unlock`].
pub fn open_peer(master: impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags as an integer.
    let fd = check_int(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), TIOCGPTPEER, flags) })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Unlocks the other end of a pseudo terminal.
///
/// # Errors
/// The errno of ioctl(2).
pub fn unlock(master: impl AsFd) -> io::Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check_int(unsafe {
        libc::ioctl(
            master.as_fd().as_raw_fd(),
            libc::TIOCSPTLCK,
            &raw const unlocked,
        )
    })
    .map(drop)
}

/// Makes `terminal` the controlling terminal of the calling session leader.
///
/// # Errors
/// EPERM if it is another session's.
pub fn set_controlling(terminal: impl AsFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check_int(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Sets the size in characters.
///
/// # Errors
/// The errno of ioctl(2).
pub fn set_size(terminal: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check_int(unsafe {
        libc::ioctl(
            terminal.as_fd().as_raw_fd(),
            libc::TIOCSWINSZ,
            &raw const size,
        )
    })
    .map(drop)
}

/// Rows and columns of `terminal`.
///
/// # Errors
/// ENOTTY if it is none.
pub fn size(terminal: impl AsFd) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize.
    check_int(unsafe {
        libc::ioctl(
            terminal.as_fd().as_raw_fd(),
            libc::TIOCGWINSZ,
            &raw mut size,
        )
    })?;
    Ok((size.ws_row, size.ws_col))
}
