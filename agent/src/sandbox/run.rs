//! RunPodSandbox.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use berth_engine::{PodDescriptors, PodRequest};
use berth_phase::Phase;
use berth_plan::sysctl::SysctlSpace;
use berth_proto::cri::{
    ContainerEventType, NamespaceMode, NamespaceOption, PodSandboxConfig, RunPodSandboxRequest,
};

use super::{
    Sandbox, files, group,
    state::{Event, Namespaces, Network, State},
};
use crate::{
    error::{Error, Result},
    ids::{Process, SandboxId},
    node::{Node, blocking, now},
    operation::{Context, Fingerprint, Request, Value, Verb},
    recovery::copies,
    spec::Users,
    store::{Change, Durability, Effect, MadeBy, SandboxRecord},
};

/// Runs a pod sandbox and returns its id.
///
/// # Errors
/// InvalidArgument for a configuration that cannot be, AlreadyExists if the name
/// is another sandbox's; nothing is left of a failure.
pub(crate) async fn run(
    node: &Arc<Node>,
    request: RunPodSandboxRequest,
    made_by: MadeBy,
    deadline: Option<tokio::time::Instant>,
) -> Result<String> {
    let fingerprint = Fingerprint::of_message(&request);
    let config = request.config.unwrap_or_default();
    let plan = Plan::of(node, config, &request.runtime_handler, made_by)?;
    let key = plan.name();
    let operation = Request::new(Verb::RunPodSandbox, key)
        .fingerprint(fingerprint)
        .deadline(deadline);
    let node_in = node.clone();
    let value = node
        .operations
        .run(operation, move |context| async move {
            build(&node_in, plan, &context).await
        })
        .await?;
    value.into_id()
}

/// A request that has been found possible.
struct Plan {
    config: PodSandboxConfig,
    runtime_handler: String,
    made_by: MadeBy,
    hostname: String,
    cgroup_parent: String,
    options: NamespaceOption,
    users: Option<Users>,
    sysctls: Vec<(String, String)>,
}

impl Plan {
    /// Checks everything that can be checked before anything is changed.
    fn of(
        node: &Node,
        config: PodSandboxConfig,
        runtime_handler: &str,
        made_by: MadeBy,
    ) -> Result<Self> {
        let metadata = config
            .metadata
            .as_ref()
            .ok_or_else(|| Error::invalid("the pod sandbox's config has no metadata"))?;
        if metadata.name.is_empty() || metadata.namespace.is_empty() {
            return Err(Error::invalid(
                "the pod sandbox's metadata needs a name and a namespace",
            ));
        }
        if !node.config.has_handler(runtime_handler) {
            return Err(Error::invalid(format!(
                "runtime handler {runtime_handler:?} is not configured"
            ))
            .with_remedy("name one of `[runtime_handlers]`, or none for the default"));
        }
        let linux = config.linux.clone().unwrap_or_default();
        let security = linux.security_context.clone().unwrap_or_default();
        if security.run_as_group.is_some() && security.run_as_user.is_none() {
            return Err(Error::invalid(
                "run_as_group without run_as_user in the pod sandbox's security context",
            ));
        }
        if let Some(parent) = config.log_directory.strip_prefix('/') {
            if parent.split('/').any(|part| part == "..") {
                return Err(Error::invalid(format!(
                    "log_directory {:?} leads upwards",
                    config.log_directory
                )));
            }
        } else if !config.log_directory.is_empty() {
            return Err(Error::invalid(format!(
                "log_directory {:?} is not absolute",
                config.log_directory
            )));
        }
        let options = security.namespace_options.clone().unwrap_or_default();
        check_namespaces(&options)?;
        let users = Users::of(&options)?;
        if users.is_some()
            && let Some(problem) = node.facts.no_user_namespaces()
        {
            return Err(Error::precondition(format!(
                "userns_options POD, but this node has no user namespaces for pods: {problem}"
            )));
        }
        let host_network = options.network() == NamespaceMode::Node;
        if config.port_mappings.iter().any(|port| port.host_port > 0) && !host_network {
            return Err(Error::unimplemented("host ports are not supported yet")
                .with_remedy("use the pod's address, or the node's network"));
        }
        let sysctls = check_sysctls(&linux.sysctls, &options, users.as_ref())?;
        let hostname = files::hostname(&config.hostname, &metadata.name, host_network)?;
        let cgroup_parent = match linux.cgroup_parent.as_str() {
            "" => node.config.cgroup_parent().to_owned(),
            given => given.to_owned(),
        };
        berth_cgroup::GroupPath::parent(&cgroup_parent)
            .map_err(|error| Error::invalid("cgroup_parent").with_source(error))?;
        Ok(Self {
            runtime_handler: runtime_handler.to_owned(),
            made_by,
            hostname,
            cgroup_parent,
            options,
            users,
            sysctls,
            config,
        })
    }

