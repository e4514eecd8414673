//! Many clients at once while agents and shims are killed, each checked against a model
//! of what its container may be; then a long row of pods, in which nothing may grow.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use berth_integration::{Node, image, pod, registry::Registry};
use berth_proto::cri::{self, ContainerState, runtime_service_client::RuntimeServiceClient};
use tonic::{Code, Status, transport::Channel};

use crate::life::setting;

/// Clients of the storm.
const CLIENTS: usize = 50;
/// How long the storm lasts unless `BERTH_STORM_SECONDS` says otherwise.
const STORM: u64 = 60;
/// Between two deaths of the agent.
const AGENT_LIVES: Duration = Duration::from_secs(4);
/// How long a call is repeated while agents die; each is back within a second.
const PERSIST: Duration = Duration::from_secs(60);
/// Lives of pods in the soak unless `BERTH_SOAK_PODS` says otherwise.
const SOAK: usize = 2_000;

/// How a client wants its container to end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// By itself, with this code.
    Itself(i32),
    /// Stopped; its handler exits with 7.
    Stopped,
    /// Its shim is killed.
    ShimKilled,
}

#[derive(Clone)]
struct Client {
    runtime: RuntimeServiceClient<Channel>,
    calls: Arc<AtomicUsize>,
    retries: Arc<AtomicUsize>,
}

/// The agent has died, or is not back yet.
fn passes(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown
    ) || status.message().contains("transport error")
}

macro_rules! persist {
    ($client:expr, $method:ident, $request:expr) => {{
        let until = Instant::now() + PERSIST;
        loop {
            $client.calls.fetch_add(1, Ordering::Relaxed);
            match $client.runtime.$method($request).await {
                Ok(answer) => break Ok(answer.into_inner()),
                Err(status) if passes(&status) && Instant::now() < until => {
                    $client.retries.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(status) => break Err(status),
            }
        }
    }};
}

impl Client {
    async fn status(&mut self, id: &str, verbose: bool) -> Result<cri::ContainerStatusResponse> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose,
        };
        Ok(persist!(self, container_status, request.clone())?)
    }

    async fn exited(&mut self, id: &str) -> Result<cri::ContainerStatus> {
        let until = Instant::now() + PERSIST;
        loop {
            let status = self.status(id, false).await?.status.context("no status")?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            ensure!(Instant::now() < until, "{id} does not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn shim(&mut self, id: &str) -> Result<Option<i32>> {
        let answer = self.status(id, true).await?;
        let info = answer.info.get("info").context("no verbose information")?;
        let info: serde_json::Value = serde_json::from_str(info)?;
        let pid = info.pointer("/record/state/processes/shim/pid");
        Ok(pid
            .and_then(serde_json::Value::as_i64)
            .and_then(|pid| i32::try_from(pid).ok()))
    }

    async fn life(&mut self, node: &Blueprint, name: &str, end: End) -> Result<()> {
        let config = node.sandbox(name);
        let run = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        let pod = persist!(self, run_pod_sandbox, run.clone())?.pod_sandbox_id;
        let script = match end {
            End::Itself(code) => format!("sleep 0.2; exit {code}"),
            _ => "trap 'exit 7' TERM; while :; do sleep 100 & wait $!; done".to_owned(),
        };
        let create = cri::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(pod::shell("main", &node.image, &script)),
            sandbox_config: Some(config),
        };
        let id = persist!(self, create_container, create.clone())?.container_id;
        let start = cri::StartContainerRequest {
            container_id: id.clone(),
        };
        let started = persist!(self, start_container, start.clone());
        let mut ends_early = false;
        if let Err(status) = started {
            // An earlier call did it; or it died with its agent, which is told as such.
            ensure!(
                status.code() == Code::FailedPrecondition,
                "start: {status:?}"
            );
            let now = self.status(&id, false).await?.status.context("no status")?;
            ensure!(
                matches!(
                    now.state(),
                    ContainerState::ContainerRunning | ContainerState::ContainerExited
                ),
                "a container that could not be started is {:?}",
                now.state()
            );
            ends_early = now.reason == "StartError";
        }
        if !ends_early {
            self.end(&id, end).await?;
        }
        let first = self.exited(&id).await?;
        let second = self.exited(&id).await?;
        ensure!(
            (first.exit_code, &first.reason, first.finished_at)
                == (second.exit_code, &second.reason, second.finished_at),
            "an exit changed: {first:?} {second:?}"
        );
        let allowed: &[i32] = match end {
            _ if ends_early => &[128],
            End::Itself(code) => &[code],
            // A program that has no handler yet is killed after the grace.
            End::Stopped => &[7, 137],
            End::ShimKilled => &[255, 137],
        };
        ensure!(
            allowed.contains(&first.exit_code),
            "{end:?} ended with {} ({}): {}",
            first.exit_code,
            first.reason,
            first.message
        );
        let remove = cri::RemoveContainerRequest { container_id: id };
        persist!(self, remove_container, remove.clone())?;
        let stop = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod.clone(),
        };
        persist!(self, stop_pod_sandbox, stop.clone())?;
        let remove = cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod,
        };
        persist!(self, remove_pod_sandbox, remove.clone())?;
        Ok(())
    }

    async fn end(&mut self, id: &str, end: End) -> Result<()> {
        match end {
            End::Itself(_) => {}
            End::Stopped => {
                let stop = cri::StopContainerRequest {
                    container_id: id.to_owned(),
                    timeout: 2,
                };
                persist!(self, stop_container, stop.clone())?;
            }
            End::ShimKilled => {
                if let Some(pid) = self.shim(id).await? {
                    // Gone already: it has ended with its container.
                    let pid = nix::unistd::Pid::from_raw(pid);
                    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
                }
            }
        }
        Ok(())
    }
}

