//! Exec, Attach and PortForward, by our own client and by the CRI's.

use std::{
    future::Future,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use berth_integration::{Node, pod, programs, wait};
use berth_proto::cri;
use berth_streaming::{
    Verdict,
    client::{Forwarder, Remote, Wanted, resize_message},
    spdy::StreamReader,
};
use tonic::Code;

use crate::fixture::{OBEYS, Pod, Shell, assert_refused};

pub const ALL: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};
pub const TTY: Wanted = Wanted {
    stderr: false,
    tty: true,
    ..ALL
};

/// A web server in the background, on the pod's loopback address only.
pub const WEB: &str =
    "mkdir /web && echo it answers >/web/answer && httpd -p 127.0.0.1:7000 -h /web";

pub async fn exec_url(
    node: &Node,
    container: &str,
    command: &[&str],
    wanted: Wanted,
) -> Result<String, tonic::Status> {
    let request = cri::ExecRequest {
        container_id: container.to_owned(),
        cmd: command.iter().map(ToString::to_string).collect(),
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    };
    let mut runtime = node
        .runtime()
        .map_err(|error| tonic::Status::internal(error.to_string()))?;
    Ok(runtime.exec(request).await?.into_inner().url)
}

pub async fn attach_url(node: &Node, container: &str, wanted: Wanted) -> Result<String> {
    let request = cri::AttachRequest {
        container_id: container.to_owned(),
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    };
    Ok(node.runtime()?.attach(request).await?.into_inner().url)
}

/// Runs `client` in the node's network, where its URLs lead.
pub fn inside<T: Send>(node: &Node, client: impl Future<Output = Result<T>> + Send) -> Result<T> {
    tokio::task::block_in_place(|| {
        node.netns().enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let limited = async { tokio::time::timeout(Duration::from_secs(60), client).await };
            runtime.block_on(limited).context("it hangs")?
        })
    })
}

pub async fn rest(reader: &mut Option<StreamReader>) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(reader) = reader {
        while let Some(bytes) = reader.next().await {
            all.extend_from_slice(&bytes);
        }
    }
    all
}

pub struct Done {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub verdict: Option<Verdict>,
}

