//! A node: an agent with directories and a network namespace of its own.

mod agent;
mod verbs;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use berth_proto::{
    berth::v1::node_client::NodeClient,
    cri::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::{
    NetNs, cgroup,
    leak::{self, Kind, Scope, Snapshot},
    programs, wait,
};
use agent::Agent;

/// From the start of an agent to its first answer; it takes tens of
/// milliseconds, the rest is for a busy machine.
const READY: Duration = Duration::from_secs(20);
/// From SIGUSR2 to the agent that takes over; the old one may take ten seconds for its
/// operations.
const UPGRADED: Duration = Duration::from_secs(30);
/// From SIGTERM to the end of an agent.
const STOPPED: Duration = Duration::from_secs(20);
/// Until the kernel has taken down what nobody uses any more.
const SETTLED: Duration = Duration::from_secs(10);
/// A call that takes longer than this hangs: nothing here waits for anything slow.
const CALL: Duration = Duration::from_secs(60);

/// An agent and all that it needs. [`Node::finish`] ends a test; a node that is
/// dropped without it (a test that failed) prints its log and is torn down by force.
#[derive(Debug)]
pub struct Node {
    home: Option<TempDir>,
    path: PathBuf,
    netns: NetNs,
    agent: Option<Agent>,
    /// Agents that were replaced and still serve streams.
    replaced: Vec<Agent>,
    /// Where the programs are.
    programs: PathBuf,
    before: Snapshot,
    config: String,
    /// Ids by which control groups and processes of this node are found, too.
    marks: Mutex<BTreeSet<String>>,
    /// Control groups made as a kubelet would.
    groups: Mutex<BTreeSet<String>>,
    /// The deadline of each call.
    patience: Duration,
}

impl Node {
    /// Starts an agent with the default configuration.
    ///
    /// # Errors
    /// If the programs are not built, this is not root, or the agent does not answer.
    pub async fn start() -> Result<Self> {
        Self::start_with("", &[]).await
    }

    /// As [`Node::start`], with further lines of configuration and environment.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_with(config: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let mut node = Self::prepare(config)?;
        node.launch(environment).await?;
        Ok(node)
    }

    /// Makes the directories and the namespace, without an agent.
    ///
    /// # Errors
    /// If the programs are not built or this is not root.
    pub fn prepare(config: &str) -> Result<Self> {
        // Not below /tmp, which may be memory: layers belong on a disk.
        let place = std::env::var_os("BERTH_TEST_DIR").unwrap_or_else(|| "/var/tmp".into());
        let home = tempfile::Builder::new()
            .prefix("berth-t-")
            .rand_bytes(8)
            .tempdir_in(place)?;
        let path = home.path().to_owned();
        let netns = NetNs::new()?;
        for part in ["root", "run", "logs"] {
            fs::create_dir(path.join(part))?;
        }
        let mut node = Self {
            home: Some(home),
            path,
            netns,
            agent: None,
            replaced: Vec::new(),
            programs: programs::directory()?,
            before: Snapshot::default(),
            config: config.to_owned(),
            marks: Mutex::default(),
            groups: Mutex::default(),
            patience: CALL,
        };
        node.write_config()?;
        node.before = Snapshot::take(&node.scope())?;
        Ok(node)
    }

    fn write_config(&self) -> Result<()> {
        // Behind the test's own lines, whose numbers then stay what they are.
        let text = format!("{}\n[cgroup]\nparent = \"/{}\"\n", self.config, self.name());
        fs::write(self.path.join("config.toml"), text).context("write the configuration")
    }

