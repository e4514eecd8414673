//! CreateContainer: everything that is slow, so that a start is not.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use berth_cgroup::{Group, GroupPath};
use berth_engine::{PodDescriptors, Shim};
use berth_phase::Phase;
use berth_plan::{
    Hierarchy, IoInputs, NamespaceKind, PlanInputs, PlanOutput, RootInputs, Slot,
    capability::CapSet, seccomp::Machine,
};
use berth_proto::cri::{ContainerConfig, CreateContainerRequest, NamespaceMode};
use berth_sys::{
    credentials, mount,
    resolve::{self, Scope},
};
use nix::libc;
use prost::Message as _;
use tokio::sync::mpsc;

use super::{
    Container, Live, convert, devices, files,
    image_volume::{self, ImageVolume},
    other::Bundle,
    remove::{forget, tear_down},
    state::{Event, Processes, State},
    watch,
};
use crate::{
    error::{Error, Result},
    ids::{ContainerId, Process},
    node::{Directories, Node, blocking, now},
    operation::{Context, Fingerprint, Request, Value, Verb},
    recovery::copies,
    sandbox::Sandbox,
    spec::{self, Built, PodFiles, Users},
    store::{Change, ContainerRecord, Effect, ImageRecord, MadeBy, SandboxRecord, User},
};

/// Most that is read of an image's passwd or group: a larger one is there to hurt.
const LARGEST_ACCOUNTS: u64 = 1024 * 1024;
/// Most that is read of a seccomp profile.
const LARGEST_PROFILE: u64 = 4 * 1024 * 1024;

/// Creates a container in a pod sandbox and returns its id.
///
/// # Errors
/// NotFound for an unknown sandbox or image, FailedPrecondition unless the sandbox
/// is ready, InvalidArgument for a configuration that cannot be; nothing is left
/// of a failure.
pub(crate) async fn create(
    node: &Arc<Node>,
    request: CreateContainerRequest,
    deadline: Option<tokio::time::Instant>,
) -> Result<String> {
    create_for(node, request, false, deadline).await
}

/// As [`create`]; the container may be one that is removed after its exit.
///
/// # Errors
/// As [`create`].
pub(crate) async fn create_for(
    node: &Arc<Node>,
    request: CreateContainerRequest,
    remove_after_exit: bool,
    deadline: Option<tokio::time::Instant>,
) -> Result<String> {
    let sandbox = node.sandbox(&request.pod_sandbox_id)?;
    let fingerprint = Fingerprint::of_message(&request);
    let config = request.config.unwrap_or_default();
    let name = check(&config)?;
    let key = format!("{}/{name}", sandbox.id);
    let operation = Request::new(Verb::CreateContainer, key)
        .fingerprint(fingerprint)
        .deadline(deadline);
    let node_in = node.clone();
    let value = node
        .operations
        .run(operation, move |context| async move {
            build(&node_in, &sandbox, config, remove_after_exit, &context).await
        })
        .await?;
    value.into_id()
}

/// Checks what can be checked before anything is looked up; returns the name that
/// must be unique in the sandbox.
fn check(config: &ContainerConfig) -> Result<String> {
    let metadata = config
        .metadata
        .as_ref()
        .ok_or_else(|| Error::invalid("the container's config has no metadata"))?;
    if metadata.name.is_empty() {
        return Err(Error::invalid("the container's metadata has no name"));
    }
    if config
        .image
        .as_ref()
        .is_none_or(|image| image.image.is_empty())
    {
        return Err(Error::invalid("the container's config names no image"));
    }
    let log = Path::new(&config.log_path);
    let leads_out = log.is_absolute()
        || log
            .components()
            .any(|part| part == std::path::Component::ParentDir);
    if leads_out || config.log_path.contains('\0') {
        return Err(Error::invalid(format!(
            "log_path {:?}: expected a path relative to the sandbox's log_directory without \"..\"",
            config.log_path
        )));
    }
    if !config.cdi_devices.is_empty() {
        return Err(Error::unimplemented("CDI devices are not supported yet"));
    }
    Ok(name_of(config))
}

fn name_of(config: &ContainerConfig) -> String {
    let metadata = config.metadata.clone().unwrap_or_default();
    format!("{}/{}", metadata.name, metadata.attempt)
}