    fn name(&self) -> String {
        name_of(&self.config)
    }

    fn host_network(&self) -> bool {
        self.options.network() == NamespaceMode::Node
    }

    /// The group of the pod's init; none if it has no init.
    fn init_group(&self, id: &SandboxId) -> Result<Option<berth_cgroup::GroupPath>> {
        match self.options.pid() {
            NamespaceMode::Pod => group::path(&self.cgroup_parent, id).map(Some),
            _ => Ok(None),
        }
    }
}

/// What must be unique among living sandboxes.
pub(super) fn name_of(config: &PodSandboxConfig) -> String {
    let metadata = config.metadata.clone().unwrap_or_default();
    format!(
        "{}/{}/{}/{}",
        metadata.namespace, metadata.name, metadata.uid, metadata.attempt
    )
}

fn check_namespaces(options: &NamespaceOption) -> Result<()> {
    for (name, mode) in [("network", options.network()), ("ipc", options.ipc())] {
        if !matches!(mode, NamespaceMode::Pod | NamespaceMode::Node) {
            return Err(Error::invalid(format!(
                "namespace_options.{name} of a pod sandbox must be POD or NODE"
            )));
        }
    }
    if options.pid() == NamespaceMode::Target {
        return Err(Error::invalid(
            "namespace_options.pid TARGET is for containers only",
        ));
    }
    Ok(())
}

/// Kernel parameters that belong to a namespace; anything else would change the node.
fn check_sysctls(
    given: &std::collections::BTreeMap<String, String>,
    options: &NamespaceOption,
    users: Option<&Users>,
) -> Result<Vec<(String, String)>> {
    let mut sysctls = Vec::new();
    for (name, value) in given {
        let (name, space) = berth_plan::sysctl::check(name, value)
            .map_err(|error| Error::invalid(error.to_string()))?;
        let (own, space) = match space {
            SysctlSpace::Net => (options.network() == NamespaceMode::Pod, "network"),
            SysctlSpace::Ipc => (options.ipc() == NamespaceMode::Pod, "IPC"),
            SysctlSpace::Uts => {
                return Err(Error::invalid(format!(
                    "sysctl {name} cannot be chosen for a pod"
                )));
            }
        };
        if !own {
            return Err(Error::invalid(format!(
                "sysctl {name} would change the node: the pod uses its {space} namespace"
            )));
        }
        sysctls.push((name, value.clone()));
    }
    // Unprivileged programs may use every port and ping in a network of their own.
    if options.network() == NamespaceMode::Pod {
        // Groups that there are not cannot be named.
        let last = users.map_or(2_147_483_647, |users| users.groups() - 1);
        for (name, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0".to_owned()),
            ("net.ipv4.ping_group_range", format!("0 {last}")),
        ] {
            if !sysctls.iter().any(|(given, _)| given == name) {
                sysctls.insert(0, (name.to_owned(), value));
            }
        }
    }
    Ok(sysctls)
}

