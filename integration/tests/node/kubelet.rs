//! What a kubelet does all day, with faults: lists, syncs pods to what is wanted, probes,
//! rotates logs, collects what is dead, and meets agents, shims and containers that are
//! killed and calls that take too long. In the end everything is as wanted.
//!
//! `make kubelet` runs it for minutes (`BERTH_KUBELET_SECONDS`), the gate for 20 s.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use berth_integration::{Node, pod, wait};
use berth_proto::cri;
use tonic::{Code, Request, Status};

use crate::fixture::{OBEYS, Shell};

/// Pods that are wanted.
const PODS: usize = 5;
/// Of a gate's run.
const SECONDS: u64 = 20;
/// A kubelet's own is two minutes; calls that are cut off are the point here.
const SHORT: std::ops::Range<u64> = 30..400;

/// Reproducible from its seed, which a failure prints.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A pod that is wanted.
struct Wanted {
    config: cri::PodSandboxConfig,
    restarts: u32,
}

struct Kubelet {
    shell: Shell,
    wanted: Vec<Wanted>,
    born: usize,
    dice: Dice,
    counts: BTreeMap<&'static str, u32>,
}

/// What a kubelet tolerates and tries again.
fn passes(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unavailable
            | Code::Unknown
            | Code::Aborted
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::NotFound
    )
}

