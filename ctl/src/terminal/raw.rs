//! The user's terminal while a container has it.

use std::io::{self, stdin};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Passes every key on as it is; dropped, the terminal is what it was.
#[derive(Debug)]
pub(super) struct RawMode(Termios);

impl RawMode {
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        // What is typed but not read yet is kept.
        tcsetattr(stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no repair.
        drop(tcsetattr(stdin(), OptionalActions::Drain, &self.0).map_err(io::Error::from));
    }
}

/// Columns and rows of the user's terminal, if it has any.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdin()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
