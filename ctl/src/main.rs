//! `berthctl`: what people type to look at a node and to run containers on it.
//!
//! It speaks `runtime.v1` and `berth.v1` over the agent's socket. Where
//! `berth.v1` is missing the verbs that CRI can express still work, so that
//! any CRI runtime can be debugged with it.

mod cli;
mod config;
mod connect;
mod credentials;
mod cri_json;
mod endpoint;
mod failure;
mod listing;
mod log_reader;
mod lookup;
mod output;
mod progress;
mod prompt;
mod terminal;
mod time;
mod verb;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failure::Failure::new("cannot start", error.to_string()))
        .and_then(|runtime| {
            let outcome = runtime.block_on(verb::dispatch(cli));
            // A thread may still be blocked reading standard input.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit)
        }
    }
}
