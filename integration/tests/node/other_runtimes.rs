//! Runtime handlers that put another OCI runtime in the place of our own.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use berth_integration::{Node, pod, programs, wait};
use berth_proto::cri;
use berth_streaming::Verdict;
use berth_streaming::client::Remote;
use tonic::Code;

use crate::{
    fixture::{OBEYS, Shell, assert_refused, ready},
    streaming::{ALL, TTY, attach_url, exec, exec_url, inside},
};

/// Those that can run here: crun refuses a hybrid node whose v2 hierarchy has controllers.
fn usable() -> impl Iterator<Item = (&'static str, &'static str)> {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers");
    let odd = controllers.is_ok_and(|names| !names.trim().is_empty());
    RUNTIMES
        .into_iter()
        .filter(move |(name, _)| *name != "crun" || !odd)
}

/// Debian's, and what they are called in the configuration.
const RUNTIMES: [(&str, &str); 2] = [("runc", "/usr/sbin/runc"), ("crun", "/usr/bin/crun")];

async fn start() -> Result<Shell> {
    let mut config = "[runtime_handlers]\nberth = {}\n".to_owned();
    for (name, path) in RUNTIMES {
        let path = programs::tool(&format!("debian{path}")).or_else(|_| programs::tool(name))?;
        config.push_str(&format!("{name} = {{ path = {path:?} }}\n"));
    }
    config.push_str("absent = { path = \"/no/such/runtime\" }\n");
    Shell::on(Node::start_with(&config, &[]).await?).await
}