async fn build(
    node: &Arc<Node>,
    sandbox: &Arc<Sandbox>,
    config: ContainerConfig,
    remove_after_exit: bool,
    context: &Context,
) -> Result<Value> {
    context.enter(Phase::Validate, "")?;
    check(&config)?;
    let pod = sandbox.record();
    let pod_users = users_of(&pod)?;
    if !pod.state.is_ready() || pod.removing {
        return Err(Error::precondition(format!(
            "pod sandbox {} is not ready",
            sandbox.id.short()
        )));
    }
    let taken = node
        .containers_of(&sandbox.id)
        .into_iter()
        .find(|container| {
            let record = container.record();
            !record.removing && name_of(&record.config) == name_of(&config)
        });
    if let Some(taken) = &taken
        && matches!(taken.record().state, State::Created { .. })
        && taken.record().config == config
        && node.take_lost_reply(taken.id.as_str())
    {
        return Ok(Value::Id(taken.id.to_string()));
    }
    if let Some(taken) = taken {
        return Err(Error::already_exists(format!(
            "container {} of pod sandbox {} has the name {} already",
            taken.id.short(),
            sandbox.id.short(),
            name_of(&config)
        ))
        .with_remedy("remove it, or use the next attempt number"));
    }
    let image_name = config.image.clone().unwrap_or_default().image;
    // Until the container's own record keeps the layers.
    let (image, _layers) = node.images.hold(&image_name)?.ok_or_else(|| {
        Error::not_found(format!("image {image_name:?} is not on this node"))
            .with_remedy("pull it first")
    })?;
    let images = Arc::new(image_volume::find(node, &config)?);
    let target = target_of(node, sandbox, &config)?;
    let id = ContainerId::random()?;
    context.makes(id.as_str());

    context.enter(Phase::Plan, "")?;
    let made = Inputs {
        node: node.clone(),
        id: id.clone(),
        pod,
        image,
        config,
        images: images.clone(),
        target,
        remove_after_exit,
    };
    let prepared = blocking("plan the container", move || made.plan()).await?;
    let Prepared {
        record,
        description,
        plan,
        bundle,
        volumes,
        group,
        missing,
    } = prepared;

    context.enter(Phase::Reserve, "")?;
    let container = reserve(node, record, &missing, context).await?;
    let _turn = container.turn.lock().await;

    context.enter(Phase::Cgroup, "")?;
    let layout = node.layout.clone();
    let limits = plan.limits.clone();
    let group = blocking("make the container's group", move || {
        Group::create(&layout, &group, &limits).map_err(crate::cgroup::convert)
    })
    .await?;

    context.enter(Phase::Rootfs, "")?;
    let own = node.dirs.container(&id);
    blocking("make the container's writable layer", move || {
        files::make_writable_layer(&own)?;
        for number in 0..volumes {
            files::make_volume(&own, number)?;
        }
        Ok(())
    })
    .await?;

    context.enter(Phase::Shim, "")?;
    let shim_dir = node.dirs.shim(&id);
    let shim_process = node
        .launcher
        .launch(id.as_str(), &shim_dir)
        .await
        .map_err(convert("start the container's shim"))?;
    let undo = node.clone();
    let shim_pidfd = shim_process
        .pidfd
        .try_clone()
        .map_err(|error| Error::io("duplicate a pidfd", error))?;
    let undone = container.clone();
    context.undo.push("shim", move || async move {
        // The shim first, so that it does not report the end of what is undone.
        kill_process(&shim_pidfd)?;
        undone.set_live(None);
        watch::kill(&undo, &undone).await
    });
    let (sender, events) = mpsc::unbounded_channel();
    let shim = Shim::connect(&shim_dir, sender)
        .await
        .map_err(convert("reach the container's shim"))?;

    context.enter(Phase::Mount, "")?;
    let descriptors = node
        .launcher
        .open_pod(sandbox.id.as_str())
        .await
        .map_err(convert("open the pod's namespaces"))?;
    let process = plan.plan.process.clone().unwrap_or_default();
    let exec_from = berth_proto::shim::ProcessPlan {
        seccomp: Vec::new(),
        ..process
    };
    let opening = Opening {
        images,
        target,
        users: pod_users,
        root: node.dirs.root.clone(),
        shim_dir,
        log: PathBuf::from(&container.record().log_path),
        log_name: container.record().config.log_path.clone(),
        exec_from: exec_from.clone(),
        description,
        bundle,
    };
    let (plan, fds) = blocking("open what the container needs", move || {
        opening.open(plan, descriptors, group)
    })
    .await?;

    context.enter(Phase::Clone, "")?;
    let created = shim
        .create(&plan, &fds)
        .await
        .map_err(convert("create the container"))?;
    drop(fds);

    context.enter(Phase::Record, "created")?;
    let start_ticks = berth_sys::process::start_ticks(shim_process.pid)
        .map_err(|error| Error::io("identify the container's shim", error))?;
    let processes = Processes {
        shim: Process {
            pid: shim_process.pid,
            start_ticks,
        },
        init: Process {
            pid: created.pid,
            start_ticks: created.start_ticks,
        },
    };
    container
        .change(node, |record| {
            record.oom_score_adj = created.oom_score_adj;
            record.oom_score_adj_clamped = created.oom_score_adj_clamped;
            record.state = record.state.clone().next(Event::Created { processes })?;
            Ok(())
        })
        .await?;
    copies::write_container(&node.dirs, &container.record());
    let live = Live::new(shim, Some(created.pidfd), exec_from);
    container.set_live(Some(live.clone()));
    watch::spawn(node.clone(), container.clone(), live, events);
    tracing::info!(container = %id, pod = %sandbox.id, "container is created");
    Ok(Value::Id(id.to_string()))
}

