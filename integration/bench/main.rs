//! Berth beside containerd with runc and podman with crun, doing the same work
//! on one machine, in turns.
//!
//! Everything is below one temporary directory, in one network namespace and in
//! control groups of its own, and is gone afterwards; on Ctrl-C, too.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

mod client;
mod cri;
mod flame;
mod group;
mod images;
mod peer;
mod podman;
mod profile;
mod report;
mod results;
mod suites;

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};
use berth_integration::{
    distribution::{Distribution, Wants},
    node::Node,
    programs,
};
use clap::Parser;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    peer::Peer,
    profile::Profile,
    results::Results,
    suites::{Bench, Suite},
};

/// Load above which figures are said to be of a busy machine, for each core.
const BUSY: f64 = 0.25;
/// The registry's, in a network namespace that has nothing else.
const PORT: u16 = 5000;

/// Measure Berth beside containerd and podman
#[derive(Debug, Parser)]
struct Cli {
    /// What to measure, separated by commas; everything by default
    #[arg(long, value_delimiter = ',')]
    only: Vec<Suite>,
    /// Which runtimes, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "berth,containerd,podman")]
    runtimes: Vec<String>,
    /// How often each runtime has its turn
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Pods in a turn of `verbs`
    #[arg(long, default_value_t = 10)]
    pods: usize,
    /// Containers in `scale`
    #[arg(long, default_value_t = 1000)]
    containers: usize,
    /// Write flame graphs of Berth
    #[arg(long)]
    profile: bool,
    /// Where results go
    #[arg(long)]
    out: PathBuf,
    /// Page with the history, to which this run is added
    #[arg(long)]
    record: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    fs::create_dir_all(&cli.out)?;
    let start = Instant::now();
    let machine = report::machine()?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut house = House::prepare()?;
    let mut results = Results::default();
    let done = tokio::select! {
        done = house.measure(&cli, &mut results) => done,
        _ = interrupted.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminated.recv() => Err(anyhow::anyhow!("terminated")),
    };
    let cleaned = house.end(done.is_ok()).await;
    // What was measured before an error is still worth reading.
    print!("{}", report::table(&results));
    done?;
    cleaned.context("clean up")?;
    publish(&cli, &machine, &results, start)?;
    Ok(ExitCode::SUCCESS)
}

fn publish(cli: &Cli, machine: &Value, results: &Results, start: Instant) -> Result<()> {
    let versions = json!({
        "containerd": report::version(&programs::tool("debian/usr/bin/containerd")?),
        "runc": report::version(&programs::tool("debian/usr/sbin/runc")?),
        "podman": report::version(&programs::tool("debian/usr/bin/podman")?),
        "crun": report::version(&programs::tool("debian/usr/bin/crun")?),
        "conmon": report::version(&programs::tool("debian/usr/bin/conmon")?),
    });
    let file = cli.out.join(format!(
        "{}.json",
        machine["time"].as_str().context("no time")?
    ));
    let all = json!({ "machine": machine, "versions": versions, "measures": results.to_json() });
    fs::write(&file, serde_json::to_vec_pretty(&all)?)?;
    println!("{} seconds; {}", start.elapsed().as_secs(), file.display());
    let load = machine["load_before"].as_f64().unwrap_or_default();
    let cores = machine["cores"].as_f64().unwrap_or(1.0);
    let mut note = format!("{} rounds, load {load:.2} before.", cli.rounds);
    if load > BUSY * cores {
        note += " **The machine was busy with other work: only the ratios mean something.**";
        println!("the machine was busy (load {load:.2}): only the ratios mean something");
    }
    if let Some(page) = &cli.record {
        let entry = report::heading(machine, &versions, &note) + &report::table(results);
        report::record(page, &entry)?;
        println!("added to {}", page.display());
    }
    Ok(())
}

/// Everything that must be gone afterwards.
#[derive(Debug)]
struct House {
    node: Option<Node>,
    registry: Option<Distribution>,
    peers: Vec<Peer>,
}

impl House {
    fn prepare() -> Result<Self> {
        Ok(Self {
            node: Some(Node::prepare("")?),
            registry: None,
            peers: Vec::new(),
        })
    }

    async fn measure(&mut self, cli: &Cli, results: &mut Results) -> Result<()> {
        let node = self.node.as_mut().context("the house has ended")?;
        node.launch(&[]).await?;
        let registry = Distribution::start(node.netns(), PORT, Wants::default()).await?;
        let host = registry.host().to_owned();
        self.registry = Some(registry);
        let wanted = |suite| cli.only.is_empty() || cli.only.contains(&suite);
        println!("making the images");
        images::publish(node, &host, wanted(Suite::Pull)).await?;
        for name in &cli.runtimes {
            let peer = match name.as_str() {
                "berth" => Peer::berth(node, &host)?,
                "containerd" => Peer::containerd(node, &host).await?,
                "podman" => Peer::podman(node, &host).await?,
                other => bail!("{other}: not one of berth, containerd, podman"),
            };
            self.peers.push(peer);
        }
        for peer in &mut self.peers {
            for image in [images::PAUSE, images::WORK] {
                peer.client.pull(&format!("{host}/{image}")).await?;
            }
        }
        for suite in [
            Suite::Verbs,
            Suite::Rate,
            Suite::Scale,
            Suite::Pull,
            Suite::Log,
        ] {
            if !wanted(suite) {
                continue;
            }
            let start = Instant::now();
            let name = format!("{suite:?}").to_lowercase();
            let profile = if cli.profile {
                Some(Profile::new(cli.out.clone(), &name)?)
            } else {
                None
            };
            let mut bench = Bench {
                node,
                host: host.clone(),
                peers: &mut self.peers,
                rounds: cli.rounds.max(1),
                pods: cli.pods.max(1),
                containers: cli.containers.max(1),
                results,
                profile,
            };
            match suite {
                Suite::Verbs => suites::verbs::run(&mut bench).await,
                Suite::Rate => suites::rate::run(&mut bench).await,
                Suite::Scale => suites::scale::run(&mut bench).await,
                Suite::Pull => suites::pull::run(&mut bench).await,
                Suite::Log => suites::log::run(&mut bench).await,
            }
            .with_context(|| format!("measure {name}"))?;
            if let Some(profile) = &bench.profile {
                println!("{}.svg", profile.write()?.display());
            }
            println!("{name}: {} seconds", start.elapsed().as_secs());
        }
        Ok(())
    }

    /// Ends all runtimes and looks for what they left behind.
    async fn end(&mut self, whole: bool) -> Result<()> {
        let node = self.node.take().context("the house has ended")?;
        let mut ended = Ok(());
        for peer in &mut self.peers {
            ended = ended.and(peer.end(&node));
        }
        self.registry = None;
        if !whole {
            // Dropped: taken down by force, with what is in its groups.
            let groups: Vec<_> = self.peers.iter().map(|peer| peer.group.clone()).collect();
            drop(node);
            for group in groups {
                ended = ended.and(group.clear());
            }
            return ended;
        }
        node.remove_everything().await?;
        for peer in self.peers.iter().filter(|peer| peer.name == "berth") {
            // Its group has to be empty before the node looks for what was left.
            peer.group.leave()?;
            peer.group.clear()?;
        }
        ended?;
        node.finish().await
    }
}
