//! ListContainers and ContainerStatus.

use std::collections::BTreeMap;

use berth_proto::cri::{
    self, ContainerFilter, ContainerResources, ContainerStatus, ContainerUser, ImageSpec,
    LinuxContainerUser,
};

use super::{Container, files};
use crate::{
    error::{Error, Result},
    ids::{self, SandboxId},
    node::Node,
    sandbox::matches_labels,
    store::{ContainerRecord, MadeBy},
};

/// Containers that match; those that people made only if asked for.
pub(crate) fn list(
    node: &Node,
    filter: Option<&ContainerFilter>,
    people: bool,
) -> Vec<cri::Container> {
    let filter = filter.cloned().unwrap_or_default();
    let containers = node.containers();
    let pick = |prefix: &str, ids: Vec<String>| match ids::resolve(prefix, ids) {
        ids::Resolved::One(id) => Some(id),
        _ => None,
    };
    let mut only = None;
    if !filter.id.is_empty() {
        let all = containers.iter().map(|c| c.id.to_string()).collect();
        match pick(&filter.id, all) {
            Some(id) => only = Some(id),
            None => return Vec::new(),
        }
    }
    let mut pod = None;
    if !filter.pod_sandbox_id.is_empty() {
        let all = node.sandboxes().iter().map(|s| s.id.to_string()).collect();
        match pick(&filter.pod_sandbox_id, all) {
            Some(id) => pod = Some(id),
            None => return Vec::new(),
        }
    }
    containers
        .iter()
        .filter(|container| only.as_ref().is_none_or(|id| container.id.as_str() == id))
        .filter(|container| !node.operations.is_unclaimed(container.id.as_str()))
        .filter_map(|container| {
            let record = container.record();
            let item = item(&record)?;
            let wanted = (people || record.made_by == MadeBy::Cri)
                && pod.as_ref().is_none_or(|pod| item.pod_sandbox_id == *pod)
                && filter.state.is_none_or(|state| state.state == item.state)
                && matches_labels(&record.config.labels, &filter.label_selector);
            wanted.then_some(item)
        })
        .collect()
}

fn item(record: &ContainerRecord) -> Option<cri::Container> {
    Some(cri::Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.sandbox_id.to_string(),
        metadata: record.config.metadata.clone(),
        image: Some(image_spec(record)),
        image_ref: record.image_ref.clone(),
        image_id: record.image_id.clone(),
        state: record.state.cri()?.into(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
    })
}

fn image_spec(record: &ContainerRecord) -> ImageSpec {
    record.config.image.clone().unwrap_or_default()
}

/// Status of one container and, if asked for, verbose information.
///
/// # Errors
/// NotFound, also while it is being made.
pub(crate) fn status(
    node: &Node,
    id: &str,
    verbose: bool,
) -> Result<(ContainerStatus, BTreeMap<String, String>)> {
    let container = node.container(id)?;
    let status = of(node, &container.record())
        .ok_or_else(|| Error::not_found(format!("container {id:?} is not there yet")))?;
    let info = if verbose {
        verbose_info(node, &container)
    } else {
        BTreeMap::new()
    };
    Ok((status, info))
}

/// The status of a container; none while it is being made.
fn of(node: &Node, record: &ContainerRecord) -> Option<ContainerStatus> {
    let state = record.state.cri()?;
    let exit = record.state.exit();
    let (reason, message) = match (&record.state, exit) {
        (_, Some(exit)) => (exit.reason.name().to_owned(), exit.message.clone()),
        (super::state::State::Unknown { reason, .. }, _) => ("Unknown".to_owned(), reason.clone()),
        _ => Default::default(),
    };
    let mut resources = record.resources.clone();
    resources.oom_score_adj = record.oom_score_adj.into();
    Some(ContainerStatus {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        state: state.into(),
        created_at: record.created_at,
        started_at: record.state.started_at(),
        finished_at: exit.map_or(0, |exit| exit.finished_at),
        exit_code: exit.map_or(0, |exit| exit.code),
        image: Some(ImageSpec {
            image: node.images.shown_name(record),
            ..image_spec(record)
        }),
        image_ref: record.image_ref.clone(),
        image_id: record.image_id.clone(),
        reason,
        message,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: mounts(record),
        log_path: record.log_path.clone(),
        resources: Some(ContainerResources {
            linux: Some(resources),
            windows: None,
        }),
        user: Some(ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: record.user.uid.into(),
                gid: record.user.gid.into(),
                supplemental_groups: record.user.groups.iter().map(|&g| g.into()).collect(),
            }),
        }),
        stop_signal: cri_signal(record.stop_signal),
    })
}

/// As they were asked for, with the images that the names of those mounted stood for.
fn mounts(record: &ContainerRecord) -> Vec<cri::Mount> {
    let mut mounts = record.config.mounts.clone();
    let images = mounts
        .iter_mut()
        .filter_map(|mount| mount.image.as_mut())
        .filter(|image| !image.image.is_empty());
    for (image, id) in images.zip(&record.volume_images) {
        image.image_ref.clone_from(id);
    }
    mounts
}

/// The statuses of all containers of a pod, oldest first.
pub(crate) fn statuses(node: &Node, sandbox: &SandboxId) -> Vec<ContainerStatus> {
    let containers = node.containers_of(sandbox);
    let mut all: Vec<_> = containers
        .iter()
        .filter_map(|container| of(node, &container.record()))
        .collect();
    all.sort_by_key(|status| status.created_at);
    all
}

/// CRI counts signals in an order of its own.
fn cri_signal(linux: i32) -> i32 {
    crate::spec::cri_signal(linux)
}

/// Tools look for `pid` and `runtimeSpec` in it.
fn verbose_info(node: &Node, container: &Container) -> BTreeMap<String, String> {
    let record = container.record();
    let path = node.dirs.shim(&container.id).join(files::DESCRIPTION);
    // Gone after a reboot, as the container is.
    let described: serde_json::Value = std::fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let pid = record.state.processes().map_or(0, |p| p.init.pid);
    let info = serde_json::json!({
        "sandboxID": record.sandbox_id,
        // Under the name that other runtimes use: clients that attach look for it.
        "config": {
            "tty": record.config.tty,
            "stdin": record.config.stdin,
            "stdin_once": record.config.stdin_once,
        },
        "pid": pid,
        "removing": record.removing,
        "record": &*record,
        "cgroup": record.cgroup,
        "resources": crate::describe::resources(&record.resources),
        "runtimeSpec": described.get("runtimeSpec"),
        "provenance": described.get("provenance"),
        "oomScoreAdjClamped": record.oom_score_adj_clamped,
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