impl Kubelet {
    fn want(&mut self) {
        let name = format!("pod{}", self.born);
        self.born += 1;
        let mut config = pod::sandbox(&self.shell.node, &name);
        let pairs = [("hash", "ab12"), ("io.kubernetes.odd/key", "ü \n{}")];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        config.annotations.extend(pairs);
        self.wanted.push(Wanted {
            config,
            restarts: 0,
        });
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn limited<T>(&mut self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let millis = SHORT.start + self.dice.roll(SHORT.end - SHORT.start);
        let short = self.dice.roll(4) == 0;
        request.set_timeout(if short {
            Duration::from_millis(millis)
        } else {
            Duration::from_secs(20)
        });
        request
    }

    /// One round: what is there, and a step towards what is wanted.
    async fn sync(&mut self) -> Result<()> {
        let pods = self.shell.node.list_pods().await?;
        let containers = self.shell.node.list_containers().await?;
        for at in 0..self.wanted.len() {
            if let Err(error) = self.sync_pod(at, &pods, &containers).await {
                match error.downcast_ref::<Status>() {
                    Some(status) if passes(status) => self.count("tried again"),
                    _ => return Err(error),
                }
            }
        }
        self.collect(&pods, &containers).await
    }

    async fn sync_pod(
        &mut self,
        at: usize,
        pods: &[cri::PodSandbox],
        containers: &[cri::Container],
    ) -> Result<()> {
        let config = self.wanted[at].config.clone();
        let own = config.metadata.clone().context("no metadata")?;
        let of_pod = |pod: &&cri::PodSandbox| {
            pod.metadata
                .as_ref()
                .is_some_and(|other| other.uid == own.uid)
        };
        let newest = pods.iter().filter(of_pod).max_by_key(|pod| {
            let metadata = pod.metadata.clone().unwrap_or_default();
            (metadata.attempt, pod.created_at)
        });
        let ready = newest.filter(|pod| pod.state() == cri::PodSandboxState::SandboxReady);
        let mut runtime = self.shell.node.runtime()?;
        let Some(pod) = ready else {
            let attempt = newest.map_or(0, |pod| {
                pod.metadata.as_ref().map_or(0, |other| other.attempt + 1)
            });
            let mut config = config;
            config.metadata.as_mut().context("no metadata")?.attempt = attempt;
            let request = self.limited(cri::RunPodSandboxRequest {
                config: Some(config),
                runtime_handler: String::new(),
            });
            runtime.run_pod_sandbox(request).await?;
            self.count("pods");
            return Ok(());
        };
        // Byte for byte, or a kubelet would kill and make it anew in a loop.
        ensure!(pod.annotations == config.annotations, "annotations changed");
        ensure!(pod.labels == config.labels, "labels changed");
        let status = self.shell.node.pod_status(&pod.id).await?;
        let ip = status.network.unwrap_or_default().ip;
        let still = status.state == cri::PodSandboxState::SandboxReady as i32;
        ensure!(!still || !ip.is_empty(), "a ready pod without an address");

        let newest = containers
            .iter()
            .filter(|container| container.pod_sandbox_id == pod.id)
            .max_by_key(|container| container.created_at);
        match newest.map(|container| (container, container.state())) {
            Some((container, cri::ContainerState::ContainerRunning)) => {
                self.look_after(container).await
            }
            Some((container, cri::ContainerState::ContainerCreated)) => {
                let request = self.limited(cri::StartContainerRequest {
                    container_id: container.id.clone(),
                });
                runtime.start_container(request).await?;
                Ok(())
            }
            _ => {
                let known = newest.and_then(|container| container.metadata.clone());
                let attempt = known.map_or(0, |metadata| metadata.attempt + 1);
                self.wanted[at].restarts = attempt;
                let mut container = self.shell.container("main", OBEYS);
                container.metadata.as_mut().context("no metadata")?.attempt = attempt;
                container.log_path = format!("main/{attempt}.log");
                let request = self.limited(cri::CreateContainerRequest {
                    pod_sandbox_id: pod.id.clone(),
                    config: Some(container),
                    sandbox_config: Some(config),
                });
                let made = runtime.create_container(request).await?.into_inner();
                self.count("containers");
                let request = self.limited(cri::StartContainerRequest {
                    container_id: made.container_id,
                });
                runtime.start_container(request).await?;
                Ok(())
            }
        }
    }

    /// A probe, or the rotation of its log.
    async fn look_after(&mut self, container: &cri::Container) -> Result<()> {
        let node = &self.shell.node;
        match self.dice.roll(6) {
            0 => {
                // An error says nothing, and it is tried again.
                if let Ok(done) = node.exec_sync(&container.id, &["true"], 5).await {
                    let known = matches!(done.exit_code, 0 | 137);
                    ensure!(known, "a probe says {}", done.exit_code);
                    self.count("probes");
                }
            }
            1 => {
                let Ok(path) = node.log_path(&container.id).await else {
                    return Ok(());
                };
                let aside = path.with_extension("log.20260101-000000");
                if std::fs::rename(&path, &aside).is_err() {
                    return Ok(());
                }
                match node.reopen_log(&container.id).await {
                    Ok(()) => {
                        ensure!(path.exists(), "no log after ReopenContainerLog");
                        self.count("rotations");
                    }
                    // It has ended, or its shim. The file goes back, as with a kubelet.
                    Err(status) => {
                        ensure!(!path.exists(), "a new log in spite of {status}");
                        std::fs::rename(&aside, &path)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Removes what is dead: all but the newest container of a pod, pods that are not
    /// wanted, and sandboxes that are not ready and have a successor.
    async fn collect(
        &mut self,
        pods: &[cri::PodSandbox],
        containers: &[cri::Container],
    ) -> Result<()> {
        let node = &self.shell.node;
        for container in containers {
            let newer = containers.iter().any(|other| {
                other.pod_sandbox_id == container.pod_sandbox_id
                    && other.created_at > container.created_at
            });
            if newer && container.state() == cri::ContainerState::ContainerExited {
                tolerated(node.remove_container(&container.id).await)?;
            }
        }
        for pod in pods {
            let uid = |pod: &cri::PodSandbox| pod.metadata.clone().unwrap_or_default().uid;
            let wanted = self.wanted.iter().any(|wanted| {
                let metadata = wanted.config.metadata.clone().unwrap_or_default();
                metadata.uid == uid(pod)
            });
            let replaced = pods
                .iter()
                .any(|other| uid(other) == uid(pod) && other.created_at > pod.created_at);
            if !wanted || replaced {
                tolerated(node.stop_pod(&pod.id).await)?;
                tolerated(node.remove_pod(&pod.id).await)?;
            }
        }
        Ok(())
    }

    async fn fault(&mut self) -> Result<()> {
        let containers = self.shell.node.list_containers().await?;
        let running: Vec<_> = containers
            .iter()
            .filter(|container| container.state() == cri::ContainerState::ContainerRunning)
            .collect();
        let victim = match running.len() {
            0 => None,
            many => running.get(self.dice.roll(many as u64) as usize),
        };
        match (self.dice.roll(6), victim) {
            (0, _) => {
                self.shell.node.crash_and_restart().await?;
                self.count("agents killed");
            }
            (1, Some(victim)) => {
                if let Ok(pid) = self.shell.node.pid(&victim.id).await {
                    kill(pid);
                    self.count("containers killed");
                }
            }
            (2, Some(victim)) => {
                if let Some(pid) = shim_of(&self.shell.node, &victim.id).await {
                    kill(pid);
                    self.count("shims killed");
                }
            }
            (3, _) => {
                let at = self.dice.roll(self.wanted.len() as u64) as usize;
                self.wanted.remove(at);
                self.want();
                self.count("pods deleted");
            }
            (4, Some(victim)) => {
                tolerated(self.shell.node.stop_pod(&victim.pod_sandbox_id).await)?;
                self.count("pods stopped");
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether everything is as it is wanted.
    async fn is_settled(&self) -> Result<bool> {
        let pods = self.shell.node.list_pods().await?;
        let containers = self.shell.node.list_containers().await?;
        let ready = pods
            .iter()
            .all(|pod| pod.state() == cri::PodSandboxState::SandboxReady);
        let running = containers
            .iter()
            .filter(|container| container.state() == cri::ContainerState::ContainerRunning);
        Ok(pods.len() == PODS && ready && running.count() == PODS)
    }
}

fn tolerated(result: Result<(), Status>) -> Result<()> {
    match result {
        Err(status) if !passes(&status) => Err(status.into()),
        _ => Ok(()),
    }
}

fn kill(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may just have ended.
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .ok();
    }
}

async fn shim_of(node: &Node, container: &str) -> Option<u32> {
    let request = cri::ContainerStatusRequest {
        container_id: container.to_owned(),
        verbose: true,
    };
    let status = node.runtime().ok()?.container_status(request).await.ok()?;
    let info: serde_json::Value =
        serde_json::from_str(status.into_inner().info.get("info")?).ok()?;
    let pid = info["record"]["state"]["processes"]["shim"]["pid"].as_u64()?;
    u32::try_from(pid).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_gets_what_it_wants_whatever_is_killed_meanwhile() -> Result<()> {
    let from = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds = from("BERTH_KUBELET_SECONDS").unwrap_or(SECONDS);
    let seed = from("BERTH_KUBELET_SEED").unwrap_or_else(|| u64::from(std::process::id()) | 1);
    println!("BERTH_KUBELET_SEED={seed}");
    let mut kubelet = Kubelet {
        shell: Shell::start().await?,
        wanted: Vec::new(),
        born: 0,
        dice: Dice(seed),
        counts: BTreeMap::new(),
    };
    for _ in 0..PODS {
        kubelet.want();
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        kubelet.sync().await?;
        if kubelet.dice.roll(3) == 0 {
            kubelet.fault().await?;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let settled = Instant::now() + Duration::from_secs(60);
    while !kubelet.is_settled().await? {
        ensure!(Instant::now() < settled, "it does not settle");
        kubelet.sync().await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{:?}", kubelet.counts);
    for what in ["pods", "containers", "agents killed"] {
        ensure!(kubelet.counts.contains_key(what), "no {what}");
    }
    wait::until_true("the node is quiet", Duration::from_secs(5), || Ok(true)).await?;
    kubelet.shell.finish().await
}
