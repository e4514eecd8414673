//! Resources as plain values, for whoever writes control groups.

use berth_cgroup::{
    BlockIo, BlockThrottle, BlockWeight, DeviceKind, DeviceRule, Hugepage, Resources, Throttle,
};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources, LinuxThrottleDevice, Spec,
};

use crate::error::PlanError;

/// Devices that programs cannot do without: null, zero, full, tty, random, urandom,
/// ptmx, and all slaves of terminals (None: any minor).
const ALWAYS: [(u32, Option<u32>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// Largest major and minor number of a Linux device (include/linux/kdev_t.h).
const MAX_MAJOR: i64 = (1 << 12) - 1;
const MAX_MINOR: i64 = (1 << 20) - 1;

/// The limits of `spec`, as [`crate::plan()`] returns them.
///
/// # Errors
/// [`PlanError`] for what means nothing or would be ignored.
pub fn limits(spec: &Spec) -> Result<Resources, PlanError> {
    let linux = spec.linux().as_ref();
    of(linux.and_then(|linux| linux.resources().as_ref()))
}

pub(crate) fn of(resources: Option<&LinuxResources>) -> Result<Resources, PlanError> {
    let mut limits = Resources::default();
    if let Some(resources) = resources {
        refuse(resources)?;
        read(resources, &mut limits)?;
        for rule in resources.devices().iter().flatten() {
            limits.devices.push(device_rule(rule)?);
        }
    }
    // Making a node is CAP_MKNOD's business; using it is what the rules are for.
    for kind in [DeviceKind::Char, DeviceKind::Block] {
        limits.devices.push(DeviceRule {
            allow: true,
            kind,
            major: None,
            minor: None,
            read: false,
            write: false,
            mknod: true,
        });
    }
    for (major, minor) in ALWAYS {
        limits.devices.push(DeviceRule {
            allow: true,
            kind: DeviceKind::Char,
            major: Some(major),
            minor,
            read: true,
            write: true,
            mknod: true,
        });
    }
    Ok(limits)
}

fn refuse(resources: &LinuxResources) -> Result<(), PlanError> {
    let unlimited = "leave it out";
    if resources.network().is_some() {
        return Err(PlanError::unsupported("linux.resources.network", unlimited));
    }
    if resources
        .rdma()
        .as_ref()
        .is_some_and(|limits| !limits.is_empty())
    {
        return Err(PlanError::unsupported("linux.resources.rdma", unlimited));
    }
    if let Some(memory) = resources.memory() {
        if memory.disable_oom_killer() == Some(true) {
            let field = "linux.resources.memory.disableOOMKiller";
            return Err(PlanError::unsupported(field, unlimited));
        }
        if memory.swappiness().is_some() {
            let field = "linux.resources.memory.swappiness";
            return Err(PlanError::unsupported(field, unlimited));
        }
    }
    Ok(())
}

fn block_io(given: &LinuxBlockIo) -> Result<BlockIo, PlanError> {
    const FIELD: &str = "linux.resources.blockIO";
    let weight = |weight: Option<u16>| weight.filter(|&weight| weight != 0);
    let mut block = BlockIo {
        weight: weight(given.weight()),
        leaf_weight: weight(given.leaf_weight()),
        ..BlockIo::default()
    };
    for device in given.weight_device().iter().flatten() {
        block.device_weights.push(BlockWeight {
            major: major(FIELD, device.major())?,
            minor: minor(FIELD, device.minor())?,
            weight: weight(device.weight()),
            leaf_weight: weight(device.leaf_weight()),
        });
    }
    let throttles: [(Throttle, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        (Throttle::ReadBytes, given.throttle_read_bps_device()),
        (Throttle::WriteBytes, given.throttle_write_bps_device()),
        (Throttle::ReadOperations, given.throttle_read_iops_device()),
        (
            Throttle::WriteOperations,
            given.throttle_write_iops_device(),
        ),
    ];
    for (kind, devices) in throttles {
        for device in devices.iter().flatten() {
            block.throttles.push(BlockThrottle {
                kind,
                major: major(FIELD, device.major())?,
                minor: minor(FIELD, device.minor())?,
                rate: device.rate(),
            });
        }
    }
    Ok(block)
}

fn read(resources: &LinuxResources, limits: &mut Resources) -> Result<(), PlanError> {
    if let Some(cpu) = resources.cpu() {
        limits.cpu_shares = cpu.shares().filter(|&shares| shares != 0);
        limits.cpu_quota = cpu.quota().filter(|&quota| quota != 0);
        limits.cpu_period = cpu.period().filter(|&period| period != 0);
        limits.cpu_burst = cpu.burst();
        limits.cpu_idle = cpu.idle().map(|idle| idle != 0);
        limits.cpu_rt_period = cpu.realtime_period().filter(|&period| period != 0);
        limits.cpu_rt_runtime = cpu.realtime_runtime().filter(|&runtime| runtime != 0);
        limits.cpuset_cpus = cpu.cpus().clone().unwrap_or_default();
        limits.cpuset_mems = cpu.mems().clone().unwrap_or_default();
    }
    if let Some(memory) = resources.memory() {
        limits.memory_limit = memory.limit().filter(|&limit| limit != 0);
        limits.memory_swap_limit = memory.swap().filter(|&limit| limit != 0);
        limits.memory_reservation = memory.reservation().filter(|&limit| limit != 0);
    }
    if let Some(given) = resources.block_io() {
        limits.block_io = block_io(given)?;
    }
    limits.pids_limit = resources
        .pids()
        .as_ref()
        .map(|pids| pids.limit())
        .filter(|&limit| limit != 0);
    for page in resources.hugepage_limits().iter().flatten() {
        let limit = u64::try_from(page.limit()).map_err(|_negative| {
            let reason = "a limit in bytes is not negative";
            PlanError::invalid("linux.resources.hugepageLimits", page.limit(), reason)
        })?;
        limits.hugepages.push(Hugepage {
            size: page.page_size().clone(),
            limit,
        });
    }
    let unified = resources.unified().iter().flatten();
    limits.unified = unified
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    // In the map's own order two equal plans would differ.
    limits.unified.sort();
    Ok(())
}

fn device_rule(rule: &LinuxDeviceCgroup) -> Result<DeviceRule, PlanError> {
    const FIELD: &str = "linux.resources.devices";
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => DeviceKind::All,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::P => {
            return Err(PlanError::invalid(
                FIELD,
                rule,
                "FIFOs have no device rules",
            ));
        }
    };
    let access = rule.access().as_deref().unwrap_or("rwm");
    if access.bytes().any(|letter| !b"rwm".contains(&letter)) {
        return Err(PlanError::invalid(
            FIELD,
            access,
            "access has only r, w and m",
        ));
    }
    let number = |number: Option<i64>, largest| match number {
        // -1 stands for any, from when the field could not be left out.
        None | Some(-1) => Ok(None),
        Some(number) => device_number(FIELD, number, largest).map(Some),
    };
    Ok(DeviceRule {
        allow: rule.allow(),
        kind,
        major: number(rule.major(), MAX_MAJOR)?,
        minor: number(rule.minor(), MAX_MINOR)?,
        // Nothing said means everything.
        read: access.is_empty() || access.contains('r'),
        write: access.is_empty() || access.contains('w'),
        mknod: access.is_empty() || access.contains('m'),
    })
}

fn device_number(field: &'static str, number: i64, largest: i64) -> Result<u32, PlanError> {
    match u32::try_from(number) {
        Ok(small) if number <= largest => Ok(small),
        _ => {
            let reason = format!("device numbers are between 0 and {largest}");
            Err(PlanError::invalid(field, number, reason))
        }
    }
}

pub(crate) fn major(field: &'static str, number: i64) -> Result<u32, PlanError> {
    device_number(field, number, MAX_MAJOR)
}

pub(crate) fn minor(field: &'static str, number: i64) -> Result<u32, PlanError> {
    device_number(field, number, MAX_MINOR)
}
