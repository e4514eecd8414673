//! What a run of critest said: one row per spec, and whether a spec that used
//! to pass no longer does.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Longest reason in the table, in characters.
const REASON: usize = 180;

/// How one spec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It could not be judged here, with the suite's reason.
    Skipped(String),
    /// It failed, with the reason.
    Failed(String),
}

/// The specs by name.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of their names.
    pub specs: BTreeMap<String, Outcome>,
}

impl Report {
    /// Reads what `--ginkgo.json-report` wrote.
    ///
    /// # Errors
    /// If it is no such report, or is about no spec.
    pub fn from_ginkgo(text: &[u8]) -> Result<Self> {
        let suites: Value = serde_json::from_slice(text).context("read the suite's report")?;
        let mut specs = BTreeMap::new();
        let reports = suites
            .as_array()
            .context("the suite's report is no list")?
            .iter()
            .filter_map(|suite| suite["SpecReports"].as_array())
            .flatten();
        for spec in reports {
            let name = name(spec);
            // Measurements are left out of a run of tests.
            if spec["LeafNodeType"] != "It" || name.contains("benchmark") {
                continue;
            }
            let reason = reason(spec["Failure"]["Message"].as_str().unwrap_or_default());
            let outcome = match spec["State"].as_str() {
                Some("passed") => Outcome::Passed,
                Some("skipped" | "pending") => Outcome::Skipped(reason),
                Some(_) if !reason.is_empty() => Outcome::Failed(reason),
                state => Outcome::Failed(state.unwrap_or("no state").to_owned()),
            };
            specs.insert(name, outcome);
        }
        ensure!(!specs.is_empty(), "the suite ran no spec");
        Ok(Self { specs })
    }

    /// How many passed, failed and were skipped.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for outcome in self.specs.values() {
            match outcome {
                Outcome::Passed => passed += 1,
                Outcome::Failed(_) => failed += 1,
                Outcome::Skipped(_) => skipped += 1,
            }
        }
        (passed, failed, skipped)
    }

    /// The specs of `baseline` that no longer pass, each with what happened.
    #[must_use]
    pub fn regressions(&self, baseline: &BTreeSet<String>) -> Vec<(String, String)> {
        let judge = |name: &String| match self.specs.get(name) {
            Some(Outcome::Passed) => None,
            Some(Outcome::Failed(reason)) => Some(reason.clone()),
            Some(Outcome::Skipped(reason)) => Some(format!("skipped: {reason}")),
            None => Some("it did not run".to_owned()),
        };
        baseline
            .iter()
            .filter_map(|name| Some((name.clone(), judge(name)?)))
            .collect()
    }

    /// The names of those that pass.
    #[must_use]
    pub fn passing(&self) -> BTreeSet<String> {
        let passed = self.specs.iter().filter(|(_, o)| **o == Outcome::Passed);
        passed.map(|(name, _)| name.clone()).collect()
    }

    /// The page for people, from `head` and a table.
    #[must_use]
    pub fn page(&self, head: &str) -> String {
        let (passed, failed, skipped) = self.counts();
        let mut text = format!(
            "{head}\n{} specs: **{passed} passed**, {failed} failed, {skipped} skipped.\n\n\
             | spec | result | why |\n|---|---|---|\n",
            self.specs.len()
        );
        for (name, outcome) in &self.specs {
            let (result, why) = match outcome {
                Outcome::Passed => ("passed", ""),
                Outcome::Skipped(reason) => ("skipped", reason.as_str()),
                Outcome::Failed(reason) => ("**failed**", reason.as_str()),
            };
            text.push_str(&format!("| {} | {result} | {} |\n", cell(name), cell(why)));
        }
        text
    }
}

