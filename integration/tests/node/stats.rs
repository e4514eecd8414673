//! Statistics and metrics of containers and pods, against what is known of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result};
use berth_integration::{pod, wait};
use berth_proto::cri;
use tonic::Code;

use crate::fixture::{OBEYS, Shell, assert_refused};

/// Uses some of everything that is counted, then waits.
const BUSY: &str = "trap 'exit 0' TERM; head -c 3000000 /dev/zero > /written; \
    i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo ready; \
    while :; do sleep 100 & wait $!; done";

fn value(value: Option<cri::UInt64Value>) -> u64 {
    value.unwrap_or_default().value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_statistics_are_those_of_its_group_its_link_and_its_containers() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("stats", BUSY).await?;
    crate::fixture::ready(node, &pod.container).await?;
    node.sh(&pod.container, "ping -c 2 10.88.0.1 || true")
        .await?;
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    let stats = node.runtime()?.pod_sandbox_stats(request).await?;
    let stats = stats.into_inner().stats.context("no statistics")?;
    let attributes = stats.attributes.context("no attributes")?;
    assert_eq!(attributes.id, pod.id);
    assert_eq!(attributes.labels, pod.config.labels);
    let linux = stats.linux.context("nothing of Linux")?;

    let cpu = linux.cpu.context("no CPU")?;
    assert!(cpu.timestamp > 0 && value(cpu.usage_core_nano_seconds) > 1_000_000);
    let memory = linux.memory.context("no memory")?;
    assert!(value(memory.usage_bytes) >= value(memory.working_set_bytes));
    assert!(value(memory.working_set_bytes) > 0);
    let network = linux.network.context("no network")?;
    let link = network.default_interface.context("no interface")?;
    assert_eq!(link.name, "eth0");
    assert!(value(link.tx_bytes) > 0, "{link:?}");
    assert!(value(linux.process.context("no processes")?.process_count) >= 2);

    let [container] = &linux.containers[..] else {
        panic!("{:?}", linux.containers);
    };
    let own = container.attributes.clone().context("no attributes")?;
    assert_eq!(own.id, pod.container);
    let layer = container.writable_layer.clone().context("no layer")?;
    let written = value(layer.used_bytes);
    assert!((3_000_000..4_000_000).contains(&written), "{written}");
    assert!(layer.timestamp > 0);

    node.stop_pod(&pod.id).await?;
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    let refused = node.runtime()?.pod_sandbox_stats(request).await;
    assert_refused(refused, &[Code::FailedPrecondition], &["not ready"]);
    let list = cri::ListPodSandboxStatsRequest::default();
    let list = node.runtime()?.list_pod_sandbox_stats(list).await?;
    assert!(list.into_inner().stats.is_empty());
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rate_of_cpu_use_is_known_from_the_second_look_on() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("rate", "while :; do :; done").await?;
    let rate = async || -> Result<Option<u64>> {
        let request = cri::ContainerStatsRequest {
            container_id: pod.container.clone(),
        };
        let stats = node.runtime()?.container_stats(request).await?.into_inner();
        let cpu = stats.stats.and_then(|stats| stats.cpu).context("no CPU")?;
        Ok(cpu.usage_nano_cores.map(|rate| rate.value))
    };
    assert_eq!(rate().await?, None);
    let busy = wait::until("it is busy", Duration::from_secs(20), async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(rate().await?.filter(|&rate| rate > 50_000_000))
    })
    .await?;
    assert!(busy < 1_500_000_000, "one thread: {busy}");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_statistics_are_filtered_like_all_lists() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let (one, two) = (shell.pod("a", OBEYS).await?, shell.pod("b", OBEYS).await?);
    let ids = async |filter: Option<cri::PodSandboxStatsFilter>| -> Result<BTreeSet<String>> {
        let request = cri::ListPodSandboxStatsRequest { filter };
        let list = node.runtime()?.list_pod_sandbox_stats(request).await?;
        let ids = list.into_inner().stats.into_iter();
        Ok(ids.filter_map(|pod| Some(pod.attributes?.id)).collect())
    };
    assert_eq!(ids(None).await?, [one.id.clone(), two.id.clone()].into());
    let by_id = cri::PodSandboxStatsFilter {
        id: one.id[..12].to_owned(),
        ..Default::default()
    };
    assert_eq!(ids(Some(by_id)).await?, [one.id.clone()].into());
    let by_label = cri::PodSandboxStatsFilter {
        label_selector: two.config.labels.clone(),
        ..Default::default()
    };
    assert_eq!(ids(Some(by_label)).await?, [two.id.clone()].into());
    let unknown = cri::PodSandboxStatsFilter {
        id: "0".repeat(64),
        ..Default::default()
    };
    assert!(ids(Some(unknown)).await?.is_empty());
    shell.finish().await
}

