//! The specification's mounts as steps.

use std::path::{Component, Path};

use berth_proto::shim::{MountStep, NamespacePlan, namespace_target::Mode};
use oci_spec::runtime::Mount;

use crate::{
    error::PlanError,
    input::{Hierarchy, IdMaps, POD_SHM, PlanInputs, Slot, Slots},
    namespaces::mappings,
    options::{Options, attr},
};

/// Mount points below /proc that do not hide the kernel's own files from the masks:
/// what lxcfs and the like replace. Any other place in /proc is refused
/// (CVE-2019-16884 and its kin: a fake tree that labels and masks are applied to).
const ALLOWED_IN_PROC: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/net/dev",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
];

#[derive(Debug, Default)]
pub(crate) struct Mounts {
    pub(crate) steps: Vec<MountStep>,
    /// To be made read-only with all that is mounted below, when all is mounted.
    pub(crate) readonly: Vec<String>,
    /// /dev comes from the host, with what is in it.
    pub(crate) foreign_dev: bool,
    /// The container has a cgroup namespace: what it mounts begins at its own group.
    own_cgroups: bool,
}

pub(crate) fn mounts(
    given: &[Mount],
    inputs: &PlanInputs<'_>,
    namespaces: &NamespacePlan,
    slots: &mut Slots,
) -> Result<Mounts, PlanError> {
    let mut mounts = Mounts {
        own_cgroups: namespaces
            .cgroup
            .is_some_and(|target| target.mode() != Mode::Host),
        ..Mounts::default()
    };
    let mut ordered = given
        .iter()
        .map(|mount| Ok((destination(mount.destination())?, mount)))
        .collect::<Result<Vec<_>, PlanError>>()?;
    // A volume listed before what it lies in would be hidden by it. The sort is
    // stable: otherwise the specification's order holds.
    ordered.sort_by_key(|(destination, _)| destination.matches('/').count());
    for (destination, mount) in ordered {
        mounts.add(destination, mount, inputs, namespaces, slots)?;
    }
    Ok(mounts)
}

impl Mounts {
    fn add(
        &mut self,
        destination: String,
        mount: &Mount,
        inputs: &PlanInputs<'_>,
        namespaces: &NamespacePlan,
        slots: &mut Slots,
    ) -> Result<(), PlanError> {
        let options = Options::parse(&destination, mount.options().as_deref().unwrap_or_default())?;
        let fstype = mount.typ().as_deref().unwrap_or_default();
        let bind = options.bind.is_some() || matches!(fstype, "bind" | "none" | "");
        if bind {
            if destination == "/dev" {
                self.foreign_dev = true;
            }
            check_bind_in_proc(&destination)?;
            let source = mount.source().as_deref().unwrap_or(Path::new(""));
            let idmap = idmap(&destination, mount, &options, inputs, namespaces)?;
            let step = bind_step(destination, source, &options, idmap, inputs, slots)?;
            self.steps.push(step);
            return Ok(());
        }
        if options.idmap.is_some() || has_mappings(mount) {
            let reason = format!("only bind mounts have mapped ids, and {destination} is none");
            return Err(PlanError::invalid("mounts.options", "idmap", reason));
        }
        if options.copy_up && fstype != "tmpfs" {
            let reason = format!("is for tmpfs, and {destination} is none");
            return Err(PlanError::invalid("mounts.options", "tmpcopyup", reason));
        }
        if destination.starts_with("/proc/") {
            let reason = "only bind mounts of single files are possible below /proc";
            return Err(PlanError::invalid(
                "mounts.destination",
                destination,
                reason,
            ));
        }
        if destination == "/dev" {
            self.foreign_dev = false;
        }
        // Masks would be laid over something else than the kernel's files.
        let fake = destination == "/proc" && fstype != "proc";
        if fake || fstype.contains('\0') {
            let reason = format!("cannot be mounted at {destination}");
            return Err(PlanError::invalid("mounts.type", fstype, reason));
        }
        if fstype == "cgroup" {
            self.cgroup(&destination, &options, inputs.cgroups, slots);
            return Ok(());
        }
        let source = mount
            .source()
            .as_ref()
            .map(|path| path.display().to_string());
        self.steps.push(MountStep {
            destination,
            fstype: fstype.to_owned(),
            source: source.unwrap_or_default(),
            // Part of kernels and of namespaces without it go without.
            optional: fstype == "mqueue",
            copy_up: options.copy_up,
            options: options.data.clone(),
            ..attributes(&options)
        });
        Ok(())
    }

