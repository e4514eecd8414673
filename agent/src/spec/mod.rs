//! From a request and an image to an OCI runtime specification. Pure: what has to be
//! read or looked at on the node is handed in.
//!
//! What the caller wrote in the request is policy and carried out. What the image says
//! is content: it never becomes a path, a user or a command without a check. Labels and
//! annotations of either have no meaning here.

mod command;
mod devices;
mod error;
mod mounts;
mod namespaces;
mod provenance;
mod resources;
mod seccomp;
mod security;
mod signal;
#[cfg(test)]
mod tests;
mod user;
mod users;

use std::{
    io,
    path::{Path, PathBuf},
};

use berth_plan::{capability::CapSet, seccomp::Machine};
use berth_proto::cri::{ContainerConfig, LinuxContainerSecurityContext, NamespaceOption};
use oci_spec::runtime::{Linux, PosixRlimit, Process, Root, Spec};

use self::error::Result;
pub(crate) use self::{
    devices::HostDevice,
    error::{Kind, SpecError},
    provenance::{Provenance, Source},
    resources::limits,
    security::default_capabilities,
    signal::cri_signal,
    user::{User, user_in},
    users::Users,
};

/// Stands for the pod in the paths of a specification; nothing is there. A plan made
/// with this as its `pod_dir` turns what lies below into the pod's own descriptors.
pub(crate) const POD_DIR: &str = "/berth/pod";

/// Stands for an image among the mounts of the request, whose number follows; nothing is
/// there. Whoever opens what a plan wants opens the image.
pub(crate) const IMAGE_DIR: &str = "/berth/images";

/// The first word by which kubelets know a volume of an image that cannot be mounted.
pub(crate) const IMAGE_VOLUME_FAILED: &str = "ImageVolumeMountFailed";

/// And recursively read-only mounts that the node does not have.
pub(crate) const RRO_UNSUPPORTED: &str = "RROUnsupported";

/// The version of the runtime specification that is spoken.
const OCI_VERSION: &str = "1.2.0";

/// Hidden where the request has no security context at all; one that is there says
/// exactly what is hidden, be it nothing.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Likewise, not to be written.
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Reads a whole file, bounded by whoever reads.
pub(crate) type Read<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// What the image's configuration says, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageFacts {
    /// `USER`, `USER:GROUP`, names or numbers.
    pub(crate) user: String,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) working_dir: String,
    /// Paths in the container.
    pub(crate) volumes: Vec<String>,
    pub(crate) stop_signal: String,
}

/// Files of the node that the pod provides to its containers.
#[derive(Clone, Debug)]
pub(crate) struct PodFiles {
    pub(crate) hosts: PathBuf,
    pub(crate) hostname: PathBuf,
    pub(crate) resolv_conf: PathBuf,
}

/// What the node is and can.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeFacts<'a> {
    /// The v2 hierarchy alone.
    pub(crate) cgroup_v2: bool,
    pub(crate) apparmor: bool,
    pub(crate) selinux: bool,
    /// Linux 5.12: mount_setattr(2).
    pub(crate) recursive_read_only: bool,
    pub(crate) capabilities: CapSet,
    /// None where no filters can be compiled.
    pub(crate) machine: Option<Machine>,
    /// Runtime handler: limit of processes where the request has none.
    pub(crate) default_pids: Option<i64>,
    /// Runtime handler: what a container may unless it is told otherwise.
    pub(crate) default_capabilities: CapSet,
    /// Runtime handler.
    pub(crate) rlimits: &'a [PosixRlimit],
    /// `NAME=value`: whose trace the request belongs to, if containers are to know it.
    pub(crate) trace: &'a [String],
}

/// Everything that a specification is made of.
pub(crate) struct Inputs<'a> {
    pub(crate) config: &'a ContainerConfig,
    /// Of the pod sandbox.
    pub(crate) pod_namespaces: &'a NamespaceOption,
    /// The PID namespace of the container that is to be joined, if one is.
    pub(crate) target_pid: Option<&'a Path>,
    /// Its users, if they are not the node's.
    pub(crate) users: Option<&'a Users>,
    pub(crate) pod_privileged: bool,
    /// Whether the pod has a UTS namespace of its own.
    pub(crate) pod_has_uts: bool,
    pub(crate) hostname: &'a str,
    pub(crate) files: &'a PodFiles,
    pub(crate) image: &'a ImageFacts,
    pub(crate) node: NodeFacts<'a>,
    /// Where the anonymous volume of that number will be.
    pub(crate) volume: &'a dyn Fn(usize) -> PathBuf,
    /// Reads a file of the image's root, links resolved within it; NotFound if it is not there.
    pub(crate) read_image: Read<'a>,
    /// Reads a file of the node: a Localhost profile.
    pub(crate) read_node: Read<'a>,
    /// The device of the node at a path, links followed, or all below a directory.
    pub(crate) devices: &'a dyn Fn(&Path) -> io::Result<Vec<HostDevice>>,
}

/// A specification and what was found out on the way.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) spec: Spec,
    /// `NAME=value`; values need not be text, which the specification's list must be.
    pub(crate) env: Vec<Vec<u8>>,
    pub(crate) user: User,
    /// Linux's number.
    pub(crate) stop_signal: i32,
    /// How many anonymous volumes are mounted.
    pub(crate) volumes: usize,
    /// Who set what.
    pub(crate) provenance: Provenance,
}

