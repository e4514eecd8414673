//! Which files a set of limits is written to, in which order. Pure.

use crate::{Error, Resources};

/// How a controller's files are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One value to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) controller: String,
    pub(crate) file: String,
    pub(crate) value: String,
    /// Without the file the limit is left out and reported, instead of failing:
    /// nodes without swap accounting or huge pages are told such limits anyway.
    pub(crate) optional: bool,
    /// The field that asked for it.
    pub(crate) field: &'static str,
    /// File and value to be used where the first file does not exist.
    pub(crate) instead: Option<(String, String)>,
}

/// What an update needs to know of the present limits; a new group's are the default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Current {
    /// Bytes; `None` for no limit.
    pub(crate) memory: Option<u64>,
    /// Bytes of memory and swap together (v1); `None` for no limit.
    pub(crate) memory_and_swap: Option<u64>,
    /// Microseconds; 0 where unknown.
    pub(crate) period: u64,
    /// Microseconds; `None` for no limit.
    pub(crate) quota: Option<u64>,
}

struct Plan(Vec<Write>);

impl Plan {
    fn add(&mut self, field: &'static str, file: &str, value: impl ToString) {
        self.push(field, file, value, false);
    }

    fn optional(&mut self, field: &'static str, file: &str, value: impl ToString) {
        self.push(field, file, value, true);
    }

    fn push(&mut self, field: &'static str, file: &str, value: impl ToString, optional: bool) {
        let (controller, _) = file.split_once('.').unwrap_or((file, ""));
        self.0.push(Write {
            controller: controller.to_owned(),
            file: file.to_owned(),
            value: value.to_string(),
            optional,
            field,
            instead: None,
        });
    }
}

/// The writes for `resources`, devices excepted. `version` says where each
/// controller is: on a hybrid node they differ.
pub(crate) fn plan(
    resources: &Resources,
    current: &Current,
    version: impl Fn(&str) -> Version,
) -> Result<Vec<Write>, Error> {
    let mut plan = Plan(Vec::new());
    match version("cpu") {
        Version::V1 => cpu_v1(resources, current, &mut plan),
        Version::V2 => cpu_v2(resources, current, &mut plan)?,
    }
    let block = match version("blkio") {
        Version::V1 => resources.block_io.v1(),
        Version::V2 => resources.block_io.v2()?,
    };
    for write in block {
        plan.add(write.field, write.file, write.value);
        if let (Some(last), Some((file, value))) = (plan.0.last_mut(), write.instead) {
            last.instead = Some((file.to_owned(), value));
        }
    }
    // Both versions call them the same.
    for (file, field, list) in [
        ("cpuset.mems", "cpuset_mems", &resources.cpuset_mems),
        ("cpuset.cpus", "cpuset_cpus", &resources.cpuset_cpus),
    ] {
        if !list.is_empty() {
            plan.add(field, file, list);
        }
    }
    match version("memory") {
        Version::V1 => memory_v1(resources, current, &mut plan),
        Version::V2 => memory_v2(resources, current, &mut plan)?,
    }
    if let Some(limit) = resources.pids_limit {
        plan.add("pids_limit", "pids.max", max_or(limit));
    }
    for huge in &resources.hugepages {
        let suffix = match version("hugetlb") {
            Version::V1 => "limit_in_bytes",
            Version::V2 => "max",
        };
        // Reservations are counted apart; without a limit on them an mmap succeeds
        // and the process dies by SIGBUS at first touch.
        for kind in ["", "rsvd."] {
            let file = format!("hugetlb.{}.{kind}{suffix}", huge.size);
            plan.optional("hugepages", &file, huge.limit);
        }
    }
    for (key, value) in &resources.unified {
        plan.add("unified", key, value);
    }
    Ok(plan.0)
}

