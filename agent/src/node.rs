//! What all verbs share: the directories, the records in memory, and the
//! libraries that act on the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::{SystemTime, UNIX_EPOCH},
};

use berth_cgroup::Layout;
use berth_engine::Launcher;
use berth_phase::Observer;
use berth_plan::seccomp::FilterCache;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    container::Container,
    error::{Error, Result},
    event::Events,
    ids::{self, ContainerId, SandboxId},
    image::Images,
    kernel::Feature,
    network::PodNetwork,
    operation::Operations,
    recovery::Findings,
    sandbox::Sandbox,
    store::Store,
    streaming::Streaming,
    telemetry::Metrics,
    timeline::Timeline,
};

/// The node.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) dirs: Directories,
    pub(crate) store: Store,
    pub(crate) operations: Operations,
    pub(crate) timeline: Timeline,
    pub(crate) launcher: Launcher,
    pub(crate) layout: Layout,
    pub(crate) images: Images,
    pub(crate) network: PodNetwork,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) facts: Facts,
    /// Set once the node can serve them.
    pub(crate) streaming: OnceLock<Streaming>,
    /// Cancelled when another agent has taken this one's place: records, and what is
    /// done about containers, are its affair then.
    pub(crate) retired: CancellationToken,
    /// Compiled seccomp filters.
    pub(crate) filters: FilterCache,
    /// Those who listen to the lives of containers and pods.
    pub(crate) events: Events,
    /// What UpdateRuntimeConfig last said; empty before.
    pod_cidr: Mutex<String>,
    /// Objects whose makers may never have got the answer, since the agent died.
    lost_replies: Mutex<BTreeSet<String>>,
    sandboxes: RwLock<BTreeMap<SandboxId, Arc<Sandbox>>>,
    containers: RwLock<BTreeMap<ContainerId, Arc<Container>>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("dirs", &self.dirs)
            .finish_non_exhaustive()
    }
}

/// What does not change once the agent serves.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Unix nanoseconds.
    pub(crate) started_at: i64,
    pub(crate) warnings: Vec<String>,
    /// A database that could not be used and still lies there: until it is taken away,
    /// nothing that it may have owned is deleted.
    pub(crate) aside: Option<PathBuf>,
    /// Owners whose records this agent cannot read.
    pub(crate) unreadable: BTreeSet<String>,
    /// What the kernel has and lacks.
    pub(crate) kernel: Vec<Feature>,
    /// Why pods cannot have users of their own; none inside if they can. Unknown before
    /// the end of recovery.
    pub(crate) user_namespaces: OnceLock<Option<String>>,
    /// What the start found without an owner and undid.
    pub(crate) undone: OnceLock<Findings>,
}

impl Facts {
    /// Why pods cannot have users of their own, if they cannot.
    pub(crate) fn no_user_namespaces(&self) -> Option<String> {
        match self.user_namespaces.get() {
            Some(problem) => problem.clone(),
            None => Some("not known yet".to_owned()),
        }
    }

    /// By kind; nothing before the end of recovery.
    pub(crate) fn ledger_undone(&self) -> Findings {
        self.undone.get().cloned().unwrap_or_default()
    }
}

/// Where things lie.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    /// Survives a reboot.
    pub(crate) root: PathBuf,
    /// Does not.
    pub(crate) run: PathBuf,
}

impl Directories {
    /// Files that the runtime provides to a pod.
    pub(crate) fn pod(&self, id: &SandboxId) -> PathBuf {
        self.run.join("pods").join(id.as_str())
    }

    /// A shim's socket and exit record.
    pub(crate) fn shim(&self, id: &ContainerId) -> PathBuf {
        self.run.join("shims").join(id.as_str())
    }

    /// A container's writable layer and anonymous volumes.
    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.root.join(Self::container_below_root(id))
    }

    /// The same relative to the root, as plans name it.
    pub(crate) fn container_below_root(id: &ContainerId) -> PathBuf {
        Path::new("containers").join(id.as_str())
    }

    /// Logs of people's containers.
    pub(crate) fn logs(&self, id: &SandboxId) -> PathBuf {
        self.root.join("logs").join(id.as_str())
    }
}

