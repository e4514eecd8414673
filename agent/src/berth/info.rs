//! What this node is and does.

use berth_proto::berth::v1::{InfoResponse, Operation};

use crate::{
    container::state::State,
    cri::VERSION,
    node::{Node, now},
};

pub(super) fn info(node: &Node) -> InfoResponse {
    let name = nix::sys::utsname::uname().ok();
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let pods = node.sandboxes();
    let containers = node.containers();
    let undone = node.facts.ledger_undone();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    InfoResponse {
        version: VERSION.to_owned(),
        hostname: text(name.as_ref().map(|name| name.nodename())),
        kernel: text(name.as_ref().map(|name| name.release())),
        architecture: text(name.as_ref().map(|name| name.machine())),
        cgroup_mode: node.layout.mode().name().to_owned(),
        cgroup_driver: "cgroupfs".to_owned(),
        root_dir: node.dirs.root.to_string_lossy().into_owned(),
        run_dir: node.dirs.run.to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism()
            .map_or(0, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX)),
        memory_bytes: memory_bytes().unwrap_or(0),
        pods_ready: count(
            pods.iter()
                .filter(|pod| pod.record().state.is_ready())
                .count(),
        ),
        pods: count(pods.len()),
        containers_running: count(
            containers
                .iter()
                .filter(|container| matches!(container.record().state, State::Running { .. }))
                .count(),
        ),
        containers: count(containers.len()),
        images: count(node.images.all().len()),
        shim_source: node.launcher.program().source().name().to_owned(),
        ledger_undone: undone.total(),
        ledger_undone_by_kind: undone
            .iter()
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
        warnings: node.facts.warnings.clone(),
        started_at: node.facts.started_at,
        labels: node.config.telemetry.resource.iter().cloned().collect(),
        proxies: berth_image::Proxies::from_env().describe(),
        kernel_features: node.facts.kernel.iter().map(Into::into).collect(),
    }
}

fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

pub(super) fn operations(node: &Node) -> Vec<Operation> {
    let at = now();
    let nanos = |time: std::time::Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    node.operations
        .list()
        .into_iter()
        .map(|operation| Operation {
            verb: operation.verb.name().to_owned(),
            object: operation.object,
            phase: operation
                .phase
                .map(|phase| phase.name().to_owned())
                .unwrap_or_default(),
            started_at: at - nanos(operation.since.elapsed().unwrap_or_default()),
            in_phase: nanos(operation.in_phase),
            waiters: operation.waiters,
        })
        .collect()
}
