//! Limits that change while a container runs.

use anyhow::Result;
use berth_integration::{Node, cgroup, pod};
use berth_proto::cri;
use tonic::{Code, Status};

use crate::fixture::{OBEYS, Shell, assert_refused, ok};

const MIB: i64 = 1 << 20;

async fn update(
    node: &Node,
    container: &str,
    linux: cri::LinuxContainerResources,
) -> Result<(), Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: container.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    let mut runtime = node
        .runtime()
        .map_err(|error| Status::internal(error.to_string()))?;
    runtime.update_container_resources(request).await.map(drop)
}

async fn reported(node: &Node, container: &str) -> Result<cri::LinuxContainerResources> {
    let status = node.status(container).await?;
    Ok(status
        .resources
        .unwrap_or_default()
        .linux
        .unwrap_or_default())
}

/// What the kernel has: memory and CPU quota.
fn in_force(node: &Node, pod: &str, container: &str) -> Result<(String, String)> {
    let path = format!("/{}/{pod}/{container}", node.name());
    Ok((
        cgroup::read(&path, &["memory.limit_in_bytes", "memory.max"])?,
        cgroup::read(&path, &["cpu.cfs_quota_us", "cpu.max"])?,
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_in_the_kernel_and_in_the_status_and_survive_the_agent() -> Result<()> {
    let mut shell = Shell::start().await?;
    let config = pod::sandbox(&shell.node, "resize");
    let pod = shell.node.run_pod(&config).await?;
    let mut container = shell.container("main", OBEYS);
    pod::linux(&mut container).resources = Some(cri::LinuxContainerResources {
        cpu_shares: 512,
        memory_limit_in_bytes: 64 * MIB,
        oom_score_adj: 900,
        ..Default::default()
    });
    let id = shell.node.create(&pod, &container, &config).await?;
    // Before its start, too.
    let wanted = cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        ..Default::default()
    };
    update(&shell.node, &id, wanted).await?;
    shell.node.start_container(&id).await?;
    let wanted = cri::LinuxContainerResources {
        memory_limit_in_bytes: 96 * MIB,
        oom_score_adj: 950,
        ..Default::default()
    };
    update(&shell.node, &id, wanted).await?;

    let (memory, quota) = in_force(&shell.node, "resize", &id)?;
    assert_eq!(memory, (96 * MIB).to_string());
    assert!(quota.starts_with("50000"), "{quota}");
    let pid = shell.node.pid(&id).await?;
    let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
    assert_eq!(score.trim(), "950");
    let before = reported(&shell.node, &id).await?;
    assert_eq!(
        (before.cpu_shares, before.cpu_quota, before.cpu_period),
        (512, 50_000, 100_000)
    );
    assert_eq!(before.memory_limit_in_bytes, 96 * MIB);
    assert_eq!(before.oom_score_adj, 950);

    shell.node.crash_and_restart().await?;
    assert_eq!(reported(&shell.node, &id).await?, before);
    // An update of nothing changes nothing.
    update(&shell.node, &id, Default::default()).await?;
    assert_eq!(reported(&shell.node, &id).await?, before);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_fails_changes_nothing() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("whole", OBEYS).await?;
    let set = |change: &dyn Fn(&mut cri::LinuxContainerResources)| {
        let mut resources = cri::LinuxContainerResources {
            cpu_shares: 100,
            ..Default::default()
        };
        change(&mut resources);
        resources
    };
    let before = (
        reported(node, &pod.container).await?,
        in_force(node, "whole", &pod.container)?,
    );
    for (bad, word) in [
        (set(&|r| r.cpu_quota = 5), "cpu_quota"),
        (set(&|r| r.memory_limit_in_bytes = -7), "memory_limit"),
        (set(&|r| r.cpuset_cpus = "9999".into()), "cpuset_cpus"),
        (set(&|r| r.oom_score_adj = 5000), "oom_score_adj"),
        (
            set(&|r| {
                r.memory_limit_in_bytes = 64 * MIB;
                r.memory_swap_limit_in_bytes = 32 * MIB;
            }),
            "memory_swap_limit",
        ),
    ] {
        let refused = update(node, &pod.container, bad).await;
        assert_refused(refused, &[Code::InvalidArgument], &[word]);
        let after = (
            reported(node, &pod.container).await?,
            in_force(node, "whole", &pod.container)?,
        );
        assert_eq!(after, before, "{word}");
    }
    let unknown = update(node, &"0".repeat(64), set(&|_| {})).await;
    assert_refused(unknown, &[Code::NotFound], &["container"]);
    // What has ended needs no limits; a kubelet that is late is not told off.
    node.stop_container(&pod.container, 5).await?;
    update(node, &pod.container, set(&|_| {})).await?;
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_change_limits_by_berthctl() -> Result<()> {
    let shell = Shell::start().await?;
    let pod = shell.pod("people", OBEYS).await?;
    let short = &pod.container[..12];
    ok(
        &shell.node,
        &["update", "--memory", "80m", "--cpus", "0.25", short],
    )?;
    let (memory, quota) = in_force(&shell.node, "people", &pod.container)?;
    assert_eq!(memory, (80 * MIB).to_string());
    assert!(quota.starts_with("25000"), "{quota}");
    ok(&shell.node, &["update", "--cpus", "unlimited", short])?;
    let (_, quota) = in_force(&shell.node, "people", &pod.container)?;
    assert!(
        quota.starts_with("-1") || quota.starts_with("max"),
        "{quota}"
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_resources_are_written_down_and_its_group_is_left_to_the_kubelet() -> Result<()> {
    let mut shell = Shell::start().await?;
    let pod = shell.pod("sum", OBEYS).await?;
    let request = |id: &str, memory: i64| cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.to_owned(),
        overhead: None,
        resources: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: memory,
            ..Default::default()
        }),
    };
    let mut runtime = shell.node.runtime()?;
    runtime
        .update_pod_sandbox_resources(request(&pod.id, 256 * MIB))
        .await?;
    let refused = runtime
        .update_pod_sandbox_resources(request(&pod.id, -3))
        .await;
    assert_refused(refused, &[Code::InvalidArgument], &["memory_limit"]);
    let refused = runtime
        .update_pod_sandbox_resources(request(&"0".repeat(64), MIB))
        .await;
    assert_refused(refused, &[Code::NotFound], &["pod sandbox"]);

    shell.node.crash_and_restart().await?;
    let verbose = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: true,
    };
    let status = shell.node.runtime()?.pod_sandbox_status(verbose).await?;
    let info: serde_json::Value = serde_json::from_str(&status.into_inner().info["info"])?;
    assert_eq!(
        info["resources"]["resources"]["memoryLimitInBytes"],
        256 * MIB,
        "{info}"
    );
    shell.node.stop_pod(&pod.id).await?;
    let late = shell
        .node
        .runtime()?
        .update_pod_sandbox_resources(request(&pod.id, MIB))
        .await;
    assert_refused(late, &[Code::FailedPrecondition], &["not ready"]);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_may_tell_the_pods_addresses() -> Result<()> {
    let node = Node::start().await?;
    let tell = |cidr: &str| cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(cri::RuntimeConfig {
            network_config: Some(cri::NetworkConfig {
                pod_cidr: cidr.to_owned(),
            }),
        }),
    };
    let mut runtime = node.runtime()?;
    for fine in ["10.244.1.0/24", "10.244.1.0/24,fd00:10::/64", ""] {
        runtime.update_runtime_config(tell(fine)).await?;
    }
    let refused = runtime.update_runtime_config(tell("10.244.1.0")).await;
    assert_refused(refused, &[Code::InvalidArgument], &["pod_cidr"]);
    let request = cri::StatusRequest { verbose: true };
    let info = runtime.status(request).await?.into_inner().info;
    assert!(info["config"].contains("fd00:10::/64"), "{info:?}");
    node.finish().await
}
