//! Namespaces: made, joined or the host's.

use std::path::Path;

use berth_proto::shim::{
    IdMapping, NamespacePlan, NamespaceTarget, Sysctl, TimeOffset, namespace_target::Mode,
};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};

use crate::{
    error::PlanError,
    input::{NamespaceKind, Slot, Slots},
    sysctl::{self, SysctlSpace},
};

const FIELD: &str = "linux.namespaces";

/// Longest host name (__NEW_UTS_LEN).
const MAX_HOSTNAME: usize = 64;

pub(crate) fn namespaces(
    spec: &Spec,
    linux: &Linux,
    pod_dir: Option<&Path>,
    slots: &mut Slots,
) -> Result<NamespacePlan, PlanError> {
    let mut plan = NamespacePlan::default();
    let mut mount = false;
    let mut seen = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ();
        if seen.contains(&kind) {
            return Err(PlanError::invalid(FIELD, kind, "is listed twice"));
        }
        seen.push(kind);
        // Some callers write an empty path where they mean none.
        let path = namespace
            .path()
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty());
        let (target, kind) = match kind {
            LinuxNamespaceType::Pid => (&mut plan.pid, NamespaceKind::Pid),
            LinuxNamespaceType::Network => (&mut plan.net, NamespaceKind::Net),
            LinuxNamespaceType::Ipc => (&mut plan.ipc, NamespaceKind::Ipc),
            LinuxNamespaceType::Uts => (&mut plan.uts, NamespaceKind::Uts),
            LinuxNamespaceType::Cgroup => (&mut plan.cgroup, NamespaceKind::Cgroup),
            LinuxNamespaceType::User => (&mut plan.user, NamespaceKind::User),
            LinuxNamespaceType::Time => (&mut plan.time, NamespaceKind::Time),
            LinuxNamespaceType::Mount => {
                mount = true;
                (&mut plan.mount, NamespaceKind::Mount)
            }
        };
        *target = Some(match path {
            None => NamespaceTarget {
                mode: Mode::New.into(),
                slot: 0,
            },
            Some(path) => NamespaceTarget {
                mode: Mode::Join.into(),
                slot: slots.add(slot(kind, path, pod_dir)?),
            },
        });
    }
    if !mount {
        let reason = "a container without a mount namespace of its own is not possible";
        return Err(PlanError::unsupported(FIELD, reason));
    }
    let user = mode(plan.user.as_ref());
    plan.uid_mappings = mappings("linux.uidMappings", linux.uid_mappings())?;
    plan.gid_mappings = mappings("linux.gidMappings", linux.gid_mappings())?;
    check_users("linux.uidMappings", &plan.uid_mappings, user)?;
    check_users("linux.gidMappings", &plan.gid_mappings, user)?;
    let own_time = mode(plan.time.as_ref()) == Mode::New;
    plan.time_offsets = time_offsets(linux, own_time)?;
    if mode(plan.mount.as_ref()) == Mode::Join {
        check_joined_mounts(spec, linux, user)?;
    }
    let host = || {
        Some(NamespaceTarget {
            mode: Mode::Host.into(),
            slot: 0,
        })
    };
    for target in [
        &mut plan.pid,
        &mut plan.net,
        &mut plan.ipc,
        &mut plan.uts,
        &mut plan.cgroup,
        &mut plan.user,
        &mut plan.time,
        &mut plan.mount,
    ] {
        if target.is_none() {
            *target = host();
        }
    }
    if let Some(hostname) = spec.hostname() {
        match mode(plan.uts.as_ref()) {
            Mode::New if hostname.len() > MAX_HOSTNAME || hostname.contains('\0') => {
                let reason = format!("at most {MAX_HOSTNAME} bytes, none of them NUL");
                return Err(PlanError::invalid("hostname", hostname, reason));
            }
            Mode::New => plan.hostname.clone_from(hostname),
            // It was set when that namespace was made.
            Mode::Join => {}
            Mode::Host if hostname.is_empty() => {}
            Mode::Host => {
                let reason = "would rename the node; add a UTS namespace";
                return Err(PlanError::invalid("hostname", hostname, reason));
            }
        }
    }
    if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        if name.len() > MAX_HOSTNAME || name.contains('\0') {
            let reason = format!("at most {MAX_HOSTNAME} bytes, none of them NUL");
            return Err(PlanError::invalid("domainname", name, reason));
        }
        if mode(plan.uts.as_ref()) != Mode::New {
            let reason = "belongs to a UTS namespace of the container's own";
            return Err(PlanError::invalid("domainname", name, reason));
        }
        plan.domainname.clone_from(name);
    }
    Ok(plan)
}

/// The kernel's limit for the lines of a map (user_namespaces(7)).
const MAX_MAPPINGS: usize = 340;

/// Offsets of a new time namespace's clocks, in order of their names.
fn time_offsets(linux: &Linux, own: bool) -> Result<Vec<TimeOffset>, PlanError> {
    const FIELD: &str = "linux.timeOffsets";
    let mut offsets = Vec::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        if !own {
            let reason = "there is no time namespace to set the clocks of";
            return Err(PlanError::invalid(FIELD, clock, reason));
        }
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            let reason = "only monotonic and boottime can be set";
            return Err(PlanError::invalid(FIELD, clock, reason));
        }
        let nanoseconds = offset.nanosecs().unwrap_or(0);
        if nanoseconds > 999_999_999 {
            let reason = "a second has 1000000000 nanoseconds";
            return Err(PlanError::invalid(FIELD, nanoseconds, reason));
        }
        offsets.push(TimeOffset {
            clock: clock.clone(),
            seconds: offset.secs().unwrap_or(0),
            nanoseconds,
        });
    }
    offsets.sort_by(|one, other| one.clock.cmp(&other.clock));
    Ok(offsets)
}

