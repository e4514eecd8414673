//! Each call on its own, one at a time. The calls of a kind come in a row, so
//! that the CPU time of a row can be told from that of the next; what a runtime
//! still does after it has answered counts for the next row.

use std::time::Instant;

use anyhow::Result;

use super::{Bench, milliseconds};

const SUITE: &str = "verbs";

pub(crate) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    for round in 0..bench.rounds {
        for peer in bench.order(round) {
            bench.begin_profile(peer)?;
            lives(bench, peer, round).await?;
            bench.end_profile()?;
        }
    }
    Ok(())
}

async fn lives(bench: &mut Bench<'_>, peer: usize, round: usize) -> Result<()> {
    let mut client = bench.peers[peer].client.clone();
    let count = bench.pods;
    let (mut pods, mut containers) = (Vec::new(), Vec::new());
    // Runs a call for each number, and adds its times and its CPU time.
    macro_rules! row {
        ($name:literal, $number:ident => $call:expr) => {{
            let mut times = Vec::with_capacity(count);
            let before = bench.peers[peer].cpu()?;
            for $number in 0..count {
                let start = Instant::now();
                $call;
                times.push(milliseconds(start));
            }
            #[allow(clippy::cast_precision_loss, reason = "a few")]
            let cpu = (bench.peers[peer].cpu()? - before) / count as f64;
            bench.add(SUITE, $name, "ms", peer, times);
            bench.add(SUITE, concat!($name, ", CPU"), "ms CPU", peer, vec![cpu]);
            cpu
        }};
    }
    let mut sum = 0.0;
    sum += row!("RunPodSandbox", number => {
        pods.push(client.run_pod(&format!("verbs-{round}-{number}")).await?);
    });
    sum += row!("CreateContainer", number => {
        let id = client.create(&pods[number], "main", &["/bin/work"], None).await?;
        containers.push(id);
    });
    sum += row!("StartContainer", number => client.start(&containers[number]).await?);
    row!("ExecSync of true", number => client.exec(&containers[number]).await?);
    row!("ContainerStatus", number => {
        client.life(&containers[number]).await?;
    });
    sum += row!("StopContainer", number => client.stop(&containers[number]).await?);
    sum += row!("RemoveContainer", number => client.remove(&containers[number]).await?);
    sum += row!("StopPodSandbox", number => client.stop_pod(&pods[number]).await?);
    sum += row!("RemovePodSandbox", number => client.remove_pod(&pods[number]).await?);
    bench.add(
        SUITE,
        "pod with a container, start to removal, CPU",
        "ms CPU",
        peer,
        vec![sum],
    );
    Ok(())
}