/// Runs a command to its end with `input` as its stdin.
pub async fn exec(
    node: &Node,
    container: &str,
    command: &[&str],
    wanted: Wanted,
    input: &[u8],
) -> Result<Done> {
    let url = exec_url(node, container, command, wanted).await?;
    inside(node, async {
        let mut remote = Remote::open(&url, wanted).await?;
        let stdin = remote.stdin.take();
        let typing = async {
            if let Some(mut stdin) = stdin {
                // What a command does not read is no error.
                drop(stdin.write(input).await);
                drop(stdin.finish().await);
            }
        };
        let ((), stdout, stderr) =
            tokio::join!(typing, rest(&mut remote.stdout), rest(&mut remote.stderr));
        Ok(Done {
            stdout,
            stderr,
            verdict: remote.ending.verdict().await,
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_exec_gives_streams_and_code() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("stream", OBEYS).await?;
    let script = "read line; echo got $line; echo err >&2; exit 9";
    let done = exec(node, &pod.container, &["sh", "-c", script], ALL, b"it\n").await?;
    assert_eq!(done.stdout, b"got it\n");
    assert_eq!(done.stderr, b"err\n");
    assert_eq!(done.verdict, Some(Verdict::ExitCode(9)));

    // Two megabytes there and back; the end of stdin ends the command.
    let payload: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 253) as u8).collect();
    let done = exec(node, &pod.container, &["cat"], ALL, &payload).await?;
    assert!(done.stdout == payload);
    assert_eq!(done.verdict, Some(Verdict::Success));

    // It ends with its process, though a child keeps its stdout.
    let script = "sleep 4243 & echo started";
    let done = exec(node, &pod.container, &["sh", "-c", script], ALL, b"").await?;
    assert_eq!(done.stdout, b"started\n");
    assert_eq!(done.verdict, Some(Verdict::Success));

    // A program that is not there is a failure, not a code.
    let done = exec(node, &pod.container, &["/no/such"], ALL, b"").await?;
    let Some(Verdict::Failure(why)) = done.verdict else {
        panic!("{:?}", done.verdict);
    };
    assert!(why.contains("/no/such"), "{why}");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_exec_with_a_terminal_has_its_size_and_its_keys() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("tty", OBEYS).await?;
    let url = exec_url(node, &pod.container, &["sh"], TTY).await?;
    let seen = inside(node, async {
        let mut remote = Remote::open(&url, TTY).await?;
        let resize = remote.resize.as_mut().context("no resize stream")?;
        resize.write(&resize_message(101, 37)).await?;
        let stdin = remote.stdin.as_mut().context("no stdin")?;
        // The size comes by another stream: it is there a moment later.
        tokio::time::sleep(Duration::from_millis(300)).await;
        stdin
            .write(b"stty size; tty; echo $TERM; sleep 4244\n")
            .await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        stdin.write(b"\x03").await?;
        stdin.write(b"exit 4\n").await?;
        let seen = rest(&mut remote.stdout).await;
        assert_eq!(remote.ending.verdict().await, Some(Verdict::ExitCode(4)));
        Ok(String::from_utf8_lossy(&seen).into_owned())
    })?;
    assert!(seen.contains("37 101\r\n"), "{seen}");
    assert!(seen.contains("/dev/pts/"), "{seen}");
    assert!(seen.contains("xterm"), "{seen}");
    shell.finish().await
}

async fn running(node: &Node, container: &str, command: &str) -> Result<usize> {
    let listed = node.sh(container, "ps").await?;
    Ok(listed.lines().filter(|line| line.contains(command)).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_takes_its_command_along() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("vanish", OBEYS).await?;
    for wanted in [ALL, TTY] {
        let command = ["sh", "-c", "trap '' HUP TERM; sleep 4245"];
        let url = exec_url(node, &pod.container, &command, wanted).await?;
        inside(node, async {
            let remote = Remote::open(&url, wanted).await?;
            wait::until("it runs", Duration::from_secs(10), || async {
                let count = running(node, &pod.container, "sleep 4245").await?;
                Ok((count > 0).then_some(()))
            })
            .await?;
            drop(remote);
            Ok(())
        })?;
        wait::until("it is killed", Duration::from_secs(10), || async {
            let count = running(node, &pod.container, "sleep 4245").await?;
            Ok((count == 0).then_some(()))
        })
        .await?;
    }
    shell.finish().await
}

/// A pod whose container has a stdin.
pub async fn listener(
    shell: &Shell,
    name: &str,
    script: &str,
    tty: bool,
    once: bool,
) -> Result<Pod> {
    let config = pod::sandbox(&shell.node, name);
    let id = shell.node.run_pod(&config).await?;
    let mut container = shell.container("main", script);
    container.stdin = true;
    container.stdin_once = once;
    container.tty = tty;
    let container = shell.node.run(&id, &container, &config).await?;
    Ok(Pod {
        config,
        id,
        container,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn attached_clients_see_what_comes_and_one_may_speak() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let script = "echo before; while read line; do echo out $line; echo err $line >&2; done; echo end; exit 5";
    let pod = listener(&shell, "attach", script, false, true).await?;
    wait::until("the first line", Duration::from_secs(10), || async {
        Ok((node.logged(&pod.container).await?.len() == 1).then_some(()))
    })
    .await?;
    let hearing = Wanted {
        stdin: false,
        ..ALL
    };
    let deaf = attach_url(node, &pod.container, hearing).await?;
    let speaking = attach_url(node, &pod.container, ALL).await?;
    inside(node, async {
        let mut hearer = Remote::open(&deaf, hearing).await?;
        let mut speaker = Remote::open(&speaking, ALL).await?;
        let mut stdin = speaker.stdin.take().context("no stdin")?;
        // The attaching itself takes a moment, and nothing is repeated for who comes late.
        tokio::time::sleep(Duration::from_millis(500)).await;
        stdin.write(b"one\n").await?;
        stdin.finish().await?;
        for remote in [&mut hearer, &mut speaker] {
            let (out, err) = tokio::join!(rest(&mut remote.stdout), rest(&mut remote.stderr));
            assert_eq!(String::from_utf8_lossy(&out), "out one\nend\n");
            assert_eq!(String::from_utf8_lossy(&err), "err one\n");
        }
        assert_eq!(hearer.ending.verdict().await, Some(Verdict::Success));
        assert_eq!(speaker.ending.verdict().await, Some(Verdict::Success));
        Ok(())
    })?;
    let status = node.exited(&pod.container).await?;
    assert_eq!(status.exit_code, 5);
    // The log has it all, whoever looked on.
    let logged = node.logged(&pod.container).await?;
    assert_eq!(logged.len(), 4, "{logged:?}");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_can_be_left_and_found_again() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = listener(&shell, "again", "exec sh", true, false).await?;
    for round in 0..3 {
        let url = attach_url(node, &pod.container, TTY).await?;
        inside(node, async {
            let mut remote = Remote::open(&url, TTY).await?;
            let resize = remote.resize.as_mut().context("no resize stream")?;
            resize.write(&resize_message(90 + round, 30)).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut stdin = remote.stdin.take().context("no stdin")?;
            stdin.write(b"stty size\n").await?;
            let mut seen = Vec::new();
            let wanted = format!("30 {}", 90 + round);
            while !String::from_utf8_lossy(&seen).contains(&wanted) {
                let stdout = remote.stdout.as_mut().context("no stdout")?;
                seen.extend_from_slice(&stdout.next().await.context("it ended")?);
            }
            Ok(())
        })?;
    }
    let status = node.status(&pod.container).await?;
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_delays_neither_container_nor_log() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let script =
        "read go; yes 0123456789012345678901234567890123456789 | head -n 500000; echo last";
    let pod = listener(&shell, "slow", script, false, false).await?;
    let url = attach_url(node, &pod.container, ALL).await?;
    inside(node, async {
        let mut remote = Remote::open(&url, ALL).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut stdin = remote.stdin.take().context("no stdin")?;
        stdin.write(b"go\n").await?;
        let status = node.exited(&pod.container).await?;
        assert_eq!(status.exit_code, 0);
        let logged = node.logged(&pod.container).await?;
        assert_eq!(logged.len(), 500_001);
        // It gets what there was room for and hears that it was cut off, or is just behind.
        let seen = rest(&mut remote.stdout).await;
        assert!(seen.len() < 500_000 * 41, "{}", seen.len());
        Ok(())
    })?;
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_into_the_pod_and_nowhere_else() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("ports", &format!("{WEB}; {OBEYS}")).await?;
    // Only in the node's own network: a pod must not be a way there.
    let outside = node
        .netns()
        .enter(|| Ok(std::net::TcpListener::bind("127.0.0.1:7001")?))?;
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: Vec::new(),
    };
    let url = node
        .runtime()?
        .port_forward(request)
        .await?
        .into_inner()
        .url;
    inside(node, async {
        let forwarder = Forwarder::open(&url).await?;
        let ask = async || {
            let (reader, mut writer, _error) = forwarder.connect(7000).await?;
            // Until the server listens the stream is reset.
            drop(writer.write(b"GET /answer HTTP/1.0\r\n\r\n").await);
            let answer = rest(&mut Some(reader)).await;
            Ok(String::from_utf8_lossy(&answer)
                .contains("it answers")
                .then_some(()))
        };
        for _ in 0..3 {
            wait::until("an answer", Duration::from_secs(10), &ask).await?;
        }
        let (_, _, mut error) = forwarder.connect(7001).await?;
        let mut said = Vec::new();
        while let Some(bytes) = error.next().await {
            said.extend_from_slice(&bytes);
        }
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("error forwarding port 7001 to pod"), "{said}");
        assert!(said.contains("refused"), "{said}");
        Ok(())
    })?;
    drop(outside);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_cannot_be_are_refused_by_grpc() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("refuse", OBEYS).await?;
    let both = Wanted { tty: true, ..ALL };
    let refused = exec_url(node, &pod.container, &["sh"], both).await;
    assert_refused(refused, &[Code::InvalidArgument], &["stderr"]);
    let refused = exec_url(node, &pod.container, &["sh"], Wanted::default()).await;
    assert_refused(refused, &[Code::InvalidArgument], &["stdin"]);
    let refused = exec_url(node, &pod.container, &[], ALL).await;
    assert_refused(refused, &[Code::InvalidArgument], &["command"]);
    let refused = exec_url(node, "0123456789ab", &["sh"], ALL).await;
    assert_refused(refused, &[Code::NotFound], &["0123456789ab"]);
    node.stop_container(&pod.container, 5).await?;
    let refused = exec_url(node, &pod.container, &["sh"], ALL).await;
    assert_refused(refused, &[Code::FailedPrecondition], &["not running"]);
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![70_000],
    };
    let refused = node.runtime()?.port_forward(request).await;
    assert_refused(refused, &[Code::InvalidArgument], &["70000", "65535"]);
    shell.finish().await
}

struct Crictl<'n> {
    node: &'n Node,
    program: std::path::PathBuf,
}

impl Crictl<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--runtime-endpoint", &self.node.endpoint()])
            .args(["--timeout", "20s", "--config", "/dev/null"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Result<std::process::Output> {
        self.node.netns().enter(|| {
            let mut child = self.command(arguments).spawn().context("run crictl")?;
            child
                .stdin
                .take()
                .context("crictl without stdin")?
                .write_all(input)?;
            Ok(child.wait_with_output()?)
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crictl_streams_over_both_transports() -> Result<()> {
    let program = match programs::tool("crictl") {
        Ok(program) => program,
        Err(error) if std::env::var_os("CI").is_some() => return Err(error),
        Err(_) => return Ok(()),
    };
    let shell = Shell::start().await?;
    let node = &shell.node;
    let script = format!("{WEB}; echo serving; while read l; do echo said $l; done");
    let pod = listener(&shell, "crictl", &script, false, false).await?;
    wait::until("it serves", Duration::from_secs(10), || async {
        Ok((!node.logged(&pod.container).await?.is_empty()).then_some(()))
    })
    .await?;
    let crictl = Crictl { node, program };
    for transport in ["spdy", "websocket"] {
        let command = "cat; echo problem >&2; exit 3";
        let arguments = [
            "exec",
            "-i",
            "--transport",
            transport,
            &pod.container,
            "sh",
            "-c",
            command,
        ];
        let done = crictl.run(&arguments, b"typed\n")?;
        let (out, err) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        assert_eq!(out, "typed\n", "{transport}: {err}");
        assert!(
            err.contains("problem") && err.contains("exit code 3"),
            "{transport}: {err}"
        );

        let arguments = ["attach", "-i", "--transport", transport, &pod.container];
        let done = crictl.run(&arguments, b"hello\n")?;
        let (out, err) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        ensure!(out.contains("said hello"), "{transport}: {out} {err}");

        let arguments = ["port-forward", "--transport", transport, &pod.id, "0:7000"];
        node.netns()
            .enter(|| {
                let mut child = crictl.command(&arguments).spawn()?;
                let stdout = child.stdout.take().context("crictl without stdout")?;
                // "Forwarding from 127.0.0.1:PORT -> 7000"
                let mut first = String::new();
                // Kept open: it dies of what it says of each connection otherwise.
                let mut stdout = BufReader::new(stdout);
                stdout.read_line(&mut first)?;
                let port = first
                    .split("127.0.0.1:")
                    .nth(1)
                    .and_then(|rest| rest.split(' ').next());
                let port: u16 = port.context(first.clone())?.parse()?;
                let asked = (0..3).try_for_each(|_| ask(port));
                child.kill()?;
                let output = child.wait_with_output()?;
                asked.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
            })
            .context(transport)?;
    }
    shell.finish().await
}

/// Asks the web server behind a port of this machine.
fn ask(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connect")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /answer HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    read.with_context(|| format!("after {answer:?}"))?;
    ensure!(answer.contains("it answers"), "{answer:?}");
    Ok(())
}
