//! The user's terminal, and what travels between it and a container.

mod detach;
mod raw;
mod session;

pub(crate) use detach::DetachKeys;
pub(crate) use session::{End, Streams, talk, tell_size};

use std::io::IsTerminal as _;

use crate::failure::{Failure, Outcome};

/// What people type to leave a container alone, as Docker has it.
pub(crate) const DEFAULT_DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// A terminal in the container needs one here to be typed into.
///
/// # Errors
/// Wrong usage if standard input is none.
pub(crate) fn required(verb: &str) -> Outcome<()> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(Failure::usage(
        format!("cannot {verb} with a terminal"),
        "standard input is not a terminal",
    )
    .next("-i without -t passes a pipe or a file to the container"))
}
