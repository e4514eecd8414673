//! Putting the node together: directories, store, libraries, recovery.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use berth_cgroup::Layout;
use berth_engine::{Launcher, Program, ProgramSource};
use berth_streaming::HandedOver;

use crate::{
    config::Config,
    container,
    error::Error,
    image::{self, Images},
    kernel,
    listen::{Progress, private_directory},
    network::PodNetwork,
    node::{Directories, Facts, Node, Parts, now},
    operation::{Operations, Verb},
    recovery, sandbox,
    store::{
        AddressRecord, Change, ContainerRecord, Durability, Effect, Everything, SandboxRecord,
        Store,
    },
    streaming::Streaming,
    telemetry::Telemetry,
    timeline::{Entry, Timeline},
};

/// The shim's program beside this one.
fn default_shim() -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program's own file")?;
    Ok(own.with_file_name("berth-shim"))
}

/// A node whose records and kernel have not been compared yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) node: Arc<Node>,
    pub(crate) sandboxes: Vec<SandboxRecord>,
    pub(crate) containers: Vec<ContainerRecord>,
    /// The boot of the machine for which that was done last.
    settled_for: Option<String>,
}

/// Whether an agent with this configuration could start, as far as that can be told
/// while another one serves.
///
/// # Errors
/// Why it could not.
pub(crate) fn check(config: &Config, shim: Option<PathBuf>) -> Result<()> {
    must_be_root()?;
    let layout = Layout::detect()?;
    let root = std::fs::File::open(&config.root).context("opening the root directory")?;
    if let Some(problem) = kernel::problem(&kernel::features(&layout, &root)) {
        bail!(problem);
    }
    let shim = shim.map_or_else(default_shim, Ok)?;
    Program::load(&shim).with_context(|| format!("shim program {}", shim.display()))?;
    config.streaming.tls().map(drop)
}

fn must_be_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("berth-agent manages namespaces, mounts and control groups, and must run as root");
    }
    Ok(())
}

/// Makes the node of `config` and brings it into agreement with the kernel.
pub(crate) async fn start(
    config: Config,
    shim: Option<PathBuf>,
    telemetry: &Telemetry,
    progress: &Progress,
    handed_over: Option<HandedOver>,
) -> Result<Arc<Node>> {
    let prepared = prepare(config, shim, telemetry, progress).await?;
    let node = prepared.node;
    node.timeline
        .add(Entry::event("agent-started", &[], crate::cri::VERSION));
    withdraw_unclaimed(&node);
    let undone = recovery::recover(
        &node,
        prepared.sandboxes,
        prepared.containers,
        prepared.settled_for.as_deref(),
        progress,
    )
    .await
    .map_err(told)?;
    // Those that are 0 too: an alert on an increase needs a value to begin with.
    for kind in recovery::kind::ALL {
        node.metrics.ledger_findings(kind, undone.of(kind));
    }
    node.facts.undone.get_or_init(|| undone);
    let users = kernel::user_namespaces(&node).await;
    node.facts.user_namespaces.get_or_init(|| users);
    crate::berth::resume(&node);
    node.network.look().await;
    // An agent that is replaced leaves these to the one that follows.
    let (watching, sweeping) = (
        node.network.clone().watch(),
        recovery::sweep_often(node.clone()),
    );
    let retired = node.retired.clone();
    tokio::spawn(async move { retired.run_until_cancelled(watching).await });
    let retired = node.retired.clone();
    tokio::spawn(async move { retired.run_until_cancelled(sweeping).await });
    let every = std::time::Duration::from_secs(node.config.image.collect_seconds);
    let collecting = image::collect_at_intervals(Arc::downgrade(&node), every);
    let retired = node.retired.clone();
    tokio::spawn(async move { retired.run_until_cancelled(collecting).await });
    let streaming = Streaming::start(&node, handed_over).await?;
    // This is the only place that sets it.
    drop(node.streaming.set(streaming));
    Ok(node)
}