async fn build(node: &Arc<Node>, plan: Plan, context: &Context) -> Result<Value> {
    context.enter(Phase::Reserve, "")?;
    let taken = node.sandboxes().into_iter().find(|sandbox| {
        let record = sandbox.record();
        !record.removing && name_of(&record.config) == plan.name()
    });
    if let Some(taken) = &taken
        && is_same(&taken.record(), &plan)
        && node.take_lost_reply(taken.id.as_str())
    {
        return Ok(Value::Id(taken.id.to_string()));
    }
    if let Some(taken) = taken {
        return Err(Error::already_exists(format!(
            "pod sandbox {} has the name {} already",
            taken.id.short(),
            plan.name()
        ))
        .with_remedy("remove it, or use the next attempt number"));
    }
    let id = SandboxId::random()?;
    context.makes(id.as_str());
    let address = if plan.host_network() {
        None
    } else {
        Some(node.network.allocate()?)
    };
    if let Some(address) = address {
        let node = node.clone();
        context.undo.push("address", move || async move {
            node.network.release(address.into());
            node.store
                .write(
                    vec![Change::delete_address(address.into())],
                    Durability::Soon,
                )
                .await?;
            Ok(())
        });
    }
    let sandbox = reserve(node, &plan, &id, address.map(IpAddr::V4), context).await?;
    let _turn = sandbox.turn.lock().await;

    context.enter(Phase::Rootfs, "files")?;
    let dir = node.dirs.pod(&id);
    let (hostname, dns) = (plan.hostname.clone(), plan.config.dns_config.clone());
    let hosts_address = address.map(IpAddr::V4);
    blocking("write the files of the pod", move || {
        files::write(&dir, &hostname, dns.as_ref(), hosts_address)
    })
    .await?;

    let groups = match plan.init_group(&id)? {
        Some(path) => {
            context.enter(Phase::Cgroup, "")?;
            let undo = (node.clone(), id.clone());
            context.undo.push("group of the init", move || async move {
                let (node, id) = undo;
                group::remove(&node, &id).await
            });
            group::make(node, path).await?
        }
        None => Vec::new(),
    };

    context.enter(Phase::Netns, "")?;
    let undo = (node.clone(), id.clone());
    context.undo.push("namespaces", move || async move {
        let (node, id) = undo;
        node.launcher.remove_pod(id.as_str()).await.map_err(convert)
    });
    let descriptors = node
        .launcher
        .create_pod(&pod_request(node, &plan, &id), &groups)
        .await
        .map_err(convert)?;
    let namespaces = identify(&descriptors)?;

    let network = match (address, descriptors.net) {
        (Some(address), Some(netns)) => {
            context.enter(Phase::Network, "")?;
            node.network
                .attach(&context.tracker, netns, &id, address)
                .await?
        }
        _ => Network {
            host: true,
            ..Network::default()
        },
    };

    context.enter(Phase::Record, "ready")?;
    let mut record = SandboxRecord::clone(&sandbox.record());
    record.state = record
        .state
        .next(Event::Networked {
            network,
            namespaces,
        })?
        .next(Event::Ready { at: now() })?;
    sandbox.replace(node, record).await?;
    copies::write_sandbox(&node.dirs, &sandbox.record());
    tracing::info!(pod = %id, name = plan.name(), "pod sandbox is ready");
    Ok(Value::Id(id.to_string()))
}

/// Whether a sandbox is what `plan` asks for.
fn is_same(record: &SandboxRecord, plan: &Plan) -> bool {
    record.state.is_ready()
        && record.made_by == plan.made_by
        && record.runtime_handler == plan.runtime_handler
        && record.config == plan.config
}

