//! What scripts need of the test house: making and pushing images, and the
//! leak oracle.

#![allow(clippy::print_stdout, reason = "a program for people and scripts")]

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use berth_integration::{
    NetNs,
    image::{Image, busybox, demo, push},
    leak::{Scope, Snapshot, force_down, settle},
};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Until the kernel has taken down what nobody uses any more.
const SETTLED: Duration = Duration::from_secs(10);

/// Images for tests, and what a node left behind.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make an image and push it to a registry, or write it as an OCI layout
    Image {
        /// Which image
        #[arg(default_value = "demo")]
        sample: Sample,
        /// HOST:PORT/REPOSITORY:TAG of a plain HTTP registry
        #[arg(long)]
        push: Option<String>,
        /// Directory for an OCI layout
        #[arg(long)]
        layout: Option<PathBuf>,
    },
    /// Print the traces that a node has on this machine
    Traces(Node),
    /// Fail if there are other traces than before
    Compare {
        #[command(flatten)]
        node: Node,
        /// What `traces` printed
        #[arg(long)]
        before: PathBuf,
    },
    /// Kill, unmount and remove what a node has left since `traces`
    Sweep {
        #[command(flatten)]
        node: Node,
        /// What `traces` printed
        #[arg(long)]
        before: PathBuf,
    },
}

#[derive(Clone, Debug, ValueEnum)]
enum Sample {
    /// Counts aloud and says goodbye
    Demo,
    /// A shell
    Busybox,
    /// Layers that change each other
    Overlaying,
}

/// How the node is recognised; its network namespace is the caller's.
#[derive(Debug, Args)]
struct Node {
    /// Directory above the agent's `root` and `run`
    #[arg(long)]
    home: PathBuf,
    /// Part of the path of a control group of the node
    #[arg(long = "mark")]
    marks: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let netns = NetNs::current()?;
    match Cli::parse().verb {
        Verb::Image {
            sample,
            push: target,
            layout,
        } => {
            let image = match sample {
                Sample::Demo => demo()?,
                Sample::Busybox => busybox()?,
                Sample::Overlaying => Image::overlaying()?,
            };
            if let Some(directory) = layout {
                image.write_layout(&directory, "latest")?;
            }
            if let Some(target) = target {
                let (address, repository, tag) = split(&target)?;
                push(&image, &netns, address, repository, tag).await?;
            }
            println!("{}", image.id);
        }
        Verb::Traces(node) => print!("{}", Snapshot::take(&scope(&node, &netns))?.to_lines()),
        Verb::Compare { node, before } => {
            let before = read(&before)?;
            let left = settle(&scope(&node, &netns), &before, SETTLED)?;
            for (kind, item) in &left {
                println!("{kind}\t{item}");
            }
            if !left.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Sweep { node, before } => force_down(&scope(&node, &netns), &read(&before)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn scope<'a>(node: &Node, netns: &'a NetNs) -> Scope<'a> {
    Scope {
        home: node.home.clone(),
        netns,
        marks: node.marks.clone(),
    }
}

fn read(path: &std::path::Path) -> Result<Snapshot> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(Snapshot::from_lines(&text))
}

/// Address, repository and tag of `HOST:PORT/REPOSITORY:TAG`.
fn split(target: &str) -> Result<(SocketAddr, &str, &str)> {
    let parts = target.split_once('/').and_then(|(address, rest)| {
        let (repository, tag) = rest.rsplit_once(':')?;
        Some((address, repository, tag))
    });
    let (address, repository, tag) =
        parts.with_context(|| format!("{target}: not HOST:PORT/REPOSITORY:TAG"))?;
    let address = address
        .parse()
        .with_context(|| format!("{address}: not an address and a port"))?;
    Ok((address, repository, tag))
}
