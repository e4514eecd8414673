//! D1 to D8: what of the node others can reach.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use berth_integration::{Node, pod};
use berth_proto::cri;

use crate::ground::{Ground, LIVES, field};

/// Connections that say nothing or nonsense, fewer than the agent takes at once (512).
const CONNECTIONS: usize = 450;

/// D1: CVE-2020-15257.
#[tokio::test(flavor = "multi_thread")]
async fn no_socket_of_ours_has_an_abstract_name() -> Result<()> {
    let ground = Ground::start().await?;
    let mut config = pod::sandbox(&ground.node, "host-network");
    pod::namespace_options(&mut config).network = cri::NamespaceMode::Node.into();
    config.hostname.clear();
    let pod = ground.pod_with(config).await?;
    let mut container = ground.container("main", LIVES);
    let options = pod::security(&mut container).namespace_options.as_mut();
    options.expect("made by program()").network = cri::NamespaceMode::Node.into();
    let id = pod.run(&container).await?;
    let sockets = ground.node.sh(&id, "cat /proc/net/unix").await?;
    // The agent's own are there, so this is the right namespace.
    ensure!(sockets.contains("agent.sock"), "{sockets}");
    let abstract_names: Vec<&str> = sockets.lines().filter(|line| line.contains(" @")).collect();
    ensure!(abstract_names.is_empty(), "{abstract_names:?}");
    ground.finish().await
}

/// D2: CVE-2021-41103, CVE-2024-25621.
#[tokio::test(flavor = "multi_thread")]
async fn other_users_of_the_node_reach_nothing_of_ours() -> Result<()> {
    let mut node = Node::prepare("")?;
    // As a careless installation left them.
    for name in ["root", "run"] {
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(node.home().join(name), open)?;
    }
    // Others may come as far as here.
    fs::set_permissions(node.home(), fs::Permissions::from_mode(0o755))?;
    node.launch(&[]).await?;
    let ground = Ground::on(node).await?;
    let pod = ground.pod("private").await?;
    pod.run(&ground.container("main", LIVES)).await?;
    let home = ground.node.home().to_owned();
    let mut reached = Vec::new();
    let mut all = Vec::new();
    for top in ["root", "run"] {
        below(&home.join(top), &mut all)?;
    }
    ensure!(all.len() > 20, "{all:?}");
    let list: String = all
        .iter()
        .map(|path| format!("{}\n", path.display()))
        .collect();
    fs::write(home.join("list"), list)?;
    let script = "while read -r path; do \
                  ls \"$path/\" >/dev/null 2>&1 && echo \"$path\"; \
                  cat \"$path\" >/dev/null 2>&1 && echo \"$path\"; done; true";
    let output = Command::new("sh")
        .args(["-c", script])
        .stdin(fs::File::open(home.join("list"))?)
        .uid(65534)
        .gid(65534)
        .output()?;
    reached.extend(
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned),
    );
    ensure!(reached.is_empty(), "reached by nobody: {reached:?}");
    let connect = format!(
        "import socket; socket.socket(socket.AF_UNIX).connect('{}')",
        ground.node.socket().display()
    );
    let connected = Command::new("/usr/bin/python3")
        .args(["-c", &connect])
        .uid(65534)
        .gid(65534)
        .output()?;
    ensure!(!connected.status.success(), "nobody connects to the agent");
    ground.finish().await
}

/// Everything below `top` on its own file system.
fn below(top: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    all.push(top.to_owned());
    for entry in fs::read_dir(top)?.flatten() {
        // A container's processes come and go; what is gone is not reached.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && all.len() < 3000 => below(&entry.path(), all)?,
            Ok(kind) if kind.is_file() || kind.is_dir() => all.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// D3: CVE-2019-14891. The one that watches a container does not die of its hunger.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_survives_what_kills_its_container() -> Result<()> {
    let ground = Ground::start().await?;
    let pod = ground.pod("hunger").await?;
    for round in 0..10 {
        let hog = "x=a; while :; do x=$x$x; done";
        let mut container = ground.container(&format!("c{round}"), hog);
        pod::linux(&mut container).resources = Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            oom_score_adj: 900,
            ..Default::default()
        });
        let id = pod.create(&container).await?;
        let init = ground.node.pid(&id).await?;
        let shim = parent(init)?;
        let name = fs::read_to_string(format!("/proc/{shim}/comm"))?;
        ensure!(name.trim() == "berth-shim", "{name}");
        let groups = fs::read_to_string(format!("/proc/{shim}/cgroup"))?;
        let parent = &pod.config.linux.clone().unwrap_or_default().cgroup_parent;
        ensure!(!groups.contains(parent.as_str()), "{groups}");
        let score = fs::read_to_string(format!("/proc/{init}/oom_score_adj"))?;
        ensure!(score.trim() == "900", "{score}");
        ground.node.start_container(&id).await?;
        let status = ground.node.exited(&id).await?;
        ensure!(
            (status.exit_code, status.reason.as_str()) == (137, "OOMKilled"),
            "{status:?}"
        );
        ground.node.remove_container(&id).await?;
    }
    ground.finish().await
}

fn parent(pid: u32) -> Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(field(&status, "PPid").parse()?)
}

