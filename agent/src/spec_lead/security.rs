//! Capabilities, seccomp and what the node cannot do.

use std::collections::HashSet;

use berth_plan::{
    capability::{Cap, CapSet},
    seccomp::{Machine, default_profile},
};
use berth_proto::cri::{LinuxContainerSecurityContext, security_profile::ProfileType};
use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxSeccomp};

use crate::error::{Error, Result};

/// What every container gets unless the request says otherwise.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// What the request grants: (bounding, ambient). ALL comes first, then what is
/// added, then what is dropped.
fn granted(context: &LinuxContainerSecurityContext) -> Result<(CapSet, CapSet)> {
    if context.privileged {
        return Ok((CapSet::all(), CapSet::EMPTY));
    }
    let mut set: CapSet = DEFAULT.iter().filter_map(|name| Cap::parse(name)).collect();
    let mut ambient = CapSet::EMPTY;
    let Some(given) = &context.capabilities else {
        return Ok((set, ambient));
    };
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let each = |names: &[String]| -> Result<CapSet> {
        names
            .iter()
            .filter(|name| !is_all(name))
            .map(|name| {
                Cap::parse(name)
                    .ok_or_else(|| Error::invalid(format!("capability {name:?} does not exist")))
            })
            .collect()
    };
    if given.add_capabilities.iter().any(is_all) {
        set = CapSet::all();
    }
    if given.drop_capabilities.iter().any(is_all) {
        set = CapSet::EMPTY;
    }
    for cap in each(&given.add_capabilities)?.iter() {
        set.insert(cap);
    }
    for cap in each(&given.add_ambient_capabilities)?.iter() {
        set.insert(cap);
        ambient.insert(cap);
    }
    let dropped = each(&given.drop_capabilities)?;
    Ok((set.without(dropped), ambient.without(dropped)))
}

/// A user other than root keeps only the bounding set and what is ambient: the
/// kernel clears the rest when the ids change.
pub(super) fn capabilities(
    context: &LinuxContainerSecurityContext,
    uid: u32,
) -> Result<LinuxCapabilities> {
    let (set, ambient) = granted(context)?;
    let active = if uid == 0 { set } else { ambient };
    LinuxCapabilitiesBuilder::default()
        .bounding(convert(set)?)
        .effective(convert(active)?)
        .permitted(convert(active)?)
        // Inheritable only what is ambient: more would let an exec'd file with
        // inheritable bits gain it (CVE-2022-24769).
        .inheritable(convert(ambient)?)
        .ambient(convert(ambient)?)
        .build()
        .map_err(super::unbuilt)
}

fn convert(set: CapSet) -> Result<HashSet<Capability>> {
    set.iter()
        .map(|cap| {
            let name = cap.name();
            name.parse::<Capability>()
                .map_err(|error| Error::internal(format!("capability {name}")).with_source(error))
        })
        .collect()
}

/// The filter, if there is to be one.
pub(super) fn seccomp(
    context: &LinuxContainerSecurityContext,
    localhost: Option<&[u8]>,
) -> Result<Option<LinuxSeccomp>> {
    check_lsm(context)?;
    if context.privileged {
        return Ok(None);
    }
    let Some(profile) = &context.seccomp else {
        return Ok(None);
    };
    if profile.profile_type() != ProfileType::Localhost && !profile.localhost_ref.is_empty() {
        return Err(Error::invalid(format!(
            "seccomp.localhost_ref {:?} with another profile type than Localhost",
            profile.localhost_ref
        )));
    }
    match profile.profile_type() {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => {
            let machine = Machine::native().ok_or_else(|| {
                Error::unimplemented("seccomp on this kind of machine is not supported")
            })?;
            // Of root in it: a user's program may become root by a setuid file.
            let (set, _) = granted(context)?;
            Ok(Some(default_profile(set, machine)))
        }
        ProfileType::Localhost => {
            let bytes = localhost.ok_or_else(|| {
                Error::invalid(format!(
                    "seccomp profile {:?} cannot be read",
                    profile.localhost_ref
                ))
            })?;
            serde_json::from_slice(bytes).map(Some).map_err(|error| {
                Error::invalid(format!("seccomp profile {:?}", profile.localhost_ref))
                    .with_source(error)
            })
        }
    }
}

/// A profile that is asked for and not applied would be worse than an error.
fn check_lsm(context: &LinuxContainerSecurityContext) -> Result<()> {
    let apparmor = context.apparmor.as_ref();
    let localhost = apparmor
        .filter(|profile| profile.profile_type() == ProfileType::Localhost)
        .map(|profile| profile.localhost_ref.as_str());
    if let Some(name) = localhost {
        return Err(Error::unimplemented(format!(
            "AppArmor profile {name:?}: profiles of your own are not supported yet"
        )));
    }
    let selinux = context.selinux_options.clone().unwrap_or_default();
    let asked = [
        &selinux.user,
        &selinux.role,
        &selinux.r#type,
        &selinux.level,
    ];
    if asked.iter().any(|part| !part.is_empty())
        && std::path::Path::new("/sys/fs/selinux/enforce").exists()
    {
        return Err(Error::unimplemented("SELinux labels are not supported yet"));
    }
    Ok(())
}
