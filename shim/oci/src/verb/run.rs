//! `run`: create and start, and usually wait.

use anyhow::{Context as _, Result};
use berth_sys::process;

use crate::{
    cli, console, foreground,
    verb::{
        Context,
        create::{self, Terminal},
        delete::delete,
        start::start,
    },
};

pub(super) fn run(context: &Context<'_>, args: &cli::Run) -> Result<i32> {
    let terminal = if args.create.console_socket.is_some() || args.detach {
        Terminal::Socket
    } else {
        Terminal::Own
    };
    if !args.detach {
        // Whatever the container leaves behind is reaped here.
        process::become_subreaper().context("becoming a subreaper")?;
    }
    let made = create::make(context, &args.create, terminal).context("run failed")?;
    if let Err(error) = start(context, &made.container) {
        return Err(match delete(context, &made.container) {
            Ok(()) => error,
            Err(left) => error.context(format!("and not all could be undone: {left:#}")),
        });
    }
    if args.detach {
        return Ok(0);
    }
    let code = match &made.console {
        Some(master) => console::with_raw_terminal(|| foreground::wait(&made.pidfd, Some(master))),
        None => foreground::wait(&made.pidfd, None),
    }?;
    if !args.keep {
        delete(context, &made.container)?;
    }
    Ok(code)
}
