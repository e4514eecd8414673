//! The whole: a specification to a plan.

use std::path::{Component, Path};

use berth_proto::shim::{
    CgroupDir, CgroupPlan, GivenStreams, HookPlan, IoPlan, MAX_SLOTS, NamespacePlan, Plan,
    RootPlan, namespace_target::Mode,
};
use oci_spec::runtime::{Linux, LinuxPersonality, LinuxPersonalityDomain, Spec};

use crate::{
    devices::{bind_device, devices},
    error::PlanError,
    hooks::hooks,
    input::{PlanInputs, PlanOutput, Slot, Slots},
    limits,
    mounts::mounts,
    namespaces::{mode, namespaces, sysctls},
    numa::memory_policy,
    options::propagation,
    process::{label, process},
};

/// Turns `spec` into a plan.
///
/// # Errors
/// [`PlanError`] for what contradicts itself, is missing, or would be ignored because
/// it is not supported yet.
pub fn plan(spec: &Spec, inputs: &PlanInputs<'_>) -> Result<PlanOutput, PlanError> {
    let linux = spec
        .linux()
        .as_ref()
        .ok_or(PlanError::Missing { field: "linux" })?;
    let given = spec
        .process()
        .as_ref()
        .ok_or(PlanError::Missing { field: "process" })?;
    let root = spec
        .root()
        .as_ref()
        .ok_or(PlanError::Missing { field: "root" })?;
    refuse(linux)?;
    refuse_hooks(spec, inputs.io.given)?;
    let hooked = hooked(spec)?;
    check(inputs)?;

    let mut slots = Slots::default();
    let namespaces = namespaces(spec, linux, inputs.pod_dir, &mut slots)?;
    let moves_devices = net_devices(linux, mode(namespaces.net.as_ref()), inputs.io.given)?;
    // A mount namespace that is joined has a root of its own.
    let joined = mode(namespaces.mount.as_ref()) == Mode::Join;
    let root = (!joined).then_some(root);
    let root = root
        .map(|root| -> Result<RootPlan, PlanError> {
            Ok(RootPlan {
                tree_slot: slots.add(Slot::StateTree),
                layers: inputs.root.layers.clone(),
                upper: inputs.root.upper.clone(),
                work: inputs.root.work.clone(),
                volatile: inputs.root.volatile,
                readonly: root.readonly().unwrap_or(false),
                propagation: root_propagation(linux)?,
                staging: String::new(),
                layers_staging: String::new(),
            })
        })
        .transpose()?;
    let sysctls = sysctls(linux, &namespaces)?;
    let label = label("linux.mountLabel", linux.mount_label())?;
    if !label.is_empty() && !inputs.io.given {
        return Err(PlanError::unsupported("linux.mountLabel", "leave it out"));
    }
    let mut mounts = mounts(
        spec.mounts().as_deref().unwrap_or_default(),
        inputs,
        &namespaces,
        &mut slots,
    )?;
    let mut process = process(given, inputs.env.clone(), inputs.kernel_capabilities)?;
    process.personality = linux.personality().as_ref().map(personality).transpose()?;
    process.memory_policy = linux
        .memory_policy()
        .as_ref()
        .map(memory_policy)
        .transpose()?;
    if let Some(profile) = linux.seccomp() {
        let filter = inputs.filters.get(profile, inputs.machine)?;
        process.seccomp.clone_from(&filter.program);
        process.seccomp_flags = filter.flags;
        process.seccomp_listener = filter.listener;
        if filter.listener && !inputs.io.given {
            let reason = "listeners of seccomp; use another action than SCMP_ACT_NOTIFY";
            return Err(PlanError::unsupported("linux.seccomp", reason));
        }
    }
    for step in &mut mounts.steps {
        // Others have labels of their own, or of what they are bound from.
        if !label.is_empty() && matches!(step.fstype.as_str(), "tmpfs" | "devpts" | "mqueue") {
            step.options.push(format!("context={label}"));
        }
    }
    let io = io(inputs, process.terminal, &mut slots);
    let preserve_slots = (0..inputs.io.preserved)
        .map(|number| slots.add(Slot::Preserved(number)))
        .collect();
    let cgroup = cgroup(inputs, &mut slots);
    // One slot more is the plan's own.
    if slots.0.len() + 1 > MAX_SLOTS {
        return Err(PlanError::TooManySlots {
            needed: slots.0.len() + 1,
            limit: MAX_SLOTS,
        });
    }
    let mut readonly_paths = mounts.readonly;
    for path in paths("linux.readonlyPaths", linux.readonly_paths())? {
        if !readonly_paths.contains(&path) {
            readonly_paths.push(path);
        }
    }
    // A /dev of the host has its own.
    let devices = if mounts.foreign_dev || joined {
        Vec::new()
    } else {
        let given = linux.devices().as_deref().unwrap_or_default();
        let nodes = devices(given, &mounts.steps, process.terminal)?;
        if has_users(&namespaces) {
            // Nobody in a user namespace makes nodes: the node's own are bound.
            let binds = nodes
                .into_iter()
                .map(|node| bind_device(node.path, &mut slots));
            mounts.steps.extend(binds);
            Vec::new()
        } else {
            nodes
        }
    };
    let plan = Plan {
        id: inputs.id.to_owned(),
        terminal: process.terminal,
        process: Some(process),
        namespaces: Some(namespaces),
        root,
        mounts: mounts.steps,
        devices,
        masked_paths: paths("linux.maskedPaths", linux.masked_paths())?,
        readonly_paths,
        sysctls,
        stop_signal: inputs.stop_signal,
        io: Some(io),
        cgroup: Some(cgroup),
        detached: inputs.io.given,
        preserve_slots,
        own_dev: !mounts.foreign_dev && !joined,
        hold: hooked.hold || moves_devices,
        create_container_hooks: hooked.create_container,
        start_container_hooks: hooked.start_container,
        mount_labels: !label.is_empty(),
        other: None,
    };
    Ok(PlanOutput {
        plan,
        slots: slots.0,
        limits: limits::of(linux.resources().as_ref())?,
    })
}