/// Makes the specification.
///
/// # Errors
/// [`SpecError`], naming field, value and what would help.
pub(crate) fn build(inputs: &Inputs<'_>) -> Result<Built> {
    let config = inputs.config;
    let linux = config.linux.clone().unwrap_or_default();
    let unsaid = linux.security_context.is_none();
    let context = linux.security_context.unwrap_or_default();
    if context.privileged && !inputs.pod_privileged {
        return Err(SpecError::precondition(
            "privileged container in a pod sandbox that is not privileged",
        )
        .with_remedy("make the pod sandbox privileged too"));
    }
    security::check_modules(&context, &inputs.node)?;
    let mut provenance = Provenance::default();
    let given = linux.resources.unwrap_or_default();

    let user = user::resolve(
        &context,
        &inputs.image.user,
        inputs.read_image,
        &mut provenance,
    )?;
    let granted = security::granted(
        &context,
        inputs.node.default_capabilities,
        inputs.node.capabilities,
    )?;
    let env = command::env(
        config,
        inputs.image,
        inputs.hostname,
        inputs.node.trace,
        &mut provenance,
    )?;
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_args(Some(command::args(config, inputs.image, &mut provenance)?))
        .set_cwd(command::working_dir(config, inputs.image, &mut provenance)?)
        .set_env(Some(env.iter().map(|pair| text(pair)).collect()))
        .set_user(oci_user(&user))
        .set_capabilities(Some(security::capabilities(
            granted,
            user.uid,
            &context,
            &mut provenance,
        )?))
        .set_no_new_privileges(Some(context.no_new_privs))
        .set_oom_score_adj(Some(resources::oom_score_adj(&given)?))
        .set_rlimits(Some(inputs.node.rlimits.to_vec()));
    for field in [
        "process.terminal",
        "process.noNewPrivileges",
        "process.oomScoreAdj",
    ] {
        provenance.set(field, Source::Cri);
    }
    provenance.set("process.rlimits", Source::Handler);

    let mounts = mounts::mounts(inputs, &context, &mut provenance)?;
    let devices = devices::devices(inputs, context.privileged, &mut provenance)?;
    let (masked, readonly) = covered(&context, unsaid, &mut provenance)?;
    let limits = resources::resources(
        &given,
        devices.rules,
        inputs.node.default_pids,
        &mut provenance,
    )?;
    let filter = seccomp::profile(
        &context,
        granted.bounding,
        inputs.node.machine,
        inputs.read_node,
        &mut provenance,
    )?;
    let mut host = Linux::default();
    host.set_namespaces(Some(namespaces::namespaces(
        inputs,
        &context,
        &mut provenance,
    )?))
    .set_resources(Some(limits))
    .set_devices(Some(devices.nodes))
    .set_masked_paths(Some(masked))
    .set_readonly_paths(Some(readonly))
    .set_seccomp(filter)
    .set_rootfs_propagation(mounts::root_propagation(&config.mounts));
    if let Some(users) = inputs.users {
        let (uids, gids) = users.oci();
        host.set_uid_mappings(Some(uids))
            .set_gid_mappings(Some(gids));
        provenance.set("linux.uidMappings", Source::Cri);
        provenance.set("linux.gidMappings", Source::Cri);
    }

    let mut root = Root::default();
    root.set_path("rootfs".into())
        .set_readonly(Some(context.readonly_rootfs));
    provenance.set("root.readonly", Source::Cri);
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        // Without a host name space of its own it has the node's name.
        .set_hostname(inputs.pod_has_uts.then(|| inputs.hostname.to_owned()))
        .set_process(Some(process))
        .set_mounts(Some(mounts.list))
        .set_annotations(None)
        .set_linux(Some(host));
    Ok(Built {
        spec,
        env,
        user,
        stop_signal: signal::stop_signal(
            config.stop_signal,
            &inputs.image.stop_signal,
            &mut provenance,
        )?,
        volumes: mounts.volumes,
        provenance,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn oci_user(user: &User) -> oci_spec::runtime::User {
    let mut oci = oci_spec::runtime::User::default();
    oci.set_uid(user.uid)
        .set_gid(user.gid)
        .set_additional_gids(Some(user.groups.clone()));
    oci
}

/// Masked and read-only paths.
fn covered(
    context: &LinuxContainerSecurityContext,
    unsaid: bool,
    provenance: &mut Provenance,
) -> Result<(Vec<String>, Vec<String>)> {
    let own = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect();
    let (masked, readonly, source) = if context.privileged {
        (Vec::new(), Vec::new(), Source::Cri)
    } else if unsaid {
        (own(&MASKED), own(&READONLY), Source::Default)
    } else {
        (
            context.masked_paths.clone(),
            context.readonly_paths.clone(),
            Source::Cri,
        )
    };
    for (field, paths) in [("masked_paths", &masked), ("readonly_paths", &readonly)] {
        let bad = |path: &&String| {
            !path.starts_with('/')
                || path.contains('\0')
                || path.split('/').any(|part| part == "..")
        };
        if let Some(path) = paths.iter().find(bad) {
            return Err(SpecError::invalid(format!(
                "{field} {path:?}: expected an absolute path without \"..\""
            )));
        }
    }
    provenance.set("linux.maskedPaths", source);
    provenance.set("linux.readonlyPaths", source);
    Ok((masked, readonly))
}
