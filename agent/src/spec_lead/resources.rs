//! Limits.

use berth_proto::cri::{Device, LinuxContainerResources};
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxHugepageLimitBuilder, LinuxMemoryBuilder, LinuxPidsBuilder,
    LinuxResources, LinuxResourcesBuilder,
};

use super::{devices, unbuilt};
use crate::error::{Error, Result};

/// Zero means "not given" in CRI.
pub(super) fn limits(
    given: &LinuxContainerResources,
    default_pids: u64,
    asked_devices: &[Device],
    privileged: bool,
) -> Result<LinuxResources> {
    let positive = |value: i64| (value > 0).then_some(value);
    let nonzero = |value: i64| (value != 0).then_some(value);
    let unsigned = |field: &str, value: i64| -> Result<Option<u64>> {
        match value {
            0 => Ok(None),
            value => u64::try_from(value).map(Some).map_err(|error| {
                Error::invalid(format!("{field} {value}: must not be negative")).with_source(error)
            }),
        }
    };
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(shares) = unsigned("cpu_shares", given.cpu_shares)? {
        cpu = cpu.shares(shares);
    }
    if let Some(period) = unsigned("cpu_period", given.cpu_period)? {
        cpu = cpu.period(period);
    }
    if let Some(quota) = nonzero(given.cpu_quota) {
        cpu = cpu.quota(quota);
    }
    if !given.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(given.cpuset_cpus.clone());
    }
    if !given.cpuset_mems.is_empty() {
        cpu = cpu.mems(given.cpuset_mems.clone());
    }
    let mut memory = LinuxMemoryBuilder::default();
    if let Some(limit) = nonzero(given.memory_limit_in_bytes) {
        memory = memory.limit(limit);
    }
    if let Some(both) = nonzero(given.memory_swap_limit_in_bytes) {
        memory = memory.swap(both);
    }
    let pages = given
        .hugepage_limits
        .iter()
        .map(|page| {
            LinuxHugepageLimitBuilder::default()
                .page_size(page.page_size.clone())
                .limit(i64::try_from(page.limit).unwrap_or(i64::MAX))
                .build()
                .map_err(unbuilt)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut resources = LinuxResourcesBuilder::default()
        .cpu(cpu.build().map_err(unbuilt)?)
        .memory(memory.build().map_err(unbuilt)?)
        .hugepage_limits(pages)
        .devices(devices::rules(asked_devices, privileged)?)
        .unified(
            given
                .unified
                .clone()
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>(),
        );
    if let Some(limit) = positive(i64::try_from(default_pids).unwrap_or(i64::MAX)) {
        resources = resources.pids(
            LinuxPidsBuilder::default()
                .limit(limit)
                .build()
                .map_err(unbuilt)?,
        );
    }
    resources.build().map_err(unbuilt)
}