/// personality(2): only what changes nothing but the name of the machine.
fn personality(given: &LinuxPersonality) -> Result<u32, PlanError> {
    if given
        .flags()
        .as_ref()
        .is_some_and(|flags| !flags.is_empty())
    {
        let reason = "the specification has no flags of personalities";
        let shown = format!("{:?}", given.flags());
        return Err(PlanError::invalid("linux.personality.flags", shown, reason));
    }
    Ok(match given.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

fn has_users(namespaces: &NamespacePlan) -> bool {
    namespaces
        .user
        .is_some_and(|target| target.mode() != Mode::Host)
}

/// Highest signal number (SIGRTMAX).
const MAX_SIGNAL: i32 = 64;

fn check(inputs: &PlanInputs<'_>) -> Result<(), PlanError> {
    let signal = inputs.stop_signal;
    if !(1..=MAX_SIGNAL).contains(&signal) {
        let reason = format!("signals are between 1 and {MAX_SIGNAL}");
        return Err(PlanError::invalid("stop signal", signal, reason));
    }
    let root = &inputs.root;
    let mut paths: Vec<&String> = root.layers.iter().collect();
    if !(root.upper.is_empty() && root.work.is_empty()) {
        paths.extend([&root.upper, &root.work]);
    }
    for path in paths {
        let below = |part| matches!(part, Component::Normal(_));
        let inside = !path.is_empty() && Path::new(path).components().all(below);
        if !inside || path.contains('\0') {
            let reason = "must be a relative path without ..";
            return Err(PlanError::invalid("layers of the root", path, reason));
        }
    }
    Ok(())
}

/// What would be ignored.
fn refuse(linux: &Linux) -> Result<(), PlanError> {
    if linux.intel_rdt().is_some() {
        let reason = "resctrl groups are not made; leave it out";
        return Err(PlanError::unsupported("linux.intelRdt", reason));
    }
    Ok(())
}

/// Longest name of a network device (IFNAMSIZ, with its NUL).
const MAX_DEVICE_NAME: usize = 15;

/// Whether devices move into the container's network namespace; their names are sound.
fn net_devices(linux: &Linux, net: Mode, owned: bool) -> Result<bool, PlanError> {
    const FIELD: &str = "linux.netDevices";
    let Some(devices) = linux.net_devices().as_ref().filter(|all| !all.is_empty()) else {
        return Ok(false);
    };
    if !owned {
        return Err(PlanError::unsupported(FIELD, "leave it out"));
    }
    if net == Mode::Host {
        let reason = "there is no network namespace to move devices into";
        return Err(PlanError::invalid(FIELD, devices.len(), reason));
    }
    let mut taken = Vec::new();
    for (from, device) in devices {
        let to = device.name().as_ref().filter(|name| !name.is_empty());
        let to = to.unwrap_or(from);
        for name in [from, to] {
            // As the kernel has it (dev_valid_name).
            let bad = |byte: u8| matches!(byte, b'/' | b':' | b'%') || byte <= b' ' || byte == 127;
            let dots = matches!(name.as_str(), "" | "." | "..");
            if dots || name.len() > MAX_DEVICE_NAME || name.bytes().any(bad) {
                let reason = format!("is no name of a device: at most {MAX_DEVICE_NAME} bytes");
                return Err(PlanError::invalid(FIELD, name.escape_debug(), reason));
            }
        }
        if taken.contains(&to) {
            return Err(PlanError::invalid(FIELD, to, "is the name of two devices"));
        }
        taken.push(to);
    }
    Ok(true)
}

/// Hooks want a caller who owns the container and runs those of the node's namespaces.
fn refuse_hooks(spec: &Spec, owned: bool) -> Result<(), PlanError> {
    let any = spec.hooks().as_ref();
    if !owned && any.is_some_and(|hooks| *hooks != oci_spec::runtime::Hooks::default()) {
        return Err(PlanError::unsupported("hooks", "leave them out"));
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Hooked {
    hold: bool,
    create_container: Vec<HookPlan>,
    start_container: Vec<HookPlan>,
}

#[allow(deprecated, reason = "prestart is deprecated and still used")]
fn hooked(spec: &Spec) -> Result<Hooked, PlanError> {
    let Some(given) = spec.hooks() else {
        return Ok(Hooked::default());
    };
    let create_container = hooks("hooks.createContainer", given.create_container())?;
    let some = |hooks: &Option<Vec<_>>| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty());
    Ok(Hooked {
        // Those of the last kind are told the state, which begins with the pid.
        hold: some(given.prestart())
            || some(given.create_runtime())
            || !create_container.is_empty(),
        create_container,
        start_container: hooks("hooks.startContainer", given.start_container())?,
    })
}

fn root_propagation(linux: &Linux) -> Result<u64, PlanError> {
    let given = linux.rootfs_propagation().as_deref().unwrap_or_default();
    if given.is_empty() {
        return Ok(0);
    }
    propagation(given).map(|(flag, _)| flag).ok_or_else(|| {
        let reason =
            "expected private, slave, shared, unbindable or one of these with an r before it";
        PlanError::invalid("linux.rootfsPropagation", given, reason)
    })
}

/// Absolute paths, in the order given.
fn paths(field: &'static str, given: &Option<Vec<String>>) -> Result<Vec<String>, PlanError> {
    let given = given.clone().unwrap_or_default();
    let bad = |path: &&String| {
        !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..")
    };
    match given.iter().find(bad) {
        Some(path) => Err(PlanError::invalid(
            field,
            path,
            "must be absolute and without ..",
        )),
        None => Ok(given),
    }
}

fn io(inputs: &PlanInputs<'_>, terminal: bool, slots: &mut Slots) -> IoPlan {
    if inputs.io.given {
        let mut stream = |number| {
            // A terminal takes the place of all three.
            if terminal {
                return -1;
            }
            i32::try_from(slots.add(Slot::Stream(number))).unwrap_or(i32::MAX)
        };
        let given = GivenStreams {
            stdin: stream(0),
            stdout: stream(1),
            stderr: stream(2),
        };
        return IoPlan {
            log_slot: -1,
            given: Some(given),
            ..IoPlan::default()
        };
    }
    let log_slot = if inputs.io.log {
        i32::try_from(slots.add(Slot::LogFile)).unwrap_or(i32::MAX)
    } else {
        -1
    };
    IoPlan {
        log_slot,
        stdin: inputs.io.stdin,
        stdin_once: inputs.io.stdin_once,
        max_line: inputs.io.max_line,
        given: None,
    }
}

fn cgroup(inputs: &PlanInputs<'_>, slots: &mut Slots) -> CgroupPlan {
    let dirs = inputs.cgroups.iter().enumerate();
    CgroupPlan {
        dirs: dirs
            .map(|(number, hierarchy)| CgroupDir {
                slot: slots.add(Slot::CgroupDir(number)),
                controllers: hierarchy.controllers.clone(),
                v2: hierarchy.v2,
            })
            .collect(),
    }
}