/// Opens directories, store and libraries.
///
/// # Errors
/// If another agent uses the root, or something that the node cannot be without is
/// missing.
pub(crate) async fn prepare(
    config: Config,
    shim: Option<PathBuf>,
    telemetry: &Telemetry,
    progress: &Progress,
) -> Result<Prepared> {
    must_be_root()?;
    let dirs = Directories {
        root: config.root.clone(),
        run: config.run_dir.clone(),
    };
    private_directory(&dirs.root)?;
    private_directory(&dirs.run)?;
    progress.doing("reading the records");
    let layout = Layout::detect()?;
    let root = std::fs::File::open(&dirs.root).context("opening the root directory")?;
    let kernel = kernel::features(&layout, &root);
    if let Some(problem) = kernel::problem(&kernel) {
        bail!(problem);
    }
    kernel::tell(&kernel);
    let opened = Store::open(&dirs.root).map_err(Error::from).map_err(told)?;
    let mut warnings = Vec::new();
    if let Some(moved) = &opened.moved_aside {
        let warning = format!("the records could not be used and were moved aside: {moved:?}");
        tracing::error!("{warning}");
        warnings.push(warning);
    }
    let store = opened.store;
    let load = || async { store.load_all().await.map_err(Error::from).map_err(told) };
    let mut everything = load().await?;
    // Never settled: it is new.
    if everything.settled_for_boot.is_none() && rebuild(&store, &dirs).await.map_err(told)? {
        if opened.moved_aside.is_none() {
            Store::mark_lost(&dirs.root)
                .map_err(Error::from)
                .map_err(told)?;
        }
        everything = load().await?;
    }
    let Everything {
        sandboxes,
        containers,
        images,
        addresses,
        ledger: _,
        settled_for_boot,
        unreadable,
    } = everything;
    let aside = Store::aside(&dirs.root);
    if let Some(aside) = &aside {
        warnings.push(format!(
            "records were lost and nothing that they may have owned is deleted while {} is \
             there; remove it when nothing is missed",
            aside.display()
        ));
    }
    let mut unreadable_owners = BTreeSet::new();
    for row in unreadable {
        unreadable_owners.insert(row.id.clone());
        tracing::error!(
            table = row.table,
            id = row.id,
            why = row.why,
            "a record cannot be read"
        );
        warnings.push(format!("record {} of {} cannot be read", row.id, row.table));
    }
    let shim = shim.map_or_else(default_shim, Ok)?;
    let program = load_program(&shim, &containers)
        .with_context(|| format!("shim program {}", shim.display()))?;
    if program.source() == ProgramSource::ReadOnlyMount {
        warnings.push(
            "vm.memfd_noexec forbids sealed programs: shims start from a read-only mount"
                .to_owned(),
        );
    }
    let timeline = Timeline::open(dirs.root.join("timeline")).context("opening the timeline")?;
    let operations = Operations::new(telemetry.observer(), timeline.clone());
    let node = Arc::new(Node::new(Parts {
        network: PodNetwork::open(config.network.builtin.clone(), &addresses).map_err(told)?,
        images: Images::new(
            berth_image::Store::open_with(&dirs.root.join("images"), config.image_settings())?,
            images,
        ),
        launcher: launcher(program, &dirs, &layout, &config),
        layout,
        facts: Facts {
            started_at: now(),
            warnings,
            aside,
            unreadable: unreadable_owners,
            kernel,
            ..Facts::default()
        },
        metrics: telemetry.metrics(),
        observer: telemetry.observer(),
        store,
        operations,
        timeline,
        dirs,
        config,
    }));
    Ok(Prepared {
        node,
        sandboxes,
        containers,
        settled_for: settled_for_boot,
    })
}