    /// "cgroup" stands for what the node has (runtime specification, "cgroup ownership").
    fn cgroup(
        &mut self,
        destination: &str,
        options: &Options,
        hierarchies: &[Hierarchy],
        slots: &mut Slots,
    ) {
        if let [one] = hierarchies
            && one.v2
        {
            let step = if self.own_cgroups {
                MountStep {
                    fstype: "cgroup2".to_owned(),
                    source: "cgroup".to_owned(),
                    ..attributes(options)
                }
            } else {
                own_group(0, options, slots)
            };
            self.steps.push(MountStep {
                destination: destination.to_owned(),
                ..step
            });
            return;
        }
        // Directories are made in the tmpfs before it can be read-only.
        let inner = Options {
            set: options.set & !attr::RDONLY,
            ..options.clone()
        };
        self.steps.push(MountStep {
            destination: destination.to_owned(),
            fstype: "tmpfs".to_owned(),
            source: "tmpfs".to_owned(),
            options: vec!["mode=755".to_owned(), "size=64k".to_owned()],
            ..attributes(&inner)
        });
        for (number, hierarchy) in hierarchies.iter().enumerate() {
            for name in directories(hierarchy) {
                let step = if self.own_cgroups {
                    hierarchy_step(hierarchy, options)
                } else {
                    own_group(number, options, slots)
                };
                self.steps.push(MountStep {
                    destination: format!("{destination}/{name}"),
                    ..step
                });
            }
        }
        if options.set & attr::RDONLY != 0 {
            self.readonly.push(destination.to_owned());
        }
    }
}

/// Controllers that share a hierarchy are found under each name and under both, as
/// distributions link them.
fn directories(hierarchy: &Hierarchy) -> Vec<String> {
    if hierarchy.v2 {
        return vec!["unified".to_owned()];
    }
    let all = hierarchy.controllers.as_str();
    let mut names = vec![all.strip_prefix("name=").unwrap_or(all).to_owned()];
    if all.contains(',') {
        names.extend(all.split(',').map(str::to_owned));
    }
    names
}

/// The container's own group alone. A mount of the hierarchy would show everybody's.
fn own_group(number: usize, options: &Options, slots: &mut Slots) -> MountStep {
    MountStep {
        bind: true,
        bind_slot: slots.add(Slot::CgroupTree(number)),
        // Set where the tree was opened.
        propagation: 0,
        ..attributes(options)
    }
}

fn hierarchy_step(hierarchy: &Hierarchy, options: &Options) -> MountStep {
    let (fstype, data) = if hierarchy.v2 {
        ("cgroup2", Vec::new())
    } else if hierarchy.controllers.starts_with("name=") {
        // A hierarchy without controllers must say so.
        (
            "cgroup",
            vec!["none".to_owned(), hierarchy.controllers.clone()],
        )
    } else {
        let controllers = hierarchy.controllers.split(',').map(str::to_owned);
        ("cgroup", controllers.collect())
    };
    MountStep {
        fstype: fstype.to_owned(),
        source: "cgroup".to_owned(),
        options: data,
        ..attributes(options)
    }
}

fn attributes(options: &Options) -> MountStep {
    let step = MountStep {
        propagation: options.propagation,
        ..MountStep::default()
    };
    if options.is_recursive() {
        MountStep {
            attr_set: options.recursive_set,
            attr_clear: options.cleared_recursively(),
            recursive: true,
            top_set: options.set,
            top_clear: options.cleared(),
            ..step
        }
    } else {
        MountStep {
            attr_set: options.set,
            attr_clear: options.cleared(),
            ..step
        }
    }
}

fn has_mappings(mount: &Mount) -> bool {
    let some = |maps: &Option<Vec<_>>| maps.as_ref().is_some_and(|maps| !maps.is_empty());
    some(mount.uid_mappings()) || some(mount.gid_mappings())
}

