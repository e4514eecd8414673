//! One life of an image, a pod and a container, call by call, as a kubelet drives it:
//! a call that fails is repeated as it was.

use std::time::Duration;

use anyhow::{Result, bail};
use berth_integration::{
    Node,
    failpoints::{Boundary, TRACE, read_trace},
    image::Image,
    pod,
    registry::Registry,
    wait,
};
use berth_proto::{berth::v1, cri};
use tonic::{Code, Status};

/// Lives until it is stopped, and then ends at once with code 0.
const OBEYS: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 100 & wait $!; done";
/// A kubelet backs off; here the fault is known to last for seconds.
const BACK_OFF: Duration = Duration::from_millis(200);
/// Longer than any step hangs.
const SETTLED: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
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

pub const LIFE: [Call; 10] = [
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

/// What has been made so far.
#[derive(Debug, Default)]
pub struct Made {
    pub pod: String,
    pub container: String,
}

pub struct Life {
    pub node: Node,
    pub reference: String,
    pub made: Made,
    _registry: Registry,
}

impl Life {
    pub async fn start(image: &Image, environment: &[(&str, &str)]) -> Result<Self> {
        let mut node = Node::prepare("")?;
        let registry = Registry::start(node.netns())?;
        let reference = registry.add("test/sweep", "1", image);
        node.launch(environment).await?;
        Ok(Self {
            node,
            reference,
            made: Made::default(),
            _registry: registry,
        })
    }

    pub async fn once(&mut self, call: Call) -> Result<(), Status> {
        let node = &self.node;
        let config = pod::sandbox(node, "sweep");
        let made = &mut self.made;
        match call {
            Call::Pull => drop(node.pull(&self.reference).await?),
            Call::RunPod => made.pod = node.run_pod(&config).await?,
            Call::Create => {
                let container = pod::shell("main", &self.reference, OBEYS);
                made.container = node.create(&made.pod, &container, &config).await?;
            }
            Call::Start => match node.start_container(&made.container).await {
                // An earlier call has done it, and its answer was lost.
                Err(status) if status.code() == Code::FailedPrecondition => {
                    let state = node.status(&made.container).await?.state();
                    if state != cri::ContainerState::ContainerRunning {
                        return Err(status);
                    }
                }
                other => other?,
            },
            Call::Exec => drop(node.exec_sync(&made.container, &["true"], 10).await?),
            Call::Stop => node.stop_container(&made.container, 5).await?,
            Call::Remove => node.remove_container(&made.container).await?,
            Call::StopPod => node.stop_pod(&made.pod).await?,
            Call::RemovePod => node.remove_pod(&made.pod).await?,
            Call::RemoveImage => node.remove_image(&self.reference).await?,
        }
        Ok(())
    }

    /// Waits for what still hangs after its object has gone, and looks for what is left.
    pub async fn finish(mut self) -> Result<()> {
        self.node.set_patience(None);
        let berth = self.node.berth()?;
        wait::until("no operation is in flight", SETTLED, || {
            let mut berth = berth.clone();
            async move {
                let list = berth.list_operations(v1::ListOperationsRequest {}).await?;
                Ok(list.into_inner().operations.is_empty().then_some(()))
            }
        })
        .await?;
        self.node.finish().await
    }

    /// Repeats a call until it succeeds; returns how often it did not.
    pub async fn persist(&mut self, call: Call, attempts: usize) -> Result<usize> {
        let mut failures = 0;
        while let Err(status) = self.once(call).await {
            failures += 1;
            if matches!(status.code(), Code::AlreadyExists | Code::NotFound) {
                bail!("{call:?}: {status:?}");
            }
            if failures > attempts {
                bail!("{call:?} still fails after {failures} attempts: {status:?}");
            }
            tokio::time::sleep(BACK_OFF).await;
        }
        Ok(failures)
    }
}

/// Every boundary that one undisturbed life passes.
pub async fn boundaries(image: &Image) -> Result<Vec<Boundary>> {
    let trace = tempfile::NamedTempFile::new()?;
    let path = trace.path().display().to_string();
    let mut life = Life::start(image, &[(TRACE, &path)]).await?;
    for call in LIFE {
        life.persist(call, 0).await?;
    }
    let boundaries = read_trace(trace.path())?;
    life.node.finish().await?;
    Ok(boundaries)
}

/// Of all boundaries those that this run is for: every Nth with `BERTH_SWEEP_EVERY=N`.
pub fn selected(boundaries: Vec<Boundary>) -> Vec<Boundary> {
    let every = setting("BERTH_SWEEP_EVERY", 1).max(1);
    boundaries
        .into_iter()
        .step_by(usize::try_from(every).unwrap_or(1))
        .collect()
}

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}
