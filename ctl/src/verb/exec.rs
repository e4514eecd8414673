//! `exec`: a command in a running container.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use berth_proto::{berth::v1 as berth, cri};

use super::{Context, run::not_invoked, streams};
use crate::{
    failure::{EXIT_FAILED, Failure, Outcome},
    listing, lookup,
    time::parse_duration,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: streams::Flags,
    /// End the command after this time; its output is shown when it has ended
    #[arg(long, conflicts_with_all = ["interactive", "tty"], value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    options: Options,
    /// The container, then the command
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    container_and_command: Vec<String>,
}

/// What the CRI does not have.
#[derive(Debug, Default, clap::Args)]
struct Options {
    /// Run it alone: neither its input nor its output is connected
    #[arg(short, long, conflicts_with_all = ["interactive", "tty", "timeout"])]
    detach: bool,
    /// Set a variable; NAME alone takes the value from here
    #[arg(short, long, value_name = "NAME[=VALUE]", conflicts_with = "timeout")]
    env: Vec<String>,
    /// Run it as this user: a name or number of the container, with :GROUP if need be
    #[arg(short, long, value_name = "USER[:GROUP]", conflicts_with = "timeout")]
    user: Option<String>,
    /// Run it in this directory
    #[arg(short, long, value_name = "DIR", conflicts_with = "timeout")]
    workdir: Option<String>,
    /// Give it all capabilities and no seccomp filter
    #[arg(long, conflicts_with = "timeout")]
    privileged: bool,
}

impl Options {
    fn are_used(&self) -> bool {
        let text = self.user.is_some() || self.workdir.is_some();
        text || self.detach || self.privileged || !self.env.is_empty()
    }

    /// The request, as berth.v1 has it.
    fn request(self, exec: cri::ExecRequest) -> berth::ExecRequest {
        let connected = !self.detach;
        berth::ExecRequest {
            container_id: exec.container_id,
            command: exec.cmd,
            tty: exec.tty && connected,
            stdin: exec.stdin && connected,
            stdout: exec.stdout && connected,
            stderr: exec.stderr && connected,
            env: self.env.into_iter().filter_map(variable).collect(),
            user: self.user.unwrap_or_default(),
            working_directory: self.workdir.unwrap_or_default(),
            privileged: self.privileged,
            detach: self.detach,
        }
    }
}

/// NAME=value; `None` for a name that has no value here.
fn variable(given: String) -> Option<String> {
    if given.contains('=') {
        return Some(given);
    }
    let value = std::env::var(&given).ok()?;
    Some(format!("{given}={value}"))
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
        let url = if args.options.are_used() {
            let detached = args.options.detach;
            let request = connection.change(args.options.request(request));
            let answer = connection.node().exec(request).await;
            let answer = answer.map_err(|status| refused(&what, &status))?;
            if detached {
                return Ok(0);
            }
            answer.into_inner().url
        } else {
            let answer = connection.runtime().exec(connection.read(request)).await;
            let answer = answer.map_err(|status| Failure::refused(&*what, &status))?;
            answer.into_inner().url
        };
        let flags = &args.flags;
        return streams::converse(&what, &url, wanted, &flags.detach_keys, &flags.tls).await;
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

fn refused(what: &str, status: &tonic::Status) -> Failure {
    if listing::is_missing(status) {
        return Failure::new(what, "this runtime has only what the CRI has").next(
            "leave -d, -e, -u, -w and --privileged out; `env` and `su` may do in the container",
        );
    }
    let exit = not_invoked(status).unwrap_or(EXIT_FAILED);
    Failure::refused(what, status).exit(exit)
}

/// A container's exit code as ours. Codes are bytes; anything else is a failure.
pub(super) fn exit_byte(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(EXIT_FAILED)
}
