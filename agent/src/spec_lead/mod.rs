//! From a request and an image to an OCI runtime specification. Pure: what has to
//! be read (the image's passwd and group, a seccomp profile) is handed in.
//!
//! What the caller wrote in the request is policy and carried out; what the image
//! says is content and never becomes a path, a user or a command without having
//! been looked at.

mod command;
mod devices;
mod mounts;
mod resources;
mod security;
mod signal;
mod user;

use std::{
    io,
    path::{Path, PathBuf},
};

use berth_proto::cri::{
    ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption,
};
use oci_spec::runtime::{
    LinuxBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, PosixRlimit, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::{
    error::{Error, Result},
    store::User,
};

pub(crate) use signal::cri_signal;

/// Stands for the pod in paths of a specification; nothing is there. The plan turns
/// what lies below into the pod's own descriptors.
pub(crate) const POD_DIR: &str = "/berth/pod";

/// What the image says, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageFacts {
    pub(crate) user: String,
    pub(crate) env: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) volumes: Vec<String>,
    pub(crate) stop_signal: String,
}

/// The files that the pod provides.
#[derive(Clone, Debug)]
pub(crate) struct PodFiles {
    pub(crate) hosts: PathBuf,
    pub(crate) hostname: PathBuf,
    pub(crate) resolv_conf: PathBuf,
}

/// Everything that a specification is made of.
pub(crate) struct Inputs<'a> {
    pub(crate) config: &'a ContainerConfig,
    /// Of the pod; network and IPC always follow it.
    pub(crate) pod_namespaces: &'a NamespaceOption,
    pub(crate) pod_privileged: bool,
    /// Whether the pod has a UTS namespace of its own.
    pub(crate) pod_has_uts: bool,
    pub(crate) hostname: &'a str,
    pub(crate) files: &'a PodFiles,
    pub(crate) image: &'a ImageFacts,
    /// Where the anonymous volume of that number is; one for each of the image's volumes
    /// that no mount of the request takes.
    pub(crate) volume: &'a dyn Fn(usize) -> PathBuf,
    /// Reads a file of the image's root, bounded; none if it is not there.
    pub(crate) read: &'a dyn Fn(&Path) -> io::Result<Option<Vec<u8>>>,
    pub(crate) cgroup_v2: bool,
    /// Limit of processes where the request has none; 0 for none.
    pub(crate) default_pids: u64,
    /// Contents of the Localhost seccomp profile, if the request names one.
    pub(crate) localhost_seccomp: Option<&'a [u8]>,
}

/// A specification and what else was found out on the way.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) spec: Spec,
    /// Name and value of each variable; values need not be UTF-8, which the
    /// specification's own list cannot hold.
    pub(crate) env: Vec<Vec<u8>>,
    pub(crate) user: User,
    /// Linux number.
    pub(crate) stop_signal: i32,
    /// How many anonymous volumes are mounted.
    pub(crate) volumes: usize,
}

/// Makes the specification.
///
/// # Errors
/// InvalidArgument, FailedPrecondition or Unimplemented, naming field, value and remedy.
pub(crate) fn build(inputs: &Inputs<'_>) -> Result<Built> {
    let config = inputs.config;
    let linux = config.linux.clone().unwrap_or_default();
    let context = linux.security_context.clone().unwrap_or_default();
    check_namespaces(&context)?;
    if context.privileged && !inputs.pod_privileged {
        return Err(Error::precondition(
            "a privileged container in a pod sandbox that is not privileged",
        )
        .with_remedy("set privileged in the pod sandbox's security context as well"));
    }
    let args = command::args(config, inputs.image)?;
    let cwd = command::working_dir(config, inputs.image)?;
    let user = user::resolve(&context, &inputs.image.user, inputs.read)?;
    let env = command::env(config, inputs.image, inputs.hostname)?;
    let (mounts, volumes) = mounts::all(inputs, &context)?;
    let stop_signal = signal::stop_signal(config.stop_signal, &inputs.image.stop_signal)?;
    let resources = linux.resources.clone().unwrap_or_default();

    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .args(args)
        .env(
            env.iter()
                .map(|pair| String::from_utf8_lossy(pair).into_owned())
                .collect::<Vec<_>>(),
        )
        .cwd(cwd)
        .user(
            UserBuilder::default()
                .uid(user.uid)
                .gid(user.gid)
                .additional_gids(user.groups.clone())
                .build()
                .map_err(unbuilt)?,
        )
        .capabilities(security::capabilities(&context, user.uid)?)
        .no_new_privileges(context.no_new_privs)
        // None: the default of the specification's type is a limit of 1,024 files.
        .rlimits(Vec::<PosixRlimit>::new())
        .build()
        .map_err(unbuilt)?;
    process.set_oom_score_adj(Some(clamp_score(resources.oom_score_adj)));

    let mut builder = LinuxBuilder::default()
        .namespaces(namespaces(inputs, &context)?)
        .resources(resources::limits(
            &resources,
            inputs.default_pids,
            &config.devices,
            context.privileged,
        )?)
        .devices(devices::nodes(&config.devices, context.privileged)?)
        .masked_paths(if context.privileged {
            Vec::new()
        } else {
            context.masked_paths.clone()
        })
        .readonly_paths(if context.privileged {
            Vec::new()
        } else {
            context.readonly_paths.clone()
        });
    if let Some(profile) = security::seccomp(&context, inputs.localhost_seccomp)? {
        builder = builder.seccomp(profile);
    }
    if let Some(propagation) = mounts::root_propagation(&config.mounts) {
        builder = builder.rootfs_propagation(propagation);
    }
    let spec = SpecBuilder::default()
        .root(
            RootBuilder::default()
                .path("rootfs")
                .readonly(context.readonly_rootfs)
                .build()
                .map_err(unbuilt)?,
        )
        .hostname(inputs.hostname)
        .process(process)
        .mounts(mounts)
        .linux(builder.build().map_err(unbuilt)?)
        .build()
        .map_err(unbuilt)?;
    Ok(Built {
        spec,
        env,
        user,
        stop_signal,
        volumes,
    })
}

