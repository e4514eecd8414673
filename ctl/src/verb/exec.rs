//! `exec`: a command in a running container, its output shown when it ends.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use berth_proto::cri;

use super::{Context, refusal::Streaming, run::not_invoked};
use crate::{
    failure::{EXIT_FAILED, Failure, Outcome},
    lookup,
    time::parse_duration,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    streaming: Streaming,
    /// End the command after this time
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// The container, then the command
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    container_and_command: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Outcome<u8> {
    args.streaming.refuse("exec")?;
    let mut words = args.container_and_command.into_iter();
    let name = words.next().unwrap_or_default();
    let command: Vec<String> = words.collect();
    let connection = context.connect().await?;
    let container = lookup::container(&connection, &name).await?;
    let request = cri::ExecSyncRequest {
        container_id: container.id,
        cmd: command,
        // CRI counts whole seconds, and nought is no limit.
        timeout: args.timeout.map_or(0, |timeout| {
            i64::try_from(timeout.as_millis().div_ceil(1000).max(1)).unwrap_or(i64::MAX)
        }),
    };
    let answer = connection
        .runtime()
        .exec_sync(connection.open_ended(request))
        .await
        .map_err(|status| {
            let exit = not_invoked(&status).unwrap_or(EXIT_FAILED);
            Failure::refused(format!("cannot exec in container {name}"), &status).exit(exit)
        })?
        .into_inner();
    let mut out = io::stdout().lock();
    out.write_all(&answer.stdout)?;
    out.flush()?;
    io::stderr().lock().write_all(&answer.stderr)?;
    Ok(exit_byte(answer.exit_code))
}

/// A container's exit code as ours. Codes are bytes; anything else is a failure.
pub(super) fn exit_byte(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(EXIT_FAILED)
}
