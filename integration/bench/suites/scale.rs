//! 100 pods with a running container: memory. Then 900 created containers more:
//! the times of List and Status, beside those with one container.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use super::{Bench, milliseconds};
use crate::client::{Client, Pod};

const SUITE: &str = "scale";
/// Pods for which memory is measured.
const PODS: usize = 100;
/// Calls of a kind in a round.
const CALLS: usize = 20;
/// What runs in the containers and is no part of a runtime.
const PAYLOAD: &str = "work";
/// How many are made or removed at a time.
const WORKERS: usize = 8;

/// Proportional and private memory of processes in KiB, by their name.
type Sums = BTreeMap<String, (f64, f64)>;

pub(crate) async fn run(bench: &mut Bench<'_>) -> Result<()> {
    let mut one = Vec::new();
    for peer in 0..bench.peers.len() {
        let mut client = bench.peers[peer].client.clone();
        let pod = client.run_pod("scale-one").await?;
        let container = client.create(&pod, "main", &["/bin/work"], None).await?;
        client.start(&container).await?;
        one.push((pod, container));
    }
    let ids: Vec<&String> = one.iter().map(|(_, container)| container).collect();
    ask(bench, 1, &ids).await?;
    for (peer, (pod, _)) in one.iter().enumerate() {
        let mut client = bench.peers[peer].client.clone();
        client.stop_pod(pod).await?;
        client.remove_pod(pod).await?;
    }

    let pods = PODS.min(bench.containers);
    let mut made = Vec::new();
    for peer in 0..bench.peers.len() {
        let idle = bench.peers[peer].group.memory();
        let mut all = fill(&bench.peers[peer].client, 0..pods).await?;
        weigh(bench, peer, &idle, pods)?;
        let further = bench.containers / pods - 1;
        crowd(&bench.peers[peer].client, &mut all, further).await?;
        made.push(all);
    }
    let ids: Vec<&String> = made.iter().map(|all| &all[0].1).collect();
    let count = bench.containers / pods * pods;
    ask(bench, count, &ids).await?;
    for (peer, all) in made.into_iter().enumerate() {
        each(
            &bench.peers[peer].client,
            all,
            |mut client, (pod, _)| async move {
                client.stop_pod(&pod).await?;
                client.remove_pod(&pod).await
            },
        )
        .await?;
    }
    Ok(())
}

/// Does `work` for all items, several at a time.
async fn each<T, R, F, W>(client: &Client, items: Vec<T>, work: F) -> Result<Vec<R>>
where
    T: Send + 'static,
    R: Send + 'static,
    W: Future<Output = Result<R>> + Send + 'static,
    F: Fn(Client, T) -> W,
{
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    for item in items {
        if running.len() >= WORKERS
            && let Some(ended) = running.join_next().await
        {
            done.push(ended??);
        }
        running.spawn(work(client.clone(), item));
    }
    while let Some(ended) = running.join_next().await {
        done.push(ended??);
    }
    Ok(done)
}

async fn fill(client: &Client, numbers: std::ops::Range<usize>) -> Result<Vec<(Pod, String)>> {
    each(client, numbers.collect(), |mut client, number| async move {
        let pod = client.run_pod(&format!("scale-{number}")).await?;
        let container = client.create(&pod, "main", &["/bin/work"], None).await?;
        client.start(&container).await?;
        Ok((pod, container))
    })
    .await
}

/// Adds `further` containers, created and not started, to each pod.
async fn crowd(client: &Client, pods: &mut [(Pod, String)], further: usize) -> Result<()> {
    let pods: Vec<Pod> = pods.iter().map(|(pod, _)| pod.clone()).collect();
    each(client, pods, move |mut client, pod| async move {
        for number in 0..further {
            let name = format!("further-{number}");
            client.create(&pod, &name, &["/bin/work"], None).await?;
        }
        Ok(())
    })
    .await?;
    Ok(())
}

/// Memory of the daemons, and of everything else of the runtime by pod.
fn weigh(bench: &mut Bench<'_>, peer: usize, idle: &Sums, pods: usize) -> Result<()> {
    let daemons = bench.peers[peer].daemons;
    let runtime = |sums: &Sums, daemon: bool| {
        sums.iter()
            .filter(|(name, _)| name.as_str() != PAYLOAD)
            .filter(|(name, _)| daemons.contains(&name.as_str()) == daemon)
            .fold((0.0, 0.0), |all, (_, one)| (all.0 + one.0, all.1 + one.1))
    };
    let sums = bench.peers[peer].group.memory();
    let before = runtime(idle, true);
    let (daemon, rest) = (runtime(&sums, true), runtime(&sums, false));
    ensure!(
        daemon.0 > 0.0 && rest.0 > 0.0 && sums.contains_key(PAYLOAD),
        "not all processes are in the group that is counted: {sums:?}"
    );
    #[allow(clippy::cast_precision_loss, reason = "a hundred")]
    let count = pods as f64;
    for (name, value) in [
        ("daemon idle, PSS".to_owned(), before.0),
        (format!("daemon at {pods} pods, PSS"), daemon.0),
        (format!("daemon at {pods} pods, private"), daemon.1),
        ("each pod with a container, PSS".into(), rest.0 / count),
        ("each pod with a container, private".into(), rest.1 / count),
    ] {
        bench.add(SUITE, &name, "KiB", peer, vec![value]);
    }
    Ok(())
}

async fn ask(bench: &mut Bench<'_>, count: usize, containers: &[&String]) -> Result<()> {
    for round in 0..bench.rounds {
        for peer in bench.order(round) {
            let mut client = bench.peers[peer].client.clone();
            let (mut lists, mut states) = (Vec::new(), Vec::new());
            let before = bench.peers[peer].cpu()?;
            for _ in 0..CALLS {
                let start = Instant::now();
                let found = client.list().await?;
                lists.push(milliseconds(start));
                ensure!(found >= count, "{found} of {count} containers are listed");
            }
            #[allow(clippy::cast_precision_loss, reason = "a few")]
            let cpu = (bench.peers[peer].cpu()? - before) / CALLS as f64;
            for _ in 0..CALLS {
                let start = Instant::now();
                client.life(containers[peer]).await?;
                states.push(milliseconds(start));
            }
            let name = format!("ListContainers of {count}");
            bench.add(SUITE, &name, "ms", peer, lists);
            bench.add(SUITE, &format!("{name}, CPU"), "ms CPU", peer, vec![cpu]);
            let name = format!("ContainerStatus beside {count}");
            bench.add(SUITE, &name, "ms", peer, states);
        }
    }
    Ok(())
}
