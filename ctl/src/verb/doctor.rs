//! `doctor`: whether this machine can run containers well, and what is on it that
//! nobody owns. The agent looks; where it does not run, its program does.

use std::{path::PathBuf, process::Command};

use berth_proto::berth::v1 as berth;

use super::Context;
use crate::{
    cri_json,
    failure::{EXIT_FAILED, Failure, Outcome},
    output::{
        self, Format, note,
        text::{binary_bytes, printable, shown_id},
    },
    time,
};

/// The agent's program.
const AGENT: &str = "berth-agent";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Undo what nobody owns
    #[arg(long)]
    fix: bool,
    /// Where no agent runs: its configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where no agent runs: its root directory, if not as configured
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where no agent runs: its run directory, if not as configured
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let answer = match context.connect().await {
        Ok(connection) => connection
            .node()
            .doctor(connection.change(berth::DoctorRequest { fix: args.fix }))
            .await
            .map_err(|status| Failure::refused("cannot look at this node", &status))?
            .into_inner(),
        Err(failure) => {
            note("no agent answers; its program looks instead");
            match without_agent(args)? {
                Some(answer) => answer,
                None => return Err(failure),
            }
        }
    };
    if context.format == Format::Table {
        output::print(&render(&answer, context.no_trunc))?;
    } else {
        let value = cri_json::to_value("berth.v1.DoctorResponse", &answer);
        output::value(context.format, &value)?;
    }
    let well = answer.checks.iter().all(|check| check.verdict != "FAIL")
        && answer.strays.iter().all(|stray| stray.undone);
    Ok(if well { 0 } else { EXIT_FAILED })
}

/// Asks the agent's program; `None` if it is not on this machine.
fn without_agent(args: &Args) -> Outcome<Option<berth::DoctorResponse>> {
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name(AGENT))
        .filter(|path| path.is_file());
    let mut command = Command::new(beside.unwrap_or_else(|| AGENT.into()));
    command.args(["doctor", "--json"]);
    if args.fix {
        command.arg("--fix");
    }
    for (flag, value) in [
        ("--config", &args.config),
        ("--root", &args.root),
        ("--run-dir", &args.run_dir),
    ] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new("cannot run berth-agent", error.to_string())),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).ok();
    report
        .and_then(|report| cri_json::from_value("berth.v1.DoctorResponse", &report).ok())
        .map(Some)
        .ok_or_else(|| Failure::new("cannot look at this node", said.trim().to_owned()))
}

fn render(answer: &berth::DoctorResponse, whole: bool) -> String {
    let mut text = String::new();
    for check in &answer.checks {
        text += &format!(
            "{:<4}  {:<16}  {}\n",
            printable(&check.verdict),
            printable(&check.name),
            printable(&check.found)
        );
        if !check.remedy.is_empty() {
            text += &format!("{:24}{}\n", "", printable(&check.remedy));
        }
    }
    if answer.strays.is_empty() {
        text += "\nEverything that Berth made on this machine has an owner.\n";
        return text;
    }
    let left = answer.strays.iter().filter(|stray| !stray.undone).count();
    text += &format!("\nWithout an owner: {}\n", answer.strays.len());
    for stray in &answer.strays {
        text += &format!("  {}\n", stray_line(stray, whole));
        if !stray.error.is_empty() {
            text += &format!("      failed: {}\n", printable(&stray.error));
        }
    }
    if left > 0 && answer.strays.iter().all(|stray| stray.error.is_empty()) {
        text += "`berthctl doctor --fix` undoes this.\n";
    }
    text
}

fn stray_line(stray: &berth::Stray, whole: bool) -> String {
    let mut facts = vec![format!(
        "{} of {}",
        stray.kind,
        shown_id(&stray.owner, whole)
    )];
    if let Some(age) = stray.age {
        let nanos = i64::try_from(age).unwrap_or(i64::MAX);
        facts.push(format!(
            "{} old",
            time::spoken(nanos.saturating_mul(1_000_000_000))
        ));
    }
    if stray.bytes > 0 {
        facts.push(binary_bytes(stray.bytes));
    }
    let done = if stray.undone { "done: " } else { "" };
    printable(&format!("{done}{} ({})", stray.plan, facts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_plan_for_what_nobody_owns() {
        let mut answer = berth::DoctorResponse {
            checks: vec![berth::HostCheck {
                name: "swap".to_owned(),
                verdict: "WARN".to_owned(),
                found: "not accounted".to_owned(),
                remedy: "boot with swapaccount=1".to_owned(),
            }],
            strays: vec![],
        };
        let text = render(&answer, false);
        assert!(text.contains("WARN  swap"), "{text}");
        assert!(text.contains("has an owner"), "{text}");
        answer.strays.push(berth::Stray {
            kind: "shim_dir".to_owned(),
            owner: "0123456789abcdef".to_owned(),
            plan: "delete /run/berth/shims/x".to_owned(),
            age: Some(7200),
            bytes: 2048,
            ..Default::default()
        });
        let text = render(&answer, false);
        let line = "delete /run/berth/shims/x (shim_dir of 0123456789ab, 2 hours old, 2.00KiB)";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("--fix"), "{text}");
    }
}