/// D4: CVE-2023-44487 and its kin.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_misbehave_cost_others_nothing() -> Result<()> {
    let ground = Ground::start().await?;
    let memory = |ground: &Ground| -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", ground.node.agent_pid()?))?;
        Ok(field(&status, "VmRSS")
            .trim_end_matches("kB")
            .trim()
            .parse()?)
    };
    let before = memory(&ground)?;
    let socket = ground.node.socket();
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        // Beyond its limit it may refuse.
        let Ok(mut stream) = UnixStream::connect(&socket) else {
            break;
        };
        stream.set_write_timeout(Some(Duration::from_millis(100)))?;
        let words: Vec<u8> = match number % 4 {
            0 => Vec::new(),
            1 => b"GET / HTTP/1.1\r\n".to_vec(),
            2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            _ => resets(),
        };
        // It may have hung up by now.
        stream.write_all(&words).ok();
        held.push(stream);
        if number % 50 == 0 {
            answers(&ground).await?;
        }
    }
    answers(&ground).await?;
    let grown = memory(&ground)?.saturating_sub(before);
    ensure!(grown < 64 << 10, "the agent grew by {grown} KiB");
    drop(held);
    answers(&ground).await?;
    ground.finish().await
}

async fn answers(ground: &Ground) -> Result<()> {
    let start = Instant::now();
    ground
        .node
        .version()
        .await
        .context("Version among connections that misbehave")?;
    ensure!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

/// An HTTP/2 client that opens and resets streams: frames of HEADERS and RST_STREAM.
fn resets() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for number in 0..2000_u32 {
        let stream = (number * 2 + 1).to_be_bytes();
        // :method POST, :scheme http, :path / of the static table.
        bytes.extend([0, 0, 3, 1, 4]);
        bytes.extend(stream);
        bytes.extend([0x83, 0x86, 0x84]);
        bytes.extend([0, 0, 4, 3, 0]);
        bytes.extend(stream);
        bytes.extend([0, 0, 0, 8]);
    }
    bytes
}

/// D5: CVE-2026-33186. What is routed is what was meant, or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn paths_that_only_resemble_a_method_are_no_method() -> Result<()> {
    let ground = Ground::start().await?;
    for path in [
        "//runtime.v1.RuntimeService/Version",
        "/runtime.v1.RuntimeService//Version",
        "/runtime.v1.RuntimeService/Version/",
        "/runtime.v1.RuntimeService%2FVersion",
        "/RUNTIME.V1.RuntimeService/Version",
        "/runtime.v1.RuntimeService/version",
        "/runtime.v1.RuntimeService/",
        "/",
    ] {
        let mut client = tonic::client::Grpc::new(ground.node.channel()?);
        client.ready().await?;
        let request = tonic::Request::new(cri::VersionRequest::default());
        let codec = tonic_prost::ProstCodec::<cri::VersionRequest, cri::VersionResponse>::default();
        let answer = client.unary(request, path.parse()?, codec).await;
        let status = answer.map(|_| ()).expect_err(path);
        ensure!(
            status.code() == tonic::Code::Unimplemented,
            "{path}: {status}"
        );
    }
    ground.finish().await
}

/// D7: CVE-2021-25743. What a container or a label says cannot command a terminal.
#[tokio::test(flavor = "multi_thread")]
async fn no_control_byte_of_others_reaches_a_persons_terminal() -> Result<()> {
    let ground = Ground::start().await?;
    let evil = "\x1b]0;title\x07\x1b[2J\u{202e}";
    let mut config = pod::sandbox(&ground.node, "escapes");
    config.labels.insert("label".into(), evil.into());
    config.annotations.insert(evil.into(), evil.into());
    let pod = ground.pod_with(config).await?;
    let mut container = ground.container("main", LIVES);
    container.labels.insert("label".into(), evil.into());
    container.envs = vec![cri::KeyValue {
        key: "E".into(),
        value: evil.into(),
    }];
    let id = pod.run(&container).await?;
    let pod_id = pod.id.clone();
    for arguments in [
        vec!["ps", "-a"],
        vec!["pods"],
        vec!["tree"],
        vec!["inspect", &id],
        vec!["inspect", &pod_id],
        vec!["info"],
        vec!["rm", evil],
        vec!["images", evil],
        vec!["pull", evil],
        vec!["exec", &id, evil],
    ] {
        let output = ground.node.ctl(&arguments)?;
        for bytes in [&output.stdout, &output.stderr] {
            let odd = bytes
                .iter()
                .find(|byte| **byte < 0x20 && !matches!(byte, b'\n' | b'\t'));
            let text = String::from_utf8_lossy(bytes);
            ensure!(
                odd.is_none() && !text.contains('\u{202e}'),
                "{arguments:?}: {text:?}"
            );
        }
    }
    ground.finish().await
}

/// D8: one record or socket that is broken keeps nothing else from coming up.
#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_does_not_answer_keeps_no_agent_from_starting() -> Result<()> {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    let mut ground = Ground::start().await?;
    let (hangs, works) = {
        let pod = ground.pod("broken").await?;
        let hangs = pod.run(&ground.container("hangs", LIVES)).await?;
        let works = pod.run(&ground.container("works", LIVES)).await?;
        (hangs, works)
    };
    let shim = parent(ground.node.pid(&hangs).await?)?;
    let shim = Pid::from_raw(i32::try_from(shim)?);
    kill(shim, Signal::SIGSTOP)?;
    let start = Instant::now();
    let restarted = ground.node.crash_and_restart().await;
    let took = start.elapsed();
    let worked = ground.node.exec_sync(&works, &["true"], 10).await;
    kill(shim, Signal::SIGCONT)?;
    restarted?;
    ensure!(worked?.exit_code == 0, "the other container");
    ensure!(took < Duration::from_secs(20), "{took:?}");
    ground.finish().await
}