/// The mappings of a mount: its own, or those of the container's user namespace.
fn idmap(
    destination: &str,
    mount: &Mount,
    options: &Options,
    inputs: &PlanInputs<'_>,
    namespaces: &NamespacePlan,
) -> Result<Option<IdMaps>, PlanError> {
    if options.idmap.is_none() && !has_mappings(mount) {
        return Ok(None);
    }
    let pods = namespaces
        .user
        .is_some_and(|target| target.mode() == Mode::Join);
    if !inputs.io.given && !pods {
        let reason = format!("mapped ids of {destination}");
        return Err(PlanError::unsupported("mounts.options", reason));
    }
    let (uids, gids) = if has_mappings(mount) {
        (
            mappings("mounts.uidMappings", mount.uid_mappings())?,
            mappings("mounts.gidMappings", mount.gid_mappings())?,
        )
    } else {
        (
            namespaces.uid_mappings.clone(),
            namespaces.gid_mappings.clone(),
        )
    };
    if uids.is_empty() || gids.is_empty() {
        let reason = format!(
            "{destination} has no mappings of users and groups, and the container no user namespace that has"
        );
        return Err(PlanError::invalid("mounts.options", "idmap", reason));
    }
    Ok(Some(IdMaps {
        uids,
        gids,
        recursive: options.idmap.unwrap_or(false),
    }))
}

fn bind_step(
    destination: String,
    source: &Path,
    options: &Options,
    idmap: Option<IdMaps>,
    inputs: &PlanInputs<'_>,
    slots: &mut Slots,
) -> Result<MountStep, PlanError> {
    let shared = inputs.pod_dir.map(|dir| dir.join("shm"));
    if source != Path::new(POD_SHM) && !source.is_absolute() {
        let reason = format!("the source of {destination} must be an absolute path");
        return Err(PlanError::invalid(
            "mounts.source",
            source.display(),
            reason,
        ));
    }
    if source.as_os_str().as_encoded_bytes().contains(&0) {
        let reason = format!("the source of {destination} contains NUL");
        return Err(PlanError::invalid(
            "mounts.source",
            source.display(),
            reason,
        ));
    }
    let copy_up = options.copy_up.then_some("tmpcopyup");
    if let Some(option) = options.data.first().map(String::as_str).or(copy_up) {
        let reason = format!("bind mounts such as {destination} have no such option");
        return Err(PlanError::invalid("mounts.options", option, reason));
    }
    let (slot, file) = if source == Path::new(POD_SHM) || shared.as_deref() == Some(source) {
        (Slot::PodShm, false)
    } else {
        let file = (inputs.is_file)(source).map_err(|error| PlanError::Source {
            path: source.to_owned(),
            source: error,
        })?;
        let slot = Slot::Bind {
            source: source.to_owned(),
            recursive: options.bind.unwrap_or(false),
            // The clone of a shared mount is shared too: what a container with the
            // capability mounts in it would appear on the host.
            propagation: match options.propagation {
                0 => libc::MS_PRIVATE,
                given => given,
            },
            idmap,
        };
        (slot, file)
    };
    Ok(MountStep {
        destination,
        bind: true,
        bind_slot: slots.add(slot),
        // Set where the tree was opened, on all of it.
        propagation: 0,
        file,
        ..attributes(options)
    })
}

/// An absolute path without `..`, in its shortest spelling.
fn destination(path: &Path) -> Result<String, PlanError> {
    let invalid = |reason: &str| PlanError::invalid("mounts.destination", path.display(), reason);
    let text = path.to_str().ok_or_else(|| invalid("not valid UTF-8"))?;
    if !path.is_absolute() {
        return Err(invalid("must be an absolute path"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(invalid("must not contain .."));
    }
    if text.contains('\0') {
        return Err(invalid("must not contain NUL"));
    }
    let clean: String = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => name.to_str().map(|name| format!("/{name}")),
            _ => None,
        })
        .collect();
    if clean.is_empty() {
        return Err(invalid("the root itself cannot be mounted over"));
    }
    Ok(clean)
}

fn check_bind_in_proc(destination: &str) -> Result<(), PlanError> {
    let below = destination == "/proc" || destination.starts_with("/proc/");
    if !below || ALLOWED_IN_PROC.contains(&destination) {
        return Ok(());
    }
    // A whole procfs of the host is what privileged tools ask for, at /proc itself.
    if destination == "/proc" {
        return Ok(());
    }
    let reason =
        "mounts below /proc would defeat its protection; only some single files can be replaced";
    Err(PlanError::invalid(
        "mounts.destination",
        destination,
        reason,
    ))
}
