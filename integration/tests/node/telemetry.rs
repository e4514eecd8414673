use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use berth_integration::{
    Node,
    collector::{Authority, Collector},
    metrics, pod, wait,
};
use berth_proto::cri;

use crate::fixture::{OBEYS, Shell};

/// The ending that tells a reader what the numbers are.
const ENDINGS: &[&str] = &["_seconds", "_bytes", "_total", "_info", "_ratio"];
/// Families that count things which exist now have no unit, and are listed here.
const COUNTS: &[&str] = &[
    "berth_operations_in_flight",
    "berth_pod_sandboxes",
    "berth_containers",
];
/// What dashboards and alerts are built on: family, kind, labels.
const PROMISED: &[(&str, &str, &[&str])] = &[
    (
        "berth_cri_operation_duration_seconds",
        "histogram",
        &["outcome", "rpc"],
    ),
    (
        "berth_phase_duration_seconds",
        "histogram",
        &["operation", "phase"],
    ),
    ("berth_image_pulls_total", "counter", &["outcome"]),
    ("berth_image_pulled_bytes_total", "counter", &[]),
    ("berth_shims_lost_total", "counter", &[]),
    ("berth_pod_sandboxes", "gauge", &["state"]),
    ("berth_containers", "gauge", &["state"]),
    ("berth_build_info", "gauge", &["version"]),
];
/// Labels of the agent's own metrics. None of them names an object.
const FORBIDDEN: &[&str] = &[
    "id",
    "container",
    "container_id",
    "pod",
    "pod_id",
    "pod_uid",
    "image",
];

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_names_units_and_help_and_carry_no_ids() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("measured", OBEYS).await?;
    node.sh(&pod.container, "true").await?;
    node.exec_sync(&"ab".repeat(32), &["true"], 1)
        .await
        .unwrap_err();
    node.stop_container(&pod.container, 5).await?;

    let all = metrics::scrape(&node.metrics_socket())?;
    let mut wrong = BTreeSet::new();
    for (family, kind, labels) in PROMISED {
        if all.kinds.get(*family).map(String::as_str) != Some(*kind) {
            wrong.insert(format!(
                "{family}: {:?} instead of {kind}",
                all.kinds.get(*family)
            ));
        }
        let samples = all.samples.iter().filter(|s| s.name.starts_with(family));
        for sample in samples {
            let keys = sample.labels.keys().filter(|key| *key != "le");
            if !keys.eq(labels.iter()) {
                wrong.insert(format!("{family}: labels {:?}", sample.labels));
            }
        }
    }
    for (family, kind) in &all.kinds {
        let ours = family.starts_with("berth_") || family.starts_with("process_");
        let named = kind == "counter"
            || ENDINGS.iter().any(|ending| family.ends_with(ending))
            || COUNTS.contains(&family.as_str())
            || family.starts_with("process_");
        if !ours || !named || family.contains("_total_total") || family.contains("seconds_seconds")
        {
            wrong.insert(format!("{family} ({kind}): its name"));
        }
        if all.help.get(family).is_none_or(String::is_empty) {
            wrong.insert(format!("{family}: no help"));
        }
    }
    for sample in &all.samples {
        for (label, value) in &sample.labels {
            let looks_like_an_id = {
                let digits = value.chars().filter(char::is_ascii_hexdigit).count();
                value.len() >= 12 && digits == value.len()
            };
            if FORBIDDEN.contains(&label.as_str())
                || looks_like_an_id
                || value.contains("measured")
                || value.contains("sha256:")
            {
                wrong.insert(format!("{}: label {label}={value:?}", sample.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_and_every_phase_is_measured() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("counted", OBEYS).await?;
    node.stop_pod(&pod.id).await?;
    node.remove_pod(&pod.id).await?;
    let all = metrics::scrape(&node.metrics_socket())?;
    let with_value = |value: &str| {
        let holds = |sample: &&metrics::Sample| {
            sample.name.ends_with("_seconds_count")
                && sample
                    .labels
                    .values()
                    .any(|v| v == value || v.ends_with(&format!("/{value}")))
        };
        all.samples
            .iter()
            .filter(holds)
            .map(|s| s.value)
            .sum::<f64>()
    };
    for rpc in [
        "PullImage",
        "RunPodSandbox",
        "CreateContainer",
        "StartContainer",
        "StopPodSandbox",
        "RemovePodSandbox",
    ] {
        assert!(with_value(rpc) >= 1.0, "{rpc} is not measured");
    }
    for phase in ["netns", "network", "rootfs", "clone", "fetch", "unpack"] {
        assert!(with_value(phase) >= 1.0, "phase {phase} is not measured");
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_goes_on_through_the_call_and_its_phases() -> Result<()> {
    let mut node = Node::prepare("")?;
    let collector = Collector::start(node.netns())?;
    node.launch(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ])
    .await?;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let caller = "00f067aa0ba902b7";
    let mut request = tonic::Request::new(cri::RunPodSandboxRequest {
        config: Some(pod::sandbox(&node, "traced")),
        ..Default::default()
    });
    let parent = format!("00-{trace}-{caller}-01");
    request
        .metadata_mut()
        .insert("traceparent", parent.parse()?);
    node.runtime()?.run_pod_sandbox(request).await?;

    let spans = wait::until("the spans arrive", Duration::from_secs(10), || async {
        let mut spans = collector.spans();
        spans.retain(|span| span.trace == trace);
        let server = spans.iter().any(|span| span.parent == caller);
        Ok((server && spans.len() >= 4).then_some(spans))
    })
    .await?;
    let server = spans.iter().find(|span| span.parent == caller).unwrap();
    assert!(server.name.ends_with("RunPodSandbox"), "{}", server.name);
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    for span in spans.iter().filter(|span| span.parent != caller) {
        assert!(
            ids.contains(span.parent.as_str()),
            "{span:?} has a lost parent"
        );
    }
    assert!(
        spans.iter().any(|span| span.name.contains("netns")),
        "{spans:?}"
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_are_exported_by_both_protocols_with_tls_headers_and_gzip() -> Result<()> {
    let authority = Authority::new()?;
    for (protocol, tls) in [
        ("grpc", true),
        ("http/protobuf", true),
        ("http/protobuf", false),
    ] {
        let mut node = Node::prepare("")?;
        let collector = if tls {
            Collector::start_tls(node.netns(), &authority)?
        } else {
            Collector::start(node.netns())?
        };
        node.launch(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", &authority.file("ca.pem")),
            (
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                &authority.file("client.pem"),
            ),
            (
                "OTEL_EXPORTER_OTLP_CLIENT_KEY",
                &authority.file("client.key"),
            ),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=harbour"),
            ("OTEL_METRICS_EXPORTER", "none"),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ])
        .await?;
        let limit = Duration::from_secs(10);
        wait::until("the span of a call arrives", limit, || async {
            node.version().await?;
            let named = |name: &str| name.ends_with("/Version");
            let there = collector.spans().iter().any(|span| named(&span.name));
            Ok(there.then_some(()))
        })
        .await?;
        let arrival = collector.arrivals().swap_remove(0);
        assert_eq!(arrival.path == "/v1/traces", protocol != "grpc");
        assert_eq!(
            (arrival.encoding.as_str(), arrival.tenant.as_str()),
            ("gzip", "harbour"),
            "{protocol}"
        );
        node.finish().await?;
    }
    Ok(())
}