fn max_or(limit: i64) -> String {
    if limit == -1 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

/// An idle group has no weight that could be set: it ceases to be idle first, and
/// becomes it last.
fn idle(resources: &Resources, plan: &mut Plan, before: bool) {
    match resources.cpu_idle {
        // Before Linux 5.15 nothing is idle anyway.
        Some(false) if before => plan.optional("cpu_idle", "cpu.idle", 0),
        Some(true) if !before => plan.add("cpu_idle", "cpu.idle", 1),
        _ => {}
    }
}

/// The burst may at no time be above the quota. Returns whether it is to be written
/// before the quota: it fits below the present one.
fn burst_first(resources: &Resources, current: &Current) -> bool {
    match (resources.cpu_burst, current.quota) {
        (Some(burst), Some(quota)) => burst <= quota,
        _ => true,
    }
}

fn burst(resources: &Resources, file: &str, plan: &mut Plan) {
    match resources.cpu_burst {
        None => {}
        // Before Linux 5.14 there is none anyway.
        Some(0) => plan.optional("cpu_burst", file, 0),
        Some(burst) => plan.add("cpu_burst", file, burst),
    }
}

fn cpu_v1(resources: &Resources, current: &Current, plan: &mut Plan) {
    idle(resources, plan, true);
    if let Some(shares) = resources.cpu_shares {
        plan.add("cpu_shares", "cpu.shares", shares);
    }
    let period = resources
        .cpu_period
        .map(|period| ("cpu_period", "cpu.cfs_period_us", period.to_string()));
    let quota = resources
        .cpu_quota
        .map(|quota| ("cpu_quota", "cpu.cfs_quota_us", quota.to_string()));
    // A group's share of a period may not exceed its parent's, not even between the
    // two writes. A longer period first, or a shorter one last, never raises the
    // share above the larger of the old and the new one.
    let longer = resources
        .cpu_period
        .is_some_and(|period| period >= current.period);
    let (first, second) = if longer {
        (period, quota)
    } else {
        (quota, period)
    };
    let early = burst_first(resources, current);
    if early {
        burst(resources, "cpu.cfs_burst_us", plan);
    }
    for (field, file, value) in first.into_iter().chain(second) {
        plan.add(field, file, value);
    }
    if !early {
        burst(resources, "cpu.cfs_burst_us", plan);
    }
    if let Some(period) = resources.cpu_rt_period {
        plan.add("cpu_rt_period", "cpu.rt_period_us", period);
    }
    if let Some(runtime) = resources.cpu_rt_runtime {
        plan.add("cpu_rt_runtime", "cpu.rt_runtime_us", runtime);
    }
    idle(resources, plan, false);
}

fn cpu_v2(resources: &Resources, current: &Current, plan: &mut Plan) -> Result<(), Error> {
    for (field, value) in [
        (
            "cpu_rt_period",
            resources.cpu_rt_period.map(|us| us.to_string()),
        ),
        (
            "cpu_rt_runtime",
            resources.cpu_rt_runtime.map(|us| us.to_string()),
        ),
    ] {
        if let Some(value) = value {
            let allowed = "nothing: cgroup v2 has no limits of real-time processes";
            return Err(Error::invalid(field, value, allowed));
        }
    }
    idle(resources, plan, true);
    if let Some(shares) = resources.cpu_shares {
        plan.add("cpu_shares", "cpu.weight", weight(shares));
    }
    let early = burst_first(resources, current);
    if early {
        burst(resources, "cpu.max.burst", plan);
    }
    bandwidth_v2(resources, current, plan);
    if !early {
        burst(resources, "cpu.max.burst", plan);
    }
    idle(resources, plan, false);
    Ok(())
}

fn bandwidth_v2(resources: &Resources, current: &Current, plan: &mut Plan) {
    if resources.cpu_quota.is_none() && resources.cpu_period.is_none() {
        return;
    }
    let field = if resources.cpu_quota.is_some() {
        "cpu_quota"
    } else {
        "cpu_period"
    };
    let quota = match resources.cpu_quota {
        Some(quota) => max_or(quota),
        None => current
            .quota
            .map_or("max".to_owned(), |quota| quota.to_string()),
    };
    match resources.cpu_period {
        Some(period) => plan.add(field, "cpu.max", format!("{quota} {period}")),
        // One number leaves the period as it is.
        None => plan.add(field, "cpu.max", quota),
    }
}

/// v2's weight for v1's shares: 2, 1024 and 262144 become 1, 100 and 10000, the
/// ends and the defaults of both scales, and a curve through the three lies between.
/// (The older, linear conversion turned the default of 1024 into 39, so that a
/// container with default shares lost against everything with the default weight.)
pub(crate) fn weight(shares: u64) -> u64 {
    // log10(weight) is the parabola in log2(shares) through (1, 0), (10, 2), (18, 4).
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // Rounding errors must not lift a whole number to the next.
    let weight = (10_f64.powf(exponent) - 1e-6).ceil();
    (weight as u64).clamp(1, 10_000)
}

fn memory_v1(resources: &Resources, current: &Current, plan: &mut Plan) {
    let limit = resources
        .memory_limit
        .map(|limit| ("memory_limit", "memory.limit_in_bytes", limit));
    let mut both = resources
        .memory_swap_limit
        .map(|both| ("memory_swap_limit", "memory.memsw.limit_in_bytes", both));
    if resources.memory_limit == Some(-1) && both.is_none() && current.memory_and_swap.is_some() {
        // Unlimited memory below a limit of both together would be no change at all.
        both = Some(("memory_limit", "memory.memsw.limit_in_bytes", -1));
    }
    // The limit of both together may never be below that of memory alone, so that
    // goes first which makes room.
    let raised = match (resources.memory_limit, current.memory_and_swap) {
        (Some(-1), Some(_)) => true,
        (Some(limit), Some(now)) => u64::try_from(limit).is_ok_and(|limit| limit > now),
        _ => false,
    };
    let add_limit = |plan: &mut Plan| {
        if let Some((field, file, value)) = limit {
            plan.add(field, file, value);
        }
    };
    if !raised {
        add_limit(plan);
    }
    if let Some((field, file, value)) = both {
        plan.optional(field, file, value);
    }
    if raised {
        add_limit(plan);
    }
    if let Some(reservation) = resources.memory_reservation {
        plan.add(
            "memory_reservation",
            "memory.soft_limit_in_bytes",
            reservation,
        );
    }
}

fn memory_v2(resources: &Resources, current: &Current, plan: &mut Plan) -> Result<(), Error> {
    // v2 limits swap alone; without the other half the sum has no meaning.
    let limit = match resources.memory_limit {
        Some(limit) => u64::try_from(limit).ok(),
        None => current.memory,
    };
    let swap = match (resources.memory_swap_limit, limit) {
        (None, _) => None,
        (Some(-1), _) => Some("max".to_owned()),
        (Some(both), Some(limit)) => {
            let swap = u64::try_from(both)
                .ok()
                .and_then(|both| both.checked_sub(limit));
            let swap = swap.ok_or_else(|| {
                let allowed = format!("-1, or at least the memory limit ({limit} bytes)");
                Error::invalid("memory_swap_limit", both, allowed)
            })?;
            Some(swap.to_string())
        }
        (Some(both), None) => {
            let allowed = "-1 while memory is not limited";
            return Err(Error::invalid("memory_swap_limit", both, allowed));
        }
    };
    if let Some(swap) = swap {
        plan.optional("memory_swap_limit", "memory.swap.max", swap);
    }
    if let Some(limit) = resources.memory_limit {
        plan.add("memory_limit", "memory.max", max_or(limit));
    }
    if let Some(reservation) = resources.memory_reservation {
        plan.add("memory_reservation", "memory.low", max_or(reservation));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hugepage;

    fn writes(resources: &Resources, current: &Current, version: Version) -> Vec<String> {
        plan(resources, current, |_| version)
            .unwrap()
            .iter()
            .map(|write| format!("{}={}", write.file, write.value))
            .collect()
    }

    fn full() -> Resources {
        Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory_limit: Some(64 << 20),
            memory_swap_limit: Some(96 << 20),
            memory_reservation: Some(32 << 20),
            pids_limit: Some(100),
            cpuset_cpus: "0-1".to_owned(),
            cpuset_mems: "0".to_owned(),
            hugepages: vec![Hugepage {
                size: "2MB".to_owned(),
                limit: 0,
            }],
            unified: vec![("memory.oom.group".to_owned(), "1".to_owned())],
            ..Resources::default()
        }
    }

    #[test]
    fn the_v1_spelling_of_everything() {
        let mut resources = full();
        resources.unified.clear();
        assert_eq!(
            writes(&resources, &Current::default(), Version::V1),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpuset.mems=0",
                "cpuset.cpus=0-1",
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=100663296",
                "memory.soft_limit_in_bytes=33554432",
                "pids.max=100",
                "hugetlb.2MB.limit_in_bytes=0",
                "hugetlb.2MB.rsvd.limit_in_bytes=0",
            ]
        );
    }

    #[test]
    fn the_v2_spelling_of_everything_ends_with_unified() {
        assert_eq!(
            writes(&full(), &Current::default(), Version::V2),
            [
                "cpu.weight=100",
                "cpu.max=50000 100000",
                "cpuset.mems=0",
                "cpuset.cpus=0-1",
                "memory.swap.max=33554432",
                "memory.max=67108864",
                "memory.low=33554432",
                "pids.max=100",
                "hugetlb.2MB.max=0",
                "hugetlb.2MB.rsvd.max=0",
                "memory.oom.group=1",
            ]
        );
    }

    #[test]
    fn no_limits_are_spelled_as_each_version_wants() {
        let resources = Resources {
            cpu_quota: Some(-1),
            memory_limit: Some(-1),
            memory_swap_limit: Some(-1),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        assert_eq!(
            writes(&resources, &Current::default(), Version::V1),
            [
                "cpu.cfs_quota_us=-1",
                "memory.limit_in_bytes=-1",
                "memory.memsw.limit_in_bytes=-1",
                "pids.max=max",
            ]
        );
        assert_eq!(
            writes(&resources, &Current::default(), Version::V2),
            [
                "cpu.max=max",
                "memory.swap.max=max",
                "memory.max=max",
                "pids.max=max"
            ]
        );
        assert!(writes(&Resources::default(), &Current::default(), Version::V2).is_empty());
    }

    #[test]
    fn whichever_makes_room_is_written_first() {
        let now = Current {
            memory: Some(1 << 20),
            memory_and_swap: Some(2 << 20),
            period: 100_000,
            quota: Some(50_000),
        };
        let memory = |limit, both| Resources {
            memory_limit: Some(limit),
            memory_swap_limit: Some(both),
            ..Resources::default()
        };
        let first = |resources: &Resources| {
            let all = writes(resources, &now, Version::V1);
            let (file, _) = all[0].split_once('=').unwrap();
            file.to_owned()
        };
        assert_eq!(
            first(&memory(4 << 20, 8 << 20)),
            "memory.memsw.limit_in_bytes"
        );
        assert_eq!(first(&memory(2 << 20, 2 << 20)), "memory.limit_in_bytes");
        assert_eq!(first(&memory(1 << 19, 1 << 19)), "memory.limit_in_bytes");
        assert_eq!(first(&memory(-1, -1)), "memory.memsw.limit_in_bytes");
        let only = Resources {
            memory_limit: Some(-1),
            ..Resources::default()
        };
        assert_eq!(first(&only), "memory.memsw.limit_in_bytes");
        let cpu = |quota, period| Resources {
            cpu_quota: Some(quota),
            cpu_period: Some(period),
            ..Resources::default()
        };
        assert_eq!(first(&cpu(100_000, 200_000)), "cpu.cfs_period_us");
        assert_eq!(first(&cpu(25_000, 50_000)), "cpu.cfs_quota_us");
    }

    #[test]
    fn a_burst_is_never_above_the_quota_and_an_idle_group_has_no_weight() {
        let now = Current {
            quota: Some(20_000),
            ..Current::default()
        };
        let set = |burst, idle| Resources {
            cpu_quota: Some(50_000),
            cpu_shares: Some(1024),
            cpu_burst: Some(burst),
            cpu_idle: Some(idle),
            ..Resources::default()
        };
        assert_eq!(
            writes(&set(10_000, true), &now, Version::V1),
            [
                "cpu.shares=1024",
                "cpu.cfs_burst_us=10000",
                "cpu.cfs_quota_us=50000",
                "cpu.idle=1"
            ]
        );
        assert_eq!(
            writes(&set(30_000, false), &now, Version::V2),
            [
                "cpu.idle=0",
                "cpu.weight=100",
                "cpu.max=50000",
                "cpu.max.burst=30000"
            ]
        );
        let real_time = Resources {
            cpu_rt_runtime: Some(1000),
            ..Resources::default()
        };
        assert_eq!(
            writes(&real_time, &now, Version::V1),
            ["cpu.rt_runtime_us=1000"]
        );
        assert!(plan(&real_time, &now, |_| Version::V2).is_err());
    }

    #[test]
    fn half_of_a_v2_pair_is_completed_by_what_is_there() {
        let now = Current {
            memory: Some(1 << 20),
            memory_and_swap: None,
            period: 100_000,
            quota: Some(30_000),
        };
        let period = Resources {
            cpu_period: Some(50_000),
            ..Resources::default()
        };
        assert_eq!(writes(&period, &now, Version::V2), ["cpu.max=30000 50000"]);
        let swap = |both| Resources {
            memory_swap_limit: Some(both),
            ..Resources::default()
        };
        assert_eq!(
            writes(&swap(1 << 21), &now, Version::V2),
            ["memory.swap.max=1048576"]
        );
        assert!(plan(&swap(1 << 19), &now, |_| Version::V2).is_err());
        assert!(plan(&swap(1 << 21), &Current::default(), |_| Version::V2).is_err());
    }

    #[test]
    fn a_hybrid_node_spells_each_controller_as_its_hierarchy_does() {
        let resources = Resources {
            cpu_shares: Some(2),
            memory_limit: Some(1 << 20),
            ..Resources::default()
        };
        let version = |controller: &str| match controller {
            "cpu" => Version::V2,
            _ => Version::V1,
        };
        let writes = plan(&resources, &Current::default(), version).unwrap();
        let files: Vec<_> = writes.iter().map(|write| write.file.as_str()).collect();
        assert_eq!(files, ["cpu.weight", "memory.limit_in_bytes"]);
    }

    #[test]
    fn shares_and_weights_agree_at_their_ends_and_defaults() {
        for (shares, expected) in [
            (0, 1),
            (2, 1),
            (102, 17),
            (512, 59),
            (1024, 100),
            (2048, 174),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        let weights: Vec<_> = (2..5000).map(weight).collect();
        assert!(weights.is_sorted());
    }
}