fn kill_process(pidfd: &OwnedFd) -> Result<()> {
    match berth_sys::process::pidfd_send_signal(pidfd, libc::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
            Err(Error::io("kill a shim", error))
        }
        _ => Ok(()),
    }
}

/// Takes the name: from here on everything that is made has an owner on record.
async fn reserve(
    node: &Arc<Node>,
    record: ContainerRecord,
    missing: &[String],
    context: &Context,
) -> Result<Arc<Container>> {
    let id = record.id.clone();
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut effects = vec![
        Effect::CgroupPath {
            path: record.cgroup.clone(),
        },
        Effect::ShimDir {
            path: text(node.dirs.shim(&id)),
        },
        Effect::WritableLayer {
            path: text(node.dirs.container(&id)),
        },
    ];
    effects.extend(
        missing
            .iter()
            .map(|path| Effect::CreatedCgroupAncestor { path: path.clone() }),
    );
    let mut changes = vec![Change::put_container(&record)?];
    for effect in &effects {
        changes.push(Change::add_effect(id.as_str(), effect)?);
    }
    let durability = record.made_by.durability();
    let container = Container::new(record);
    let undo = (node.clone(), id.clone());
    context.undo.push_if_clean("record", move || async move {
        let (node, id) = undo;
        forget(&node, &id).await
    });
    let undo = (node.clone(), container.clone());
    context.undo.push("effects", move || async move {
        let (node, container) = undo;
        tear_down(&node, &container).await
    });
    node.store.write(changes, durability).await?;
    node.add_container(container.clone());
    Ok(container)
}

/// What the plan is made of.
struct Inputs {
    node: Arc<Node>,
    id: ContainerId,
    pod: Arc<SandboxRecord>,
    image: Arc<ImageRecord>,
    config: ContainerConfig,
    /// Mounted as volumes.
    images: Arc<Vec<ImageVolume>>,
    /// Whose PID namespace is to be joined, if anybody's.
    target: Option<Process>,
    remove_after_exit: bool,
}

/// A container that has been found possible; nothing of it exists yet.
struct Prepared {
    record: ContainerRecord,
    /// The specification and who set what in it, for people and their tools.
    description: String,
    plan: PlanOutput,
    /// Of another runtime that makes it.
    bundle: Option<Bundle>,
    volumes: usize,
    group: GroupPath,
    /// Groups above it that will be made.
    missing: Vec<String>,
}

