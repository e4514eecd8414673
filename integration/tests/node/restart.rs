use std::time::{Duration, Instant};

use anyhow::Result;
use berth_integration::{Node, failpoints, log, pod, wait};
use berth_proto::cri;

use crate::fixture::{OBEYS, Shell, alive};

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_does_not_notice_that_the_agent_died() -> Result<()> {
    let mut shell = Shell::start().await?;
    let pod = shell
        .pod(
            "survivor",
            "i=0; while :; do i=$((i+1)); echo $i; usleep 50000; done",
        )
        .await?;
    let pid = shell.node.pid(&pod.container).await?;
    let before = shell.node.status(&pod.container).await?;
    let ip = shell.node.pod_status(&pod.id).await?.network;
    let path = shell.node.log_path(&pod.container).await?;

    shell.node.kill()?;
    let dead = std::fs::metadata(&path)?.len();
    wait::until_true(
        "the log goes on without an agent",
        Duration::from_secs(5),
        || Ok(alive(pid) && std::fs::metadata(&path)?.len() > dead + 100),
    )
    .await?;
    let began = Instant::now();
    shell.node.launch(&[]).await?;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );

    let node = &shell.node;
    let after = node.status(&pod.container).await?;
    assert_eq!(after.state(), cri::ContainerState::ContainerRunning);
    assert_eq!(after.started_at, before.started_at);
    assert_eq!(node.pid(&pod.container).await?, pid);
    assert_eq!(node.pod_status(&pod.id).await?.network, ip);
    assert_eq!(
        node.sh(&pod.container, "echo exec works").await?,
        "exec works\n"
    );
    node.stop_container(&pod.container, 0).await?;
    let numbers = log::written(&log::read(&path)?, "stdout");
    let numbers = String::from_utf8(numbers)?;
    for (index, line) in numbers.lines().enumerate() {
        assert_eq!(
            line,
            (index + 1).to_string(),
            "a line is missing or doubled"
        );
    }
    shell.finish().await
}

/// KiB of memory that are of shim `id` alone; none if the process is not one.
fn private_kib(process: &std::path::Path, id: &str) -> Option<u64> {
    let text = |file| std::fs::read_to_string(process.join(file)).ok();
    if text("comm")?.trim() != "berth-shim" || !text("cmdline")?.contains(id) {
        return None;
    }
    let rollup = text("smaps_rollup")?;
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    lines
        .map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_containers_are_small_and_taken_over_within_a_second() -> Result<()> {
    let mut shell = Shell::start().await?;
    let config = pod::sandbox(&shell.node, "many");
    let pod = shell.node.run_pod(&config).await?;
    let mut ids = Vec::new();
    for number in 0..200 {
        let container = shell.container(&format!("c{number}"), "exec sleep 10000");
        ids.push(shell.node.run(&pod, &container, &config).await?);
    }
    let mut private = Vec::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        private.extend(ids.iter().find_map(|id| private_kib(&process.path(), id)));
    }
    assert_eq!(private.len(), ids.len());
    let average = private.iter().sum::<u64>() / 200;
    assert!(average <= 120, "{average} KiB of private memory per shim");

    // Twice, as the machine may be busy with something else for once.
    let mut took = Duration::MAX;
    for _ in 0..2 {
        shell.node.kill()?;
        let began = Instant::now();
        shell.node.launch(&[]).await?;
        took = took.min(began.elapsed());
    }
    assert!(took < Duration::from_secs(1), "{took:?}");
    for id in &ids {
        let state = shell.node.status(id).await?.state();
        assert_eq!(state, cri::ContainerState::ContainerRunning, "{id}");
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_while_no_agent_runs_keeps_its_code_and_time() -> Result<()> {
    let mut shell = Shell::start().await?;
    let pod = shell.pod("meanwhile", "sleep 1; exit 23").await?;
    let pid = shell.node.pid(&pod.container).await?;
    shell.node.kill()?;
    wait::until_true("the program ends", Duration::from_secs(10), || {
        Ok(!alive(pid))
    })
    .await?;
    let ended = std::time::SystemTime::now();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    shell.node.launch(&[]).await?;
    let status = shell.node.status(&pod.container).await?;
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (23, "Error"));
    let finished = Duration::from_nanos(u64::try_from(status.finished_at)?);
    let finished = std::time::UNIX_EPOCH + finished;
    let apart = ended.duration_since(finished).unwrap_or_default();
    assert!(apart < Duration::from_secs(1), "{apart:?}");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn created_exited_and_stopped_things_are_the_same_after_a_restart() -> Result<()> {
    let mut shell = Shell::start().await?;
    let node = &shell.node;
    let exited = shell.pod("exited", "exit 9").await?;
    node.exited(&exited.container).await?;
    let created = shell.container("created", OBEYS);
    let created = node.create(&exited.id, &created, &exited.config).await?;
    let stopped = shell.pod("stopped", OBEYS).await?;
    node.stop_pod(&stopped.id).await?;
    let image = node.list_images().await?;

    shell.node.crash_and_restart().await?;
    let node = &shell.node;
    assert_eq!(node.list_images().await?, image);
    assert_eq!(node.status(&exited.container).await?.exit_code, 9);
    let sandbox = node.pod_status(&stopped.id).await?;
    assert_eq!(sandbox.state(), cri::PodSandboxState::SandboxNotready);
    let waiting = node.status(&created).await?;
    assert_eq!(waiting.state(), cri::ContainerState::ContainerCreated);
    node.start_container(&created).await?;
    assert_eq!(node.sh(&created, "echo started").await?, "started\n");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_end_of_the_agent_touches_no_container_either() -> Result<()> {
    let mut shell = Shell::start().await?;
    let pod = shell.pod("graceful", OBEYS).await?;
    let pid = shell.node.pid(&pod.container).await?;
    shell.node.stop().await?;
    assert!(alive(pid));
    shell.node.launch(&[]).await?;
    assert_eq!(shell.node.pid(&pod.container).await?, pid);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_shim_was_killed_is_ended_and_said_to_be_lost() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("shimless", OBEYS).await?;
    let pid = node.pid(&pod.container).await?;
    let shim = parent(pid)?;
    let comm = std::fs::read_to_string(format!("/proc/{shim}/comm"))?;
    assert!(
        comm.contains("shim"),
        "the parent of a container's init is {comm:?}"
    );
    let shim = nix::unistd::Pid::from_raw(i32::try_from(shim)?);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL)?;
    wait::until_true("the program is ended", Duration::from_secs(5), || {
        Ok(!alive(pid))
    })
    .await?;
    let status = node.exited(&pod.container).await?;
    assert_ne!(status.exit_code, 0);
    assert!(!status.reason.is_empty());
    assert!(node.exec_sync(&pod.container, &["true"], 1).await.is_err());
    node.stop_container(&pod.container, 1).await?;
    node.remove_container(&pod.container).await?;
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_hangs_does_not_keep_its_container_from_being_stopped() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("hung", OBEYS).await?;
    let pid = node.pid(&pod.container).await?;
    let shim = nix::unistd::Pid::from_raw(i32::try_from(parent(pid)?)?);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGSTOP)?;
    node.stop_container(&pod.container, 1).await?;
    assert!(!alive(pid), "the program is still there");
    let status = node.exited(&pod.container).await?;
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "ShimLost")
    );
    node.remove_container(&pod.container).await?;
    shell.finish().await
}

