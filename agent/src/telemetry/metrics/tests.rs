use std::collections::{BTreeMap, BTreeSet};

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use super::*;

/// Endings that tell a reader the unit, and the families that count things
/// which exist now and so have none.
const ENDINGS: [&str; 5] = ["_seconds", "_bytes", "_total", "_info", "_fds"];
const COUNTS: [&str; 4] = [
    "berth_operations_in_flight",
    "berth_pod_sandboxes",
    "berth_containers",
    "process_threads",
];
/// Every label there may be; none names an object.
const LABELS: [&str; 9] = [
    "rpc",
    "outcome",
    "operation",
    "phase",
    "kind",
    "state",
    "version",
    "le",
    "quantile",
];

fn used() -> Metrics {
    let metrics = Metrics::new();
    let took = Duration::from_millis(7);
    let trace = SpanContext::new(
        TraceId::from_hex("4bf92f3577b34da6a3ce929d0e0e4736").unwrap(),
        SpanId::from_hex("00f067aa0ba902b7").unwrap(),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    metrics.rpc_ended(
        "runtime.v1.RuntimeService/Version",
        "OK",
        took,
        TraceLabels::of(&trace),
    );
    metrics.phase_ended("run-pod-sandbox", Phase::Netns, took, None);
    metrics.pull_ended("ok");
    metrics.pulled_bytes(1000);
    metrics.shim_lost();
    metrics.ledger_findings("mount", 2);
    metrics.set_state(|| NodeState {
        operations: BTreeMap::from([("run-pod-sandbox", 1)]),
        pod_sandboxes: BTreeMap::from([("ready", 3), ("notready", 1)]),
        containers: BTreeMap::from([("running", 4)]),
    });
    metrics
}

#[test]
fn every_family_has_a_name_that_tells_its_unit_and_a_help() {
    let text = used().render(MetricsFormat::Text);
    let comments = |word: &str| -> BTreeMap<String, String> {
        let prefix = format!("# {word} ");
        let lines = text.lines().filter_map(|line| line.strip_prefix(&prefix));
        lines
            .filter_map(|line| line.split_once(' '))
            .map(|(family, rest)| (family.to_owned(), rest.to_owned()))
            .collect()
    };
    let (kinds, helps, units) = (comments("TYPE"), comments("HELP"), comments("UNIT"));
    assert!(kinds.len() >= 14, "{kinds:?}");
    for (family, kind) in &kinds {
        assert!(
            family.starts_with("berth_") || family.starts_with("process_"),
            "{family}"
        );
        let named = ENDINGS.iter().any(|ending| family.ends_with(ending))
            || COUNTS.contains(&family.as_str());
        assert!(named, "{family}");
        assert_eq!(family.ends_with("_total"), kind == "counter", "{family}");
        assert!(!family.contains("_seconds_seconds") && !family.contains("_total_total"));
        let help = helps
            .get(family)
            .unwrap_or_else(|| panic!("{family}: no help"));
        assert!(
            help.len() > 5 && help.ends_with('.') && !help.ends_with(".."),
            "{help}"
        );
    }
    for (family, unit) in &units {
        let base = family.strip_suffix("_total").unwrap_or(family);
        assert!(base.ends_with(&format!("_{unit}")), "{family}: {unit}");
    }
}

#[test]
fn no_label_names_an_object() {
    let text = used().render(MetricsFormat::Text);
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, labels)) = line.split_once('{') else {
            continue;
        };
        let labels = labels.rsplit_once('}').unwrap().0;
        for pair in labels.split(',') {
            seen.insert(pair.split_once('=').unwrap().0.to_owned());
        }
    }
    assert!(seen.len() >= 7, "{seen:?}");
    for label in &seen {
        assert!(LABELS.contains(&label.as_str()), "{label}");
    }
}

#[test]
fn what_was_told_is_what_is_rendered() {
    let text = used().render(MetricsFormat::Text);
    for line in [
        "berth_cri_operation_duration_seconds_count{rpc=\"runtime.v1.RuntimeService/Version\",outcome=\"OK\"} 1",
        "berth_phase_duration_seconds_count{operation=\"run-pod-sandbox\",phase=\"netns\"} 1",
        "berth_operations_in_flight{operation=\"run-pod-sandbox\"} 1",
        "berth_image_pulls_total{outcome=\"ok\"} 1",
        "berth_image_pulled_bytes_total 1000",
        "berth_shims_lost_total 1",
        "berth_ledger_findings_total{kind=\"mount\"} 2",
        "berth_pod_sandboxes{state=\"ready\"} 3",
        "berth_containers{state=\"running\"} 4",
        concat!(
            "berth_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(!text.contains("# EOF") && !text.contains("trace_id"));
}

#[test]
fn openmetrics_has_an_exemplar_with_the_trace() {
    let text = used().render(MetricsFormat::OpenMetrics);
    assert!(text.ends_with("# EOF\n"));
    let exemplar =
        "# {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\",span_id=\"00f067aa0ba902b7\"} 0.007";
    assert!(text.contains(exemplar), "{text}");
    assert!(text.contains("# UNIT berth_cri_operation_duration_seconds seconds\n"));
}

#[test]
fn the_buckets_are_those_of_the_kubelet() {
    let all: Vec<f64> = buckets().collect();
    assert_eq!(all.len(), 14);
    assert!((all[1] - 0.0125).abs() < 1e-9 && (all[13] - 745.058_059_692_382_8).abs() < 1e-6);
}
