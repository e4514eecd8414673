//! Where the values come from.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use berth_cgroup::{DeviceIo, Pressure, Stall};
use berth_network::LinkStats;
use berth_proto::cri::{ContainerMetrics, Metric, PodSandboxMetrics, UInt64Value};

use super::{
    descriptor,
    process::{Open, open_files_limit},
};
use crate::{
    cgroup::InDetail,
    container::{Container, state::State, stats::Disk},
    node::{Node, now},
    sandbox::Sandbox,
};

/// What the kernel calls no quota's period, and no weight, in microseconds and v1's unit.
const DEFAULT_PERIOD: i64 = 100_000;
const DEFAULT_SHARES: i64 = 1024;

/// What all pods have in common.
pub(super) struct Ground<'a> {
    node: &'a Node,
    disk: Disk,
    /// The file system of writable layers: its device, and its size.
    device: String,
    size: Option<nix::sys::statvfs::Statvfs>,
    /// In Unix nanoseconds.
    at: i64,
}

impl<'a> Ground<'a> {
    /// Reads it. Blocks.
    pub(super) fn of(node: &'a Node) -> Self {
        let root = &node.dirs.root;
        Self {
            node,
            disk: node.images.writable.each(node.written_directories()),
            device: fs::metadata(root)
                .map(|metadata| device_name(metadata.dev()))
                .unwrap_or_default(),
            size: nix::sys::statvfs::statvfs(root.as_path()).ok(),
            at: now(),
        }
    }

    /// The metrics of a pod and of its containers that run.
    pub(super) fn pod(
        &self,
        sandbox: &Sandbox,
        link: Option<&(String, LinkStats)>,
    ) -> PodSandboxMetrics {
        let record = sandbox.record();
        let metadata = record.config.metadata.clone().unwrap_or_default();
        let of_pod = [metadata.namespace, metadata.name];
        let mut own = Rows::new(record.id.as_str(), "", &of_pod, "", self.at);
        if let Some((interface, link)) = link {
            own.network(interface, link);
        }
        let containers = self.node.containers_of(&record.id);
        let running = containers.iter().filter(|container| {
            matches!(
                container.record().state,
                State::Running { .. } | State::Paused { .. }
            )
        });
        PodSandboxMetrics {
            pod_sandbox_id: record.id.to_string(),
            metrics: own.list,
            container_metrics: running
                .filter_map(|container| self.container(container, &of_pod))
                .collect(),
        }
    }

    fn container(&self, container: &Container, of_pod: &[String; 2]) -> Option<ContainerMetrics> {
        let record = container.record();
        // It may have ended since it was looked at.
        let read = crate::cgroup::details(&self.node.layout, &record.cgroup)?;
        let name = record.config.metadata.clone().unwrap_or_default().name;
        let image = self.node.images.shown_name(&record);
        let mut rows = Rows::new(record.id.as_str(), &image, of_pod, &name, self.at);
        rows.cpu(&read);
        rows.memory(&read);
        rows.pressure(&read);
        rows.io(&read.details.io);
        rows.file_system(self, container);
        rows.processes(&read, record.state.processes().map(|all| all.init.pid));
        rows.limits(&record.resources);
        let started = u64::try_from(record.state.started_at() / 1_000_000_000).unwrap_or(0);
        rows.add("container_start_time_seconds", started);
        rows.add(
            "container_last_seen",
            u64::try_from(self.at / 1_000_000_000).unwrap_or(0),
        );
        Some(ContainerMetrics {
            container_id: record.id.to_string(),
            metrics: rows.list,
        })
    }
}

/// The metrics of one object.
struct Rows {
    base: [String; 5],
    at: i64,
    list: Vec<Metric>,
}

