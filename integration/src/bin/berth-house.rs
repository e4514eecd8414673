//! What scripts need of the test house: making and pushing images, and the
//! leak oracle.

#![allow(clippy::print_stdout, reason = "a program for people and scripts")]

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use berth_integration::{
    NetNs,
    conformance::{
        images,
        report::{self, Report},
    },
    image::{Image, busybox, demo, push},
    leak::{Scope, Snapshot, force_down, settle},
    registry::Registry,
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
    /// Offer critest's images until killed; says for which registries it stands
    Offer {
        /// What `integration/conformance/prepare.sh` made
        #[arg(long)]
        parts: PathBuf,
        /// Where to listen
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Compare what critest said with what is recorded
    Conformance(Conformance),
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
        Verb::Offer { parts, listen } => {
            let registry = Registry::start_at(&netns, listen)?;
            let hosts = images::publish(&images::offers(&parts)?, &registry)?;
            // At once, for a script that waits for it.
            println!("{}", Vec::from_iter(hosts).join(" "));
            std::future::pending::<()>().await;
        }
        Verb::Conformance(given) => return given.judge(),
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

/// A run of critest.
#[derive(Debug, Args)]
struct Conformance {
    /// Its report in JSON
    report: PathBuf,
    /// The names of the specs that must pass
    #[arg(long)]
    baseline: PathBuf,
    /// Add what passes to the baseline
    #[arg(long)]
    record: bool,
    /// Page to write
    #[arg(long, requires = "head")]
    page: Option<PathBuf>,
    /// What stands above the table
    #[arg(long)]
    head: Option<PathBuf>,
}

impl Conformance {
    fn judge(&self) -> Result<ExitCode> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
        };
        let report = Report::from_ginkgo(read(&self.report)?.as_bytes())?;
        let text = read(&self.baseline)?;
        let mut baseline = report::baseline(&text);
        if let (Some(page), Some(head)) = (&self.page, &self.head) {
            std::fs::write(page, report.page(&read(head)?))?;
        }
        let lost = report.regressions(&baseline);
        for (name, reason) in &lost {
            println!("no longer passes: {name}\n    {reason}");
        }
        let passing = report.passing();
        let gained = passing.difference(&baseline).count();
        if self.record {
            let remarks = text.lines().take_while(|line| line.starts_with('#'));
            let mut lines: Vec<String> = remarks.map(str::to_owned).collect();
            baseline.extend(passing);
            lines.extend(baseline);
            std::fs::write(&self.baseline, lines.join("\n") + "\n")?;
        } else if gained > 0 {
            println!("{gained} more pass than are recorded");
        }
        let (passed, failed, skipped) = report.counts();
        println!("conformance: {passed} passed, {failed} failed, {skipped} skipped");
        Ok(if lost.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
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
