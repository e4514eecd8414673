//! Another agent in the place of one that serves streams.

use std::{
    fs,
    future::Future,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use berth_integration::{NetNs, Node, programs, wait};
use berth_proto::cri;
use berth_streaming::{
    Verdict,
    client::{Forwarder, Remote},
    spdy::{StreamReader, StreamWriter},
};
use nix::sys::signal::Signal;
use tonic::Code;

use crate::{
    fixture::{IGNORES, OBEYS, Pod, Shell, alive, ready},
    streaming::{ALL, attach_url, exec_url, listener, rest},
};

/// For what should happen at once.
const SOON: Duration = Duration::from_secs(20);
/// Echoes what comes to port 7000 of the pod.
const ECHO: &str = "nc -ll -p 7000 -e cat &";

/// A client in the node's network whose streams outlive a call.
struct Client(Option<tokio::runtime::Runtime>);

impl Drop for Client {
    fn drop(&mut self) {
        // One that is waited for must not end within another one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Client {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn run<T: Send>(
        &self,
        netns: &NetNs,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        tokio::task::block_in_place(|| {
            netns.enter(|| {
                let limited = async { tokio::time::timeout(Duration::from_secs(60), work).await };
                let runtime = self.0.as_ref().context("no runtime")?;
                runtime.block_on(limited).context("it hangs")?
            })
        })
    }
}

async fn forward_url(node: &Node, pod: &str) -> Result<String> {
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod.to_owned(),
        port: Vec::new(),
    };
    let answer = node.runtime()?.port_forward(request).await?;
    Ok(answer.into_inner().url)
}

/// Waits until `wanted` has come; what came up to then.
async fn hears(stream: &mut StreamReader, wanted: &str) -> Result<String> {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let next = tokio::time::timeout(SOON, stream.next()).await;
        let next = next.with_context(|| format!("no {wanted:?}"))?;
        seen.extend_from_slice(&next.with_context(|| format!("it ended before {wanted:?}"))?);
    }
    Ok(String::from_utf8_lossy(&seen).into_owned())
}

/// The streams of one pod.
struct Streams {
    exec: Remote,
    attach: Remote,
    forwarder: Forwarder,
    connection: (StreamReader, StreamWriter, StreamReader),
}

impl Streams {
    async fn open(exec: &str, attach: &str, forward: &str) -> Result<Self> {
        let forwarder = Forwarder::open(forward).await?;
        let connection = forwarder.connect(7000).await?;
        let mut this = Self {
            exec: Remote::open(exec, ALL).await?,
            attach: Remote::open(attach, ALL).await?,
            forwarder,
            connection,
        };
        this.speak("before").await?;
        Ok(this)
    }

    /// Says a word on each stream and hears it again.
    async fn speak(&mut self, word: &str) -> Result<()> {
        for (name, remote) in [("exec", &mut self.exec), ("attach", &mut self.attach)] {
            let stdin = remote.stdin.as_mut().context("no stdin")?;
            stdin.write(format!("{word}\n").as_bytes()).await?;
            let stdout = remote.stdout.as_mut().context("no stdout")?;
            hears(stdout, &format!("said {word}\n"))
                .await
                .context(name)?;
        }
        self.connection.1.write(word.as_bytes()).await?;
        hears(&mut self.connection.0, word)
            .await
            .context("port-forward")?;
        Ok(())
    }
}

const SAYS: &str = "while read line; do echo said $line; done";

async fn speaking(shell: &Shell, count: usize) -> Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for number in 0..count {
        let script = format!("{ECHO} {SAYS}; exit 3");
        let pod = listener(shell, &format!("speaks-{number}"), &script, false, false).await?;
        pods.push(pod);
    }
    for pod in &pods {
        wait::until("the port is served", SOON, || async {
            let served = shell
                .node
                .sh(&pod.container, "echo it | nc -w 2 127.0.0.1 7000")
                .await;
            Ok(served.is_ok_and(|said| said.contains("it")).then_some(()))
        })
        .await?;
    }
    Ok(pods)
}