fn parent(pid: u32) -> Result<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
    Ok(rest.split(' ').nth(1).unwrap_or_default().parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_directories_gives_way() -> Result<()> {
    let node = Node::start().await?;
    let programs = berth_integration::programs::directory()?;
    let output = node.netns().enter(|| {
        Ok(std::process::Command::new(programs.join("berth-agent"))
            .arg("--config")
            .arg(node.home().join("config.toml"))
            .arg("--root")
            .arg(node.home().join("root"))
            .arg("--run-dir")
            .arg(node.home().join("run"))
            .arg("--listen")
            .arg(format!(
                "unix://{}",
                node.home().join("second.sock").display()
            ))
            .output()?)
    })?;
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains(&node.agent_pid()?.to_string()) || told.contains("another"),
        "{told}"
    );
    node.version().await?;
    node.finish().await
}

/// Dying again and again while it recovers must not lose what runs.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_at_every_step_of_its_recovery_still_recovers() -> Result<()> {
    let mut shell = Shell::start().await?;
    let pod = shell.pod("recover", OBEYS).await?;
    let pid = shell.node.pid(&pod.container).await?;
    let trace = shell.node.home().join("trace");
    let traced = trace.display().to_string();
    shell.node.kill()?;
    shell.node.launch(&[(failpoints::TRACE, &traced)]).await?;
    let boundaries = failpoints::read_trace(&trace).unwrap_or_default();
    for boundary in &boundaries {
        shell.node.kill()?;
        shell.node.spawn(&[(failpoints::ARM, &boundary.kill())])?;
        let status = shell.node.died(Duration::from_secs(10)).await;
        assert!(status.is_ok(), "{boundary:?} was not reached");
        shell.node.launch(&[]).await?;
        assert!(alive(pid), "{boundary:?}");
        let status = shell.node.status(&pod.container).await?;
        assert_eq!(
            status.state(),
            cri::ContainerState::ContainerRunning,
            "{boundary:?}"
        );
    }
    assert_eq!(shell.node.sh(&pod.container, "echo well").await?, "well\n");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_running_containers_are_back_within_a_second_or_two() -> Result<()> {
    let mut shell = Shell::start().await?;
    let config = pod::sandbox(&shell.node, "twenty");
    let pod = shell.node.run_pod(&config).await?;
    for index in 0..20 {
        let container = shell.container(&format!("c{index}"), OBEYS);
        shell.node.run(&pod, &container, &config).await?;
    }
    let before = shell.node.list_containers().await?;
    shell.node.kill()?;
    let began = Instant::now();
    shell.node.launch(&[]).await?;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    let mut after = shell.node.list_containers().await?;
    let mut before = before;
    before.sort_by(|a, b| a.id.cmp(&b.id));
    after.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(before, after);
    shell.finish().await
}
