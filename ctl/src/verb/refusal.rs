//! What people ask for by habit and what is not there yet, told in one place.

use crate::failure::{Failure, Outcome};

/// Flags for standard input and terminals.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Streaming {
    /// Keep standard input open (not yet)
    #[arg(short, long)]
    interactive: bool,
    /// Allocate a terminal (not yet)
    #[arg(short, long)]
    tty: bool,
}

impl Streaming {
    /// Refuses what needs a stream to the container.
    pub(super) fn refuse(self, verb: &str) -> Outcome<()> {
        if !self.interactive && !self.tty {
            return Ok(());
        }
        let flags = match (self.interactive, self.tty) {
            (true, true) => "-it",
            (true, false) => "-i",
            (false, _) => "-t",
        };
        Err(Failure::usage(
            format!("cannot {verb} with {flags}"),
            "not yet: streaming to a container's input or terminal is not built",
        )
        .next(format!("without {flags}, the command's output is shown")))
    }
}