/// What clients need of a node that is being killed meanwhile.
struct Blueprint {
    template: cri::PodSandboxConfig,
    image: String,
}

impl Blueprint {
    fn sandbox(&self, name: &str) -> cri::PodSandboxConfig {
        let mut config = self.template.clone();
        let uid = config
            .metadata
            .as_ref()
            .map(|metadata| format!("{name}-{}", metadata.uid))
            .unwrap_or_default();
        if let Some(metadata) = &mut config.metadata {
            name.clone_into(&mut metadata.name);
            metadata.uid = uid;
        }
        config.log_directory = format!("{}/{name}", config.log_directory);
        config
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_in_a_storm_of_deaths_lose_nothing() -> Result<()> {
    let image = image::busybox()?;
    let mut node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/storm", "1", &image);
    node.pull(&reference).await?;
    let blueprint = Arc::new(Blueprint {
        template: pod::sandbox(&node, "storm"),
        image: reference,
    });
    let until = Instant::now() + Duration::from_secs(setting("BERTH_STORM_SECONDS", STORM));
    let (calls, retries) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let lives = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = Client {
            runtime: node.runtime()?,
            calls: calls.clone(),
            retries: retries.clone(),
        };
        let (blueprint, lives) = (blueprint.clone(), lives.clone());
        clients.spawn(async move {
            let mut round = 0;
            while Instant::now() < until {
                let end = match (number + round) % 4 {
                    0 => End::Itself(i32::try_from(round % 100).unwrap_or(1)),
                    1 => End::ShimKilled,
                    _ => End::Stopped,
                };
                let name = format!("storm-{number}-{round}");
                client
                    .life(&blueprint, &name, end)
                    .await
                    .with_context(|| format!("{name}, to end by {end:?}"))?;
                lives.fetch_add(1, Ordering::Relaxed);
                round += 1;
            }
            anyhow::Ok(())
        });
    }
    let mut deaths = 0;
    let mut wrong = Vec::new();
    while !clients.is_empty() {
        tokio::select! {
            () = tokio::time::sleep(AGENT_LIVES), if Instant::now() < until => {
                node.crash_and_restart().await?;
                deaths += 1;
            }
            Some(ended) = clients.join_next() => {
                if let Err(error) = ended? {
                    wrong.push(format!("{error:#}"));
                }
            }
        }
    }
    println!(
        "faults: storm: {} calls ({} repeated) of {CLIENTS} clients, {} lives of pods, \
         {deaths} deaths of agents, {} wrong",
        calls.load(Ordering::Relaxed),
        retries.load(Ordering::Relaxed),
        lives.load(Ordering::Relaxed),
        wrong.len()
    );
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    ensure!(deaths > 1, "hardly any agent died");
    node.finish().await
}

/// What must not grow.
#[derive(Clone, Copy, Debug)]
struct Use {
    descriptors: usize,
    threads: usize,
    resident: u64,
    mounts: usize,
    disk: u64,
}

impl Use {
    fn of(node: &Node) -> Result<Self> {
        let process = format!("/proc/{}", node.agent_pid()?);
        let status = fs::read_to_string(format!("{process}/status"))?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or(0)
        };
        Ok(Self {
            descriptors: fs::read_dir(format!("{process}/fd"))?.count(),
            threads: usize::try_from(field("Threads:"))?,
            resident: field("VmRSS:"),
            mounts: fs::read_to_string("/proc/self/mountinfo")?
                .lines()
                .filter(|line| line.contains(&*node.home().to_string_lossy()))
                .count(),
            disk: below(&node.home().join("root")) / 1024,
        })
    }
}

