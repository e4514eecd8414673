//! Whose namespaces the container lives in.

use std::path::Path;

use berth_proto::cri::{LinuxContainerSecurityContext, NamespaceMode};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::{
    Inputs, POD_DIR,
    error::{Result, SpecError},
    provenance::{Provenance, Source},
    users::Users,
};

/// Absent means the node's; with a path, the pod's; without one, its own.
pub(super) fn namespaces(
    inputs: &Inputs<'_>,
    context: &LinuxContainerSecurityContext,
    provenance: &mut Provenance,
) -> Result<Vec<LinuxNamespace>> {
    let asked = context.namespace_options.clone().unwrap_or_default();
    let pod = inputs.pod_namespaces;
    Users::check(inputs.users, asked.userns_options.as_ref())?;
    if asked.pid() != NamespaceMode::Target && !asked.target_id.is_empty() {
        return Err(SpecError::invalid(format!(
            "namespace_options.target_id {:?} without pid TARGET",
            asked.target_id
        )));
    }
    let mut list = vec![of(LinuxNamespaceType::Mount, None)];
    if inputs.users.is_some() {
        list.push(of(LinuxNamespaceType::User, Some("user")));
    }
    // Network, IPC and host name always follow the pod.
    for (mode, kind, name) in [
        (pod.network(), LinuxNamespaceType::Network, "net"),
        (pod.ipc(), LinuxNamespaceType::Ipc, "ipc"),
    ] {
        if mode != NamespaceMode::Node {
            list.push(of(kind, Some(name)));
        }
    }
    if inputs.pod_has_uts {
        list.push(of(LinuxNamespaceType::Uts, Some("uts")));
    }
    match asked.pid() {
        NamespaceMode::Node => {}
        NamespaceMode::Container => list.push(of(LinuxNamespaceType::Pid, None)),
        NamespaceMode::Pod => match pod.pid() {
            NamespaceMode::Pod => list.push(of(LinuxNamespaceType::Pid, Some("pid"))),
            other => {
                return Err(SpecError::precondition(format!(
                    "namespace_options.pid POD, but the pod sandbox has {}",
                    other.as_str_name()
                ))
                .with_remedy("use the same mode for pod sandbox and container"));
            }
        },
        NamespaceMode::Target => {
            let path = inputs.target_pid.ok_or_else(|| {
                SpecError::invalid("namespace_options.pid TARGET without a target_id")
            })?;
            let mut joined = of(LinuxNamespaceType::Pid, None);
            joined.set_path(Some(path.to_owned()));
            list.push(joined);
        }
    }
    // On v2 a privileged container sees the node's groups. On v1 the view is all that
    // keeps a container from the groups of others.
    if !(inputs.node.cgroup_v2 && context.privileged) {
        list.push(of(LinuxNamespaceType::Cgroup, None));
    }
    provenance.set("linux.namespaces", Source::Cri);
    Ok(list)
}

fn of(kind: LinuxNamespaceType, of_pod: Option<&str>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace
        .set_typ(kind)
        .set_path(of_pod.map(|name| Path::new(POD_DIR).join(name)));
    namespace
}
