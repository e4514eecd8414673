//! The names, what they mean and which labels they have.

use berth_proto::cri::{MetricDescriptor, MetricType};

/// Labels of every metric; a pod's own have neither container nor image.
const BASE: [&str; 5] = ["id", "image", "namespace", "pod", "container"];

/// A metric as dashboards know it.
#[derive(Debug)]
pub(super) struct Descriptor {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    /// Labels after those that all have.
    pub(super) labels: &'static [&'static str],
    help: &'static str,
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Descriptor {
    Descriptor {
        name,
        kind: MetricType::Counter,
        labels,
        help,
    }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Descriptor {
    Descriptor {
        name,
        kind: MetricType::Gauge,
        labels,
        help,
    }
}

/// All of them, by name.
pub(super) const ALL: [Descriptor; 58] = [
    counter(
        "container_blkio_device_usage_total",
        &["device", "major", "minor", "operation"],
        "Bytes that the container has read from and written to a block device.",
    ),
    counter(
        "container_cpu_cfs_periods_total",
        &[],
        "Periods in which a CPU quota was in force.",
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        &[],
        "Periods in which the CPU quota was used up.",
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        &[],
        "Time for which the container was held back by its CPU quota.",
    ),
    counter(
        "container_cpu_system_seconds_total",
        &[],
        "CPU time spent in the kernel.",
    ),
    counter(
        "container_cpu_usage_seconds_total",
        &["cpu"],
        "CPU time spent.",
    ),
    counter(
        "container_cpu_user_seconds_total",
        &[],
        "CPU time spent in programs.",
    ),
    gauge(
        "container_file_descriptors",
        &[],
        "Open file descriptors of all processes.",
    ),
    gauge(
        "container_fs_inodes_free",
        &["device"],
        "Inodes left on the file system of the writable layer.",
    ),
    gauge(
        "container_fs_inodes_total",
        &["device"],
        "Inodes of the file system of the writable layer.",
    ),
    gauge(
        "container_fs_limit_bytes",
        &["device"],
        "Size of the file system of the writable layer.",
    ),
    counter(
        "container_fs_reads_bytes_total",
        &["device"],
        "Bytes read from a block device.",
    ),
    counter(
        "container_fs_reads_total",
        &["device"],
        "Read requests to a block device.",
    ),
    gauge(
        "container_fs_usage_bytes",
        &["device"],
        "Bytes that the container has written to its layer and its own volumes.",
    ),
    counter(
        "container_fs_writes_bytes_total",
        &["device"],
        "Bytes written to a block device.",
    ),
    counter(
        "container_fs_writes_total",
        &["device"],
        "Write requests to a block device.",
    ),
    gauge(
        "container_hugetlb_max_usage_bytes",
        &["pagesize"],
        "The most bytes of huge pages used at one time.",
    ),
    gauge(
        "container_hugetlb_usage_bytes",
        &["pagesize"],
        "Bytes of huge pages in use.",
    ),
    gauge(
        "container_last_seen",
        &[],
        "When the container was last looked at, in Unix seconds.",
    ),
    gauge("container_memory_cache", &[], "Bytes of page cache."),
    counter(
        "container_memory_failcnt",
        &[],
        "How often the limit of memory was reached.",
    ),
    counter(
        "container_memory_failures_total",
        &["failure_type", "scope"],
        "Page faults.",
    ),
    gauge(
        "container_memory_kernel_usage",
        &[],
        "Bytes that the kernel holds for the container.",
    ),
    gauge(
        "container_memory_mapped_file",
        &[],
        "Bytes of files that are mapped.",
    ),
    gauge(
        "container_memory_max_usage_bytes",
        &[],
        "The most bytes of memory used at one time.",
    ),
    gauge("container_memory_rss", &[], "Bytes of anonymous memory."),
    gauge("container_memory_swap", &[], "Bytes that are swapped out."),
    gauge(
        "container_memory_total_active_file_bytes",
        &[],
        "Bytes of page cache that was used repeatedly of late.",
    ),
    gauge(
        "container_memory_total_inactive_file_bytes",
        &[],
        "Bytes of page cache that is dropped first.",
    ),
    gauge(
        "container_memory_usage_bytes",
        &[],
        "Bytes of memory in use, page cache included.",
    ),
    gauge(
        "container_memory_working_set_bytes",
        &[],
        "Bytes of memory without the page cache that is dropped first.",
    ),
    counter(
        "container_network_receive_bytes_total",
        &["interface"],
        "Bytes received.",
    ),
    counter(
        "container_network_receive_errors_total",
        &["interface"],
        "Damaged packets received.",
    ),
    counter(
        "container_network_receive_packets_dropped_total",
        &["interface"],
        "Packets received and dropped.",
    ),
    counter(
        "container_network_receive_packets_total",
        &["interface"],
        "Packets received.",
    ),
    counter(
        "container_network_transmit_bytes_total",
        &["interface"],
        "Bytes sent.",
    ),
    counter(
        "container_network_transmit_errors_total",
        &["interface"],
        "Packets that could not be sent.",
    ),
    counter(
        "container_network_transmit_packets_dropped_total",
        &["interface"],
        "Packets dropped before they were sent.",
    ),
    counter(
        "container_network_transmit_packets_total",
        &["interface"],
        "Packets sent.",
    ),
    counter(
        "container_oom_events_total",
        &[],
        "Processes that were killed for lack of memory.",
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        &[],
        "Time in which no task got on for want of CPU.",
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        &[],
        "Time in which a task waited for CPU.",
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        &[],
        "Time in which no task got on while waiting for input and output.",
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        &[],
        "Time in which a task waited for input and output.",
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        &[],
        "Time in which no task got on for want of memory.",
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        &[],
        "Time in which a task waited for memory.",
    ),
    gauge("container_processes", &[], "Processes in the container."),
    gauge("container_sockets", &[], "Open sockets of all processes."),
    gauge(
        "container_spec_cpu_period",
        &[],
        "Length of a period of the CPU quota in microseconds.",
    ),
    gauge(
        "container_spec_cpu_quota",
        &[],
        "CPU time in each period in microseconds.",
    ),
    gauge(
        "container_spec_cpu_shares",
        &[],
        "Weight of the container against others.",
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        &[],
        "Limit of memory; 0 for none.",
    ),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        &[],
        "Memory that is spared while memory is short; 0 for none.",
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        &[],
        "Limit of memory and swap together; 0 for none.",
    ),
    gauge(
        "container_start_time_seconds",
        &[],
        "When the container was started, in Unix seconds.",
    ),
    gauge("container_threads", &[], "Threads in the container."),
    gauge(
        "container_threads_max",
        &[],
        "Limit of threads; 0 for none.",
    ),
    gauge(
        "container_ulimits_soft",
        &["ulimit"],
        "Soft resource limits of the container's first process.",
    ),
];

/// The metric called `name`; the table is sorted.
pub(super) fn find(name: &str) -> Option<&'static Descriptor> {
    let at = ALL.binary_search_by(|one| one.name.cmp(name)).ok()?;
    ALL.get(at)
}

/// As CRI describes them.
pub(crate) fn descriptors() -> Vec<MetricDescriptor> {
    let all = ALL.iter().map(|one| MetricDescriptor {
        name: one.name.to_owned(),
        help: one.help.to_owned(),
        label_keys: BASE
            .iter()
            .chain(one.labels)
            .map(|&label| label.to_owned())
            .collect(),
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_none_is_there_twice() {
        assert!(ALL.is_sorted_by(|one, next| one.name < next.name));
        for one in &ALL {
            assert_eq!(find(one.name).unwrap().name, one.name);
            assert!(one.help.ends_with('.') && one.name.starts_with("container_"));
            // Named by others, and no sum in spite of its name.
            let sum = one.name != "container_fs_inodes_total";
            let total = sum && one.name.ends_with("_total") || one.name.ends_with("failcnt");
            assert_eq!(total, one.kind == MetricType::Counter, "{}", one.name);
        }
        assert!(find("container").is_none());
    }
}