/// Names that need not have a value: the node may lack what is measured.
const MAY_LACK: [&str; 9] = [
    "container_hugetlb_max_usage_bytes",
    "container_hugetlb_usage_bytes",
    "container_pressure_cpu_stalled_seconds_total",
    "container_pressure_cpu_waiting_seconds_total",
    "container_pressure_io_stalled_seconds_total",
    "container_pressure_io_waiting_seconds_total",
    "container_pressure_memory_stalled_seconds_total",
    "container_pressure_memory_waiting_seconds_total",
    "container_spec_memory_reservation_limit_bytes",
];
/// Names about devices that nothing may have been read from.
const MAY_BE_IDLE: [&str; 5] = [
    "container_blkio_device_usage_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_is_described_has_values_with_the_labels_described() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "metrics");
    let id = node.run_pod(&config).await?;
    let mut container = shell.container("main", BUSY);
    pod::linux(&mut container).resources = Some(cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 80_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let main = node.run(&id, &container, &config).await?;
    crate::fixture::ready(node, &main).await?;

    let described = cri::ListMetricDescriptorsRequest {};
    let described = node.runtime()?.list_metric_descriptors(described).await?;
    let described: BTreeMap<_, _> = described
        .into_inner()
        .descriptors
        .into_iter()
        .map(|one| {
            assert!(!one.help.is_empty(), "{one:?}");
            (one.name, one.label_keys)
        })
        .collect();
    assert_eq!(described.len(), 58);

    let request = cri::ListPodSandboxMetricsRequest {};
    let metrics = node.runtime()?.list_pod_sandbox_metrics(request).await?;
    let [pod] = &metrics.into_inner().pod_metrics[..] else {
        panic!("one pod");
    };
    assert_eq!(pod.pod_sandbox_id, id);
    let [of_container] = &pod.container_metrics[..] else {
        panic!("one container");
    };
    assert_eq!(of_container.container_id, main);
    let mut found = BTreeMap::new();
    for metric in pod.metrics.iter().chain(&of_container.metrics) {
        let keys = &described[&metric.name];
        assert_eq!(keys.len(), metric.label_values.len(), "{metric:?}");
        let labels: BTreeMap<_, _> = keys.iter().zip(&metric.label_values).collect();
        assert_eq!(labels[&"namespace".to_owned()], "test");
        assert_eq!(labels[&"pod".to_owned()], "metrics");
        found.insert(
            metric.name.clone(),
            metric.value.context("a metric without a value")?.value,
        );
    }
    for name in described.keys() {
        let may_lack = MAY_LACK.contains(&&**name) || MAY_BE_IDLE.contains(&&**name);
        assert!(found.contains_key(name) || may_lack, "{name} has no value");
    }
    for (name, expected) in [
        ("container_spec_cpu_quota", 80_000),
        ("container_spec_cpu_period", 100_000),
        ("container_spec_cpu_shares", 512),
        ("container_spec_memory_limit_bytes", 64 << 20),
        ("container_oom_events_total", 0),
    ] {
        assert_eq!(found[name], expected, "{name}");
    }
    assert!(found["container_fs_usage_bytes"] >= 3_000_000);
    assert!(found["container_processes"] >= 2);
    assert!(found["container_threads"] >= found["container_processes"]);
    assert!(found["container_file_descriptors"] >= 3);
    let age = found["container_last_seen"] - found["container_start_time_seconds"];
    assert!(age < 60, "{age}");
    shell.finish().await
}
