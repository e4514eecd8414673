//! The process of a container, or one that is executed in it.

use std::path::Path;

use berth_proto::shim::{CapabilitySets, ProcessPlan, Rlimit, Scheduler};
use oci_spec::runtime::{
    Capabilities, IOPriorityClass, LinuxIOPriority, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    PosixRlimit, PosixRlimitType, Process, User,
};

use crate::{
    capability::{Cap, CapSet},
    error::PlanError,
    numa::number_set,
};

/// Turns a process into what the shim carries out, without a seccomp filter.
///
/// `env` replaces the specification's, which cannot hold what is not text.
/// `kernel` is what the kernel has; other capabilities are left out.
///
/// # Errors
/// [`PlanError`] naming the field.
pub fn process(
    process: &Process,
    env: Option<Vec<Vec<u8>>>,
    kernel: CapSet,
) -> Result<ProcessPlan, PlanError> {
    let affinity = process.exec_cpu_affinity().as_ref();
    let args: Vec<Vec<u8>> = process
        .args()
        .iter()
        .flatten()
        .map(|arg| arg.clone().into_bytes())
        .collect();
    if args.is_empty() {
        return Err(PlanError::Missing {
            field: "process.args",
        });
    }
    if args[0].is_empty() {
        let reason = "the program's name is empty";
        return Err(PlanError::invalid("process.args", "", reason));
    }
    let env = env.unwrap_or_else(|| {
        let given = process.env().iter().flatten();
        given.map(|entry| entry.clone().into_bytes()).collect()
    });
    // execve takes strings that end at the first NUL.
    for (field, strings) in [("process.args", &args), ("process.env", &env)] {
        if let Some(bad) = strings.iter().find(|bytes| bytes.contains(&0)) {
            let shown = String::from_utf8_lossy(bad);
            return Err(PlanError::invalid(field, shown, "contains a NUL byte"));
        }
    }
    if let Some(bad) = env.iter().find(|entry| !has_name(entry)) {
        let shown = String::from_utf8_lossy(bad);
        return Err(PlanError::invalid(
            "process.env",
            shown,
            "expected NAME=value",
        ));
    }
    let user = process.user();
    check_user(user)?;
    Ok(ProcessPlan {
        args,
        env,
        cwd: cwd(process.cwd())?,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        capabilities: Some(capabilities(process, kernel)?),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default())?,
        oom_score_adj: oom_score_adj(process.oom_score_adj())?,
        umask: user.umask(),
        terminal: process.terminal().unwrap_or(false),
        terminal_rows: size(process.console_size().map(|size| size.height())),
        io_priority: process
            .io_priority()
            .as_ref()
            .map(io_priority)
            .transpose()?,
        scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
        terminal_columns: size(process.console_size().map(|size| size.width())),
        cpus_before: cpus(affinity.and_then(|affinity| affinity.initial().as_deref()))?,
        cpus_after: cpus(affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref()))?,
        apparmor_profile: apparmor(process)?,
        selinux_label: label("process.selinuxLabel", process.selinux_label())?,
        ..ProcessPlan::default()
    })
}

/// The set of CPUs that an exec has on its way, or in the end.
fn cpus(list: Option<&str>) -> Result<Vec<u64>, PlanError> {
    /// CONFIG_NR_CPUS is at most this.
    const MOST: u32 = 8192;
    number_set("process.execCPUAffinity", list.unwrap_or_default(), MOST)
}

/// A label or profile as the kernel takes it; empty for none.
pub(crate) fn label(field: &'static str, given: &Option<String>) -> Result<String, PlanError> {
    let label = given.as_deref().unwrap_or_default();
    if label.len() > MAX_LABEL || label.chars().any(char::is_control) {
        let reason = format!("at most {MAX_LABEL} bytes without control characters");
        return Err(PlanError::invalid(field, label.escape_debug(), reason));
    }
    Ok(label.to_owned())
}

fn apparmor(process: &Process) -> Result<String, PlanError> {
    let profile = label("process.apparmorProfile", process.apparmor_profile())?;
    // Nothing is asked for, which a kernel without AppArmor has as well.
    if profile == "unconfined" {
        return Ok(String::new());
    }
    Ok(profile)
}

/// The kernel takes a page for each.
const MAX_LABEL: usize = 4000;

/// Most supplementary groups (NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;

fn check_user(user: &User) -> Result<(), PlanError> {
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if groups.len() > MAX_GROUPS {
        let reason = format!("at most {MAX_GROUPS} groups");
        return Err(PlanError::invalid(
            "process.user.additionalGids",
            groups.len(),
            reason,
        ));
    }
    // To setresuid(2) and its kin all bits set means "leave it", which is root.
    let groups = groups.iter().map(|id| ("process.user.additionalGids", *id));
    let own = [
        ("process.user.uid", user.uid()),
        ("process.user.gid", user.gid()),
    ];
    for (field, id) in own.into_iter().chain(groups) {
        if id == u32::MAX {
            return Err(PlanError::invalid(field, id, "is not an id"));
        }
    }
    match user.umask() {
        Some(mask) if mask > 0o777 => {
            let reason = "a mask has nine bits";
            Err(PlanError::invalid("process.user.umask", mask, reason))
        }
        _ => Ok(()),
    }
}

