//! `berth-oci`: Berth's engine behind the command line that callers of OCI runtimes
//! know. It works without an agent; nothing but the container outlives a command.

mod bundle;
mod capture;
mod cli;
mod console;
mod container;
mod engine;
mod features;
mod foreground;
mod group;
mod hooks;
mod listener;
mod log;
mod net_devices;
mod record;
mod scope;
mod signals;
mod slots;
mod trace;
mod verb;

use std::process::ExitCode;

use clap::Parser as _;

use self::{capture::Inherited, cli::Cli};

fn main() -> ExitCode {
    // Before anything is opened: from 3 on lies what the caller passes.
    let inherited = Inherited::capture();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 1 } else { 0 };
            // Nobody is left to tell if that fails.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    if cli.version {
        cli::print_version();
        return ExitCode::SUCCESS;
    }
    berth_engine::trace_by(trace::pairs);
    let log = log::Log::open(&cli);
    let log = match log {
        Ok(log) => log,
        Err(error) => {
            log::Log::stderr(&cli).error(&format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    match verb::run(&cli, &inherited, &log) {
        Ok(code) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(255)),
        Err(failure) => {
            log.error(&format!("{:#}", failure.error));
            ExitCode::from(failure.code)
        }
    }
}
