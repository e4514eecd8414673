//! `run`: a new pod with one container, in one step.

mod request;

use std::io::{self, BufWriter};

use berth_proto::{berth::v1 as berth, cri};
use tokio::signal::unix::{SignalKind, signal};
use tonic::Status;

use super::{
    Context, attach,
    exec::exit_byte,
    exit,
    inspect::find_image,
    logs, pull,
    stop::{GRACE_SECONDS, stop},
    streams,
};
use crate::{
    connect::Connection,
    failure::{
        EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_NOT_RUN, EXIT_USAGE, Failure, Outcome, is_lost,
    },
    listing::{self, is_missing},
    log_reader::{LogFile, Printer, Selection, follow},
    lookup, output,
};

pub(super) use request::MADE_BY_RUN;

/// Metadata of an answer: the phase in which the call failed.
const PHASE_KEY: &str = "berth-phase";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without -d the output is shown until the container exits, and its exit code is ours. Ctrl-C stops
the container (a second one kills it). If it cannot be run at all, the exit code is 125; 126 if the
command cannot be executed, 127 if there is no such command.

Examples:
  berthctl run --rm alpine echo hello
  berthctl run -d --name web -v /srv/www:/www:ro -e MODE=fast nginx")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) flags: streams::Flags,
    /// Leave it running and print its id
    #[arg(short, long)]
    detach: bool,
    /// Name of the pod and of the container [default: a random one]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Remove everything when it has exited
    #[arg(long)]
    rm: bool,
    /// An environment variable; without a value, the one that berthctl has
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// A directory or file of this machine in the container
    #[arg(short, long, value_name = "HOST:CONTAINER[:OPTIONS]")]
    volume: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User, by name or number, and group, by number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Instead of the image's entry point; empty for none
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Most memory: bytes, or with k, m, g
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Most CPUs: 0.5 is half of one
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Network: bridge or host
    #[arg(long, alias = "net", default_value = "bridge", value_name = "NETWORK")]
    network: String,
    /// Host name [default: the name]
    #[arg(long)]
    hostname: Option<String>,
    /// A label of pod and container
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = super::pods::label)]
    label: Vec<(String, String)>,
    /// The root file system cannot be written
    #[arg(long)]
    read_only: bool,
    /// When to fetch the image
    #[arg(long, default_value = "missing", value_name = "WHEN")]
    pull: When,
    /// Runtime handler
    #[arg(long, default_value = "")]
    runtime: String,
    /// Publish a port (not yet)
    #[arg(short, long, hide = true)]
    publish: Vec<String>,
    /// The image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    pub(crate) image_and_command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum When {
    /// If it is not here
    Missing,
    /// Each time
    Always,
    /// Not at all
    Never,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    if !args.detach {
        args.flags.check("run")?;
    }
    if !args.publish.is_empty() {
        return Err(
            Failure::usage("cannot publish ports", "not yet: host ports are not built")
                .next("--network host makes the container's ports the node's"),
        );
    }
    let request = request::of(args)?;
    let ours = |failure: Failure| {
        if failure.exit == EXIT_USAGE {
            failure
        } else {
            failure.exit(EXIT_NOT_RUN)
        }
    };
    let connection = context.connect().await.map_err(ours)?;
    let image = args.image_and_command.first().map_or("", String::as_str);
    ready_image(&connection, image, args.pull)
        .await
        .map_err(ours)?;
    if let Some(name) = &args.name {
        check_name(&connection, name).await.map_err(ours)?;
    }
    let made = connection
        .node()
        .run(connection.change(request))
        .await
        .map_err(|status| not_run(image, &status))?
        .into_inner();
    if args.detach {
        output::line(&made.container_id)?;
        return Ok(0);
    }
    if args.attaches() {
        return converse(&connection, args, &made).await;
    }
    attend(&connection, &made).await
}

impl Args {
    /// Whether the user's input or terminal is connected with the container. Else its
    /// log is followed, which goes on when the agent is replaced.
    fn attaches(&self) -> bool {
        !self.detach && (self.flags.interactive || self.flags.tty)
    }
}

/// Attaches before the start, so that the first word is not lost, and to the end.
async fn converse(connection: &Connection, args: &Args, made: &berth::RunResponse) -> Outcome<u8> {
    let id = &made.container_id;
    let image = args.image_and_command.first().map_or("", String::as_str);
    let what = format!("cannot run {image}");
    let wanted = args.flags.wanted();
    let attached = async {
        let url = attach::url(connection, &what, id, wanted).await?;
        let remote = streams::open(&what, &url, wanted, &args.flags.tls).await?;
        let start = cri::StartContainerRequest {
            container_id: id.clone(),
        };
        let mut runtime = connection.runtime();
        let started = runtime.start_container(connection.change(start)).await;
        started.map_err(|status| not_run(image, &status))?;
        Ok(remote)
    };
    let remote = match attached.await {
        Ok(remote) => remote,
        Err(failure) => {
            // What was made for this is of use to nobody.
            let remove = cri::RemovePodSandboxRequest {
                pod_sandbox_id: made.pod_sandbox_id.clone(),
            };
            let removing = connection.change(remove);
            if let Err(status) = connection.runtime().remove_pod_sandbox(removing).await {
                Failure::refused("cannot remove what was made", &status).warn();
            }
            return Err(failure);
        }
    };
    let ended = streams::attend(&what, remote, wanted, &args.flags.detach_keys).await?;
    match ended {
        streams::Ended::Detached => {
            let name = args.name.as_deref().unwrap_or(id);
            output::note(&format!(
                "left running; `berthctl attach {name}` comes back"
            ));
            Ok(0)
        }
        // Attaching does not tell the container's own code.
        streams::Ended::Code(0) => Ok(exit_byte(exit::code_of(connection, id).await?)),
        streams::Ended::Code(code) => Ok(code),
    }
}