impl Inputs {
    fn plan(self) -> Result<Prepared> {
        let node = &self.node;
        let built = self.specify()?;
        let group = GroupPath::parent(&self.pod.cgroup_parent)
            .and_then(|parent| parent.join(self.id.as_str()))
            .map_err(crate::cgroup::convert)?;
        let hierarchies: Vec<Hierarchy> = node
            .layout
            .hierarchies()
            .iter()
            .map(|hierarchy| Hierarchy {
                controllers: hierarchy.controllers.clone(),
                v2: hierarchy.v2,
            })
            .collect();
        let below = Directories::container_below_root(&self.id);
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let log_path = self.log_path();
        let is_file = |path: &Path| std::fs::metadata(path).map(|metadata| !metadata.is_dir());
        let own_volumes = node.dirs.container(&self.id).join(files::VOLUMES);
        let machine = Machine::native().ok_or_else(|| {
            Error::unimplemented("containers on this kind of machine are not supported")
        })?;
        let images = node.dirs.root.join("images");
        let image_files = self
            .images
            .iter()
            .enumerate()
            .map(|(number, image)| {
                let at = Path::new(spec::IMAGE_DIR).join(number.to_string());
                Ok((at, image.is_file(&images)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut plan = berth_plan::plan(
            &built.spec,
            &PlanInputs {
                id: self.id.as_str(),
                root: RootInputs {
                    layers: self
                        .image
                        .layers
                        .iter()
                        .rev()
                        .map(|layer| format!("images/{layer}"))
                        .collect(),
                    upper: text(below.join(files::UPPER)),
                    work: text(below.join(files::WORK)),
                    // No reboot resumes what a kubelet made.
                    volatile: self.pod.made_by == MadeBy::Cri,
                },
                cgroups: &hierarchies,
                pod_dir: Some(Path::new(spec::POD_DIR)),
                stop_signal: built.stop_signal,
                io: IoInputs {
                    log: !log_path.as_os_str().is_empty(),
                    stdin: self.config.stdin,
                    stdin_once: self.config.stdin_once,
                    max_line: u32::try_from(node.config.container.max_log_line).unwrap_or(u32::MAX),
                    ..IoInputs::default()
                },
                env: Some(built.env.clone()),
                kernel_capabilities: CapSet::from_bits(credentials::available_capabilities()),
                machine,
                filters: &node.filters,
                is_file: &|path| {
                    if let Some((_, file)) = image_files.iter().find(|(at, _)| at == path) {
                        return Ok(*file);
                    }
                    // Anonymous volumes are made only once their owner is on record.
                    if path.starts_with(&own_volumes) {
                        return Ok(false);
                    }
                    is_file(path)
                },
            },
        )
        .map_err(unplanned)?;
        plan.limits.validate().map_err(crate::cgroup::convert)?;
        let bundle = match node.config.other_runtime(&self.pod.runtime_handler) {
            None => None,
            Some(_) if !self.images.is_empty() => {
                return Err(Error::unimplemented(format!(
                    "{}: images as volumes with another OCI runtime are not supported",
                    spec::IMAGE_VOLUME_FAILED
                ))
                .with_remedy("use the default runtime handler"));
            }
            Some(_) if users_of(&self.pod)?.is_some() => {
                return Err(Error::unimplemented(
                    "pods with users of their own with another OCI runtime are not supported",
                )
                .with_remedy("use the default runtime handler"));
            }
            Some(program) => {
                let path = node.dirs.shim(&self.id).join(files::BUNDLE);
                let spec = &built.spec;
                Some(Bundle::plan(
                    &mut plan,
                    spec,
                    program,
                    path,
                    group.as_str(),
                )?)
            }
        };
        let missing = Group::missing_ancestors(&node.layout, &group);
        let sources: serde_json::Map<_, _> = built
            .provenance
            .iter()
            .map(|(field, source)| {
                (
                    field.to_owned(),
                    format!("{source:?}").to_lowercase().into(),
                )
            })
            .collect();
        let description =
            serde_json::json!({ "runtimeSpec": built.spec, "provenance": sources }).to_string();
        let resources = self
            .config
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.clone())
            .unwrap_or_default();
        let record = ContainerRecord {
            id: self.id,
            sandbox_id: self.pod.id.clone(),
            state: State::Creating,
            created_at: now(),
            made_by: self.pod.made_by,
            image_id: self.image.id.clone(),
            image_ref: crate::image::reference_of(&self.image),
            log_path: text(log_path),
            cgroup: group.as_str().to_owned(),
            user: User {
                uid: built.user.uid,
                gid: built.user.gid,
                groups: built.user.groups,
            },
            stop_signal: built.stop_signal,
            resources,
            oom_score_adj: 0,
            oom_score_adj_clamped: false,
            layers: self
                .image
                .layers
                .iter()
                .chain(self.images.iter().flat_map(|volume| &volume.image.layers))
                .cloned()
                .collect(),
            volume_images: self
                .images
                .iter()
                .map(|volume| volume.image.id.clone())
                .collect(),
            remove_after_exit: self.remove_after_exit,
            removing: false,
            config: self.config,
        };
        Ok(Prepared {
            record,
            description,
            plan,
            bundle,
            volumes: built.volumes,
            group,
            missing,
        })
    }

    fn specify(&self) -> Result<Built> {
        let node = &self.node;
        let linux = self.pod.config.linux.clone().unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        let namespaces = security.namespace_options.clone().unwrap_or_default();
        let dir = node.dirs.pod(&self.pod.id);
        let hostname = std::fs::read_to_string(dir.join("hostname"))
            .map_err(|error| Error::io("read the pod's host name", error))?;
        let facts = crate::image::facts(&self.image)?;
        let layers = self.layers();
        let volumes = node.dirs.container(&self.id).join(files::VOLUMES);
        let host_network = namespaces.network() == NamespaceMode::Node;
        let users = users_of(&self.pod)?;
        let trace = match node.config.telemetry.trace_containers {
            true => crate::telemetry::trace_environment(),
            false => Vec::new(),
        };
        let target = self
            .target
            .map(|process| PathBuf::from(format!("/proc/{}/ns/pid", process.pid)));
        let built = spec::build(&spec::Inputs {
            config: &self.config,
            pod_namespaces: &namespaces,
            users: users.as_ref(),
            target_pid: target.as_deref(),
            pod_privileged: security.privileged,
            pod_has_uts: !host_network || !self.pod.config.hostname.is_empty(),
            hostname: hostname.trim(),
            files: &PodFiles {
                hosts: if host_network {
                    PathBuf::from("/etc/hosts")
                } else {
                    dir.join("hosts")
                },
                hostname: dir.join("hostname"),
                resolv_conf: dir.join("resolv.conf"),
            },
            image: &facts,
            node: spec::NodeFacts {
                cgroup_v2: node.layout.mode() == berth_cgroup::Mode::V2,
                apparmor: Path::new("/sys/kernel/security/apparmor").exists(),
                selinux: Path::new("/sys/fs/selinux/enforce").exists(),
                // mount_setattr(2) is what every mount here is made with.
                recursive_read_only: true,
                capabilities: CapSet::from_bits(credentials::available_capabilities()),
                machine: Machine::native(),
                default_pids: i64::try_from(node.config.container.pids_limit)
                    .ok()
                    .filter(|&limit| limit > 0),
                default_capabilities: spec::default_capabilities(),
                rlimits: &[],
                trace: &trace,
            },
            volume: &|number| volumes.join(number.to_string()),
            read_image: &|path| read_in_image(&layers, path),
            read_node: &read_profile,
            devices: &devices::look,
        })?;
        Ok(built)
    }

    /// Directories of the image's layers, uppermost first.
    fn layers(&self) -> Vec<PathBuf> {
        let images = self.node.dirs.root.join("images");
        self.image
            .layers
            .iter()
            .rev()
            .map(|layer| images.join(layer))
            .collect()
    }

    fn log_path(&self) -> PathBuf {
        match (
            self.pod.config.log_directory.as_str(),
            self.config.log_path.as_str(),
        ) {
            ("", _) | (_, "") => PathBuf::new(),
            (dir, path) => Path::new(dir).join(path),
        }
    }
}

/// The caller names it, and it is the caller's policy; it is read bounded all the same.
fn read_profile(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LARGEST_PROFILE)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unplanned(error: berth_plan::PlanError) -> Error {
    let wrapped = if error.is_unsupported() {
        Error::unimplemented("plan the container")
    } else {
        Error::invalid("plan the container")
    };
    wrapped.with_source(error)
}

/// Reads a file as the container would see it: of the uppermost layer that has it,
/// links followed within the image only as far as one layer goes.
fn read_in_image(layers: &[PathBuf], path: &Path) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    for layer in layers {
        let root = File::open(layer)?;
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = match resolve::open(&root, path, flags, 0, Scope::InRoot) {
            Ok(fd) => File::from(fd),
            // ENXIO: a whiteout is a device that nobody serves.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EXDEV)
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            ));
        }
        if metadata.len() > LARGEST_ACCOUNTS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("it is larger than {LARGEST_ACCOUNTS} bytes"),
            ));
        }
        let mut bytes = Vec::new();
        file.take(LARGEST_ACCOUNTS).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Where to open what a plan's slots hold.