impl Rows {
    fn new(id: &str, image: &str, of_pod: &[String; 2], container: &str, at: i64) -> Self {
        let [namespace, pod] = of_pod.clone();
        Self {
            base: [
                id.to_owned(),
                image.to_owned(),
                namespace,
                pod,
                container.to_owned(),
            ],
            at,
            list: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, value: u64) {
        self.with(name, &[], value);
    }

    /// With the values of the labels that only this metric has.
    fn with(&mut self, name: &str, labels: &[&str], value: u64) {
        // A kubelet drops what is not described, and what has other labels.
        let known = descriptor::find(name).filter(|one| one.labels.len() == labels.len());
        debug_assert!(known.is_some(), "{name} {labels:?}");
        let Some(known) = known else { return };
        let label_values = self.base.iter().cloned();
        self.list.push(Metric {
            name: known.name.to_owned(),
            timestamp: self.at,
            metric_type: known.kind.into(),
            label_values: label_values
                .chain(labels.iter().map(|&label| label.to_owned()))
                .collect(),
            value: Some(UInt64Value { value }),
        });
    }

    fn seconds(&mut self, name: &str, nanoseconds: u64) {
        self.add(name, nanoseconds / 1_000_000_000);
    }

    fn cpu(&mut self, read: &InDetail) {
        let stats = &read.stats;
        self.with(
            "container_cpu_usage_seconds_total",
            &["total"],
            stats.cpu_usage_ns / 1_000_000_000,
        );
        self.seconds("container_cpu_user_seconds_total", stats.cpu_user_ns);
        self.seconds("container_cpu_system_seconds_total", stats.cpu_system_ns);
        self.add("container_cpu_cfs_periods_total", stats.cpu_periods);
        self.add(
            "container_cpu_cfs_throttled_periods_total",
            stats.cpu_throttled_periods,
        );
        self.seconds(
            "container_cpu_cfs_throttled_seconds_total",
            stats.cpu_throttled_ns,
        );
    }

    fn memory(&mut self, read: &InDetail) {
        let (stats, details) = (&read.stats, &read.details);
        for (name, value) in [
            ("container_memory_cache", details.memory_cache),
            ("container_memory_failcnt", details.memory_failures),
            // Kernels that do not count it hold nothing that they know of.
            (
                "container_memory_kernel_usage",
                details.memory_kernel.unwrap_or(0),
            ),
            ("container_memory_mapped_file", details.memory_mapped_file),
            (
                "container_memory_max_usage_bytes",
                read.memory_peak.unwrap_or(stats.memory_usage),
            ),
            ("container_memory_rss", stats.memory_rss),
            ("container_memory_swap", details.memory_swap),
            (
                "container_memory_total_active_file_bytes",
                details.memory_active_file,
            ),
            (
                "container_memory_total_inactive_file_bytes",
                details.memory_inactive_file,
            ),
            ("container_memory_usage_bytes", stats.memory_usage),
            (
                "container_memory_working_set_bytes",
                stats.memory_working_set,
            ),
            ("container_oom_events_total", read.oom_kills),
            (
                "container_spec_memory_reservation_limit_bytes",
                details.memory_reservation.unwrap_or(0),
            ),
        ] {
            self.add(name, value);
        }
        let faults = "container_memory_failures_total";
        self.with(faults, &["pgfault", "container"], details.own_page_faults);
        self.with(faults, &["pgfault", "hierarchy"], stats.page_faults);
        let major = details.own_major_page_faults;
        self.with(faults, &["pgmajfault", "container"], major);
        self.with(
            faults,
            &["pgmajfault", "hierarchy"],
            stats.major_page_faults,
        );
        for page in &details.hugepages {
            let size = [page.size.as_str()];
            self.with("container_hugetlb_usage_bytes", &size, page.usage);
            if let Some(most) = page.most {
                self.with("container_hugetlb_max_usage_bytes", &size, most);
            }
        }
    }

    fn pressure(&mut self, read: &InDetail) {
        let stats = &read.stats;
        for (what, pressure) in [
            ("cpu", stats.cpu_pressure),
            ("memory", stats.memory_pressure),
            ("io", stats.io_pressure),
        ] {
            let Some(Pressure { some, full }) = pressure else {
                continue;
            };
            let mut tell = |how: &str, stall: Stall| {
                let name = format!("container_pressure_{what}_{how}_seconds_total");
                self.seconds(&name, stall.total_ns);
            };
            tell("waiting", some);
            tell("stalled", full);
        }
    }

    fn io(&mut self, devices: &[DeviceIo]) {
        for io in devices {
            let name = device_name(nix::sys::stat::makedev(io.major.into(), io.minor.into()));
            let device = [name.as_str()];
            self.with("container_fs_reads_bytes_total", &device, io.read_bytes);
            self.with("container_fs_reads_total", &device, io.reads);
            self.with("container_fs_writes_bytes_total", &device, io.write_bytes);
            self.with("container_fs_writes_total", &device, io.writes);
            let numbers = (io.major.to_string(), io.minor.to_string());
            for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
                self.with(
                    "container_blkio_device_usage_total",
                    &[&name, &numbers.0, &numbers.1, operation],
                    bytes,
                );
            }
        }
    }

