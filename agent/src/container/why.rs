//! The death certificate of a container: everything that is known of its end.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_proto::berth::v1::{OutOfMemory, WhyResponse};
use nix::{libc, sys::signal::Signal};

use super::{
    death::Level,
    state::{Exit, Reason, State},
};
use crate::{
    error::Result,
    node::{Node, blocking},
    store::ContainerRecord,
};

/// How much of the end of the output is shown, in bytes.
const OUTPUT: usize = 8 << 10;
/// How much of the log is read for that: each of its lines has a head of 41 bytes.
const READ: u64 = 4 * OUTPUT as u64;

/// What is known of the end of a container, or of its life if it has not ended.
///
/// # Errors
/// NotFound.
pub(crate) async fn why(node: &Arc<Node>, id: &str) -> Result<WhyResponse> {
    let container = node.container(id)?;
    let record = container.record();
    let log = PathBuf::from(&record.log_path);
    let output = blocking("read the end of a log", move || Ok(tail(&log))).await?;
    let mut answer = WhyResponse {
        container_id: record.id.to_string(),
        pod_sandbox_id: record.sandbox_id.to_string(),
        name: record
            .config
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.clone())
            .unwrap_or_default(),
        state: record.state.name().to_owned(),
        created_at: record.created_at,
        started_at: record.state.started_at(),
        command: command(node, &record),
        ..WhyResponse::default()
    };
    match output {
        Ok((output, cut)) => (answer.output, answer.output_cut) = (output, cut),
        Err(error) => answer.output_missing = error.to_string(),
    }
    match &record.state {
        State::Exited { exit } => certify(&mut answer, exit, &record),
        State::Unknown { reason, .. } => answer.message.clone_from(reason),
        _ => {}
    }
    Ok(answer)
}

fn certify(answer: &mut WhyResponse, exit: &Exit, record: &ContainerRecord) {
    let found = &exit.circumstances;
    answer.started_at = exit.started_at;
    answer.finished_at = exit.finished_at;
    answer.exit_code = exit.code;
    answer.signal = exit.signal;
    if let Ok(signal) = Signal::try_from(exit.signal) {
        signal.as_str().clone_into(&mut answer.signal_name);
    }
    exit.reason.name().clone_into(&mut answer.reason);
    answer.message.clone_from(&exit.message);
    answer.memory_peak = exit.memory_peak;
    answer.memory_limit = found.memory_limit.unwrap_or_default();
    answer.cpu_periods = found.cpu_periods;
    answer.throttled_periods = found.throttled_periods;
    answer.throttled = i64::try_from(found.throttled).unwrap_or(i64::MAX);
    answer.cpu_pressure = found.cpu_pressure.map(percent);
    answer.memory_pressure = found.memory_pressure.map(percent);
    answer.io_pressure = found.io_pressure.map(percent);
    answer.out_of_memory = found.oom.as_ref().map(|oom| OutOfMemory {
        level: match oom.level(&record.cgroup) {
            Level::Container => "container",
            Level::Above => "above",
            Level::Node => "node",
        }
        .to_owned(),
        group: oom.group.clone(),
        process: oom.process.clone(),
        pid: oom.pid,
    });
    answer.sent_by = sent_by(exit, record.stop_signal);
    answer.cause = cause(exit);
}

fn percent(hundredths: u32) -> f64 {
    f64::from(hundredths) / 100.0
}

/// Who sent the signal that ended it, as far as that can be known: a signal does
/// not say where it comes from.
fn sent_by(exit: &Exit, stop_signal: i32) -> String {
    if exit.signal == 0 && exit.code <= 128 {
        return String::new();
    }
    if exit.reason == Reason::OomKilled {
        return "the kernel, for lack of memory".to_owned();
    }
    let signal = if exit.signal == 0 {
        exit.code - 128
    } else {
        exit.signal
    };
    let Some(asked) = exit.circumstances.asked else {
        return match signal {
            libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGSYS => {
                "most likely the kernel, for a fault of the program".to_owned()
            }
            libc::SIGABRT => "most likely the program itself (abort)".to_owned(),
            libc::SIGPIPE => "the kernel: it wrote to a pipe that nobody read".to_owned(),
            _ if exit.signal == 0 => String::new(),
            _ => "not the runtime: a process of the container or of the node".to_owned(),
        };
    };
    let grace = berth_duration(asked.grace);
    if signal == libc::SIGKILL && stop_signal != libc::SIGKILL && asked.grace > 0 {
        format!("the runtime: it was asked to stop and had not ended after {grace}")
    } else {
        format!("the runtime: it was asked to stop, with {grace} to do so")
    }
}

fn berth_duration(nanoseconds: i64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    if milliseconds % 1000 == 0 {
        format!("{} s", milliseconds / 1000)
    } else {
        format!("{milliseconds} ms")
    }
}