async fn open(shell: &Shell, client: &Client, pods: &[Pod]) -> Result<Vec<Streams>> {
    let mut all = Vec::new();
    for pod in pods {
        let node = &shell.node;
        let command = ["sh", "-c", &format!("{SAYS}; exit 7")];
        let exec = exec_url(node, &pod.container, &command, ALL).await?;
        let attach = attach_url(node, &pod.container, ALL).await?;
        let forward = forward_url(node, &pod.id).await?;
        let opened = client.run(node.netns(), async {
            Streams::open(&exec, &attach, &forward).await
        });
        all.push(opened.with_context(|| pod.id.clone())?);
    }
    Ok(all)
}

/// `berthctl logs -f`.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn start(node: &Node, container: &str) -> Result<Self> {
        let mut child = Command::new(programs::directory()?.join("berthctl"))
            .args(["-H", &node.endpoint(), "logs", "-f", container])
            .env("HOME", node.home())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, lines })
    }

    fn sees(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        while line.trim_end() != wanted {
            line.clear();
            let read = self.lines.read_line(&mut line)?;
            ensure!(read > 0, "the log ended before {wanted:?}");
        }
        Ok(())
    }

    fn ends(mut self) -> Result<()> {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "logs -f: {status}: {rest}");
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_of_fifty_pods_breaks_when_another_agent_takes_over() -> Result<()> {
    let mut shell = Shell::start().await?;
    let pods = speaking(&shell, 50).await?;
    let client = Client::new()?;
    let mut all = open(&shell, &client, &pods).await?;
    let mut followers = Vec::new();
    for pod in &pods {
        let mut follower = Follower::start(&shell.node, &pod.container)?;
        follower.sees("said before")?;
        followers.push(follower);
    }
    // Given out and not opened: good with the next agent, once.
    let unopened = exec_url(&shell.node, &pods[0].container, &["echo", "late"], ALL).await?;
    let old = shell.node.agent_pid()?;

    shell.node.upgrade().await?;

    let node = &mut shell.node;
    assert_eq!(node.replaced()?, [old]);
    for (streams, follower) in all.iter_mut().zip(&mut followers) {
        client.run(node.netns(), streams.speak("after"))?;
        // A further connection over a stream that the old agent serves.
        client.run(node.netns(), async {
            let (mut reader, mut writer, _error) = streams.forwarder.connect(7000).await?;
            writer.write(b"again").await?;
            hears(&mut reader, "again").await
        })?;
        follower.sees("said after")?;
    }
    let late = client.run(node.netns(), async {
        let mut remote = Remote::open(&unopened, ALL).await?;
        let said = rest(&mut remote.stdout).await;
        assert_eq!(remote.ending.verdict().await, Some(Verdict::Success));
        let again = Remote::open(&unopened, ALL).await.err().context("twice")?;
        ensure!(again.to_string().contains("404"), "{again}");
        Ok(said)
    })?;
    assert_eq!(late, b"late\n");
    // The new agent has them all, and can do everything with them.
    assert_eq!(node.list_pods().await?.len(), 50);
    assert_eq!(node.sh(&pods[49].container, "echo new").await?, "new\n");
    let stopped: Vec<_> = pods.iter().take(5).collect();
    for pod in &stopped {
        node.stop_container(&pod.container, 0).await?;
    }
    for (number, (streams, follower)) in all.into_iter().zip(followers).enumerate() {
        let Streams {
            mut exec,
            mut attach,
            ..
        } = streams;
        if number < stopped.len() {
            // Those who are served by the old agent hear of what the new one did.
            let (exec, attach) = client.run(node.netns(), async {
                rest(&mut attach.stdout).await;
                rest(&mut exec.stdout).await;
                Ok((exec.ending.verdict().await, attach.ending.verdict().await))
            })?;
            assert_eq!(attach, Some(Verdict::Success), "{number}");
            assert!(!matches!(exec, None | Some(Verdict::Success)), "{exec:?}");
            follower.ends()?;
        } else {
            let exec = client.run(node.netns(), async {
                drop(attach);
                exec.stdin.take().context("no stdin")?.finish().await?;
                rest(&mut exec.stdout).await;
                Ok(exec.ending.verdict().await)
            })?;
            assert_eq!(exec, Some(Verdict::ExitCode(7)), "{number}");
        }
    }
    drop(client);
    // With its last stream it ends by itself.
    wait::until("the old agent ends", SOON, || async {
        Ok((!alive(old)).then_some(()))
    })
    .await?;
    shell.finish().await
}

/// One stream of each kind.
async fn one(shell: &Shell, client: &Client) -> Result<(Pod, Streams)> {
    let mut pods = speaking(shell, 1).await?;
    let mut all = open(shell, client, &pods).await?;
    Ok((pods.remove(0), all.remove(0)))
}