/// The recorded names, one per line; lines with `#` are remarks.
#[must_use]
pub fn baseline(text: &str) -> BTreeSet<String> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn name(spec: &Value) -> String {
    let texts = spec["ContainerHierarchyTexts"].as_array();
    let mut parts: Vec<&str> = texts
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    parts.push(spec["LeafNodeText"].as_str().unwrap_or_default());
    let name = parts.join(" ");
    name.strip_prefix("[k8s.io] ").unwrap_or(&name).to_owned()
}

/// One line of what is said, without the dump of the values behind it and
/// without what differs in each run.
fn reason(message: &str) -> String {
    let words: Vec<String> = message.split_whitespace().map(stable).collect();
    let text = words.join(" ");
    let said = text.find("rpc error: ").and_then(|at| text.get(at..));
    let said = said.unwrap_or(&text);
    let dump = [" Unexpected error: ", " { s: {"].map(|mark| said.find(mark));
    let end = dump.into_iter().flatten().min().unwrap_or(said.len());
    let text = said.get(..end).unwrap_or_default();
    match text.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// A word with its hexadecimal runs of eight and more replaced by `…`.
fn stable(word: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    for character in word.chars().chain(['\0']) {
        if character.is_ascii_hexdigit() && !character.is_ascii_uppercase() {
            run.push(character);
            continue;
        }
        let varies = run.len() >= 8 && run.chars().any(|c| c.is_ascii_digit());
        out.push_str(if varies { "…" } else { &run });
        run.clear();
        if character != '\0' {
            out.push(character);
        }
    }
    out
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(name: &str, state: &str, message: &str) -> Value {
        json!({
            "ContainerHierarchyTexts": ["[k8s.io] Container", "runtime"],
            "LeafNodeType": "It", "LeafNodeText": name, "State": state,
            "Failure": { "Message": message },
        })
    }

    fn report(specs: Vec<Value>) -> Result<Report> {
        Report::from_ginkgo(&serde_json::to_vec(&json!([{ "SpecReports": specs }])).unwrap())
    }

    #[test]
    fn a_spec_that_no_longer_passes_is_named_with_its_reason() {
        let report = report(vec![
            spec("a", "passed", ""),
            spec("b", "failed", "no\n such thing"),
            spec("c", "skipped", "not here"),
            spec("d", "timedout", ""),
        ])
        .unwrap();
        assert_eq!(report.counts(), (1, 2, 1));
        let names = ["a", "b", "c", "d", "e"].map(|n| format!("Container runtime {n}"));
        let lost = report.regressions(&names.into_iter().collect());
        let reasons: Vec<&str> = lost.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!(
            reasons,
            [
                "no such thing",
                "skipped: not here",
                "timedout",
                "it did not run"
            ]
        );
    }

    #[test]
    fn a_run_without_specs_is_no_success() {
        assert!(report(Vec::new()).is_err());
        assert!(report(vec![spec("benchmark about x", "skipped", "")]).is_err());
    }

    #[test]
    fn what_differs_in_each_run_is_not_in_the_table() {
        let id = "0f".repeat(32);
        let text = reason(&format!("container \"{id}\" of deadbeef | decade-long"));
        assert_eq!(text, "container \"…\" of deadbeef | decade-long");
        let page = report(vec![spec("a", "failed", "x | y")])
            .unwrap()
            .page("# Head\n");
        assert!(
            page.contains("| Container runtime a | **failed** | x \\| y |"),
            "{page}"
        );
    }

    #[test]
    fn the_reason_is_what_the_agent_said() {
        let dumped = "failed to exec in container \"x\"\nUnexpected error:\n    \
            <*status.Error | 0xc000a1b2c3>: \n    rpc error: code = Unimplemented desc = exec\n    \
            {\n s: {\n";
        assert_eq!(
            reason(dumped),
            "rpc error: code = Unimplemented desc = exec"
        );
        let plain = "Should find the pulled image";
        assert_eq!(reason(plain), plain);
    }

    #[test]
    fn remarks_in_the_baseline_are_no_specs() {
        assert_eq!(baseline("# remark\n\na b\n").len(), 1);
    }
}
