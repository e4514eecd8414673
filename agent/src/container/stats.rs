//! ContainerStats and ListContainerStats.

use std::{collections::HashMap, path::Path, sync::Arc};

use berth_cgroup::{Pressure, Stall, Stats};
use berth_proto::cri::{
    ContainerAttributes, ContainerFilter, ContainerStats, ContainerStatsFilter, CpuUsage,
    FilesystemIdentifier, FilesystemUsage, IoUsage, MemoryUsage, PsiData, PsiStats, SwapUsage,
    UInt64Value,
};

use super::Container;
use crate::{
    error::Result,
    ids::ContainerId,
    image::Counted,
    node::{Node, blocking, now},
    store::ContainerRecord,
};

/// What the writable layers occupy.
pub(crate) type Disk = HashMap<ContainerId, Counted>;

/// A sample for the rate of CPU use: when, in Unix nanoseconds, and the counter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CpuSample {
    at: i64,
    used: u64,
    /// As of then: nanoseconds of one core in each second.
    rate: Option<u64>,
}

/// Samples that are closer together say little: the counter moves with the ticks.
const LEAST_INTERVAL: i64 = 100_000_000;

impl CpuSample {
    /// Takes a further sample and returns the rate since the one before.
    fn next(&mut self, at: i64, used: u64) -> Option<u64> {
        let elapsed = at - self.at;
        if self.at != 0 && elapsed < LEAST_INTERVAL {
            return self.rate;
        }
        self.rate = (self.at != 0)
            .then(|| {
                let used = u128::from(used.checked_sub(self.used)?);
                let rate = used * 1_000_000_000 / u128::try_from(elapsed).ok()?;
                u64::try_from(rate).ok()
            })
            .flatten();
        (self.at, self.used) = (at, used);
        self.rate
    }
}

/// Resource use of one container.
///
/// # Errors
/// NotFound; Internal if the task dies.
pub(crate) async fn stats(node: &Arc<Node>, id: &str) -> Result<ContainerStats> {
    let container = node.container(id)?;
    let node = node.clone();
    blocking("read statistics", move || {
        let disk = node.images.writable.each(node.written_directories());
        Ok(of(&node, &container, &disk))
    })
    .await
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
        let disk = node.images.writable.each(node.written_directories());
        Ok(ids
            .iter()
            .filter_map(|item| node.container(&item.id).ok())
            .map(|container| of(&node, &container, &disk))
            .collect())
    })
    .await
}

/// Resource use of one container. Blocks.
pub(crate) fn of(node: &Node, container: &Container, disk: &Disk) -> ContainerStats {
    let record = container.record();
    let mut stats = ContainerStats {
        attributes: Some(attributes(&record)),
        writable_layer: Some(writable_layer(
            &node.dirs.container(&container.id),
            disk.get(&container.id),
        )),
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
    let rate = container.cpu_sample().next(timestamp, read.cpu_usage_ns);
    stats.cpu = Some(cpu(&read, timestamp, rate));
    stats.memory = Some(memory(&read, timestamp));
    stats.io = io(&read, timestamp);
    stats.swap = read.swap_usage.map(|used| SwapUsage {
        timestamp,
        swap_usage_bytes: value(used),
        swap_available_bytes: read
            .swap_limit
            .and_then(|limit| value(limit.saturating_sub(used))),
    });
    stats
}

/// CPU time of a group; `rate` in nanoseconds of one core per second.
pub(crate) fn cpu(read: &Stats, timestamp: i64, rate: Option<u64>) -> CpuUsage {
    CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(read.cpu_usage_ns),
        usage_nano_cores: rate.and_then(value),
        psi: read.cpu_pressure.map(pressure),
    }
}

/// Memory of a group.
pub(crate) fn memory(read: &Stats, timestamp: i64) -> MemoryUsage {
    let left = |limit: u64| limit.saturating_sub(read.memory_working_set);
    MemoryUsage {
        timestamp,
        working_set_bytes: value(read.memory_working_set),
        available_bytes: value(read.memory_limit.map_or(0, left)),
        usage_bytes: value(read.memory_usage),
        rss_bytes: value(read.memory_rss),
        page_faults: value(read.page_faults),
        major_page_faults: value(read.major_page_faults),
        psi: read.memory_pressure.map(pressure),
    }
}

/// Waiting of a group for input and output, where the kernel measures it.
pub(crate) fn io(read: &Stats, timestamp: i64) -> Option<IoUsage> {
    read.io_pressure.map(|read| IoUsage {
        timestamp,
        psi: Some(pressure(read)),
    })
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
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

/// The timestamp is that of the count, which may be some seconds old.
fn writable_layer(dir: &Path, counted: Option<&Counted>) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: counted.map_or_else(now, |counted| counted.timestamp),
        fs_id: Some(FilesystemIdentifier {
            mountpoint: dir.to_string_lossy().into_owned(),
        }),
        used_bytes: value(counted.map_or(0, |counted| counted.used.bytes)),
        inodes_used: value(counted.map_or(0, |counted| counted.used.inodes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_between_two_samples_that_are_far_enough_apart() {
        let second = 1_000_000_000;
        let mut sample = CpuSample::default();
        assert_eq!(sample.next(second, 50), None);
        assert_eq!(sample.next(second + 1, 60), None);
        assert_eq!(
            sample.next(3 * second, 50 + 1_000_000_000),
            Some(500_000_000)
        );
        assert_eq!(sample.next(3 * second + 1, u64::MAX), Some(500_000_000));
        // The clock was set back, or the counter is another's.
        assert_eq!(sample.next(5 * second, 0), None);
        assert_eq!(sample.next(6 * second, 7), Some(7));
    }
}