/// Shims have a group of their own, outside of every pod: what they use is not the
/// pods', and a limit of the agent's unit does not hit them.
fn launcher(program: Program, dirs: &Directories, layout: &Layout, config: &Config) -> Launcher {
    let (layout, path) = (layout.clone(), config.shims_group());
    Launcher::new(program, &dirs.run).in_group(move || {
        crate::cgroup::join_files_of(&layout, &path).unwrap_or_else(|error| {
            tracing::warn!(
                group = path,
                error = error.sentence(),
                "shims stay in the agent's control group"
            );
            Vec::new()
        })
    })
}

/// Fills a new database with the second copies of what the one before it had. Returns
/// whether there was one before it: what it was about is there.
async fn rebuild(store: &Store, dirs: &Directories) -> Result<bool, Error> {
    let (sandboxes, containers) = recovery::copies::read_all(dirs);
    let images = Store::image_copies(&dirs.root);
    let kept = std::fs::read_dir(dirs.root.join("containers"))
        .is_ok_and(|mut entries| entries.next().is_some());
    if sandboxes.is_empty() && images.is_empty() && !kept {
        return Ok(false);
    }
    tracing::warn!(
        pods = sandboxes.len(),
        containers = containers.len(),
        images = images.len(),
        "records are taken from their second copies"
    );
    let mut changes = Vec::new();
    for record in &sandboxes {
        changes.push(Change::put_sandbox(record)?);
        // An address that is in use must not be given away.
        let network = record.state.network();
        for &ip in network.iter().flat_map(|network| &network.addresses) {
            changes.push(Change::put_address(&AddressRecord {
                ip,
                owner: record.id.to_string(),
                freed_at: None,
            })?);
        }
    }
    for record in &containers {
        changes.push(Change::put_container(record)?);
        // What the ledger alone knows of.
        let effect = Effect::CgroupPath {
            path: record.cgroup.clone(),
        };
        changes.push(Change::add_effect(record.id.as_str(), &effect)?);
    }
    for record in &images {
        changes.push(Change::put_image(record)?);
    }
    store.write(changes, Durability::Synced).await?;
    Ok(true)
}

/// Shims that are alive share their pages with those that come.
fn load_program(
    path: &Path,
    containers: &[ContainerRecord],
) -> Result<Program, berth_engine::Error> {
    containers
        .iter()
        .filter_map(|record| record.state.processes())
        .filter(|processes| {
            berth_sys::process::start_ticks(processes.shim.pid)
                .is_ok_and(|ticks| ticks == processes.shim.start_ticks)
        })
        .find_map(|processes| Program::share(processes.shim.pid, path))
        .map_or_else(|| Program::load(path), Ok)
}

/// What nobody has asked for again is taken back.
fn withdraw_unclaimed(node: &Arc<Node>) {
    // Weak: the operations live in the node.
    let weak = Arc::downgrade(node);
    node.operations.on_unclaimed(move |left| {
        let weak = weak.clone();
        async move {
            let Some(node) = weak.upgrade() else {
                return Ok(());
            };
            for id in &left.made {
                match left.verb {
                    Verb::CreateContainer => container::remove(&node, id, None).await?,
                    Verb::RunPodSandbox | Verb::Run => sandbox::remove(&node, id, None).await?,
                    _ => {}
                }
                tracing::info!(id, object = left.object, value = ?left.value, "nobody claimed it; it is removed");
            }
            Ok(())
        }
    });
}

/// With no pod left nothing of the agent stays in the kernel.
pub(crate) async fn leave(node: &Arc<Node>) {
    if !node.sandboxes().is_empty() || !node.containers().is_empty() {
        return;
    }
    if let Err(error) = node.launcher.shut_down().await {
        tracing::warn!(%error, "mount namespaces could not be dropped");
    }
    match node.network.remove().await {
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(error = error.sentence(), "the bridge could not be removed");
        }
    }
    crate::cgroup::remove_if_empty(&node.layout, &node.config.shims_group());
    crate::cgroup::remove_if_empty(&node.layout, node.config.cgroup_parent());
}

/// The whole sentence for whoever starts the agent.
pub(crate) fn told(error: Error) -> anyhow::Error {
    anyhow::anyhow!(error.sentence())
}
