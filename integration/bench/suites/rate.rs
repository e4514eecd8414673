//! Whole lives of pods with a container, several at a time.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::Bench;
use crate::client::Client;

const SUITE: &str = "rate";
/// New lives begin for so long; those that have begun are waited for.
const SPAN: Duration = Duration::from_secs(4);

pub(crate) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    for round in 0..bench.rounds.div_ceil(2) {
        for workers in [1_u32, 4, 8] {
            for peer in bench.order(round) {
                bench.begin_profile(peer)?;
                at_once(bench, peer, round, workers).await?;
                bench.end_profile()?;
            }
        }
    }
    Ok(())
}

async fn at_once(bench: &mut Bench<'_>, peer: usize, round: usize, workers: u32) -> Result<()> {
    let before = bench.peers[peer].cpu()?;
    let start = Instant::now();
    let mut running = JoinSet::new();
    for worker in 0..workers {
        let client = bench.peers[peer].client.clone();
        running.spawn(lives(
            client,
            format!("rate-{round}-{workers}-{worker}"),
            start,
        ));
    }
    let mut count = 0;
    while let Some(done) = running.join_next().await {
        count += done??;
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    let cpu = (bench.peers[peer].cpu()? - before) / f64::from(count);
    let name = format!("whole lives, {workers} at a time");
    bench.add(SUITE, &name, "pods/s", peer, vec![rate]);
    bench.add(SUITE, &format!("{name}, CPU"), "ms CPU", peer, vec![cpu]);
    Ok(())
}

async fn lives(mut client: Client, name: String, start: Instant) -> Result<u32> {
    let mut count = 0;
    while start.elapsed() < SPAN {
        let pod = client.run_pod(&format!("{name}-{count}")).await?;
        let container = client.create(&pod, "main", &["/bin/work"], None).await?;
        client.start(&container).await?;
        client.kill(&container).await?;
        client.remove(&container).await?;
        client.stop_pod(&pod).await?;
        client.remove_pod(&pod).await?;
        count += 1;
    }
    Ok(count)
}