/// Takes the name: from here on everything that is made has an owner on record.
async fn reserve(
    node: &Arc<Node>,
    plan: &Plan,
    id: &SandboxId,
    address: Option<IpAddr>,
    context: &Context,
) -> Result<Arc<Sandbox>> {
    let mut config = plan.config.clone();
    if config.log_directory.is_empty() && plan.made_by == MadeBy::People {
        config.log_directory = node.dirs.logs(id).to_string_lossy().into_owned();
    }
    let record = SandboxRecord {
        id: id.clone(),
        config,
        runtime_handler: plan.runtime_handler.clone(),
        state: State::Reserved,
        created_at: now(),
        made_by: plan.made_by,
        cgroup_parent: plan.cgroup_parent.clone(),
        updated: None,
        removing: false,
    };
    let undo = (node.clone(), id.clone());
    context.undo.push_if_clean("record", move || async move {
        let (node, id) = undo;
        forget(&node, &id).await
    });
    let undo = (node.clone(), id.clone());
    context.undo.push("files", move || async move {
        let (node, id) = undo;
        super::remove::delete_files(&node, &id).await
    });
    let mut changes = vec![
        Change::put_sandbox(&record)?,
        Change::add_effect(id.as_str(), &Effect::PodPin)?,
        Change::add_effect(
            id.as_str(),
            &Effect::PodDir {
                path: node.dirs.pod(id).to_string_lossy().into_owned(),
            },
        )?,
    ];
    if let Some(group) = plan.init_group(id)? {
        for effect in group::effects(node, &group) {
            changes.push(Change::add_effect(id.as_str(), &effect)?);
        }
    }
    if let Some(ip) = address {
        changes.push(Change::put_address(&crate::store::AddressRecord {
            ip,
            owner: id.to_string(),
            freed_at: None,
        })?);
        changes.push(Change::add_effect(id.as_str(), &Effect::Address { ip })?);
    }
    node.store.write(changes, plan.made_by.durability()).await?;
    let sandbox = Sandbox::new(record);
    node.add_sandbox(sandbox.clone());
    Ok(sandbox)
}

/// Strikes a sandbox out, when nothing of it is left.
pub(super) async fn forget(node: &Arc<Node>, id: &SandboxId) -> Result<()> {
    node.store
        .write(
            vec![
                Change::delete_sandbox(id),
                Change::remove_effects_of(id.as_str()),
            ],
            Durability::Soon,
        )
        .await?;
    // With its last status; a creation that is undone was never told of.
    let kind = ContainerEventType::ContainerDeletedEvent;
    node.events.tell(node, id, id.as_str(), kind);
    node.drop_sandbox(id);
    Ok(())
}

fn pod_request(node: &Node, plan: &Plan, id: &SandboxId) -> PodRequest {
    let own_ipc = plan.options.ipc() == NamespaceMode::Pod;
    PodRequest {
        id: id.to_string(),
        net: !plan.host_network(),
        ipc: own_ipc,
        // With the node's network the node's name is what people expect, unless
        // they asked for another.
        uts: !plan.host_network() || !plan.config.hostname.is_empty(),
        pid: plan.options.pid() == NamespaceMode::Pod,
        hostname: plan.hostname.clone(),
        sysctls: plan.sysctls.clone(),
        shm_bytes: if own_ipc { node.config.shm_bytes() } else { 0 },
        users: plan.users.as_ref().map(|users| {
            let (uids, gids) = users.maps();
            berth_engine::Users { uids, gids }
        }),
    }
}

fn identify(pod: &PodDescriptors) -> Result<Namespaces> {
    let inode = |fd: &Option<OwnedFd>| -> Result<u64> {
        fd.as_ref().map_or(Ok(0), |fd| {
            nix::sys::stat::fstat(fd.as_fd())
                .map(|stat| stat.st_ino)
                .map_err(|errno| Error::io("identify a namespace", errno.into()))
        })
    };
    let init = match pod.init_pid {
        0 => None,
        pid => Some(Process {
            pid,
            start_ticks: berth_sys::process::start_ticks(pid)
                .map_err(|error| Error::io("identify the pod's init", error))?,
        }),
    };
    Ok(Namespaces {
        net: inode(&pod.net)?,
        ipc: inode(&pod.ipc)?,
        uts: inode(&pod.uts)?,
        pid: inode(&pod.pid)?,
        init,
    })
}

pub(super) fn convert(error: berth_engine::Error) -> Error {
    Error::internal("namespaces of the pod").with_source(error)
}
