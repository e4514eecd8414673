//! `attach`: the streams of a container's own process.

use berth_proto::cri;
use berth_streaming::client::Wanted;

use super::{Context, exec::exit_byte, exit, streams};
use crate::{
    failure::{Failure, Outcome},
    listing, lookup,
    terminal::{self, DEFAULT_DETACH_KEYS, DetachKeys},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What the container says is shown from now on; `logs` shows what it said before. Leaving with the
detach keys, or by Ctrl-C without a terminal, does not stop it. If it ends meanwhile, its exit code
is ours.")]
pub(crate) struct Args {
    /// Do not pass standard input on
    #[arg(long)]
    no_stdin: bool,
    /// Keys that leave it alone: characters or ctrl-X
    #[arg(long, value_name = "KEYS", default_value = DEFAULT_DETACH_KEYS)]
    detach_keys: DetachKeys,
    #[command(flatten)]
    tls: streams::TlsFlags,
    /// The container
    container: String,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let name = &args.container;
    let what = format!("cannot attach to container {name}");
    let connection = context.connect().await?;
    let container = lookup::container(&connection, name).await?;
    let tty = has_terminal(&connection, &container.id).await?;
    let wanted = Wanted {
        stdin: !args.no_stdin,
        stdout: true,
        stderr: !tty,
        tty,
    };
    if tty && wanted.stdin {
        terminal::required("attach")?;
    }
    let url = url(&connection, &what, &container.id, wanted).await?;
    let code = streams::converse(&what, &url, wanted, &args.detach_keys, &args.tls).await?;
    // Attaching does not tell the container's own code.
    match listing::container_status(&connection, &container.id, false).await {
        Ok(answer) if answer.status.as_ref().is_some_and(has_exited) => {
            exit::code_of(&connection, &container.id)
                .await
                .map(exit_byte)
        }
        _ => Ok(code),
    }
}

fn has_exited(status: &cri::ContainerStatus) -> bool {
    status.state() == cri::ContainerState::ContainerExited
}

/// The URL of a container's streams.
pub(super) async fn url(
    connection: &crate::connect::Connection,
    what: &str,
    id: &str,
    wanted: Wanted,
) -> Outcome<String> {
    let request = cri::AttachRequest {
        container_id: id.to_owned(),
        stdin: wanted.stdin,
        tty: wanted.tty,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    };
    let answer = connection.runtime().attach(connection.read(request)).await;
    answer
        .map(|answer| answer.into_inner().url)
        .map_err(|status| Failure::refused(what, &status))
}

/// Whether the container was made with a terminal. CRI tells it only to those who
/// ask for everything.
async fn has_terminal(connection: &crate::connect::Connection, id: &str) -> Outcome<bool> {
    let request = cri::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: true,
    };
    let status = connection
        .runtime()
        .container_status(connection.read(request))
        .await
        .map_err(|status| Failure::refused(format!("cannot look at container {id}"), &status))?
        .into_inner();
    let info = status.info.get("info").map_or("{}", String::as_str);
    let info: serde_json::Value = serde_json::from_str(info).unwrap_or_default();
    // The key that other runtimes use too.
    Ok(info["config"]["tty"].as_bool().unwrap_or(false))
}
