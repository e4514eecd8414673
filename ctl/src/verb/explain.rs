//! `explain`: what was done to a pod, a container or an image, phase by phase.

use berth_proto::berth::v1 as berth;

use super::Context;
use crate::{
    cri_json,
    failure::{Failure, Outcome},
    output::{
        self, Format,
        text::{printable, short_id},
    },
    time,
};

/// Width of the bars, in characters.
const BAR: usize = 32;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A pod or container, which may be gone already, or an image
    #[arg(value_name = "POD|CONTAINER|IMAGE")]
    object: String,
    /// Operations only, without their phases
    #[arg(short, long)]
    short: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let request = berth::ExplainRequest {
        object: args.object.clone(),
    };
    let answer = connection
        .node()
        .explain(connection.read(request))
        .await
        .map_err(|status| Failure::refused(format!("cannot explain {}", args.object), &status))?
        .into_inner();
    if context.format == Format::Table {
        output::print(&render(&answer, !args.short, context.no_trunc))?;
    } else {
        let value = cri_json::to_value("berth.v1.ExplainResponse", &answer);
        output::value(context.format, &value)?;
    }
    Ok(0)
}

fn render(answer: &berth::ExplainResponse, phases: bool, whole: bool) -> String {
    let shown = if whole || !is_id(&answer.object) {
        answer.object.as_str()
    } else {
        short_id(&answer.object)
    };
    let mut text = format!("{}\n", printable(shown));
    for entry in &answer.entries {
        let took = if entry.took > 0 {
            precise(entry.took)
        } else {
            String::new()
        };
        let mut line = format!(
            "{}  {took:>9}  {}",
            time::clock(entry.started_at),
            printable(&entry.what)
        );
        let about = about(entry, &answer.object);
        if !about.is_empty() {
            line += &format!("  {}", printable(&about));
        }
        if !entry.note.is_empty() {
            line += &format!("  {}", printable(&entry.note));
        }
        if entry.running {
            line += "  (not done yet)";
        }
        text += &format!("{line}\n");
        if phases {
            text += &bars(entry);
        }
        if !entry.error.is_empty() {
            text += &format!("              failed: {}\n", printable(&entry.error));
        }
    }
    text
}

/// Which of several objects an entry is about; nothing for the one that was asked for.
fn about(entry: &berth::TimelineEntry, object: &str) -> String {
    let mut parts = entry.object.split('/');
    match entry.what.as_str() {
        "create-container" => parts.nth(1).unwrap_or_default().to_owned(),
        "agent-started" | "run" | "run-pod-sandbox" => String::new(),
        _ => {
            let id = parts.next().unwrap_or_default();
            if id == object || entry.object == object {
                String::new()
            } else if is_id(id) {
                short_id(id).to_owned()
            } else {
                entry.object.clone()
            }
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A line for each phase: when it began, how long it took, and both as a bar.
fn bars(entry: &berth::TimelineEntry) -> String {
    let mut text = String::new();
    for phase in &entry.phases {
        let name = if phase.step.is_empty() {
            phase.phase.clone()
        } else {
            format!("{} ({})", phase.phase, phase.step)
        };
        let bar = bar(phase.after, phase.took, entry.took);
        text += &format!(
            "              {:>9}  {bar}  {}\n",
            precise(phase.took),
            printable(&name)
        );
    }
    if entry.omitted_phases > 0 {
        text += &format!("              and {} phases more\n", entry.omitted_phases);
    }
    text
}

/// Where a phase lies in the time that the whole took.
fn bar(after: i64, took: i64, whole: i64) -> String {
    let width = i128::try_from(BAR).unwrap_or(0);
    let place = |at: i64| {
        let at = i128::from(at.clamp(0, whole.max(1))) * width / i128::from(whole.max(1));
        usize::try_from(at).unwrap_or(BAR)
    };
    let from = place(after).min(BAR - 1);
    let to = place(after.saturating_add(took)).clamp(from + 1, BAR);
    format!(
        "{}{}{}",
        " ".repeat(from),
        "█".repeat(to - from),
        " ".repeat(BAR - to)
    )
}

/// Three digits and a unit.
fn precise(nanoseconds: i64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let ns = nanoseconds.max(0) as f64;
    let (value, unit) = match ns {
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    match value {
        value if value >= 100.0 => format!("{value:.0} {unit}"),
        value if value >= 10.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.2} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_begin_and_length() {
        assert_eq!(bar(0, 10, 10), "█".repeat(BAR));
        let half = bar(5, 5, 10);
        assert!(half.starts_with(&" ".repeat(BAR / 2)), "{half:?}");
        assert_eq!(half.chars().count(), BAR);
        assert_eq!(bar(10, 0, 10).trim(), "█", "the shortest is still seen");
        assert_eq!(bar(-5, i64::MAX, 0).chars().count(), BAR);
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(precise(1_234), "1.23 µs");
        assert_eq!(precise(12_345_678), "12.3 ms");
        assert_eq!(precise(123_456_789_000), "123 s");
    }

    #[test]
    fn a_hostile_message_stays_on_its_line() {
        let answer = berth::ExplainResponse {
            object: "nginx".to_owned(),
            entries: vec![berth::TimelineEntry {
                what: "pull".to_owned(),
                object: "nginx".to_owned(),
                error: "a\nb\u{1b}[2J".to_owned(),
                ..Default::default()
            }],
        };
        let text = render(&answer, true, false);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("failed: a\\nb\\x1b[2J"), "{text}");
    }
}
