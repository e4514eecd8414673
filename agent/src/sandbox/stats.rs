//! PodSandboxStats and ListPodSandboxStats.

use std::{collections::HashMap, os::fd::AsFd as _, sync::Arc};

use berth_cgroup::Stats;
use berth_network::LinkStats;
use berth_proto::cri::{
    LinuxPodSandboxStats, NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes,
    PodSandboxFilter, PodSandboxStats, PodSandboxStatsFilter, ProcessUsage, UInt64Value,
};

use super::Sandbox;
use crate::{
    container::stats::{self as container_stats, Disk},
    error::{Error, Result},
    ids::SandboxId,
    node::{Node, blocking, now},
    store::{MadeBy, SandboxRecord},
};

/// Resource use of one pod.
///
/// # Errors
/// NotFound; FailedPrecondition unless it is ready.
pub(crate) async fn stats(node: &Arc<Node>, id: &str) -> Result<PodSandboxStats> {
    let sandbox = node.sandbox(id)?;
    if !sandbox.record().state.is_ready() {
        return Err(Error::precondition(format!(
            "pod sandbox {} is not ready",
            sandbox.id.short()
        )));
    }
    let mut all = collect(node, vec![sandbox]).await?;
    all.pop()
        .ok_or_else(|| Error::not_found(format!("pod sandbox {id:?} has just been stopped")))
}

/// Resource use of every pod that is ready and matches.
///
/// # Errors
/// Internal if the task dies.
pub(crate) async fn list_stats(
    node: &Arc<Node>,
    filter: Option<PodSandboxStatsFilter>,
) -> Result<Vec<PodSandboxStats>> {
    let filter = filter.unwrap_or_default();
    let filter = PodSandboxFilter {
        id: filter.id,
        state: None,
        label_selector: filter.label_selector,
    };
    let listed = super::list(node, Some(&filter), false);
    let sandboxes = listed.iter().filter_map(|item| node.sandbox(&item.id).ok());
    collect(node, sandboxes.collect()).await
}

async fn collect(node: &Arc<Node>, sandboxes: Vec<Arc<Sandbox>>) -> Result<Vec<PodSandboxStats>> {
    let links = links(node, &sandboxes).await?;
    let node = node.clone();
    blocking("read statistics of pods", move || {
        let disk = node.images.writable.each(node.written_directories());
        Ok(sandboxes
            .iter()
            .filter(|sandbox| sandbox.record().state.is_ready())
            .map(|sandbox| of(&node, sandbox, links.get(&sandbox.id), &disk))
            .collect())
    })
    .await
}

fn of(
    node: &Node,
    sandbox: &Sandbox,
    link: Option<&(String, LinkStats)>,
    disk: &Disk,
) -> PodSandboxStats {
    let record = sandbox.record();
    let mut containers = Vec::new();
    let mut sum = Stats::default();
    for container in node.containers_of(&record.id) {
        let own = container.record();
        if !own.state.may_live() || own.state.cri().is_none() {
            continue;
        }
        containers.push(container_stats::of(node, &container, disk));
        if let Some(read) = crate::cgroup::stats(&node.layout, &own.cgroup) {
            add(&mut sum, &read);
        }
    }
    let processes = sum.pids;
    let read = group_of_its_own(node, &record)
        .and_then(|path| crate::cgroup::stats(&node.layout, path))
        .unwrap_or(sum);
    let timestamp = now();
    PodSandboxStats {
        attributes: Some(attributes(&record)),
        linux: Some(LinuxPodSandboxStats {
            cpu: Some(container_stats::cpu(&read, timestamp, None)),
            memory: Some(container_stats::memory(&read, timestamp)),
            io: container_stats::io(&read, timestamp),
            network: link.map(|(name, link)| network(name, link, timestamp)),
            process: Some(ProcessUsage {
                timestamp,
                process_count: value(processes),
            }),
            containers,
        }),
        windows: None,
    }
}

/// The group that a kubelet has made for this pod alone. One that several pods share, such
/// as the default, says nothing of any of them.
fn group_of_its_own<'a>(node: &Node, record: &'a SandboxRecord) -> Option<&'a str> {
    let path = record.cgroup_parent.as_str();
    let default = path == node.config.cgroup_parent();
    let shared = node.sandboxes().iter().any(|other| {
        let other = other.record();
        other.id != record.id && other.cgroup_parent == path && other.state.is_ready()
    });
    (!default && !shared).then_some(path)
}

fn add(sum: &mut Stats, read: &Stats) {
    sum.cpu_usage_ns += read.cpu_usage_ns;
    sum.memory_usage += read.memory_usage;
    sum.memory_working_set += read.memory_working_set;
    sum.memory_rss += read.memory_rss;
    sum.page_faults += read.page_faults;
    sum.major_page_faults += read.major_page_faults;
    sum.pids += read.pids;
}

fn attributes(record: &SandboxRecord) -> PodSandboxAttributes {
    PodSandboxAttributes {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
    }
}

fn network(name: &str, link: &LinkStats, timestamp: i64) -> NetworkUsage {
    let usage = NetworkInterfaceUsage {
        name: name.to_owned(),
        rx_bytes: value(link.rx_bytes),
        rx_errors: value(link.rx_errors),
        tx_bytes: value(link.tx_bytes),
        tx_errors: value(link.tx_errors),
    };
    NetworkUsage {
        timestamp,
        default_interface: Some(usage.clone()),
        // All of them, as other runtimes tell it, though the name says otherwise.
        interfaces: vec![usage],
    }
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// The interface of each pod that has one, and its counters as the pod sees them.
///
/// # Errors
/// Internal if the task dies. Counters that cannot be read are missing.
pub(crate) async fn links(
    node: &Arc<Node>,
    sandboxes: &[Arc<Sandbox>],
) -> Result<HashMap<SandboxId, (String, LinkStats)>> {
    let mut names = Vec::new();
    for sandbox in sandboxes {
        let record = sandbox.record();
        let network = record.state.network().filter(|network| !network.host);
        let Some(network) = network.filter(|_| record.state.is_ready()) else {
            continue;
        };
        // Of a link that others made, the node's end is not known.
        let namespace = if network.host_interface.is_empty() {
            let pod = node.launcher.open_pod(sandbox.id.as_str()).await;
            pod.ok().and_then(|pod| pod.net)
        } else {
            None
        };
        let (inside, outside) = (network.interface.clone(), network.host_interface.clone());
        names.push((sandbox.id.clone(), inside, outside, namespace));
    }
    blocking("read counters of links", move || {
        let own = berth_network::own_link_stats().unwrap_or_else(|error| {
            tracing::warn!(%error, "counters of links cannot be read");
            Default::default()
        });
        let found = names
            .into_iter()
            .filter_map(|(id, inside, outside, namespace)| {
                let counted = match namespace {
                    Some(namespace) => berth_network::link_stats(namespace.as_fd(), &inside)
                        .ok()
                        .flatten(),
                    None => own.get(&outside).map(|stats| stats.reversed()),
                };
                Some((id, (inside, counted?)))
            });
        Ok(found.collect())
    })
    .await
}

/// Whether a pod is one that CRI's callers are told of.
pub(crate) fn is_told(node: &Node, sandbox: &Sandbox) -> bool {
    let record = sandbox.record();
    record.made_by == MadeBy::Cri
        && record.state.is_ready()
        && !node.operations.is_unclaimed(sandbox.id.as_str())
}
