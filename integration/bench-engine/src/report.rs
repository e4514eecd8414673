//! The table for people and the JSON for programs.

use std::fs;

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    engines::{Exec, Life},
    memory::Memory,
};

/// What one engine was measured to take.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) lives: Vec<Life>,
    pub(crate) life_cpu: Vec<f64>,
    pub(crate) execs: Vec<Exec>,
    pub(crate) exec_cpu: Vec<f64>,
}

/// The value below which the part `q` of all lies; an existing one.
pub(crate) fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list that was just made"
    )]
    let at = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied()
}

impl Measured {
    fn part(&self, part: impl Fn(&Life) -> f64) -> Vec<f64> {
        self.lives.iter().map(part).collect()
    }

    fn whole(&self) -> Vec<f64> {
        self.part(|life| life.whole)
    }

    fn ended(&self) -> Vec<f64> {
        self.execs.iter().map(|exec| exec.ended).collect()
    }

    fn running(&self) -> Vec<f64> {
        self.execs.iter().filter_map(|exec| exec.running).collect()
    }
}

/// The median of the rounds' own ratios: what disturbs a round disturbs all in it.
fn ratio(of: &[f64], to: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    quantile(&ratios, 0.5)
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
}

fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn head(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|&cell| cell.to_owned()).collect();
    row(&cells) + &"|---".repeat(cells.len()) + "|\n"
}

/// Markdown.
pub(crate) fn table(all: &[Measured], memory: &[Memory]) -> String {
    let bare = all.iter().find(|measured| measured.name == "bare C");
    let mut text = head(&[
        "whole life, ms",
        "p50",
        "p99",
        "create",
        "start",
        "wait",
        "delete",
        "CPU",
        "of bare C",
    ]);
    for measured in all.iter().filter(|measured| !measured.lives.is_empty()) {
        let whole = measured.whole();
        let part = |part: fn(&Life) -> f64| {
            let values = measured.part(part);
            cell(quantile(&values, 0.5).filter(|&value| value > 0.0))
        };
        text += &row(&[
            measured.name.to_owned(),
            cell(quantile(&whole, 0.5)),
            cell(quantile(&whole, 0.99)),
            part(|life| life.create),
            part(|life| life.start),
            part(|life| life.wait),
            part(|life| life.delete),
            cell(quantile(&measured.life_cpu, 0.5)),
            cell(bare.and_then(|bare| ratio(&whole, &bare.whole()))),
        ]);
    }
    text += "\n";
    text += &head(&["exec, ms", "until it runs", "until its end", "p99", "CPU"]);
    for measured in all.iter().filter(|measured| !measured.execs.is_empty()) {
        let ended = measured.ended();
        text += &row(&[
            measured.name.to_owned(),
            cell(quantile(&measured.running(), 0.5)),
            cell(quantile(&ended, 0.5)),
            cell(quantile(&ended, 0.99)),
            cell(quantile(&measured.exec_cpu, 0.5)),
        ]);
    }
    if !memory.is_empty() {
        let median = |part: fn(&Memory) -> f64| {
            let values: Vec<f64> = memory.iter().map(part).collect();
            format!("{:.0}", quantile(&values, 0.5).unwrap_or_default())
        };
        text += "\n";
        text += &head(&["a shim, KiB", "PSS", "private", "RSS"]);
        text += &row(&[
            format!("{} running", memory.len()),
            median(|memory| memory.pss),
            median(|memory| memory.private),
            median(|memory| memory.rss),
        ]);
    }
    text
}

