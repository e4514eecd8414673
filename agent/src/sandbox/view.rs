//! ListPodSandbox and PodSandboxStatus.

use std::collections::BTreeMap;

use berth_proto::cri::{
    LinuxPodSandboxStatus, Namespace, PodIp, PodSandbox, PodSandboxFilter, PodSandboxNetworkStatus,
    PodSandboxStatus,
};

use super::Sandbox;
use crate::{
    describe,
    error::Result,
    ids::{self, SandboxId},
    node::Node,
    store::{MadeBy, PodResources, SandboxRecord},
};

/// Sandboxes that match; those that people made only if asked for.
pub(crate) fn list(
    node: &Node,
    filter: Option<&PodSandboxFilter>,
    people: bool,
) -> Vec<PodSandbox> {
    let filter = filter.cloned().unwrap_or_default();
    let sandboxes = node.sandboxes();
    let only = if filter.id.is_empty() {
        None
    } else {
        // What a prefix does not single out matches nothing; a list never fails.
        match ids::resolve(&filter.id, sandboxes.iter().map(|s| s.id.as_str())) {
            ids::Resolved::One(id) => Some(id.to_owned()),
            _ => return Vec::new(),
        }
    };
    sandboxes
        .iter()
        .filter(|sandbox| only.as_ref().is_none_or(|id| sandbox.id.as_str() == id))
        .filter(|sandbox| !node.operations.is_unclaimed(sandbox.id.as_str()))
        .filter_map(|sandbox| {
            let record = sandbox.record();
            let item = item(&record)?;
            let wanted_state = filter.state.is_none_or(|state| state.state == item.state);
            let wanted = (people || record.made_by == MadeBy::Cri)
                && wanted_state
                && matches_labels(&record.config.labels, &filter.label_selector);
            wanted.then_some(item)
        })
        .collect()
}

/// Every pair of the selector must be there.
pub(crate) fn matches_labels(
    labels: &BTreeMap<String, String>,
    selector: &BTreeMap<String, String>,
) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn item(record: &SandboxRecord) -> Option<PodSandbox> {
    Some(PodSandbox {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        state: record.state.cri()?.into(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    })
}

/// Status of one sandbox and, if asked for, verbose information.
///
/// # Errors
/// NotFound, also while it is being made.
pub(crate) fn status(
    node: &Node,
    id: &str,
    verbose: bool,
) -> Result<(PodSandboxStatus, BTreeMap<String, String>)> {
    let sandbox = node.sandbox(id)?;
    let status = of(&sandbox.record()).ok_or_else(|| {
        crate::error::Error::not_found(format!("pod sandbox {id:?} is not there yet"))
    })?;
    let info = if verbose {
        verbose_info(&sandbox)
    } else {
        BTreeMap::new()
    };
    Ok((status, info))
}

/// The status of a sandbox; none while it is being made.
fn of(record: &SandboxRecord) -> Option<PodSandboxStatus> {
    let state = record.state.cri()?;
    let linux = record.config.linux.clone().unwrap_or_default();
    let options = linux
        .security_context
        .and_then(|context| context.namespace_options)
        .unwrap_or_default();
    Some(PodSandboxStatus {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        state: state.into(),
        created_at: record.created_at,
        network: Some(network(record)),
        linux: Some(LinuxPodSandboxStatus {
            namespaces: Some(Namespace {
                options: Some(options),
            }),
        }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    })
}

/// The status of a sandbox for those who listen to events; none of those that people made.
pub(crate) fn snapshot(node: &Node, id: &SandboxId) -> Option<PodSandboxStatus> {
    let record = node.sandbox(id.as_str()).ok()?.record();
    (record.made_by == MadeBy::Cri)
        .then(|| of(&record))
        .flatten()
}

fn network(record: &SandboxRecord) -> PodSandboxNetworkStatus {
    let mut addresses = record.state.addresses().iter().map(ToString::to_string);
    PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| PodIp { ip }).collect(),
    }
}

fn verbose_info(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let record = sandbox.record();
    let init = match &record.state {
        super::state::State::Ready { namespaces, .. } => namespaces.init.map_or(0, |p| p.pid),
        _ => 0,
    };
    let linux = record.config.linux.clone().unwrap_or_default();
    let resources = record.updated.clone().unwrap_or(PodResources {
        overhead: linux.overhead.unwrap_or_default(),
        resources: linux.resources.unwrap_or_default(),
    });
    let info = serde_json::json!({
        "resources": {
            "overhead": describe::resources(&resources.overhead),
            "resources": describe::resources(&resources.resources),
        },
        "pid": init,
        "record": &*record,
        "netNamespaceClosed": !record.state.is_ready(),
        "cgroupParent": record.cgroup_parent,
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
