use std::time::{Duration, Instant};

use anyhow::Result;
use berth_integration::{pod, wait};
use berth_proto::cri;

use crate::fixture::{IGNORES, OBEYS, Shell, alive, ready};

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_is_the_programs_own_or_128_and_the_signal() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "codes");
    let pod = node.run_pod(&config).await?;
    let cases = [
        ("ok", "exit 0", 0, "Completed"),
        ("code", "exit 42", 42, "Error"),
        ("high", "exit 255", 255, "Error"),
        // The shell is process 1 and immune to its own signals, so the host kills it below.
        ("missing-in-shell", "no-such-program-here", 127, "Error"),
    ];
    for (name, script, code, reason) in cases {
        let id = node
            .run(&pod, &shell.container(name, script), &config)
            .await?;
        let status = node.exited(&id).await?;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (code, reason),
            "{name}"
        );
        assert!(status.finished_at > 0);
    }
    let id = node
        .run(&pod, &shell.container("killed", IGNORES), &config)
        .await?;
    let pid = node.pid(&id).await?;
    let init = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL)?;
    let status = node.exited(&id).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_exist_fails_the_start_and_says_its_name() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "missing");
    let pod = node.run_pod(&config).await?;
    let container = pod::program("main", &shell.image, &["/no/such/program"]);
    // Whether it is seen at create or at start is the runtime's choice.
    let failed = match node.create(&pod, &container, &config).await {
        Ok(id) => node.start_container(&id).await,
        Err(status) => Err(status),
    };
    let status = failed.unwrap_err();
    assert!(status.message().contains("/no/such/program"), "{status:?}");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_obedient_program_stops_at_once_and_a_stubborn_one_after_the_grace() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("grace", OBEYS).await?;
    ready(node, &pod.container).await?;
    let began = Instant::now();
    node.stop_container(&pod.container, 30).await?;
    assert!(began.elapsed() < Duration::from_secs(5));

    let stubborn = shell.container("stubborn", IGNORES);
    let stubborn = node.run(&pod.id, &stubborn, &pod.config).await?;
    ready(node, &stubborn).await?;
    let began = Instant::now();
    node.stop_container(&stubborn, 2).await?;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    let status = node.status(&stubborn).await?;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stop_with_a_shorter_grace_ends_the_first() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let script = "n=0; trap 'n=$((n+1)); echo term $n' TERM; echo ready; while :; do sleep 100 & wait $!; done";
    let pod = shell.pod("shorter", script).await?;
    ready(node, &pod.container).await?;
    let began = Instant::now();
    let (long, short) = tokio::join!(node.stop_container(&pod.container, 40), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        node.stop_container(&pod.container, 1).await
    });
    long?;
    short?;
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    let terms = node.logged(&pod.container).await?;
    assert_eq!(terms.len(), 2, "the signal was sent again: {terms:?}");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_or_the_request_may_choose_another_stop_signal() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "signal");
    let pod = node.run_pod(&config).await?;
    let script =
        "trap 'exit 21' USR1; trap '' TERM; echo ready; while :; do sleep 100 & wait $!; done";
    let mut container = shell.container("main", script);
    container.stop_signal = cri::Signal::Sigusr1.into();
    let id = node.run(&pod, &container, &config).await?;
    ready(node, &id).await?;
    node.stop_container(&id, 20).await?;
    assert_eq!(node.status(&id).await?.exit_code, 21);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_out_of_memory_is_told_from_one_that_was_killed() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "memory");
    let pod = node.run_pod(&config).await?;
    // `tail` keeps the whole of an endless line in memory.
    let mut container = pod::program("main", &shell.image, &["tail", "/dev/zero"]);
    pod::linux(&mut container).resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        memory_swap_limit_in_bytes: 32 << 20,
        ..Default::default()
    });
    let id = node.run(&pod, &container, &config).await?;
    let status = node.exited(&id).await?;
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled")
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_leaves_running_is_gone_when_it_is_said_to_be_gone() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "orphans");
    let pod = node.run_pod(&config).await?;
    let script = "(setsid sleep 1000 &) ; (setsid sleep 1000 &); sleep 1";
    let id = node
        .run(&pod, &shell.container("main", script), &config)
        .await?;
    let pids = wait::until("the orphans run", Duration::from_secs(5), || async {
        let pids = cgroup_members(&id)?;
        Ok((pids.len() >= 3).then_some(pids))
    })
    .await?;
    node.exited(&id).await?;
    for pid in pids {
        assert!(!alive(pid), "{pid} outlived its container");
    }
    shell.finish().await
}

/// Processes in control groups whose path names the container.
fn cgroup_members(container: &str) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if groups.contains(container) && !comm.contains("shim") {
            pids.push(pid);
        }
    }
    Ok(pids)
}
