//! The user's terminal while a container has it.

use std::{
    io::{self, stdin},
    os::fd::{AsFd, OwnedFd},
    panic,
    sync::{Mutex, Once, PoisonError},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal that is raw, and how it was.
static RAW: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// Passes every key on as it is; dropped, the terminal is what it was.
#[derive(Debug)]
pub(super) struct RawMode(());

impl RawMode {
    pub(super) fn enter() -> io::Result<Self> {
        Self::enter_on(stdin())
    }

    fn enter_on(terminal: impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        repair_after_a_panic();
        *RAW.lock().unwrap_or_else(PoisonError::into_inner) = Some((terminal, before));
        let this = Self(());
        if let Some((terminal, _)) = &*RAW.lock().unwrap_or_else(PoisonError::into_inner) {
            // What is typed but not read yet is kept.
            tcsetattr(terminal, OptionalActions::Drain, &raw)?;
        }
        Ok(this)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        repair();
    }
}

/// Nothing is dropped in a program that aborts, and a shell with a raw terminal shows
/// neither what is typed nor line ends.
fn repair_after_a_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            repair();
            others(info);
        }));
    });
}

fn repair() {
    // Not waited for: whoever panics may hold it.
    let Ok(mut raw) = RAW.try_lock() else { return };
    if let Some((terminal, before)) = raw.take() {
        // Now, since output that nobody takes would keep it from being repaired at all.
        // A terminal that is gone needs no repair.
        tcsetattr(&terminal, OptionalActions::Now, &before).ok();
    }
}

/// Columns and rows of the user's terminal, if it has any.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdin()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

#[cfg(test)]
mod tests {
    use rustix::{
        pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
        termios::LocalModes,
    };

    use super::*;

    #[test]
    fn a_panic_leaves_no_raw_terminal() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let terminal = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let echoes = || {
            let modes = tcgetattr(&terminal).unwrap().local_modes;
            modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
        };
        assert!(echoes());
        let raw = RawMode::enter_on(&terminal).unwrap();
        assert!(!echoes());
        drop(raw);
        assert!(echoes());
        // As in a program that aborts: nothing is dropped.
        std::mem::forget(RawMode::enter_on(&terminal).unwrap());
        assert!(!echoes());
        std::thread::spawn(|| panic!("for a test"))
            .join()
            .unwrap_err();
        assert!(echoes());
    }
}
