//! ContainerStats and ListContainerStats.

use std::{path::Path, sync::Arc};

use berth_cgroup::{Pressure, Stall};
use berth_proto::cri::{
    ContainerAttributes, ContainerFilter, ContainerStats, ContainerStatsFilter, CpuUsage,
    FilesystemIdentifier, FilesystemUsage, IoUsage, MemoryUsage, PsiData, PsiStats, SwapUsage,
    UInt64Value,
};

use super::{Container, files};
use crate::{
    error::Result,
    node::{Node, blocking, now},
    store::ContainerRecord,
};

/// Resource use of one container.
///
/// # Errors
/// NotFound; Internal if the kernel's figures cannot be read.
pub(crate) async fn stats(node: &Arc<Node>, id: &str) -> Result<ContainerStats> {
    let container = node.container(id)?;
    let node = node.clone();
    blocking("read statistics", move || Ok(of(&node, &container))).await
}

/// Resource use of every container that matches.
///
/// # Errors
/// Internal if the task dies.
pub(crate) async fn list_stats(
    node: &Arc<Node>,
    filter: Option<ContainerStatsFilter>,
) -> Result<Vec<ContainerStats>> {
    let filter = filter.unwrap_or_default();
    let filter = ContainerFilter {
        id: filter.id,
        pod_sandbox_id: filter.pod_sandbox_id,
        label_selector: filter.label_selector,
        state: None,
    };
    let ids = super::list(node, Some(&filter), false);
    let node = node.clone();
    blocking("read statistics", move || {
        Ok(ids
            .iter()
            .filter_map(|item| node.container(&item.id).ok())
            .map(|container| of(&node, &container))
            .collect())
    })
    .await
}

fn of(node: &Node, container: &Container) -> ContainerStats {
    let record = container.record();
    let mut stats = ContainerStats {
        attributes: Some(attributes(&record)),
        writable_layer: Some(writable_layer(&node.dirs.container(&container.id))),
        ..ContainerStats::default()
    };
    if !record.state.may_live() {
        return stats;
    }
    // A container may end between the look at its state and this.
    let Some(read) = crate::cgroup::stats(&node.layout, &record.cgroup) else {
        return stats;
    };
    let timestamp = now();
    let value = |value: u64| Some(UInt64Value { value });
    stats.cpu = Some(CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(read.cpu_usage_ns),
        psi: read.cpu_pressure.map(pressure),
        ..CpuUsage::default()
    });
    let limit = read.memory_limit;
    stats.memory = Some(MemoryUsage {
        timestamp,
        working_set_bytes: value(read.memory_working_set),
        available_bytes: value(limit.map_or(0, |l| l.saturating_sub(read.memory_working_set))),
        usage_bytes: value(read.memory_usage),
        rss_bytes: value(read.memory_rss),
        page_faults: value(read.page_faults),
        major_page_faults: value(read.major_page_faults),
        psi: read.memory_pressure.map(pressure),
    });
    stats.io = read.io_pressure.map(|read| IoUsage {
        timestamp,
        psi: Some(pressure(read)),
    });
    stats.swap = read.swap_usage.map(|used| SwapUsage {
        timestamp,
        swap_usage_bytes: value(used),
        swap_available_bytes: None,
    });
    stats
}

/// Nanoseconds and per cent, as a kubelet passes them on.
fn pressure(read: Pressure) -> PsiStats {
    let data = |stall: Stall| PsiData {
        total: stall.total_ns,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    PsiStats {
        full: Some(data(read.full)),
        some: Some(data(read.some)),
    }
}

fn attributes(record: &ContainerRecord) -> ContainerAttributes {
    ContainerAttributes {
        id: record.id.to_string(),
        metadata: record.config.metadata.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
    }
}

fn writable_layer(dir: &Path) -> FilesystemUsage {
    let (bytes, inodes) = usage(&dir.join(files::UPPER));
    FilesystemUsage {
        timestamp: now(),
        fs_id: Some(FilesystemIdentifier {
            mountpoint: dir.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(UInt64Value { value: bytes }),
        inodes_used: Some(UInt64Value { value: inodes }),
    }
}

/// Bytes allocated and inodes below `dir`. The tree is the container's, so links
/// are not followed.
fn usage(dir: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let (mut bytes, mut inodes) = (0, 0);
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(dir) else {
            continue;
        };
        for entry in entries.flatten() {
            // What vanishes meanwhile is not counted.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            inodes += 1;
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}
