//! Dying at every boundary between two steps of a life cycle. Afterwards the
//! same calls are repeated until all is gone, and the leak oracle looks.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use berth_integration::{
    Node,
    failpoints::{ARM, Boundary, TRACE, read_trace},
    image::{self, Image},
    pod,
    registry::Registry,
};
use berth_proto::cri;
use tonic::Status;

use crate::fixture::OBEYS;

/// From a connection that broke to a process that is seen to be dead.
const DEATH: Duration = Duration::from_secs(10);
/// How often one call may be answered by a crash.
const ATTEMPTS: usize = 3;

/// A life cycle that survives its agent.
struct Driver {
    node: Node,
    reference: String,
    deaths: usize,
}

/// What has been made so far.
#[derive(Default)]
struct Made {
    pod: String,
    container: String,
    /// A start that fails after the program ran ends the program: what was
    /// done is undone, and the container can only be removed.
    start_failed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Pull,
    RunPod,
    Create,
    Start,
    Exec,
    Stop,
    Remove,
    StopPod,
    RemovePod,
    RemoveImage,
}

const LIFE: [Call; 10] = [
    Call::Pull,
    Call::RunPod,
    Call::Create,
    Call::Start,
    Call::Exec,
    Call::Stop,
    Call::Remove,
    Call::StopPod,
    Call::RemovePod,
    Call::RemoveImage,
];

impl Driver {
    async fn start(image: &Image, environment: &[(&str, &str)]) -> Result<(Self, Registry)> {
        let node = Node::prepare("")?;
        let registry = Registry::start(node.netns())?;
        let reference = registry.add("test/sweep", "1", image);
        let mut driver = Self {
            node,
            reference,
            deaths: 0,
        };
        if let Err(error) = driver.node.launch(environment).await {
            // The boundary is one of the start itself.
            driver
                .reborn()
                .await
                .with_context(|| format!("{error:#}"))?;
        }
        Ok((driver, registry))
    }

    async fn reborn(&mut self) -> Result<()> {
        let status = self.node.died(DEATH).await?;
        ensure!(
            std::os::unix::process::ExitStatusExt::signal(&status) == Some(9),
            "the agent ended by itself: {status}"
        );
        self.deaths += 1;
        self.node
            .launch(&[])
            .await
            .context("start again after the crash")
    }

    async fn once(&self, call: Call, made: &mut Made) -> Result<(), Status> {
        let node = &self.node;
        let config = pod::sandbox(node, "sweep");
        match call {
            Call::Pull => drop(node.pull(&self.reference).await?),
            Call::RunPod => made.pod = node.run_pod(&config).await?,
            Call::Create => {
                let container = pod::shell("main", &self.reference, OBEYS);
                made.container = node.create(&made.pod, &container, &config).await?;
            }
            Call::Start => match node.start_container(&made.container).await {
                // It had started before the agent died, or was ended because the start failed.
                Err(status) if status.code() == tonic::Code::FailedPrecondition => {}
                Err(status) => {
                    made.start_failed = true;
                    return Err(status);
                }
                Ok(()) => {}
            },
            Call::Exec => match node.exec_sync(&made.container, &["true"], 10).await {
                Err(status)
                    if status.code() == tonic::Code::FailedPrecondition && made.start_failed =>
                {
                    let state = node.status(&made.container).await?.state();
                    if state != cri::ContainerState::ContainerExited {
                        return Err(status);
                    }
                }
                other => drop(other?),
            },
            Call::Stop => node.stop_container(&made.container, 5).await?,
            Call::Remove => node.remove_container(&made.container).await?,
            Call::StopPod => node.stop_pod(&made.pod).await?,
            Call::RemovePod => node.remove_pod(&made.pod).await?,
            Call::RemoveImage => node.remove_image(&self.reference).await?,
        }
        Ok(())
    }

    async fn live(&mut self) -> Result<()> {
        let mut made = Made::default();
        for call in LIFE {
            let mut attempts = 0;
            while let Err(status) = self.once(call, &mut made).await {
                attempts += 1;
                if attempts > ATTEMPTS {
                    bail!("{call:?} still fails: {status:?}");
                }
                let deaths = self.deaths;
                self.reborn()
                    .await
                    .with_context(|| format!("{call:?} failed: {status:?}"))?;
                ensure!(self.deaths > deaths);
            }
        }
        Ok(())
    }
}

/// Every boundary that one undisturbed life cycle passes.
async fn boundaries(image: &Image) -> Result<Vec<Boundary>> {
    let trace = tempfile::NamedTempFile::new()?;
    let path = trace.path().display().to_string();
    let (mut driver, _registry) = Driver::start(image, &[(TRACE, &path)]).await?;
    driver.live().await?;
    let boundaries = read_trace(trace.path())?;
    driver.node.finish().await?;
    Ok(boundaries)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_between_any_two_steps_leaves_nothing_behind() -> Result<()> {
    let image = image::busybox()?;
    let boundaries = boundaries(&image).await?;
    ensure!(boundaries.len() > 20, "too few boundaries: {boundaries:?}");
    let mut wrong = Vec::new();
    let mut unreached = 0;
    for boundary in &boundaries {
        let outcome = async {
            let kill = boundary.kill();
            let (mut driver, _registry) = Driver::start(&image, &[(ARM, &kill)]).await?;
            driver.live().await?;
            let deaths = driver.deaths;
            driver.node.finish().await?;
            anyhow::Ok(deaths)
        };
        match outcome.await {
            Ok(0) => unreached += 1,
            Ok(_) => {}
            Err(error) => wrong.push(format!("{}: {error:#}", boundary.kill())),
        }
    }
    let told = wrong.join("\n");
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{told}",
        wrong.len(),
        boundaries.len()
    );
    // A pass that depends on timing may be missed; most must be met.
    assert!(
        unreached * 10 <= boundaries.len(),
        "{unreached} of {} not reached",
        boundaries.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_undoes_the_steps_before_it() -> Result<()> {
    let image = image::busybox()?;
    let boundaries = boundaries(&image).await?;
    let mut wrong = Vec::new();
    for boundary in &boundaries {
        let error = boundary.error();
        let outcome = async {
            let (driver, _registry) = Driver::start(&image, &[(ARM, &error)]).await?;
            let mut made = Made::default();
            for call in LIFE {
                // The failpoint acts once; the same call again must succeed.
                for attempt in 0.. {
                    match driver.once(call, &mut made).await {
                        Ok(()) => break,
                        Err(status) => ensure!(attempt == 0, "{call:?} again: {status:?}"),
                    }
                }
            }
            driver.node.finish().await
        };
        // An agent that does not start because a step of its start fails is right.
        let in_start = boundary.name.starts_with("recover");
        if let Err(reason) = outcome.await
            && !in_start
        {
            wrong.push(format!("{error}: {reason:#}"));
        }
    }
    let told = wrong.join("\n");
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{told}",
        wrong.len(),
        boundaries.len()
    );
    Ok(())
}
