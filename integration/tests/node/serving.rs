use std::{
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    time::Duration,
};

use anyhow::Result;
use berth_integration::{Node, metrics, wait};
use berth_proto::cri;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_that_of_the_cri_and_of_berth() -> Result<()> {
    let node = Node::start().await?;
    let version = node.version().await?;
    assert_eq!(version.runtime_api_version, "v1");
    assert_eq!(version.runtime_name, "berth");
    assert!(!version.runtime_version.is_empty());
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_ready_and_says_what_it_can() -> Result<()> {
    let node = Node::start().await?;
    let request = cri::StatusRequest { verbose: true };
    let response = node.runtime()?.status(request).await?.into_inner();
    for kind in ["RuntimeReady", "NetworkReady"] {
        let conditions = &response.status.as_ref().unwrap().conditions;
        let condition = conditions.iter().find(|c| c.r#type == kind);
        assert!(
            condition.is_some_and(|c| c.status),
            "{kind}: {conditions:?}"
        );
    }
    assert!(response.runtime_handlers.iter().any(|h| h.name.is_empty()));
    let kernel: Vec<serde_json::Value> = serde_json::from_str(&response.info["kernel"])?;
    for feature in &kernel {
        let name = feature["name"].as_str().unwrap_or_default();
        assert!(
            !name.is_empty() && feature["since"].is_string(),
            "{feature}"
        );
        // What is not there is either done in another way or the agent would not be.
        let present = feature["present"].as_bool().unwrap();
        assert!(present || feature["instead"].is_string(), "{feature}");
    }
    let named = |name: &str| kernel.iter().find(|feature| feature["name"] == name);
    assert_eq!(named("openat2").unwrap()["present"], true);
    for name in ["cgroup-kill", "pressure", "overlay-layers-by-descriptor"] {
        assert!(named(name).is_some(), "{name}: {kernel:?}");
    }
    // In a guest with 6.1 these are missing, and the other tests go the ways around.
    let numbers = |text: &str| -> Vec<u32> {
        let parts = text.split(|c: char| !c.is_ascii_digit());
        parts.take(2).filter_map(|part| part.parse().ok()).collect()
    };
    let uname = nix::sys::utsname::uname()?;
    let here = numbers(uname.release().to_str().unwrap());
    for name in ["memfd-exec-seal", "overlay-layers-by-descriptor"] {
        let feature = named(name).unwrap();
        let since = numbers(feature["since"].as_str().unwrap());
        assert_eq!(feature["present"], here >= since, "{feature}");
    }
    let config = node
        .runtime()?
        .runtime_config(cri::RuntimeConfigRequest {})
        .await?
        .into_inner();
    assert!(config.linux.is_some());
    node.finish().await
}

/// Linux 6.18 numbers namespaces per processor, and a pin wants the higher number.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_a_mount_namespace_of_its_own_starts_on_any_processor() -> Result<()> {
    for (namespace_on, agent_on) in [("0", "1"), ("1", "0")] {
        let node = Node::prepare("")?;
        let agent = berth_integration::programs::directory()?.join("berth-agent");
        let home = |name: &str| node.home().join(name);
        let mut child = node.netns().enter(|| {
            Ok(std::process::Command::new("taskset")
                .args([
                    "-c",
                    namespace_on,
                    "unshare",
                    "--mount",
                    "taskset",
                    "-c",
                    agent_on,
                ])
                .arg(agent)
                .arg("--config")
                .arg(home("config.toml"))
                .arg("--root")
                .arg(home("root"))
                .arg("--run-dir")
                .arg(home("run"))
                .arg("--listen")
                .arg(node.endpoint())
                .stderr(std::fs::File::create(node.log_file())?)
                .spawn()?)
        })?;
        let limit = std::time::Duration::from_secs(20);
        wait::until("the agent answers", limit, || async {
            Ok(node.version().await.ok())
        })
        .await?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        assert!(child.wait()?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_root_alone() -> Result<()> {
    let node = Node::start().await?;
    let socket = std::fs::metadata(node.socket())?;
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o077, 0);
    let run = std::fs::metadata(node.home().join("run"))?;
    assert_eq!(run.permissions().mode() & 0o077, 0);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_over_http() -> Result<()> {
    let node = Node::start().await?;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(metrics::get(&node.metrics_socket(), path)?.0, 200, "{path}");
    }
    assert_eq!(metrics::get(&node.metrics_socket(), "/nothing")?.0, 404);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_recovers_says_so_and_keeps_version_waiting() -> Result<()> {
    let mut node = Node::prepare("")?;
    node.spawn(&[("BERTH_FAILPOINTS", "recover.recover.images=delay(3000)")])?;
    let there = || async { Ok(std::os::unix::net::UnixStream::connect(node.socket()).ok()) };
    wait::until("the socket is there", Duration::from_secs(20), there).await?;
    let refused = node
        .runtime()?
        .list_containers(cri::ListContainersRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    let told = refused.message();
    assert!(told.contains("does not serve yet: it is "), "{told}");
    assert_eq!(metrics::get(&node.metrics_socket(), "/healthz")?.0, 200);
    assert_eq!(metrics::get(&node.metrics_socket(), "/readyz")?.0, 503);
    // A kubelet whose first Version fails exits.
    node.version().await?;
    assert_eq!(metrics::get(&node.metrics_socket(), "/readyz")?.0, 200);
    node.runtime()?
        .list_containers(cri::ListContainersRequest::default())
        .await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_at_once_are_all_answered() -> Result<()> {
    let node = Node::start().await?;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut runtime = node.runtime()?;
        calls.spawn(async move {
            for _ in 0..50 {
                runtime
                    .list_containers(cri::ListContainersRequest::default())
                    .await?;
            }
            Ok::<_, tonic::Status>(())
        });
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    node.finish().await
}