fn below(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        // Bounded by themselves: the timeline is a ring, and the store's journal is
        // folded back every 40 MiB.
        if entry.file_name() == "timeline" || entry.file_name() == "records" {
            continue;
        }
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        sum += metadata.blocks() * 512;
        if metadata.is_dir() {
            sum += below(&entry.path());
        }
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_long_row_of_pods_nothing_grows() -> Result<()> {
    const CROWD: usize = 8;
    let image = image::busybox()?;
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/soak", "1", &image);
    node.pull(&reference).await?;
    let blueprint = Arc::new(Blueprint {
        template: pod::sandbox(&node, "soak"),
        image: reference,
    });
    let count = usize::try_from(setting("BERTH_SOAK_PODS", SOAK as u64))?;
    let step = (count / 10).max(CROWD);
    let client = Client {
        runtime: node.runtime()?,
        calls: Arc::default(),
        retries: Arc::default(),
    };
    let mut uses = Vec::new();
    for batch in 0..10 {
        let mut workers = tokio::task::JoinSet::new();
        for worker in 0..CROWD {
            let (mut client, blueprint) = (client.clone(), blueprint.clone());
            workers.spawn(async move {
                for number in 0..step / CROWD {
                    let name = format!("soak-{batch}-{worker}-{number}");
                    client.life(&blueprint, &name, End::Itself(0)).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = workers.join_next().await {
            done??;
        }
        // What is dropped late (connections, kept answers) is dropped within a second or so.
        tokio::time::sleep(Duration::from_secs(1)).await;
        uses.push(Use::of(&node)?);
    }
    let (early, late) = (uses[2], uses[9]);
    println!("faults: soak: {count} pods, then {early:?} after 30 %, {late:?} at the end");
    assert!(late.descriptors <= early.descriptors + 5, "{uses:#?}");
    assert!(late.threads <= early.threads + 4, "{uses:#?}");
    assert!(late.mounts <= early.mounts + 2, "{uses:#?}");
    assert!(late.disk <= early.disk + 1024, "{uses:#?}");
    // The store's cache and the allocator's arenas settle; a leak of one record per pod does not.
    assert!(
        late.resident <= early.resident * 11 / 10 + 2048,
        "{uses:#?}"
    );
    node.finish().await
}