/// One sentence.
fn cause(exit: &Exit) -> String {
    match exit.reason {
        Reason::Completed => "it ended by itself, with success".to_owned(),
        Reason::OomKilled => "it was killed for lack of memory".to_owned(),
        Reason::StartError => "its program could not be started".to_owned(),
        Reason::ShimLost => "its shim was killed, and it with it".to_owned(),
        Reason::NodeReboot => "the node was started anew while it ran".to_owned(),
        Reason::Unknown => "its end was not seen".to_owned(),
        Reason::Error if exit.circumstances.asked.is_some() => {
            "it ended after it had been asked to stop".to_owned()
        }
        Reason::Error if exit.signal != 0 => {
            let name = Signal::try_from(exit.signal)
                .map_or_else(|_| format!("signal {}", exit.signal), |s| s.to_string());
            format!("it was ended by {name}")
        }
        Reason::Error => match exit.code {
            126 => "it ended with code 126, which shells use for a command that cannot be executed",
            127 => "it ended with code 127, which shells use for a command that is not there",
            code if code > 128 && Signal::try_from(code - 128).is_ok() => {
                return format!(
                    "it ended with code {code}, which shells use for {}",
                    Signal::try_from(code - 128).map_or("a signal", Signal::as_str)
                );
            }
            code => return format!("it ended by itself, with code {code}"),
        }
        .to_owned(),
    }
}

/// What it ran: as its specification had it, which outlives it until it is removed.
fn command(node: &Node, record: &ContainerRecord) -> Vec<String> {
    let path = node.dirs.shim(&record.id).join(super::files::DESCRIPTION);
    let described: serde_json::Value = std::fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let arguments = described.pointer("/runtimeSpec/process/args");
    let words = arguments.and_then(|arguments| arguments.as_array());
    words
        .into_iter()
        .flatten()
        .filter_map(|word| word.as_str().map(ToOwned::to_owned))
        .collect()
}

/// The end of what a container has written, and whether there was more before.
fn tail(log: &Path) -> io::Result<(Vec<u8>, bool)> {
    if log.as_os_str().is_empty() {
        return Err(io::Error::other("it has no log"));
    }
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(log)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("its log is not a regular file"));
    }
    let from = metadata.len().saturating_sub(READ);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(READ).read_to_end(&mut bytes)?;
    let mut output = content(&bytes, from > 0);
    let more = output.len().saturating_sub(OUTPUT);
    output.drain(..more);
    Ok((output, from > 0 || more > 0))
}

/// What the container wrote, without time, stream and tag of each line.
fn content(log: &[u8], begins_within: bool) -> Vec<u8> {
    let mut output = Vec::with_capacity(log.len());
    let mut lines = log.split_inclusive(|&byte| byte == b'\n');
    if begins_within {
        lines.next();
    }
    for line in lines {
        let mut parts = line.splitn(4, |&byte| byte == b' ');
        let (Some(_time), Some(_stream), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        match text.strip_suffix(b"\n") {
            // The rest of the line follows.
            Some(part) if tag.starts_with(b"P") => output.extend_from_slice(part),
            _ => output.extend_from_slice(text),
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::container::death::Asked;

    #[test]
    fn the_log_is_shown_as_it_was_written() {
        let log = b"half a line\n2026-01-01T00:00:00.000000000Z stdout F hello world\n\
                    2026-01-01T00:00:00.000000000Z stderr P par\n\
                    2026-01-01T00:00:00.000000000Z stderr F tial\n";
        assert_eq!(content(log, true), b"hello world\npartial\n");
        assert_eq!(content(b"", false), b"");
    }

    #[test]
    fn the_end_of_a_long_log_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let line = format!(
            "2026-01-01T00:00:00.000000000Z stdout F {}\n",
            "x".repeat(99)
        );
        std::fs::write(&path, line.repeat(2000)).unwrap();
        let (output, cut) = tail(&path).unwrap();
        assert!(cut);
        assert_eq!(output.len(), OUTPUT);
        std::fs::write(&path, &line).unwrap();
        assert_eq!(
            tail(&path).unwrap(),
            (format!("{}\n", "x".repeat(99)).into_bytes(), false)
        );
        assert!(tail(directory.path()).is_err(), "a directory");
        std::os::unix::fs::symlink(&path, directory.path().join("link")).unwrap();
        assert!(tail(&directory.path().join("link")).is_err(), "a link");
    }

    #[test]
    fn who_sent_a_signal_is_said_only_where_it_is_known() {
        let exit = |code, signal| Exit::of_program(code, signal, false, 1, 2);
        assert_eq!(sent_by(&exit(1, 0), 15), "");
        assert!(sent_by(&exit(139, 11), 15).contains("fault"));
        assert!(sent_by(&exit(137, 9), 15).contains("not the runtime"));
        let mut stopped = exit(137, 9);
        stopped.circumstances.asked = Some(Asked::now(Duration::from_secs(3)));
        assert!(sent_by(&stopped, 15).contains("had not ended after 3 s"));
        let killed = Exit::of_program(137, 9, true, 1, 2);
        assert!(sent_by(&killed, 15).contains("kernel"));
        assert!(cause(&exit(127, 0)).contains("not there"));
        assert!(cause(&exit(143, 0)).contains("SIGTERM"));
    }
}
