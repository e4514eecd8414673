//! `logs`: what a container has written.

use std::{
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use berth_proto::cri::{self, ContainerState};
use jiff::Timestamp;

use super::{Context, exit};
use crate::{
    connect::Connection,
    failure::{Failure, Outcome},
    listing,
    log_reader::{LogFile, Printer, Selection, follow, read_all},
    lookup, output,
    time::parse_moment,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container
    container: String,
    /// Go on until the container has exited
    #[arg(short, long)]
    follow: bool,
    /// Each line begins with its time
    #[arg(short, long)]
    timestamps: bool,
    /// Only the last N lines, or all; the log must not have been rotated for more
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = tail)]
    tail: Tail,
    /// Not what is older than this time, or than this long ago
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_moment)]
    since: Option<Timestamp>,
    /// Not what is newer than this time, or than this long ago
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_moment)]
    until: Option<Timestamp>,
    /// Of the attempt before this one
    #[arg(short, long)]
    previous: bool,
}

#[derive(Clone, Copy, Debug)]
struct Tail(Option<u64>);

fn tail(text: &str) -> Result<Tail, String> {
    if text == "all" {
        return Ok(Tail(None));
    }
    text.parse()
        .map(|lines| Tail(Some(lines)))
        .map_err(|_not_a_number: std::num::ParseIntError| {
            "expected a number of lines, or all".to_owned()
        })
}

pub(crate) async fn run(context: &Context, args: Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let mut container = lookup::container(&connection, &args.container).await?;
    let mut path = None;
    if args.previous {
        match previous(&connection, &container).await? {
            Previous::Container(earlier) => container = *earlier,
            Previous::File(earlier) => path = Some(earlier),
        }
    }
    let path = match path {
        Some(path) => path,
        None => log_path(&connection, &container.id, &args.container).await?,
    };
    let selection = Selection {
        tail: args.tail.0,
        since: args.since,
        until: args.until,
        timestamps: args.timestamps,
    };
    let mut log = match LogFile::open(&path) {
        Ok(log) => log,
        // Created and not started: it will be there.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && container.state() == ContainerState::ContainerCreated =>
        {
            LogFile::expect(&path)
        }
        Err(error) => return Err(unreadable(&path, &error)),
    };
    if let Some(lines) = selection.tail {
        log.skip_to_tail(lines)
            .map_err(|error| unreadable(&path, &error))?;
    }
    let mut printer = Printer::new(
        BufWriter::new(io::stdout()),
        BufWriter::new(io::stderr()),
        selection,
    );
    let live = matches!(
        container.state(),
        ContainerState::ContainerRunning | ContainerState::ContainerCreated
    );
    if args.follow && live && !args.previous {
        let until = async {
            match args.until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = follow(&mut log, &mut printer, exit::code_of(&connection, &container.id)) => {
                ended??;
            }
            () = until => {}
        }
    }
    if !printer.is_past_until() {
        read_all(&mut log, &mut printer)?;
    }
    printer.flush()?;
    if printer.unreadable() > 0 {
        output::note(&format!(
            "note: {} lines of {} are not in the CRI log format and were left out",
            printer.unreadable(),
            path.display()
        ));
    }
    Ok(0)
}

async fn sleep_until(moment: Timestamp) {
    let left = moment.duration_since(Timestamp::now());
    tokio::time::sleep(left.try_into().unwrap_or_default()).await;
}

/// Where the runtime writes the log of a container.
pub(super) async fn log_path(connection: &Connection, id: &str, name: &str) -> Outcome<PathBuf> {
    let status = listing::container_status(connection, id, false)
        .await
        .map_err(|status| Failure::refused(format!("cannot ask for container {name}"), &status))?
        .status
        .unwrap_or_default();
    if status.log_path.is_empty() {
        return Err(Failure::new(
            format!("there is no log of container {name}"),
            "it was created without a log path, so its output is not kept",
        ));
    }
    Ok(PathBuf::from(status.log_path))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(
        format!("cannot read the log {}", path.display()),
        error.to_string(),
    );
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure.next("run berthctl as root"),
        io::ErrorKind::NotFound => failure
            .next("it was removed, or the runtime is in another mount namespace than berthctl"),
        _ => failure,
    }
}

enum Previous {
    Container(Box<cri::Container>),
    /// The container is gone and its log is still there.
    File(PathBuf),
}

/// The attempt before: another container of the same pod and name, else the
/// log that it has left, since attempts count in the file's name.
async fn previous(connection: &Connection, container: &cri::Container) -> Outcome<Previous> {
    let data = container.metadata.clone().unwrap_or_default();
    let attempt = |of: &cri::Container| of.metadata.as_ref().map_or(0, |data| data.attempt);
    let earlier = listing::containers(connection, None)
        .await?
        .into_iter()
        .filter(|other| {
            other.pod_sandbox_id == container.pod_sandbox_id
                && other
                    .metadata
                    .as_ref()
                    .is_some_and(|other| other.name == data.name)
                && attempt(other) < data.attempt
        })
        .max_by_key(attempt);
    if let Some(earlier) = earlier {
        return Ok(Previous::Container(Box::new(earlier)));
    }
    let none = || {
        Failure::new(
            format!("there is no log of an attempt before {}", data.name),
            format!(
                "this is attempt {}, and no earlier one is kept",
                data.attempt
            ),
        )
    };
    let path = log_path(connection, &container.id, &data.name).await?;
    let numbered = path.file_name() == Some(format!("{}.log", data.attempt).as_ref());
    match data.attempt.checked_sub(1) {
        Some(attempt) if numbered => {
            let earlier = path.with_file_name(format!("{attempt}.log"));
            earlier
                .exists()
                .then_some(Previous::File(earlier))
                .ok_or_else(none)
        }
        _ => Err(none()),
    }
}