/// Has the image here, as `--pull` says.
async fn ready_image(connection: &Connection, image: &str, when: When) -> Outcome<()> {
    if when != When::Always {
        match find_image(connection, image, false).await? {
            Ok(_) => return Ok(()),
            Err(miss) if when == When::Never => return Err(miss.into_failure("image", image)),
            Err(miss @ lookup::Miss::Several(_)) => {
                return Err(miss.into_failure("image", image));
            }
            Err(lookup::Miss::None { .. }) => {
                output::note(&format!("{image} is not here"));
            }
        }
    }
    pull::pull(connection, image, false).await.map(drop)
}

/// A name that is taken is told before anything is made, with its holder.
async fn check_name(connection: &Connection, name: &str) -> Outcome<()> {
    let pods = listing::pods(connection, None).await?;
    let taken =
        |pod: &&cri::PodSandbox| pod.metadata.as_ref().is_some_and(|data| data.name == name);
    let Some(holder) = pods.iter().find(taken) else {
        return Ok(());
    };
    Err(Failure::new(
        format!("cannot use the name {name}"),
        format!("it is the name of pod {}", holder.id),
    )
    .next(format!("`berthctl rmp --force {name}`, or another name")))
}

fn not_run(image: &str, status: &Status) -> Failure {
    let exit = not_invoked(status).unwrap_or(EXIT_NOT_RUN);
    let failure = Failure::refused(format!("cannot run {image}"), status).exit(exit);
    if is_missing(status) {
        return failure
            .next("`run` needs berth-agent; with other runtimes use runp, create and start");
    }
    failure
}

/// 126 or 127 if the command itself was at fault. Berth's agent tells the phase
/// beside the message; other runtimes have only words.
pub(super) fn not_invoked(status: &Status) -> Option<u8> {
    if is_lost(status) {
        return None;
    }
    let text = status.message();
    let at_exec = match status.metadata().get(PHASE_KEY) {
        Some(phase) => phase == "exec",
        None => text.contains("exec"),
    };
    if !at_exec {
        return None;
    }
    if text.contains("executable file not found")
        || text.contains("No such file or directory")
        || text.contains("no such file or directory")
        || text.contains("ENOENT")
    {
        return Some(EXIT_NOT_FOUND);
    }
    [
        "ermission denied",
        "xec format error",
        "s a directory",
        "EACCES",
        "ENOEXEC",
    ]
    .iter()
    .any(|cause| text.contains(cause))
    .then_some(EXIT_NOT_EXECUTABLE)
}

/// Shows the output until the container has exited.
async fn attend(connection: &Connection, made: &berth::RunResponse) -> Outcome<u8> {
    let id = &made.container_id;
    let path = logs::log_path(connection, id, id).await?;
    let mut log = LogFile::expect(&path);
    let mut printer = Printer::new(
        BufWriter::new(io::stdout()),
        BufWriter::new(io::stderr()),
        Selection::default(),
    );
    // The log is opened before the exit is asked for: with --rm, having told
    // the exit is the agent's leave to remove both.
    let ended = follow(&mut log, &mut printer, exit::code_of(connection, id));
    tokio::select! {
        ended = ended => Ok(exit_byte(ended??)),
        failure = stop_on_signal(connection, id) => Err(failure),
    }
}

/// Stops the container at the first signal and kills it at the next. Ends only
/// if signals cannot be had.
async fn stop_on_signal(connection: &Connection, id: &str) -> Failure {
    let listen = || {
        Ok((
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ))
    };
    let (mut interrupt, mut terminate) = match listen() {
        Ok(signals) => signals,
        Err(error) => {
            let error: io::Error = error;
            return Failure::new("cannot listen for signals", error.to_string());
        }
    };
    let mut grace = GRACE_SECONDS;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        output::note(if grace > 0 {
            "stopping the container; once more kills it"
        } else {
            "killing the container"
        });
        let (connection, id) = (connection.clone(), id.to_owned());
        // Beside the waiting, so that a second signal is heard.
        let stopping = tokio::spawn(async move {
            if let Err(failure) = stop(&connection, &id, &id, grace).await {
                failure.print();
            }
        });
        drop(stopping);
        grace = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_at_fault_has_its_own_codes() {
        let code = |text: &str| not_invoked(&Status::internal(text));
        assert_eq!(
            code("exec /x: No such file or directory (os error 2)"),
            Some(127)
        );
        assert_eq!(code("exec \"/x\": permission denied"), Some(126));
        assert_eq!(code("mount /x: No such file or directory"), None);
        assert_eq!(not_invoked(&Status::unavailable("exec: ENOENT")), None);
        let mut told = Status::internal("cannot execute \"/x\": Exec format error (os error 8)");
        let mut phase = |name: &'static str| {
            let name = tonic::metadata::MetadataValue::from_static(name);
            told.metadata_mut().insert(PHASE_KEY, name);
            not_invoked(&told)
        };
        assert_eq!(phase("exec"), Some(126));
        assert_eq!(phase("rootfs"), None);
    }
}