    /// Replaces the configuration, for the next start.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&mut self, config: &str) -> Result<()> {
        config.clone_into(&mut self.config);
        self.write_config()
    }

    /// Starts the agent and waits for its first answer.
    ///
    /// # Errors
    /// If it ends, or does not answer in time.
    pub async fn launch(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        self.spawn(environment)?;
        wait::until("the agent answers", READY, || async {
            if let Some(status) = self.agent_state()? {
                bail!("the agent ended: {status}");
            }
            Ok(self.version().await.ok())
        })
        .await?;
        Ok(())
    }

    /// Starts the agent without waiting for it.
    ///
    /// # Errors
    /// If it cannot be executed.
    pub fn spawn(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        ensure!(self.agent.is_none(), "an agent is running already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let child = self.netns.enter(|| {
            Command::new(self.programs.join("berth-agent"))
                .arg("--config")
                .arg(self.path.join("config.toml"))
                .arg("--root")
                .arg(self.path.join("root"))
                .arg("--run-dir")
                .arg(self.path.join("run"))
                .arg("--listen")
                .arg(self.endpoint())
                .envs(environment.iter().copied())
                .env("RUST_BACKTRACE", "1")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .context("start berth-agent")
        })?;
        self.agent = Some(Agent::Child(child));
        Ok(())
    }

    /// Whether the agent has ended by itself, and how.
    ///
    /// # Errors
    /// If it cannot be asked after.
    pub fn agent_state(&self) -> Result<Option<ExitStatus>> {
        match &self.agent {
            Some(agent) => agent.state(),
            None => Ok(None),
        }
    }

    /// `kill -9`, as a crash would have it.
    ///
    /// # Errors
    /// If no agent runs.
    pub fn kill(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.kill()?;
        agent.wait()
    }

    /// Waits until the agent has ended by itself (a failpoint that kills it).
    ///
    /// # Errors
    /// If it still runs when `limit` has passed.
    pub async fn died(&mut self, limit: Duration) -> Result<ExitStatus> {
        let status = wait::until("the agent ends", limit, || async { self.agent_state() }).await?;
        if let Some(agent) = self.agent.take() {
            agent.wait()?;
        }
        Ok(status)
    }

    /// SIGTERM, and the agent's own end.
    ///
    /// # Errors
    /// If it does not end in time, or with an error.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.died(STOPPED).await?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    /// Sends a signal to the agent.
    ///
    /// # Errors
    /// If no agent runs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let agent = self.agent.as_ref().context("no agent runs")?;
        agent.signal(signal)
    }

    /// SIGUSR2, and the agent that takes over. The old one serves its streams.
    ///
    /// # Errors
    /// If no other agent serves in time.
    pub async fn upgrade(&mut self) -> Result<()> {
        let before = self.agent_pid()?;
        self.signal(Signal::SIGUSR2)?;
        let lock = self.path.join("root/agent.lock");
        let pid = wait::until("another agent takes over", UPGRADED, || async {
            // Empty for the moment in which it is written.
            let pid: Option<u32> = fs::read_to_string(&lock)?.trim().parse().ok();
            Ok(pid.filter(|pid| *pid != before))
        })
        .await?;
        let agent = self.agent.replace(Agent::of(pid)?);
        self.replaced.extend(agent);
        wait::until("it answers", READY, || async {
            if let Some(status) = self.agent_state()? {
                bail!("the agent ended: {status}");
            }
            Ok(self.version().await.ok())
        })
        .await?;
        Ok(())
    }

    /// Agents that were replaced and have not ended.
    ///
    /// # Errors
    /// If they cannot be asked after.
    pub fn replaced(&self) -> Result<Vec<u32>> {
        let mut running = Vec::new();
        for agent in &self.replaced {
            if agent.state()?.is_none() {
                running.push(agent.id());
            }
        }
        Ok(running)
    }

    /// Copies the programs into the node's own directory, where a test may replace
    /// them; to be called before the agent is started.
    ///
    /// # Errors
    /// If they cannot be copied.
    pub fn own_programs(&mut self) -> Result<PathBuf> {
        let own = self.path.join("bin");
        fs::create_dir(&own)?;
        for program in ["berth-agent", "berth-shim"] {
            fs::copy(self.programs.join(program), own.join(program))?;
        }
        self.programs = own.clone();
        Ok(own)
    }

    /// `kill -9` and a new agent on the same directories.
    ///
    /// # Errors
    /// As [`Node::launch`].
    pub async fn crash_and_restart(&mut self) -> Result<()> {
        self.kill()?;
        self.launch(&[]).await
    }

    /// What switching the machine off does: no process is left, no mount, no group, and
    /// the run directory is empty. The agent must have been killed.
    ///
    /// # Errors
    /// If the run directory cannot be emptied.
    pub fn switch_off(&self) -> Result<()> {
        leak::force_down(&self.scope(), &self.before);
        let run = self.path.join("run");
        fs::remove_dir_all(&run).context("empty the run directory")?;
        fs::create_dir(&run)?;
        Ok(())
    }

    /// Ends the test: removes all that the node has, stops the agent and looks
    /// for what stayed behind.
    ///
    /// # Errors
    /// If something cannot be removed, or stayed.
    pub async fn finish(mut self) -> Result<()> {
        self.remove_everything().await?;
        self.remove_groups()?;
        // Records and kernel must agree while the agent still runs, too.
        self.settled(&[Kind::Mount, Kind::Cgroup, Kind::File])?;
        self.stop().await?;
        wait::until("agents that were replaced end", STOPPED, || async {
            let ended = self
                .replaced
                .iter()
                .map(|agent| Ok(agent.state()?.is_some()));
            let ended: Result<Vec<bool>> = ended.collect();
            Ok(ended?.into_iter().all(|ended| ended).then_some(()))
        })
        .await?;
        self.replaced()?;
        self.finish_stopped()
    }

    /// Ends a test whose agent has been stopped, with nothing left on the node.
    ///
    /// # Errors
    /// As [`Node::finish`].
    pub fn finish_stopped(mut self) -> Result<()> {
        self.remove_groups()?;
        self.settled(&[
            Kind::Mount,
            Kind::Process,
            Kind::Cgroup,
            Kind::Link,
            Kind::Rule,
            Kind::File,
        ])?;
        self.before = Snapshot::default();
        if let Some(home) = self.home.take() {
            home.close().context("remove the node's directories")?;
        }
        Ok(())
    }

    fn settled(&self, kinds: &[Kind]) -> Result<()> {
        let end = std::time::Instant::now() + SETTLED;
        loop {
            let mut left = Snapshot::take(&self.scope())?.since(&self.before);
            let idle = self.agent.is_some();
            left.retain(|(kind, item)| {
                kinds.contains(kind) && !(idle && is_of_the_agent(*kind, item))
            });
            if left.is_empty() {
                return Ok(());
            }
            if std::time::Instant::now() > end {
                let lines: Vec<String> = left
                    .iter()
                    .map(|(k, item)| format!("  {k} {item}"))
                    .collect();
                bail!("left behind:\n{}", lines.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What has been made on this machine since the node was prepared.
    ///
    /// # Errors
    /// As [`Snapshot::take`].
    pub fn traces(&self) -> Result<Vec<(Kind, String)>> {
        Ok(Snapshot::take(&self.scope())?.since(&self.before))
    }

    /// How the oracle recognises this node.
    #[must_use]
    pub fn scope(&self) -> Scope<'_> {
        Scope {
            home: self.path.clone(),
            netns: &self.netns,
            marks: {
                let ids = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
                ids.iter().cloned().chain([self.name()]).collect()
            },
        }
    }

    /// Lets the leak oracle look for control groups and processes of an object.
    pub(crate) fn mark(&self, id: &str) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.insert(id.to_owned());
    }

    /// Makes the control group above the pod `name`, as a kubelet does; the
    /// value for the pod's `cgroup_parent`. It is removed when the test ends.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn pod_group(&self, name: &str) -> Result<String> {
        let path = format!("/{}/{name}", self.name());
        cgroup::make(&path)?;
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.insert(path.clone());
        Ok(path)
    }

    fn remove_groups(&self) -> Result<()> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        for path in std::mem::take(&mut *groups) {
            cgroup::remove(&path)?;
        }
        cgroup::remove(&format!("/{}", self.name()))
    }

    /// A name that no other node has; also that of the cgroup above its pods.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The directory with everything.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.path
    }

    /// Where the agent and its shims write what they have to say.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.path.join("agent.log")
    }

    /// What the agent has said so far.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(self.log_file())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The agent's socket as a URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join("run/agent.sock")
    }

    /// The socket for metrics and health.
    #[must_use]
    pub fn metrics_socket(&self) -> PathBuf {
        self.path.join("run/metrics.sock")
    }

    /// The agent's process.
    ///
    /// # Errors
    /// If none runs.
    pub fn agent_pid(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("no agent runs")?.id())
    }

    /// Gives each call a deadline, as a kubelet does; `None` for one that only hanging
    /// calls meet.
    pub fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience.unwrap_or(CALL);
    }

    /// A channel that connects when it is used, and again after a restart.
    ///
    /// # Errors
    /// If the socket's path is not a URL.
    pub fn channel(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(self.endpoint())?
            .timeout(self.patience)
            .connect_lazy())
    }

    /// `runtime.v1.RuntimeService`.
    ///
    /// # Errors
    /// As [`Node::channel`].
    pub fn runtime(&self) -> Result<RuntimeServiceClient<Channel>> {
        // The limit that every CRI client sets.
        Ok(RuntimeServiceClient::new(self.channel()?).max_decoding_message_size(16 << 20))
    }

    /// `runtime.v1.ImageService`.
    ///
    /// # Errors
    /// As [`Node::channel`].
    pub fn images(&self) -> Result<ImageServiceClient<Channel>> {
        Ok(ImageServiceClient::new(self.channel()?))
    }

    /// `berth.v1.Node`.
    ///
    /// # Errors
    /// As [`Node::channel`].
    pub fn berth(&self) -> Result<NodeClient<Channel>> {
        Ok(NodeClient::new(self.channel()?))
    }

    /// Runs `berthctl` against this node.
    ///
    /// # Errors
    /// If it cannot be executed.
    pub fn ctl(&self, arguments: &[&str]) -> Result<std::process::Output> {
        self.ctl_from(arguments, Stdio::null())
    }

    /// As [`Node::ctl`], with a standard input. Its home is the node's, so that
    /// no credentials of the machine are read or written.
    ///
    /// # Errors
    /// As [`Node::ctl`].
    pub fn ctl_from(&self, arguments: &[&str], input: Stdio) -> Result<std::process::Output> {
        let program = programs::directory()?.join("berthctl");
        self.netns.enter(|| {
            Command::new(program)
                .arg("-H")
                .arg(self.endpoint())
                .args(arguments)
                .env("HOME", self.home())
                .env("XDG_RUNTIME_DIR", self.home())
                .env_remove("DOCKER_CONFIG")
                .env_remove("REGISTRY_AUTH_FILE")
                .stdin(input)
                .output()
                .context("run berthctl")
        })
    }
}

/// What an agent has whether or not it has pods; that ends with the agent.
fn is_of_the_agent(kind: Kind, item: &str) -> bool {
    match kind {
        Kind::Mount => !leak::is_named_after_an_object(item),
        // Of the launcher, and of shims while there are some.
        Kind::Cgroup => item.ends_with("-shims"),
        _ => false,
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for mut agent in self.replaced.drain(..).chain(self.agent.take()) {
            // Ended already: nothing to kill.
            drop(agent.kill());
            drop(agent.wait());
        }
        let Some(home) = self.home.take() else {
            return;
        };
        if let Ok(log) = self.log() {
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(60);
            eprintln_tail(&self.name(), &lines[tail..]);
        }
        if std::env::var_os("BERTH_KEEP").is_some() {
            drop(home.keep());
            return;
        }
        leak::force_down(&self.scope(), &self.before);
        drop(home);
    }
}

#[allow(clippy::print_stderr, reason = "the log of a test that failed")]
fn eprintln_tail(name: &str, lines: &[&str]) {
    eprintln!("---- log of {name}\n{}\n----", lines.join("\n"));
}
