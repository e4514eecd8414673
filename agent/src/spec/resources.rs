//! Limits.

use std::collections::HashMap;

use berth_plan::CgroupLimits;
use berth_proto::cri::LinuxContainerResources;
use oci_spec::runtime::{
    Linux, LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources,
    Spec,
};

use super::{
    error::{Result, SpecError},
    provenance::{Provenance, Source},
};

/// What the kernel's OOM killer takes (proc_pid_oom_score_adj(5)).
const OOM_SCORES: std::ops::RangeInclusive<i64> = -1000..=1000;

/// CRI's zero means "not given". Lists of CPUs, names of v2 files and ranges that
/// depend on the node are checked by whoever writes the groups.
pub(super) fn resources(
    given: &LinuxContainerResources,
    devices: Vec<LinuxDeviceCgroup>,
    default_pids: Option<i64>,
    provenance: &mut Provenance,
) -> Result<LinuxResources> {
    let mut told = |field: &str, source| {
        provenance.set(format!("linux.resources.{field}"), source);
    };
    let mut cpu = LinuxCpu::default();
    if let Some(shares) = unsigned("cpu_shares", given.cpu_shares)? {
        cpu.set_shares(Some(shares));
        told("cpu.shares", Source::Cri);
    }
    if let Some(period) = unsigned("cpu_period", given.cpu_period)? {
        cpu.set_period(Some(period));
        told("cpu.period", Source::Cri);
    }
    if let Some(quota) = limit("cpu_quota", given.cpu_quota)? {
        cpu.set_quota(Some(quota));
        told("cpu.quota", Source::Cri);
    }
    if !given.cpuset_cpus.is_empty() {
        cpu.set_cpus(Some(given.cpuset_cpus.clone()));
        told("cpu.cpus", Source::Cri);
    }
    if !given.cpuset_mems.is_empty() {
        cpu.set_mems(Some(given.cpuset_mems.clone()));
        told("cpu.mems", Source::Cri);
    }
    let mut memory = LinuxMemory::default();
    if let Some(bytes) = limit("memory_limit_in_bytes", given.memory_limit_in_bytes)? {
        memory.set_limit(Some(bytes));
        told("memory.limit", Source::Cri);
    }
    if let Some(bytes) = limit(
        "memory_swap_limit_in_bytes",
        given.memory_swap_limit_in_bytes,
    )? {
        memory.set_swap(Some(bytes));
        told("memory.swap", Source::Cri);
    }
    let mut resources = LinuxResources::default();
    if let Some(pids) = default_pids {
        let mut limit = LinuxPids::default();
        limit.set_limit(pids);
        resources.set_pids(Some(limit));
        told("pids.limit", Source::Handler);
    }
    let pages = hugepages(given)?;
    if !pages.is_empty() {
        resources.set_hugepage_limits(Some(pages));
        told("hugepageLimits", Source::Cri);
    }
    if !given.unified.is_empty() {
        let unified = given
            .unified
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        resources.set_unified(Some(unified.collect::<HashMap<_, _>>()));
        told("unified", Source::Cri);
    }
    resources
        .set_cpu(Some(cpu))
        .set_memory(Some(memory))
        .set_devices(Some(devices));
    Ok(resources)
}

/// The limits alone, for a container that is there already: neither devices nor the
/// handler's defaults.
///
/// # Errors
/// [`SpecError`] for values that mean nothing.
pub(crate) fn limits(given: &LinuxContainerResources) -> Result<CgroupLimits> {
    oom_score_adj(given)?;
    let resources = resources(given, Vec::new(), None, &mut Provenance::default())?;
    let mut linux = Linux::default();
    linux.set_resources(Some(resources));
    let mut spec = Spec::default();
    spec.set_linux(Some(linux));
    let mut limits = berth_plan::limits(&spec)
        .map_err(|error| SpecError::invalid("limits").with_source(error))?;
    limits.devices.clear();
    Ok(limits)
}

/// Nothing said means 0, not what the shim happens to have.
pub(super) fn oom_score_adj(given: &LinuxContainerResources) -> Result<i32> {
    let score = given.oom_score_adj;
    match i32::try_from(score) {
        Ok(small) if OOM_SCORES.contains(&score) => Ok(small),
        _ => Err(SpecError::invalid(format!(
            "oom_score_adj {score}: expected a number from -1000 to 1000"
        ))),
    }
}

fn unsigned(field: &str, value: i64) -> Result<Option<u64>> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            Err(SpecError::invalid(format!("{field} {value} is negative")).with_source(error))
        }
    }
}

/// -1 means without limit.
fn limit(field: &str, value: i64) -> Result<Option<i64>> {
    match value {
        0 => Ok(None),
        -1 | 1.. => Ok(Some(value)),
        _ => Err(SpecError::invalid(format!(
            "{field} {value}: expected a positive number, or -1 for no limit"
        ))),
    }
}

fn hugepages(given: &LinuxContainerResources) -> Result<Vec<LinuxHugepageLimit>> {
    let each = |page: &berth_proto::cri::HugepageLimit| {
        let bytes = i64::try_from(page.limit).map_err(|error| {
            SpecError::invalid(format!(
                "hugepage_limits {}: {} bytes are more than there can be",
                page.page_size, page.limit
            ))
            .with_source(error)
        })?;
        let mut limit = LinuxHugepageLimit::default();
        limit.set_page_size(page.page_size.clone()).set_limit(bytes);
        Ok(limit)
    };
    given.hugepage_limits.iter().map(each).collect()
}
