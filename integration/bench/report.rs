//! The table for people, the JSON for programs, and the history.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::results::{Measure, Results, quantile};

/// What the figures were measured on, without the name of any host.
pub(crate) fn machine() -> Result<Value> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    let load = read("/proc/loadavg");
    let load: f64 = load.split(' ').next().unwrap_or_default().parse()?;
    let memory = read("/proc/meminfo");
    let kibibytes: u64 = memory
        .split_whitespace()
        .nth(1)
        .context("no MemTotal")?
        .parse()?;
    Ok(json!({
        "cores": std::thread::available_parallelism()?.get(),
        "model": model,
        "memory_gib": kibibytes.div_ceil(1 << 20),
        "kernel": read("/proc/sys/kernel/osrelease").trim().split('-').next(),
        "load_before": load,
        "date": output("date", &["-u", "+%F"])?,
        "time": output("date", &["-u", "+%Y%m%dT%H%M%SZ"])?,
    }))
}

/// A program's first word that looks like a version.
pub(crate) fn version(program: &Path) -> String {
    let said = Command::new(program).arg("--version").output();
    let said = said.map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    said.split_whitespace()
        .find(|word| {
            word.chars()
                .next()
                .is_some_and(|first| first.is_ascii_digit())
        })
        .map(|word| {
            word.split(['~', '+', '-'])
                .next()
                .unwrap_or(word)
                .to_owned()
        })
        .unwrap_or_else(|| "?".into())
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let said = Command::new(program).args(arguments).output()?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// One table for each suite, in Markdown.
pub(crate) fn table(results: &Results) -> String {
    let mut text = String::new();
    let mut suites: Vec<&str> = Vec::new();
    for measure in &results.measures {
        if !suites.contains(&measure.suite) {
            suites.push(measure.suite);
        }
    }
    for suite in suites {
        let measures: Vec<&Measure> = results
            .measures
            .iter()
            .filter(|measure| measure.suite == suite)
            .collect();
        let mut runtimes: Vec<&str> = Vec::new();
        for (name, _) in measures.iter().flat_map(|measure| &measure.values) {
            if !runtimes.contains(name) {
                runtimes.push(name);
            }
        }
        runtimes.sort_by_key(|name| {
            ["berth", "containerd", "podman"]
                .iter()
                .position(|known| known == name)
                .unwrap_or(9)
        });
        let mut rows = vec![vec![suite.to_owned(), "unit".to_owned()]];
        rows[0].extend(runtimes.iter().map(ToString::to_string));
        for measure in measures {
            let mut row = vec![measure.name.clone(), measure.unit.to_owned()];
            row.extend(runtimes.iter().map(|runtime| cell(measure, runtime)));
            rows.push(row);
        }
        write_rows(&mut text, &rows);
        text.push('\n');
    }
    text
}

/// Median, 99th percentile where there are enough values, and the ratio.
fn cell(measure: &Measure, runtime: &str) -> String {
    let all = measure.all(runtime);
    let Some(median) = quantile(&all, 0.5) else {
        return "–".into();
    };
    let mut text = number(median);
    if all.len() >= 20
        && let Some(tail) = quantile(&all, 0.99)
    {
        text += &format!(" / {}", number(tail));
    }
    if runtime != "berth"
        && let Some(ratio) = measure.ratio(runtime)
    {
        text += &format!(" ({} x)", number(ratio));
    }
    text
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn write_rows(text: &mut String, rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    for (line, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let space = width(column) - cell.chars().count();
            text.push_str(&format!("| {cell}{} ", " ".repeat(space)));
        }
        text.push_str("|\n");
        if line == 0 {
            for column in 0..row.len() {
                text.push_str(&format!("|{}", "-".repeat(width(column) + 2)));
            }
            text.push_str("|\n");
        }
    }
}

/// One sentence about the run.
pub(crate) fn heading(machine: &Value, versions: &Value, note: &str) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let list: Vec<String> = versions
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, version)| format!("{name} {}", text(version)))
        .collect();
    format!(
        "### {}\n\n{} cores ({}), {} GiB, Linux {}; {}. {note}\n\n",
        text(&machine["date"]),
        machine["cores"],
        text(&machine["model"]),
        machine["memory_gib"],
        text(&machine["kernel"]),
        list.join(", "),
    )
}

/// Adds a run to the page, newest first, below the line that marks the place.
pub(crate) fn record(page: &Path, entry: &str) -> Result<()> {
    const MARK: &str = "<!-- runs: newest first, written by make bench -->\n";
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let (head, tail) = text
        .split_once(MARK)
        .with_context(|| format!("{}: the line {MARK:?} is missing", page.display()))?;
    fs::write(
        page,
        format!("{head}{MARK}\n{}\n{}", entry.trim_end(), tail),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_medians_and_ratios() {
        let mut results = Results::default();
        results.add("verbs", "Stop", "ms", "berth", vec![2.0]);
        results.add("verbs", "Stop", "ms", "podman", vec![30.0]);
        let expected = "| verbs | unit | berth | podman        |\n\
                        |-------|------|-------|---------------|\n\
                        | Stop  | ms   | 2.00  | 30.0 (15.0 x) |\n\n";
        assert_eq!(table(&results), expected);
    }

    #[test]
    fn a_run_is_recorded_above_the_older_ones() {
        let directory = tempfile::tempdir().unwrap();
        let page = directory.path().join("page.md");
        let mark = "<!-- runs: newest first, written by make bench -->\n";
        fs::write(&page, format!("# Head\n\n{mark}")).unwrap();
        record(&page, "### one\n").unwrap();
        record(&page, "### two\n").unwrap();
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.find("### two").unwrap() < text.find("### one").unwrap());
        fs::write(&page, "no mark").unwrap();
        assert!(record(&page, "### three").is_err());
    }
}