struct Opening {
    images: Arc<Vec<ImageVolume>>,
    /// Whose PID namespace is joined, if anybody's.
    target: Option<Process>,
    /// Of the pod, if they are not the node's.
    users: Option<Users>,
    root: PathBuf,
    shim_dir: PathBuf,
    log: PathBuf,
    /// What the request calls it.
    log_name: String,
    exec_from: berth_proto::shim::ProcessPlan,
    description: String,
    bundle: Option<Bundle>,
}

impl Opening {
    fn open(
        &self,
        output: PlanOutput,
        pod: PodDescriptors,
        group: Group,
    ) -> Result<(berth_proto::shim::Plan, Vec<OwnedFd>)> {
        for (name, content) in [
            (files::PROCESS, self.exec_from.encode_to_vec()),
            (files::DESCRIPTION, self.description.clone().into_bytes()),
        ] {
            let path = self.shim_dir.join(name);
            std::fs::write(&path, content)
                .map_err(|error| Error::io(format!("write {}", path.display()), error))?;
        }
        let mut dirs: Vec<Option<OwnedFd>> = group
            .into_dirs()
            .into_iter()
            .map(|dir| Some(dir.fd))
            .collect();
        let mut pod = pod;
        let mut fds = Vec::new();
        for slot in output.slots {
            fds.push(match slot {
                Slot::StateTree => {
                    let tree = tree(&self.root, false, 0)?;
                    if self.users.is_some() {
                        // Layers and writable layer alike: on disk the files of every
                        // container have the numbers that it sees itself.
                        map_ids(&tree, &pod, false, &self.root)?;
                    }
                    tree
                }
                Slot::Bind {
                    source,
                    recursive,
                    propagation,
                    idmap,
                } => {
                    if let Some(image) = of_image(&self.images, &source) {
                        let users = pod.user.as_ref();
                        fds.push(image.open(&self.root.join("images"), users)?);
                        continue;
                    }
                    let tree = tree(&source, recursive, propagation)?;
                    if let Some(maps) = idmap {
                        // There are no others: the specification has checked them.
                        map_ids(&tree, &pod, maps.recursive, &source)?;
                    }
                    tree
                }
                Slot::PodShm => take(&mut pod.shm, "shared memory")?,
                Slot::PodNamespace(kind) => match kind {
                    NamespaceKind::Net => take(&mut pod.net, "network namespace")?,
                    NamespaceKind::Ipc => take(&mut pod.ipc, "IPC namespace")?,
                    NamespaceKind::Uts => take(&mut pod.uts, "UTS namespace")?,
                    NamespaceKind::Pid => take(&mut pod.pid, "PID namespace")?,
                    // Mounts need it as well.
                    NamespaceKind::User => pod
                        .user
                        .as_ref()
                        .ok_or_else(|| Error::precondition("the pod has no users of its own"))?
                        .try_clone()
                        .map_err(|error| Error::io("duplicate a namespace", error))?,
                    NamespaceKind::Cgroup | NamespaceKind::Time | NamespaceKind::Mount => {
                        let what = format!("a pod has no {} namespace", kind.name());
                        return Err(Error::internal(what));
                    }
                },
                Slot::Namespace { path, .. } => File::open(&path)
                    .map_err(|error| Error::io(format!("open {}", path.display()), error))?
                    .into(),
                Slot::LogFile => files::open_log(&self.log, &self.log_name)?.into(),
                Slot::CgroupDir(index) => dirs
                    .get_mut(index)
                    .and_then(Option::take)
                    .ok_or_else(|| Error::internal("a group of the plan does not exist"))?,
                // Mounts come before the groups that the shim takes.
                Slot::CgroupTree(index) => dirs
                    .get(index)
                    .and_then(Option::as_ref)
                    .ok_or_else(|| Error::internal("a group of the plan does not exist"))
                    .and_then(|dir| {
                        mount::clone_tree(dir, c"", false)
                            .map_err(|error| Error::io("clone the tree of a control group", error))
                    })?,
                Slot::Stream(_) | Slot::Preserved(_) => {
                    return Err(Error::internal("the agent has no streams to give"));
                }
            });
        }
        if let Some(bundle) = &self.bundle {
            fds.push(bundle.write()?);
        }
        // Whoever has ended meanwhile may have left its number to somebody else.
        if let Some(target) = self.target
            && !is_alive(target)
        {
            return Err(Error::precondition(
                "the container whose processes were to be joined has just ended",
            ));
        }
        Ok((output.plan, fds))
    }
}