    fn file_system(&mut self, ground: &Ground<'_>, container: &Container) {
        let device = [ground.device.as_str()];
        let used = ground.disk.get(&container.id);
        let used = used.map_or(0, |counted| counted.used.bytes);
        self.with("container_fs_usage_bytes", &device, used);
        let Some(size) = &ground.size else { return };
        let bytes = size.blocks().saturating_mul(size.fragment_size());
        self.with("container_fs_limit_bytes", &device, bytes);
        self.with("container_fs_inodes_total", &device, size.files());
        self.with("container_fs_inodes_free", &device, size.files_free());
    }

    fn processes(&mut self, read: &InDetail, init: Option<i32>) {
        let count = u64::try_from(read.processes.len()).unwrap_or(u64::MAX);
        self.add("container_processes", count);
        self.add("container_threads", read.stats.pids);
        let most = read.stats.pids_limit.unwrap_or(0);
        self.add("container_threads_max", most);
        let open = Open::of(&read.processes);
        self.add("container_file_descriptors", open.descriptors);
        self.add("container_sockets", open.sockets);
        if let Some(limit) = init.and_then(open_files_limit) {
            self.with("container_ulimits_soft", &["max_open_files"], limit);
        }
    }

    fn limits(&mut self, given: &berth_proto::cri::LinuxContainerResources) {
        // Nothing given, or without limit.
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        let or = |value: i64, default: i64| number(if value > 0 { value } else { default });
        self.add(
            "container_spec_cpu_period",
            or(given.cpu_period, DEFAULT_PERIOD),
        );
        self.add(
            "container_spec_cpu_shares",
            or(given.cpu_shares, DEFAULT_SHARES),
        );
        if given.cpu_quota > 0 {
            self.add("container_spec_cpu_quota", number(given.cpu_quota));
        }
        self.add(
            "container_spec_memory_limit_bytes",
            number(given.memory_limit_in_bytes),
        );
        self.add(
            "container_spec_memory_swap_limit_bytes",
            number(given.memory_swap_limit_in_bytes),
        );
    }

    fn network(&mut self, interface: &str, link: &LinkStats) {
        for (name, value) in [
            ("receive_bytes", link.rx_bytes),
            ("receive_errors", link.rx_errors),
            ("receive_packets_dropped", link.rx_dropped),
            ("receive_packets", link.rx_packets),
            ("transmit_bytes", link.tx_bytes),
            ("transmit_errors", link.tx_errors),
            ("transmit_packets_dropped", link.tx_dropped),
            ("transmit_packets", link.tx_packets),
        ] {
            let name = format!("container_network_{name}_total");
            self.with(&name, &[interface], value);
        }
    }
}

/// `/dev/NAME` of a block device, else its numbers.
fn device_name(device: u64) -> String {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let numbers = format!("{major}:{minor}");
    let link = Path::new("/sys/dev/block").join(&numbers);
    match fs::read_link(link)
        .ok()
        .as_deref()
        .and_then(Path::file_name)
    {
        Some(name) => PathBuf::from("/dev").join(name).display().to_string(),
        None => numbers,
    }
}
