//! The node agent: CRI and `berth.v1` over gRPC.
//!
//! Requests fall in one direction: the edges (`cri`, `berth`), the life cycles
//! (`sandbox`, `container`, `image`), the pure `spec`, the `store` with its ledger,
//! and the libraries that act on the node.

mod berth;
mod cgroup;
mod config;
mod container;
mod cri;
mod describe;
mod doctor;
mod error;
mod event;
mod generation;
mod ids;
mod image;
mod kernel;
mod listen;
mod network;
mod node;
mod operation;
mod podmetrics;
mod recovery;
mod sandbox;
mod serve;
mod spec;
mod start;
mod store;
mod streaming;
mod telemetry;
mod timeline;
mod upgrade;

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;

use config::{Args, Command};

fn main() -> ExitCode {
    // Asked now: once the file is replaced the kernel says that it is deleted.
    let program = std::env::current_exe();
    let args = Args::parse();
    if let Some(Command::Config(command)) = &args.command {
        return match config::run_command(command, &args, &mut std::io::stdout().lock()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => fail(&format!("writing: {error}")),
        };
    }
    let doctor = match &args.command {
        Some(Command::Doctor(doctor)) => Some(doctor.clone()),
        _ => None,
    };
    let config = match config::load(&args) {
        Ok(config) => config,
        Err(findings) => return fail(&findings.to_string()),
    };
    if let Err(error) = berth_phase::configure_from_env() {
        return fail(&error.to_string());
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("starting threads: {error}")),
    };
    let program = match program {
        Ok(program) => program,
        Err(error) => return fail(&format!("finding this program's own file: {error}")),
    };
    let done = match doctor {
        Some(command) => runtime.block_on(doctor::run_command(config, args.shim, &command)),
        None => runtime
            .block_on(serve::serve(config, args, &program))
            .map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// The last words of an agent that does not start; nothing logs yet or any more.
fn fail(text: &str) -> ExitCode {
    // Standard error may be closed; then nobody can be told.
    writeln!(std::io::stderr(), "berth-agent: {text}").ok();
    ExitCode::FAILURE
}