/// What is wanted, and what there is.
pub(crate) fn goals(all: &[Measured], memory: &[Memory]) -> String {
    let find = |name: &str| {
        all.iter()
            .find(|measured| measured.name == name)
            .filter(|measured| !measured.lives.is_empty())
    };
    let mut text = String::new();
    let mut goal = |what: &str, value: Option<f64>, limit: f64, at_most: bool| {
        let Some(value) = value else { return };
        let met = if at_most {
            value <= limit
        } else {
            value >= limit
        };
        let (met, word) = (
            if met { "met" } else { "MISSED" },
            if at_most { "at most" } else { "at least" },
        );
        text += &format!("{met}: {what}: {value:.2}, {word} {limit}\n");
    };
    for name in ["berth-shim", "berth-oci"] {
        let Some(own) = find(name) else { continue };
        let whole = own.whole();
        let times = |other: &str, of_other: bool| {
            find(other).and_then(|other| {
                if of_other {
                    ratio(&other.whole(), &whole)
                } else {
                    ratio(&whole, &other.whole())
                }
            })
        };
        goal(
            &format!("{name} in lives of bare C"),
            times("bare C", false),
            1.5,
            true,
        );
        goal(
            &format!("{name} faster than crun by"),
            times("crun", true),
            5.0,
            false,
        );
        goal(
            &format!("{name} faster than runc by"),
            times("runc", true),
            7.0,
            false,
        );
    }
    if let Some(own) = find("berth-shim") {
        let start = quantile(&own.part(|life| life.start), 0.5);
        goal("start by the shim, ms", start, 0.5, true);
        let exec = quantile(&own.ended(), 0.5);
        goal("exec over a kept connection, ms", exec, 1.0, true);
    }
    let median = |part: fn(&Memory) -> f64| {
        let values: Vec<f64> = memory.iter().map(part).collect();
        quantile(&values, 0.5)
    };
    goal("a shim's PSS, KiB", median(|m| m.pss), 120.0, true);
    goal(
        "a shim's private memory, KiB",
        median(|m| m.private),
        110.0,
        true,
    );
    text
}

/// Everything, single values included.
pub(crate) fn json(all: &[Measured], memory: &[Memory]) -> Value {
    let engines: Vec<Value> = all
        .iter()
        .map(|measured| {
            json!({
                "name": measured.name,
                "life_ms": {
                    "p50": quantile(&measured.whole(), 0.5),
                    "p99": quantile(&measured.whole(), 0.99),
                    "whole": measured.whole(),
                    "create": measured.part(|life| life.create),
                    "start": measured.part(|life| life.start),
                    "wait": measured.part(|life| life.wait),
                    "delete": measured.part(|life| life.delete),
                    "cpu": measured.life_cpu,
                },
                "exec_ms": {
                    "p50": quantile(&measured.ended(), 0.5),
                    "p99": quantile(&measured.ended(), 0.99),
                    "running": measured.running(),
                    "ended": measured.ended(),
                    "cpu": measured.exec_cpu,
                },
            })
        })
        .collect();
    let memory: Vec<Value> = memory
        .iter()
        .map(|one| json!({ "pss": one.pss, "private": one.private, "rss": one.rss }))
        .collect();
    json!({ "machine": machine(), "engines": engines, "shim_memory_kib": memory })
}

fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "cores": cores,
        "kernel": read("/proc/sys/kernel/osrelease").trim().split('-').next(),
        "load": load().ok(),
    })
}

/// Of the last minute.
pub(crate) fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(name: &'static str, whole: &[f64]) -> Measured {
        let life = |&whole: &f64| Life {
            whole,
            ..Life::default()
        };
        Measured {
            name,
            lives: whole.iter().map(life).collect(),
            ..Measured::default()
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_those_of_the_rounds() {
        assert_eq!(ratio(&[2.0, 40.0, 3.0], &[1.0, 10.0, 1.0]), Some(3.0));
        assert_eq!(ratio(&[], &[]), None);
    }

    #[test]
    fn goals_say_what_was_missed_and_pass_over_what_was_not_measured() {
        let all = [lives("bare C", &[2.0]), lives("berth-shim", &[4.0])];
        let text = goals(&all, &[]);
        assert!(text.contains("MISSED: berth-shim in lives of bare C: 2.00"));
        assert!(!text.contains("crun") && !text.contains("PSS"), "{text}");
    }
}
