//! `exec`: a command in a running container.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use berth_proto::cri;

use super::{Context, run::not_invoked, streams};
use crate::{
    failure::{EXIT_FAILED, Failure, Outcome},
    lookup,
    time::parse_duration,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: streams::Flags,
    /// End the command after this time; its output is shown when it has ended
    #[arg(long, conflicts_with_all = ["interactive", "tty"], value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// The container, then the command
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    container_and_command: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Outcome<u8> {
    args.flags.check("exec")?;
    let mut words = args.container_and_command.into_iter();
    let name = words.next().unwrap_or_default();
    let command: Vec<String> = words.collect();
    let connection = context.connect().await?;
    let container = lookup::container(&connection, &name).await?;
    let what = format!("cannot exec in container {name}");
    if args.timeout.is_none() {
        let wanted = args.flags.wanted();
        let request = cri::ExecRequest {
            container_id: container.id,
            cmd: command,
            tty: wanted.tty,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        let answer = connection.runtime().exec(connection.read(request)).await;
        let url = answer
            .map_err(|status| Failure::refused(&*what, &status))?
            .into_inner()
            .url;
        return streams::converse(&what, &url, wanted, &args.flags.detach_keys).await;
    }
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
            Failure::refused(what, &status).exit(exit)
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