/// A mount namespace that is joined has a root and mounts; what the specification asks
/// for beyond would not be done.
fn check_joined_mounts(spec: &Spec, linux: &Linux, user: Mode) -> Result<(), PlanError> {
    if user == Mode::New {
        let reason = "cannot be joined from a user namespace that does not own it";
        return Err(PlanError::invalid(FIELD, "mount", reason));
    }
    let some = |paths: &Option<Vec<String>>| paths.as_ref().is_some_and(|all| !all.is_empty());
    let devices = linux.devices().as_ref();
    for (field, asked) in [
        (
            "mounts",
            spec.mounts().as_ref().is_some_and(|all| !all.is_empty()),
        ),
        ("linux.devices", devices.is_some_and(|all| !all.is_empty())),
        ("linux.maskedPaths", some(linux.masked_paths())),
        ("linux.readonlyPaths", some(linux.readonly_paths())),
        (
            "linux.rootfsPropagation",
            linux.rootfs_propagation().is_some(),
        ),
        (
            "root.readonly",
            spec.root().as_ref().and_then(|root| root.readonly()) == Some(true),
        ),
    ] {
        if asked {
            let reason = "belongs to whoever made the mount namespace that is joined";
            return Err(PlanError::invalid(field, "given", reason));
        }
    }
    Ok(())
}

/// A new user namespace maps its user 0: that is who sets the container up. One that
/// is joined has its maps; those given are for mounts whose ids are mapped.
fn check_users(field: &'static str, maps: &[IdMapping], user: Mode) -> Result<(), PlanError> {
    let reason = match (user, maps.is_empty()) {
        (Mode::Host, true) | (Mode::Join, _) => return Ok(()),
        (Mode::Host, false) => "there is no user namespace to map ids of",
        (Mode::New, _) if maps.iter().any(|map| map.inside == 0) => return Ok(()),
        (Mode::New, _) => "id 0 of the container must be mapped: it sets the container up",
    };
    Err(PlanError::invalid(field, maps.len(), reason))
}

/// Mappings without contradiction.
pub(crate) fn mappings(
    field: &'static str,
    given: &Option<Vec<LinuxIdMapping>>,
) -> Result<Vec<IdMapping>, PlanError> {
    let given = given.as_deref().unwrap_or_default();
    let invalid = |reason: String| Err(PlanError::invalid(field, given.len(), reason));
    if given.len() > MAX_MAPPINGS {
        return invalid(format!("at most {MAX_MAPPINGS} mappings"));
    }
    let mut maps: Vec<IdMapping> = Vec::new();
    for one in given {
        let map = IdMapping {
            inside: one.container_id(),
            outside: one.host_id(),
            count: one.size(),
        };
        let shown = format!("{} {} {}", map.inside, map.outside, map.count);
        let past_end = |first: u32| first.checked_add(map.count).is_none();
        if map.count == 0 || past_end(map.inside) || past_end(map.outside) {
            let reason = "a range begins at an id and has at least one";
            return Err(PlanError::invalid(field, shown, reason));
        }
        let overlap = |first: u32, other: u32, length: u32| {
            first < other + length && other < first + map.count
        };
        let clash = maps.iter().any(|other| {
            overlap(map.inside, other.inside, other.count)
                || overlap(map.outside, other.outside, other.count)
        });
        if clash {
            return Err(PlanError::invalid(field, shown, "overlaps with another"));
        }
        maps.push(map);
    }
    Ok(maps)
}

fn slot(kind: NamespaceKind, path: &Path, pod_dir: Option<&Path>) -> Result<Slot, PlanError> {
    if !path.is_absolute() {
        let reason = "the path of a namespace must be absolute";
        return Err(PlanError::invalid(FIELD, path.display(), reason));
    }
    let of_pod = pod_dir.is_some_and(|dir| dir.join(kind.name()) == path);
    Ok(if of_pod {
        Slot::PodNamespace(kind)
    } else {
        Slot::Namespace {
            kind,
            path: path.to_owned(),
        }
    })
}

pub(crate) fn mode(target: Option<&NamespaceTarget>) -> Mode {
    target.map_or(Mode::Host, NamespaceTarget::mode)
}

/// Parameters in order of their names, none of which changes the host.
pub(crate) fn sysctls(linux: &Linux, plan: &NamespacePlan) -> Result<Vec<Sysctl>, PlanError> {
    let mut sysctls = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        let (dotted, space) = sysctl::check(name, value)?;
        let (target, kind) = match space {
            SysctlSpace::Net => (&plan.net, "network"),
            SysctlSpace::Ipc => (&plan.ipc, "IPC"),
            SysctlSpace::Uts => (&plan.uts, "UTS"),
        };
        if mode(target.as_ref()) == Mode::Host {
            let reason = format!("would change the node, whose {kind} namespace is used");
            return Err(PlanError::invalid("linux.sysctl", dotted, reason));
        }
        sysctls.push(Sysctl {
            name: dotted,
            value: value.clone(),
        });
    }
    sysctls.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(sysctls)
}
