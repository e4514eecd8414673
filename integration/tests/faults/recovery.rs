//! The agent dies while it recovers, again and again.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use berth_integration::{
    failpoints::{ARM, TRACE, read_trace},
    image,
};
use berth_proto::cri::ContainerState;

use crate::life::{Call, Life};

/// Deaths in a row at one boundary.
const DEATHS: usize = 5;
const DEATH: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_five_times_at_each_step_of_its_recovery_converges() -> Result<()> {
    let image = image::busybox()?;
    let mut life = Life::start(&image, &[]).await?;
    for call in [Call::Pull, Call::RunPod, Call::Create, Call::Start] {
        life.persist(call, 0).await?;
    }
    let pid = life.node.pid(&life.made.container).await?;
    // What a recovery with a running container passes.
    let trace = tempfile::NamedTempFile::new()?;
    let path = trace.path().display().to_string();
    life.node.kill()?;
    life.node.launch(&[(TRACE, &path)]).await?;
    let boundaries = read_trace(trace.path())?;
    let boundaries: Vec<_> = boundaries
        .into_iter()
        .filter(|boundary| boundary.name.starts_with("recover"))
        .collect();
    ensure!(boundaries.len() >= 5, "{boundaries:?}");
    let mut deaths = 0;
    for boundary in &boundaries {
        life.node.kill()?;
        for _ in 0..DEATHS {
            let kill = boundary.kill();
            life.node
                .launch(&[(ARM, &kill)])
                .await
                .err()
                .with_context(|| format!("{kill}: the agent did not die"))?;
            life.node.died(DEATH).await?;
            deaths += 1;
        }
        life.node.launch(&[]).await?;
        let status = life.node.status(&life.made.container).await?;
        assert_eq!(status.state(), ContainerState::ContainerRunning);
        assert_eq!(life.node.pid(&life.made.container).await?, pid);
        assert_eq!(life.node.sh(&life.made.container, "echo on").await?, "on\n");
    }
    println!(
        "faults: death in recovery: {} boundaries, {deaths} deaths, the container went on",
        boundaries.len()
    );
    life.node.finish().await
}