/// As ioprio_set(2) takes it: the class above 13 bits of priority.
fn io_priority(given: &LinuxIOPriority) -> Result<u32, PlanError> {
    let class = match given.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(given.priority()) {
        Ok(priority @ 0..=7) => Ok(class << 13 | priority),
        _ => {
            let reason = "priorities are between 0 and 7";
            let field = "process.ioPriority.priority";
            Err(PlanError::invalid(field, given.priority(), reason))
        }
    }
}

/// As sched_setattr(2) takes it; what does not fit together the kernel refuses.
fn scheduler(given: &oci_spec::runtime::Scheduler) -> Result<Scheduler, PlanError> {
    let policy = match given.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let mut flags = 0;
    for flag in given.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
    }
    let nice = given.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        let reason = "must be between -20 and 19";
        return Err(PlanError::invalid("process.scheduler.nice", nice, reason));
    }
    let given_priority = given.priority().unwrap_or(0);
    let priority = u32::try_from(given_priority).ok().filter(|&p| p <= 99);
    Ok(Scheduler {
        policy,
        flags,
        nice,
        priority: priority.ok_or_else(|| {
            let reason = "must be between 0 and 99";
            PlanError::invalid("process.scheduler.priority", given_priority, reason)
        })?,
        runtime: given.runtime().unwrap_or(0),
        deadline: given.deadline().unwrap_or(0),
        period: given.period().unwrap_or(0),
    })
}

/// What no terminal can be is as good as nothing said.
fn size(characters: Option<u64>) -> u32 {
    characters
        .and_then(|count| u16::try_from(count).ok())
        .unwrap_or(0)
        .into()
}

fn has_name(entry: &[u8]) -> bool {
    entry
        .iter()
        .position(|&byte| byte == b'=')
        .is_some_and(|place| place > 0)
}

fn cwd(path: &Path) -> Result<Vec<u8>, PlanError> {
    let text = path.as_os_str().as_encoded_bytes();
    if path.is_absolute() && !text.contains(&0) {
        Ok(text.to_vec())
    } else {
        let reason = "must be an absolute path in the container";
        Err(PlanError::invalid("process.cwd", path.display(), reason))
    }
}

fn capabilities(process: &Process, kernel: CapSet) -> Result<CapabilitySets, PlanError> {
    let Some(given) = process.capabilities() else {
        return Ok(CapabilitySets::default());
    };
    let set = |caps: &Option<Capabilities>| {
        let caps = caps.iter().flatten();
        let known: CapSet = caps
            .filter_map(|cap| Cap::parse(&cap.to_string()))
            .collect();
        known.and(kernel)
    };
    let (bounding, effective) = (set(given.bounding()), set(given.effective()));
    let (permitted, inheritable) = (set(given.permitted()), set(given.inheritable()));
    let ambient = set(given.ambient());
    // capset(2) and prctl(PR_CAP_AMBIENT) refuse these with a bare EPERM.
    for (what, inner, outer, name) in [
        ("effective", effective, permitted, "permitted"),
        (
            "ambient",
            ambient,
            permitted.and(inheritable),
            "permitted and inheritable",
        ),
    ] {
        if let Some(cap) = inner.without(outer).iter().next() {
            let reason = format!("is {what} without being {name}");
            return Err(PlanError::invalid("process.capabilities", cap, reason));
        }
    }
    Ok(CapabilitySets {
        bounding: bounding.bits(),
        effective: effective.bits(),
        permitted: permitted.bits(),
        inheritable: inheritable.bits(),
        ambient: ambient.bits(),
    })
}

fn rlimits(given: &[PosixRlimit]) -> Result<Vec<Rlimit>, PlanError> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for limit in given {
        let resource = resource(limit.typ());
        if limits.iter().any(|other| other.resource == resource) {
            return Err(PlanError::invalid(
                "process.rlimits",
                limit.typ(),
                "is listed twice",
            ));
        }
        if limit.soft() > limit.hard() {
            let reason = format!("soft {} is above hard {}", limit.soft(), limit.hard());
            return Err(PlanError::invalid("process.rlimits", limit.typ(), reason));
        }
        limits.push(Rlimit {
            resource,
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    Ok(limits)
}

/// RLIMIT_* (include/uapi/asm-generic/resource.h).
fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

fn oom_score_adj(given: Option<i32>) -> Result<Option<i32>, PlanError> {
    match given {
        Some(value) if !(-1000..=1000).contains(&value) => {
            let reason = "must be between -1000 and 1000";
            Err(PlanError::invalid("process.oomScoreAdj", value, reason))
        }
        other => Ok(other),
    }
}