/// Everything that [`Node::new`] takes.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) dirs: Directories,
    pub(crate) store: Store,
    pub(crate) operations: Operations,
    pub(crate) timeline: Timeline,
    pub(crate) launcher: Launcher,
    pub(crate) layout: Layout,
    pub(crate) images: Images,
    pub(crate) network: PodNetwork,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) facts: Facts,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            config: parts.config,
            dirs: parts.dirs,
            store: parts.store,
            operations: parts.operations,
            timeline: parts.timeline,
            launcher: parts.launcher,
            layout: parts.layout,
            images: parts.images,
            network: parts.network,
            metrics: parts.metrics,
            observer: parts.observer,
            facts: parts.facts,
            streaming: OnceLock::new(),
            retired: CancellationToken::new(),
            filters: FilterCache::default(),
            events: Events::default(),
            pod_cidr: Mutex::default(),
            lost_replies: Mutex::default(),
            sandboxes: RwLock::default(),
            containers: RwLock::default(),
        }
    }

    /// Remembers the node's range of pod addresses as a kubelet tells it: one, or one per
    /// family with a comma between them. Nothing said changes nothing.
    ///
    /// # Errors
    /// InvalidArgument for what is no range.
    pub(crate) fn set_pod_cidr(&self, given: &str) -> Result<()> {
        if given.is_empty() {
            return Ok(());
        }
        for range in given.split(',') {
            range.trim().parse::<ipnet::IpNet>().map_err(|error| {
                Error::invalid(format!("pod_cidr {range:?}: expected ADDRESS/PREFIX"))
                    .with_source(error)
            })?;
        }
        let mut known = self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != given {
            tracing::info!(pod_cidr = given, "a kubelet has told the pods' addresses");
            given.clone_into(&mut known);
        }
        Ok(())
    }

    /// What [`Node::set_pod_cidr`] was last told; empty for nothing.
    pub(crate) fn pod_cidr(&self) -> String {
        let known = self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    /// The same request for `id` may come once more: whoever sent it may not know
    /// that it was carried out.
    pub(crate) fn reply_may_be_lost(&self, id: &str) {
        let mut lost = self
            .lost_replies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lost.insert(id.to_owned());
    }

    /// Whether the answer about `id` may be given once more; only the first call says so.
    pub(crate) fn take_lost_reply(&self, id: &str) -> bool {
        let mut lost = self
            .lost_replies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        lost.remove(id)
    }

    // The maps are only ever changed whole entries at a time, so a panic in
    // another holder of the lock cannot have left them half changed.

    pub(crate) fn add_sandbox(&self, sandbox: Arc<Sandbox>) {
        let mut all = self
            .sandboxes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.insert(sandbox.id.clone(), sandbox);
    }

    pub(crate) fn drop_sandbox(&self, id: &SandboxId) {
        let mut all = self
            .sandboxes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(id);
        drop(all);
        self.operations.forget(id.as_str());
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        let all = self
            .sandboxes
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }

    /// The sandbox that `prefix` stands for.
    ///
    /// # Errors
    /// NotFound, or InvalidArgument if the prefix is ambiguous.
    pub(crate) fn sandbox(&self, prefix: &str) -> Result<Arc<Sandbox>> {
        let all = self
            .sandboxes
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let id = ids::resolve(prefix, all.keys()).or_error("pod sandbox", prefix)?;
        all.get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("no pod sandbox has the id {prefix:?}")))
    }

    pub(crate) fn add_container(&self, container: Arc<Container>) {
        let mut all = self
            .containers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.insert(container.id.clone(), container);
    }

    pub(crate) fn drop_container(&self, id: &ContainerId) {
        let mut all = self
            .containers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(id);
        drop(all);
        self.operations.forget(id.as_str());
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        let all = self
            .containers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }

    /// Where each container writes: its writable layer and anonymous volumes.
    pub(crate) fn written_directories(&self) -> Vec<(ContainerId, PathBuf)> {
        self.containers()
            .iter()
            .map(|container| (container.id.clone(), self.dirs.container(&container.id)))
            .collect()
    }

    pub(crate) fn containers_of(&self, sandbox: &SandboxId) -> Vec<Arc<Container>> {
        let mut all = self.containers();
        all.retain(|container| container.record().sandbox_id == *sandbox);
        all
    }

    /// The container that `prefix` stands for.
    ///
    /// # Errors
    /// NotFound, or InvalidArgument if the prefix is ambiguous.
    pub(crate) fn container(&self, prefix: &str) -> Result<Arc<Container>> {
        let all = self
            .containers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let id = ids::resolve(prefix, all.keys()).or_error("container", prefix)?;
        all.get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("no container has the id {prefix:?}")))
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

/// Runs `work`, which blocks, where blocking does no harm.
///
/// # Errors
/// What `work` returns; Internal if it panicked.
pub(crate) async fn blocking<T, F>(what: &'static str, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    // Phases that end on that thread belong to the caller's span.
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(what).with_source(error)),
    }
}