/// The image that stands behind a path of the specification, if one does.
fn of_image<'a>(images: &'a [ImageVolume], path: &Path) -> Option<&'a ImageVolume> {
    let number = path.strip_prefix(spec::IMAGE_DIR).ok()?;
    images.get(number.to_str()?.parse::<usize>().ok()?)
}

fn is_alive(process: Process) -> bool {
    berth_sys::process::start_ticks(process.pid).is_ok_and(|ticks| ticks == process.start_ticks)
}

/// The init of the container whose processes `config` wants to see, if it does.
///
/// # Errors
/// NotFound unless it is in the same pod; FailedPrecondition unless it runs.
fn target_of(node: &Node, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<Process>> {
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let options = security.namespace_options.unwrap_or_default();
    if options.pid() != NamespaceMode::Target {
        return Ok(None);
    }
    if options.target_id.is_empty() {
        return Err(Error::invalid(
            "namespace_options.pid TARGET without a target_id",
        ));
    }
    let target = node.container(&options.target_id)?;
    let record = target.record();
    if record.sandbox_id != sandbox.id {
        return Err(Error::invalid(format!(
            "namespace_options.target_id: container {} is in another pod sandbox",
            target.id.short()
        )));
    }
    target.running()?;
    let init = record.state.processes().map(|all| all.init);
    let init = init.filter(|init| is_alive(*init)).ok_or_else(|| {
        Error::precondition(format!("container {} has just ended", target.id.short()))
    })?;
    Ok(Some(init))
}

/// Lets the pod's users stand for those of the files in `tree`, which nobody can reach yet.
fn map_ids(tree: &OwnedFd, pod: &PodDescriptors, recursive: bool, path: &Path) -> Result<()> {
    let users = pod
        .user
        .as_ref()
        .ok_or_else(|| Error::precondition("the pod has no users of its own"))?;
    mount::map_ids(tree, users, recursive).map_err(|error| {
        let what = format!("map the ids of {}", path.display());
        match error.raw_os_error() {
            Some(libc::EINVAL) => Error::precondition(what)
                .with_source(error)
                .with_remedy("its file system cannot, or it is mapped already"),
            _ => Error::io(what, error),
        }
    })
}

/// The users of a pod, if they are not the node's.
fn users_of(pod: &SandboxRecord) -> Result<Option<Users>> {
    let linux = pod.config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    Ok(Users::of(&security.namespace_options.unwrap_or_default())?)
}

fn take(fd: &mut Option<OwnedFd>, what: &str) -> Result<OwnedFd> {
    fd.take()
        .ok_or_else(|| Error::precondition(format!("the pod has no {what} of its own")))
}

/// A detached tree of `path`, links followed: whoever named it may name any path of
/// the node.
fn tree(path: &Path, recursive: bool, propagation: u64) -> Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let failed = |error: io::Error| {
        let what = format!("mount source {}", path.display());
        if error.kind() == io::ErrorKind::NotFound {
            Error::invalid(what).with_source(error)
        } else {
            Error::io(what, error)
        }
    };
    let source = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .map_err(failed)?;
    let tree = mount::clone_tree(source.as_fd(), c"", recursive).map_err(failed)?;
    if propagation != 0 {
        mount::set_attributes(&tree, 0, 0, propagation, recursive).map_err(failed)?;
    }
    Ok(tree)
}
