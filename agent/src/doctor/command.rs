//! `berth-agent doctor`: for when no agent runs.

use std::{io::Write as _, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Report, Verdict, examine};
use crate::{
    config::{Config, DoctorCommand},
    container,
    listen::Progress,
    sandbox,
    start::{leave, prepare, told},
    telemetry::Telemetry,
};

/// Prints the report; returns whether all is well.
///
/// # Errors
/// If an agent runs on the same root, or the node cannot be looked at.
pub(crate) async fn run(
    mut config: Config,
    shim: Option<PathBuf>,
    command: &DoctorCommand,
) -> Result<bool> {
    // What is told here is the report.
    "error".clone_into(&mut config.telemetry.log_level);
    let telemetry = Telemetry::start(&config.telemetry)?;
    let prepared = prepare(config, shim, &telemetry, &Progress::new())
        .await
        .context("an agent that runs is asked with `berthctl doctor`")?;
    let node = prepared.node;
    for record in prepared.sandboxes {
        sandbox::adopt(&node, record);
    }
    for record in prepared.containers {
        container::adopt(&node, record);
    }
    let report = examine(&node, command.fix, false).await.map_err(told)?;
    leave(&node).await;
    node.store.close().await;
    let text = if command.json {
        format!("{:#}\n", as_json(&report))
    } else {
        as_text(&report)
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(report.is_well())
}

fn as_text(report: &Report) -> String {
    let mut text = String::new();
    for check in &report.checks {
        text += &format!(
            "{:<4}  {:<16}  {}\n",
            check.verdict.name(),
            check.name,
            check.found
        );
        if !check.remedy.is_empty() {
            text += &format!("{:24}{}\n", "", check.remedy);
        }
    }
    if report.findings.is_empty() {
        text += "nothing is without an owner\n";
    }
    for finding in &report.findings {
        let outcome = match (finding.undone, finding.error.as_str()) {
            (true, _) => "done".to_owned(),
            (false, "") => "--fix would do this".to_owned(),
            (false, error) => format!("failed: {error}"),
        };
        text += &format!(
            "{}: {} ({outcome})\n",
            finding.stray.kind,
            finding.stray.plan()
        );
    }
    text
}

/// In protobuf's JSON form: 64-bit numbers are strings.
fn as_json(report: &Report) -> serde_json::Value {
    json!({
        "checks": report.checks.iter().map(|check| json!({
            "name": check.name,
            "verdict": check.verdict.name(),
            "found": check.found,
            "remedy": check.remedy,
        })).collect::<Vec<_>>(),
        "strays": report.findings.iter().map(|finding| {
            let stray = &finding.stray;
            let mut value = json!({
                "kind": stray.kind,
                "owner": stray.owner,
                "place": stray.place,
                "bytes": stray.bytes.to_string(),
                "plan": stray.plan(),
                "undone": finding.undone,
                "error": finding.error,
            });
            if let Some(age) = stray.age {
                value["age"] = age.to_string().into();
            }
            value
        }).collect::<Vec<_>>(),
    })
}

impl Report {
    /// Nothing fails, and nothing is left without an owner.
    fn is_well(&self) -> bool {
        self.checks
            .iter()
            .all(|check| check.verdict != Verdict::Fail)
            && self.findings.iter().all(|finding| finding.undone)
    }
}