/// The runtime's own idea of its containers.
fn known(node: &Node, program: &str, container: &str) -> Result<String> {
    let found = glob(node.home(), container)?;
    let program = programs::tool(&format!("debian{program}"))
        .or_else(|_| programs::tool(program.rsplit('/').next().unwrap_or(program)))?;
    let done = std::process::Command::new(program)
        .arg("--root")
        .arg(found)
        .args(["state", container])
        .output()?;
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The runtime's directory of a container, wherever the agent keeps it.
fn glob(home: &Path, container: &str) -> Result<std::path::PathBuf> {
    let found = std::process::Command::new("find")
        .arg(home)
        .args(["-path", &format!("*{container}/bundle/state"), "-prune"])
        .output()?;
    let path = String::from_utf8(found.stdout)?;
    ensure!(!path.trim().is_empty(), "no bundle of {container}");
    Ok(path.trim().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_another_runtime_lives_as_one_of_ours() -> Result<()> {
    let shell = start().await?;
    let node = &shell.node;
    for (handler, program) in usable() {
        let config = pod::sandbox(node, handler);
        let id = node.run_pod_with(&config, handler).await?;
        let script = format!("echo out; echo err >&2; hostname; {OBEYS}");
        let mut container = shell.container("main", &script);
        let linux = pod::linux(&mut container);
        linux.resources = Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            ..cri::LinuxContainerResources::default()
        });
        let container = node.run(&id, &container, &config).await?;
        ready(node, &container).await?;
        let state = known(node, program, &container)?;
        assert!(state.contains("\"running\""), "{handler}: {state}");

        let entries = node.logged(&container).await?;
        let said = |stream: &str, content: &[u8]| {
            entries
                .iter()
                .any(|entry| entry.stream == stream && entry.content == content)
        };
        assert!(said("stdout", b"out") && said("stderr", b"err"));
        assert!(said("stdout", config.hostname.as_bytes()), "{entries:?}");

        // Its own processes, the pod's network, and the limits.
        let out = node
            .sh(&container, "echo $$; ls /sys/class/net; cat /proc/1/comm")
            .await?;
        assert!(out.contains("eth0") && out.ends_with("sh\n"), "{out}");
        let request = cri::ContainerStatsRequest {
            container_id: container.clone(),
        };
        let stats = node.runtime()?.container_stats(request).await?.into_inner();
        let stats = stats.stats.context("no statistics")?;
        let used = stats
            .memory
            .context("no memory")?
            .usage_bytes
            .context("no use")?;
        assert!(used.value > 0 && used.value < 64 << 20, "{used:?}");

        let failed = node
            .exec_sync(&container, &["sh", "-c", "echo no; exit 7"], 20)
            .await?;
        assert_eq!(
            (failed.exit_code, failed.stdout.as_slice()),
            (7, &b"no\n"[..])
        );
        let missing = node.exec_sync(&container, &["/no/such"], 20).await;
        assert_refused(missing, &[Code::InvalidArgument], &["/no/such"]);
        let late = node.exec_sync(&container, &["sleep", "4250"], 1).await;
        assert_refused(late, &[Code::DeadlineExceeded], &["was killed"]);
        let listed = node.sh(&container, "ps").await?;
        assert!(!listed.contains("sleep 4250"), "{listed}");

        node.stop_container(&container, 10).await?;
        let status = node.exited(&container).await?;
        assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
        node.remove_container(&container).await?;
        node.stop_pod(&id).await?;
        node.remove_pod(&id).await?;
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn its_streams_are_those_of_the_shim() -> Result<()> {
    let shell = start().await?;
    let node = &shell.node;
    for (handler, _) in usable() {
        let config = pod::sandbox(node, handler);
        let id = node.run_pod_with(&config, handler).await?;
        let container = shell.container("main", OBEYS);
        let main = node.run(&id, &container, &config).await?;
        ready(node, &main).await?;
        let script = "read line; echo got $line; echo err >&2; exit 9";
        let done = exec(node, &main, &["sh", "-c", script], ALL, b"it\n").await?;
        assert_eq!(
            (&done.stdout[..], &done.stderr[..]),
            (&b"got it\n"[..], &b"err\n"[..])
        );
        assert_eq!(done.verdict, Some(Verdict::ExitCode(9)));

        let url = exec_url(node, &main, &["sh"], TTY).await?;
        let seen = inside(node, async {
            let mut remote = Remote::open(&url, TTY).await?;
            let stdin = remote.stdin.as_mut().context("no stdin")?;
            stdin.write(b"tty; exit 4\n").await?;
            let seen = crate::streaming::rest(&mut remote.stdout).await;
            assert_eq!(remote.ending.verdict().await, Some(Verdict::ExitCode(4)));
            Ok(String::from_utf8_lossy(&seen).into_owned())
        })?;
        assert!(seen.contains("/dev/pts/"), "{handler}: {seen}");

        // Attached to a container with a terminal.
        let mut container = shell.container("terminal", "tty; read line; echo got $line; exit 5");
        container.stdin = true;
        container.tty = true;
        let terminal = node.run(&id, &container, &config).await?;
        wait::until("the terminal speaks", Duration::from_secs(10), || async {
            let entries = node.logged(&terminal).await?;
            let tty = |entry: &berth_integration::log::Entry| entry.content.starts_with(b"/dev/");
            Ok(entries.iter().any(tty).then_some(()))
        })
        .await?;
        let url = attach_url(node, &terminal, TTY).await?;
        inside(node, async {
            let mut remote = Remote::open(&url, TTY).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let stdin = remote.stdin.as_mut().context("no stdin")?;
            stdin.write(b"it\n").await?;
            let seen = crate::streaming::rest(&mut remote.stdout).await;
            let seen = String::from_utf8_lossy(&seen);
            assert!(seen.contains("got it"), "{seen}");
            Ok(())
        })?;
        assert_eq!(node.exited(&terminal).await?.exit_code, 5);
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_the_agent_and_nothing_is_left_when_its_shim_is_killed() -> Result<()> {
    let mut shell = start().await?;
    for (handler, _) in usable() {
        let config = pod::sandbox(&shell.node, handler);
        let id = shell.node.run_pod_with(&config, handler).await?;
        let container = shell.container("main", OBEYS);
        let main = shell.node.run(&id, &container, &config).await?;
        ready(&shell.node, &main).await?;
        shell.node.crash_and_restart().await?;
        let out = shell.node.sh(&main, "echo alive").await?;
        assert_eq!(out, "alive\n");
        let pid = shell.node.pid(&main).await?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let parent = stat.rsplit_once(") ").context("stat")?.1;
        let shim: i32 = parent.split(' ').nth(1).context("parent")?.parse()?;
        let name = std::fs::read_to_string(format!("/proc/{shim}/comm"))?;
        assert_eq!(name, "berth-shim\n");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::SIGKILL)?;
        let status = shell.node.exited(&main).await?;
        assert_eq!(status.reason, "ShimLost", "{status:?}");
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_fails_is_named_with_its_own_words_and_leaves_nothing() -> Result<()> {
    let shell = start().await?;
    let node = &shell.node;
    for (handler, words) in [
        ("absent", &["/no/such/runtime"][..]),
        ("runc", &["runc create", "no such file"]),
        ("crun", &["crun", "no such file"]),
    ] {
        if handler == "crun" && usable().count() == 1 {
            continue;
        }
        let config = pod::sandbox(node, handler);
        let id = node.run_pod_with(&config, handler).await?;
        let container = pod::program("main", &shell.image, &["/no/such/program"]);
        let refused = match node.create(&id, &container, &config).await {
            Ok(container) => node.start_container(&container).await,
            Err(status) => Err(status),
        };
        assert_refused(
            refused,
            &[
                Code::Internal,
                Code::InvalidArgument,
                Code::FailedPrecondition,
            ],
            words,
        );
        let mut container = shell.container("mount", "true");
        container.mounts.push(cri::Mount {
            container_path: "/data".into(),
            host_path: "/var/tmp".into(),
            propagation: cri::MountPropagation::PropagationBidirectional.into(),
            ..cri::Mount::default()
        });
        let refused = node.create(&id, &container, &config).await;
        assert_refused(refused, &[Code::Unimplemented], &["bidirectional", "/data"]);
    }
    shell.finish().await
}