fn unbuilt(error: oci_spec::OciSpecError) -> Error {
    Error::internal("make the OCI specification").with_source(error)
}

fn clamp_score(score: i64) -> i32 {
    // In bounds after the clamp.
    i32::try_from(score.clamp(-1000, 1000)).unwrap_or(0)
}

fn check_namespaces(context: &LinuxContainerSecurityContext) -> Result<()> {
    let options = context.namespace_options.clone().unwrap_or_default();
    if options.pid() == NamespaceMode::Target {
        return Err(Error::unimplemented(
            "namespace_options.pid TARGET is not supported yet",
        ));
    }
    if !options.target_id.is_empty() {
        return Err(Error::invalid(
            "namespace_options.target_id without pid TARGET",
        ));
    }
    Ok(())
}

/// Absent is the node's; with a path, the pod's; without, a new one.
fn namespaces(
    inputs: &Inputs<'_>,
    context: &LinuxContainerSecurityContext,
) -> Result<Vec<oci_spec::runtime::LinuxNamespace>> {
    let options = context.namespace_options.clone().unwrap_or_default();
    let pod = inputs.pod_namespaces;
    let mut list = vec![(LinuxNamespaceType::Mount, None)];
    let shared = |mode: NamespaceMode, name: &str| {
        (mode == NamespaceMode::Pod).then(|| Path::new(POD_DIR).join(name))
    };
    if let Some(path) = shared(pod.network(), "net") {
        list.push((LinuxNamespaceType::Network, Some(path)));
    }
    if let Some(path) = shared(pod.ipc(), "ipc") {
        list.push((LinuxNamespaceType::Ipc, Some(path)));
    }
    if inputs.pod_has_uts {
        list.push((
            LinuxNamespaceType::Uts,
            Some(Path::new(POD_DIR).join("uts")),
        ));
    }
    match options.pid() {
        NamespaceMode::Node => {}
        NamespaceMode::Pod if pod.pid() == NamespaceMode::Pod => {
            list.push((
                LinuxNamespaceType::Pid,
                Some(Path::new(POD_DIR).join("pid")),
            ));
        }
        NamespaceMode::Pod => {
            return Err(Error::precondition(
                "the container wants to share the pod's PID namespace, but the pod sandbox has none",
            )
            .with_remedy("create the pod sandbox with namespace_options.pid POD"));
        }
        NamespaceMode::Container | NamespaceMode::Target => {
            list.push((LinuxNamespaceType::Pid, None));
        }
    }
    if inputs.cgroup_v2 && !context.privileged || !inputs.cgroup_v2 {
        list.push((LinuxNamespaceType::Cgroup, None));
    }
    list.into_iter()
        .map(|(kind, path)| {
            let mut builder = LinuxNamespaceBuilder::default().typ(kind);
            if let Some(path) = path {
                builder = builder.path(path);
            }
            builder.build().map_err(unbuilt)
        })
        .collect()
}

#[cfg(test)]
mod tests;
