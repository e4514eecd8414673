//! `why`: what is known of a container's end.

use std::fmt::Write as _;

use berth_proto::berth::v1 as berth;

use super::Context;
use crate::{
    cri_json,
    failure::{Failure, Outcome},
    lookup,
    output::{
        self, Format,
        text::{binary_bytes, printable, printable_lines, shown_id},
    },
    time,
};

/// Width of the names of what is told.
const NAMES: usize = 13;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container
    #[arg(value_name = "CONTAINER")]
    container: String,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let container = lookup::container(&connection, &args.container).await?;
    let request = berth::WhyRequest {
        container_id: container.id,
    };
    let answer = connection
        .node()
        .why(connection.read(request))
        .await
        .map_err(|status| {
            Failure::refused(format!("cannot tell why {} ended", args.container), &status)
        })?
        .into_inner();
    if context.format == Format::Table {
        output::print(&render(&answer, context.no_trunc))?;
    } else {
        let value = cri_json::to_value("berth.v1.WhyResponse", &answer);
        output::value(context.format, &value)?;
    }
    Ok(0)
}

/// Lines of `name  value`.
struct Page(String);

impl Page {
    fn line(&mut self, name: &str, value: &str) {
        // Writing to a string cannot fail.
        writeln!(self.0, "{name:<NAMES$}  {}", printable(value)).ok();
    }
}

fn render(answer: &berth::WhyResponse, whole: bool) -> String {
    let mut page = Page(String::new());
    let id = shown_id(&answer.container_id, whole);
    page.line("Container", &format!("{} ({id})", answer.name));
    if !answer.command.is_empty() {
        page.line("Command", &answer.command.join(" "));
    }
    if answer.finished_at == 0 {
        page.line("State", &format!("{}: it has not ended", answer.state));
        if !answer.message.is_empty() {
            page.line("Reason", &answer.message);
        }
    } else {
        ending(&mut page, answer);
    }
    write_output(&mut page, answer);
    page.0
}

fn ending(page: &mut Page, answer: &berth::WhyResponse) {
    page.line("Why", &answer.cause);
    let mut code = format!("{} ({})", answer.exit_code, answer.reason);
    if !answer.signal_name.is_empty() {
        code += &format!(", by {}", answer.signal_name);
    }
    page.line("Exit code", &code);
    if !answer.message.is_empty() {
        page.line("Message", &answer.message);
    }
    if !answer.sent_by.is_empty() {
        page.line("Sent by", &answer.sent_by);
    }
    page.line("Ended", &time::clock(answer.finished_at));
    if answer.started_at > 0 {
        let ran = answer.finished_at.saturating_sub(answer.started_at);
        page.line("Had run for", &time::span(ran));
    } else {
        page.line("Had run for", "it never ran");
    }
    if let Some(oom) = &answer.out_of_memory {
        let level = match oom.level.as_str() {
            "container" => "the container's own limit".to_owned(),
            "above" => format!("the limit of {}, above the container", oom.group),
            _ => "the whole node".to_owned(),
        };
        page.line("Ran out", &level);
        page.line("Killed", &format!("{} (pid {})", oom.process, oom.pid));
    }
    if answer.memory_peak > 0 {
        let mut memory = format!("at most {}", binary_bytes(answer.memory_peak));
        if answer.memory_limit > 0 {
            memory += &format!(" of {}", binary_bytes(answer.memory_limit));
        }
        page.line("Memory", &memory);
    }
    if answer.throttled_periods > 0 {
        page.line(
            "CPU",
            &format!(
                "held back in {} of {} periods, {} in all",
                answer.throttled_periods,
                answer.cpu_periods,
                time::span(answer.throttled)
            ),
        );
    }
    let pressures: Vec<String> = [
        ("cpu", answer.cpu_pressure),
        ("memory", answer.memory_pressure),
        ("io", answer.io_pressure),
    ]
    .into_iter()
    .filter_map(|(name, share)| Some(format!("{name} {:.1} %", share?)))
    .collect();
    if !pressures.is_empty() {
        page.line(
            "Pressure",
            &format!("{} of its last 10 s", pressures.join(", ")),
        );
    }
}

fn write_output(page: &mut Page, answer: &berth::WhyResponse) {
    if !answer.output_missing.is_empty() {
        page.line(
            "Output",
            &format!("cannot be shown: {}", answer.output_missing),
        );
        return;
    }
    if answer.output.is_empty() {
        page.line("Output", "none");
        return;
    }
    page.line(
        "Output",
        if answer.output_cut {
            "its end (berthctl logs has all that is kept)"
        } else {
            ""
        },
    );
    // Unlike logs this is a page for people; what a container wrote must not steer it.
    for line in printable_lines(&String::from_utf8_lossy(&answer.output)).lines() {
        writeln!(page.0, "  {line}").ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_what_is_known_and_nothing_else() {
        let answer = berth::WhyResponse {
            container_id: "0123456789abcdef".to_owned(),
            name: "web".to_owned(),
            finished_at: 1,
            exit_code: 137,
            signal: 9,
            signal_name: "SIGKILL".to_owned(),
            reason: "OOMKilled".to_owned(),
            cause: "it was killed for lack of memory".to_owned(),
            memory_peak: 64 << 20,
            memory_limit: 64 << 20,
            out_of_memory: Some(berth::OutOfMemory {
                level: "container".to_owned(),
                process: "evil\u{1b}[2J".to_owned(),
                pid: 7,
                ..Default::default()
            }),
            output: b"last words\x1b[0m\n".to_vec(),
            ..Default::default()
        };
        let text = render(&answer, false);
        assert!(text.contains("137 (OOMKilled), by SIGKILL"), "{text}");
        assert!(text.contains("at most 64.0MiB of 64.0MiB"), "{text}");
        assert!(text.contains("  last words\\x1b[0m\n"), "{text}");
        assert!(
            !text.contains('\u{1b}') && !text.contains("Pressure"),
            "{text}"
        );
    }

    #[test]
    fn a_container_that_runs_has_not_ended() {
        let answer = berth::WhyResponse {
            state: "running".to_owned(),
            ..Default::default()
        };
        assert!(render(&answer, false).contains("running: it has not ended"));
    }
}
