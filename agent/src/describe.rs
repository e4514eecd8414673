//! CRI's limits as JSON, for verbose information: camelCase names, only what is given.

use berth_proto::cri::LinuxContainerResources;
use serde_json::{Map, Value};

/// The limits that are given.
pub(crate) fn resources(given: &LinuxContainerResources) -> Value {
    let mut map = Map::new();
    for (name, value) in [
        ("cpuPeriod", given.cpu_period),
        ("cpuQuota", given.cpu_quota),
        ("cpuShares", given.cpu_shares),
        ("memoryLimitInBytes", given.memory_limit_in_bytes),
        ("memorySwapLimitInBytes", given.memory_swap_limit_in_bytes),
        ("oomScoreAdj", given.oom_score_adj),
    ] {
        if value != 0 {
            map.insert(name.to_owned(), value.into());
        }
    }
    for (name, value) in [
        ("cpusetCpus", &given.cpuset_cpus),
        ("cpusetMems", &given.cpuset_mems),
    ] {
        if !value.is_empty() {
            map.insert(name.to_owned(), value.as_str().into());
        }
    }
    if !given.hugepage_limits.is_empty() {
        let pages = given.hugepage_limits.iter();
        let pages: Map<_, _> = pages
            .map(|page| (page.page_size.clone(), page.limit.into()))
            .collect();
        map.insert("hugepageLimits".to_owned(), pages.into());
    }
    if !given.unified.is_empty() {
        let files = given.unified.iter();
        let files: Map<_, _> = files
            .map(|(name, value)| (name.clone(), value.as_str().into()))
            .collect();
        map.insert("unified".to_owned(), files.into());
    }
    map.into()
}
