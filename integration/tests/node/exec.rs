use std::time::{Duration, Instant};

use anyhow::Result;
use tonic::Code;

use crate::fixture::{OBEYS, Shell, assert_refused};

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_returns_both_streams_and_the_code() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("exec", OBEYS).await?;
    let script = "echo out; echo err >&2; exit 3";
    let done = node
        .exec_sync(&pod.container, &["sh", "-c", script], 10)
        .await?;
    assert_eq!(done.stdout, b"out\n");
    assert_eq!(done.stderr, b"err\n");
    assert_eq!(done.exit_code, 3);

    let quiet = node.exec_sync(&pod.container, &["true"], 0).await?;
    assert_eq!(
        (quiet.exit_code, quiet.stdout.len(), quiet.stderr.len()),
        (0, 0, 0)
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_sees_the_containers_files_processes_and_network() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell
        .pod("inside", &format!("echo made >/made; {OBEYS}"))
        .await?;
    assert_eq!(node.sh(&pod.container, "cat /made").await?, "made\n");
    assert_eq!(node.sh(&pod.container, "hostname").await?, "inside\n");
    assert_eq!(
        node.sh(&pod.container, "tr '\\0' ' ' </proc/1/cmdline | cut -c1-5")
            .await?,
        "sh -c\n"
    );
    let addresses = node.sh(&pod.container, "ip -4 -o addr show").await?;
    let ip = node
        .pod_status(&pod.id)
        .await?
        .network
        .unwrap_or_default()
        .ip;
    assert!(
        !ip.is_empty() && addresses.contains(&ip),
        "{ip}: {addresses}"
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_that_takes_too_long_is_killed_with_all_that_it_started() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("late", OBEYS).await?;
    let began = Instant::now();
    let script = "trap '' TERM; (setsid sleep 4242 &); sleep 4242";
    let late = node
        .exec_sync(&pod.container, &["sh", "-c", script], 1)
        .await;
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    let left = node
        .sh(&pod.container, "ps | grep -c '[s]leep 4242' || true")
        .await?;
    assert_eq!(left.trim(), "0");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_keeps_the_pipe_does_not_keep_the_caller() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("daemon", OBEYS).await?;
    let began = Instant::now();
    let script = "echo started; sleep 30 & exit 0";
    let done = node
        .exec_sync(&pod.container, &["sh", "-c", script], 20)
        .await?;
    assert_eq!(
        (done.exit_code, done.stdout.as_slice()),
        (0, &b"started\n"[..])
    );
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mebibyte_of_output_arrives_whole() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("much", OBEYS).await?;
    let script = "dd if=/dev/zero bs=1024 count=1024 2>/dev/null | tr '\\0' x";
    let done = node
        .exec_sync(&pod.container, &["sh", "-c", script], 20)
        .await?;
    assert_eq!(done.stdout.len(), 1 << 20);
    assert!(done.stdout.iter().all(|byte| *byte == b'x'));
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_is_refused_where_it_cannot_be() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("refuse", OBEYS).await?;
    let unknown = "ab".repeat(32);
    assert_refused(
        node.exec_sync(&unknown, &["true"], 1).await,
        &[Code::NotFound],
        &["abab"],
    );
    assert_refused(
        node.exec_sync(&pod.container, &[], 1).await,
        &[Code::InvalidArgument],
        &["command"],
    );
    node.stop_container(&pod.container, 5).await?;
    assert_refused(
        node.exec_sync(&pod.container, &["true"], 1).await,
        &[Code::FailedPrecondition],
        &["running"],
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_execs_at_once_each_get_their_own_output() -> Result<()> {
    let shell = Shell::start().await?;
    let pod = shell.pod("many", OBEYS).await?;
    let mut calls = tokio::task::JoinSet::new();
    for index in 0..20 {
        let mut runtime = shell.node.runtime()?;
        let container_id = pod.container.clone();
        calls.spawn(async move {
            let cmd = ["sh", "-c", &format!("echo {index}; exit {index}")];
            let request = berth_proto::cri::ExecSyncRequest {
                container_id,
                cmd: cmd.iter().map(ToString::to_string).collect(),
                timeout: 20,
            };
            (index, runtime.exec_sync(request).await)
        });
    }
    while let Some(done) = calls.join_next().await {
        let (index, response) = done?;
        let response = response?.into_inner();
        assert_eq!(response.exit_code, index);
        assert_eq!(response.stdout, format!("{index}\n").as_bytes());
    }
    shell.finish().await
}
