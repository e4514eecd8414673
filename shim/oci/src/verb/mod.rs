//! One file per verb.

mod create;
mod delete;
mod events;
mod exec;
mod kill;
mod list;
mod pause;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::{io::Write as _, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{
    capture::Inherited,
    cli::{Cli, Verb},
    features,
    log::Log,
};

/// Why a command failed, and the code that callers expect then.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: anyhow::Error,
    pub(crate) code: u8,
}

/// A failed exec is told from a process that ended with 1.
const EXEC_FAILED: u8 = 255;

/// What every verb works with.
pub(crate) struct Context<'a> {
    pub(crate) root: &'a Path,
    pub(crate) systemd: bool,
    pub(crate) inherited: &'a Inherited,
    pub(crate) log: &'a Log,
}

/// Runs the verb; returns the exit code.
pub(crate) fn run(cli: &Cli, inherited: &Inherited, log: &Log) -> Result<i32, Failure> {
    let failed = |error| Failure { error, code: 1 };
    check(cli).map_err(failed)?;
    let context = Context {
        root: &cli.root,
        systemd: cli.systemd_cgroup,
        inherited,
        log,
    };
    let done = |result: Result<()>| result.map(|()| 0);
    let result = match &cli.verb {
        None => Err(anyhow::Error::msg("no command; see --help")),
        Some(Verb::Create(args)) => done(create::run(&context, args)),
        Some(Verb::Start(args)) => done(start::run(&context, &args.id)),
        Some(Verb::State(args)) => done(state::run(&context, &args.id)),
        Some(Verb::Kill(args)) => done(kill::run(&context, args)),
        Some(Verb::Delete(args)) => done(delete::run(&context, args)),
        Some(Verb::Run(args)) => run::run(&context, args),
        Some(Verb::Exec(args)) => {
            return exec::run(&context, args).map_err(|error| Failure {
                error: error.context("exec failed"),
                code: EXEC_FAILED,
            });
        }
        Some(Verb::Ps(args)) => done(ps::run(&context, args)),
        Some(Verb::List(args)) => done(list::run(&context, args)),
        Some(Verb::Events(args)) => done(events::run(&context, args)),
        Some(Verb::Pause(args)) => done(pause::pause(&context, &args.id)),
        Some(Verb::Resume(args)) => done(pause::resume(&context, &args.id)),
        Some(Verb::Update(args)) => done(update::run(&context, args)),
        Some(Verb::Features) => done(features::run()),
        Some(Verb::Spec(args)) => done(spec::run(args)),
    };
    result.map_err(failed)
}

fn check(cli: &Cli) -> Result<()> {
    match cli.rootless.as_str() {
        "auto" | "false" | "0" => {}
        other => bail!("--rootless={other}: only root can run containers"),
    }
    let harmless = matches!(cli.verb, Some(Verb::Features | Verb::Spec(_)));
    if !harmless && !nix::unistd::geteuid().is_root() {
        bail!("only root can run containers");
    }
    Ok(())
}

pub(crate) use create::kernel_capabilities;

/// Writes to standard output; a reader that has gone is not told.
pub(crate) fn print(text: &str) {
    std::io::stdout().write_all(text.as_bytes()).ok();
}

/// Prints a value as JSON over several lines.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("writing JSON")?;
    print(&format!("{text}\n"));
    Ok(())
}