/// A program that does `script` instead of an agent.
fn replace(agent: &Path, script: &str) -> Result<()> {
    let new = agent.with_extension("new");
    fs::write(&new, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(new, agent)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_take_over_leaves_the_old_one_serving() -> Result<()> {
    let mut node = Node::prepare("")?;
    let agent = node.own_programs()?.join("berth-agent");
    let good = agent.with_extension("good");
    fs::copy(&agent, &good)?;
    node.launch(&[]).await?;
    let mut shell = Shell::on(node).await?;
    let client = Client::new()?;
    let (pod, mut streams) = one(&shell, &client).await?;
    let node = &shell.node;
    let pid = node.agent_pid()?;
    let configuration = node.home().join("config.toml");
    let configured = fs::read_to_string(&configuration)?;
    let again = format!("exec {} \"$@\"", good.display());
    // What is wrong, what the old one says, and whether it had given everything away.
    let failures = [
        ("exit 1", "", "did not prepare itself", false),
        (&*again, "no_such_key = 1", "did not prepare itself", false),
        (&*again, "", "did not serve", true),
    ];
    for (number, (script, mistake, said, late)) in failures.into_iter().enumerate() {
        let failpoint = if late {
            "export BERTH_FAILPOINTS=recover.record.settled=kill\n"
        } else {
            ""
        };
        replace(&agent, &format!("{failpoint}{script}"))?;
        fs::write(&configuration, format!("{mistake}\n{configured}"))?;
        let unopened = exec_url(node, &pod.container, &["echo", "late"], ALL).await?;
        let before = node.log()?.len();
        node.signal(Signal::SIGUSR2)?;
        let serves = if late {
            "this agent serves again"
        } else {
            "this agent goes on serving"
        };
        wait::until("the old agent says so", SOON, || async {
            let log = node.log()?;
            Ok(log[before..].contains(serves).then_some(()))
        })
        .await?;
        assert!(
            node.log()?[before..].contains(said),
            "{number}: {}",
            &node.log()?[before..]
        );
        // Nothing broke, and all that it does it still does.
        client.run(node.netns(), streams.speak(&format!("after-{number}")))?;
        wait::until("it answers", SOON, || async {
            Ok(node.version().await.ok())
        })
        .await?;
        assert_eq!(node.agent_pid()?, pid);
        assert!(alive(pid));
        let late = client.run(node.netns(), async {
            let mut remote = Remote::open(&unopened, ALL).await?;
            Ok(rest(&mut remote.stdout).await)
        })?;
        assert_eq!(late, b"late\n");
        let name = format!("further-{number}");
        let further = shell.pod(&name, OBEYS).await?;
        node.stop_pod(&further.id).await?;
        node.remove_pod(&further.id).await?;
    }
    fs::write(&configuration, configured)?;
    fs::rename(&good, &agent)?;
    shell.node.upgrade().await?;
    client.run(shell.node.netns(), streams.speak("at last"))?;
    assert_eq!(shell.node.list_pods().await?.len(), 1);
    drop((streams, client));
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_three_agents_serves_its_own_streams_until_the_last_is_stopped() -> Result<()> {
    let mut shell = Shell::start().await?;
    let client = Client::new()?;
    let (pod, mut first) = one(&shell, &client).await?;
    shell.node.upgrade().await?;
    let mut second = open(&shell, &client, std::slice::from_ref(&pod))
        .await?
        .remove(0);
    shell.node.upgrade().await?;
    let mut third = open(&shell, &client, std::slice::from_ref(&pod))
        .await?
        .remove(0);
    assert_eq!(shell.node.replaced()?.len(), 2);
    for (number, streams) in [&mut first, &mut second, &mut third]
        .into_iter()
        .enumerate()
    {
        let word = format!("round-{number}");
        client.run(shell.node.netns(), streams.speak(&word))?;
    }
    // A stop is for all of them: streams end, with an error, and nobody is left.
    shell.node.stop().await?;
    for mut streams in [first, second, third] {
        let verdict = client.run(shell.node.netns(), async {
            rest(&mut streams.exec.stdout).await;
            Ok(streams.exec.ending.verdict().await)
        })?;
        assert_eq!(verdict, None);
    }
    wait::until("all agents have ended", SOON, || async {
        Ok(shell.node.replaced()?.is_empty().then_some(()))
    })
    .await?;
    shell.node.launch(&[]).await?;
    shell.finish().await
}

/// The kinds of the frames that an idle HTTP/2 client gets until the server leaves.
fn frames(socket: &mut UnixStream) -> Result<Vec<u8>> {
    let mut kinds = Vec::new();
    let mut head = [0; 9];
    while socket.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length)?];
        socket.read_exact(&mut payload)?;
        kinds.push(head[3]);
        // Settings and pings want to be acknowledged.
        if matches!(head[3], 4 | 6) && head[4] & 1 == 0 {
            head[4] |= 1;
            if head[3] == 4 {
                head[..3].fill(0);
                payload.clear();
            }
            socket.write_all(&[&head[..], &payload].concat())?;
        }
    }
    Ok(kinds)
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_end_or_are_called_off_and_clients_are_told_to_go() -> Result<()> {
    let mut shell = Shell::start().await?;
    let node = &shell.node;
    let client = Client::new()?;
    let (pod, mut streams) = one(&shell, &client).await?;
    let ignores = shell.pod("ignores", IGNORES).await?;
    ready(node, &ignores.container).await?;
    let mut socket = UnixStream::connect(node.socket())?;
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let told = std::thread::spawn(move || frames(&mut socket));
    // A stop whose grace is longer than an upgrade may take, and a command that is
    // answered to its end.
    let mut runtime = node.runtime()?;
    let container_id = ignores.container.clone();
    let stop = tokio::spawn(async move {
        let request = cri::StopContainerRequest {
            container_id,
            timeout: 14,
        };
        runtime.stop_container(request).await
    });
    let mut runtime = node.runtime()?;
    let request = cri::ExecSyncRequest {
        container_id: pod.container.clone(),
        cmd: ["sh", "-c", "sleep 12; echo done"]
            .map(String::from)
            .to_vec(),
        timeout: 30,
    };
    let command = tokio::spawn(async move { runtime.exec_sync(request).await });
    tokio::time::sleep(Duration::from_millis(500)).await;

    let begun = Instant::now();
    shell.node.upgrade().await?;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");

    let node = &shell.node;
    crate::fixture::assert_refused(stop.await?, &[Code::Unavailable], &["replaced", "repeat"]);
    assert!(told.join().expect("it panics")?.contains(&7), "no GOAWAY");
    client.run(node.netns(), streams.speak("after"))?;
    // The shim keeps the deadline that the old agent gave it.
    let status = node.exited(&ignores.container).await?;
    assert_eq!(status.exit_code, 137);
    let grace = begun.elapsed();
    assert!(
        grace > Duration::from_secs(10) && grace < Duration::from_secs(20),
        "{grace:?}"
    );
    assert_eq!(command.await??.into_inner().stdout, b"done\n");
    drop((streams, client));
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_an_agent_that_is_killed_end_with_an_error() -> Result<()> {
    let mut shell = Shell::start().await?;
    let pods = speaking(&shell, 2).await?;
    let client = Client::new()?;
    let all = open(&shell, &client, &pods).await?;
    // berthctl says so too.
    let container = &pods[0].container;
    let said = shell.node.netns().enter(|| {
        let mut child = Command::new(programs::directory()?.join("berthctl"))
            .args([
                "-H",
                &shell.node.endpoint(),
                "exec",
                "-i",
                container,
                "sh",
                "-c",
                SAYS,
            ])
            .env("HOME", shell.node.home())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        stdin.write_all(b"one\n")?;
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().context("no stdout")?).read_line(&mut line)?;
        assert_eq!(line, "said one\n");
        Ok((child, stdin))
    })?;
    shell.node.kill()?;
    for mut streams in all {
        client.run(shell.node.netns(), async {
            rest(&mut streams.exec.stdout).await;
            rest(&mut streams.attach.stdout).await;
            assert_eq!(streams.exec.ending.verdict().await, None);
            assert_eq!(streams.attach.ending.verdict().await, None);
            tokio::time::timeout(SOON, streams.forwarder.gone().cancelled()).await?;
            Ok(())
        })?;
    }
    let (child, stdin) = said;
    let output = child.wait_with_output()?;
    drop(stdin);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("without a word"), "{err}");
    shell.node.launch(&[]).await?;
    shell.finish().await
}
