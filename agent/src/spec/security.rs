//! Capabilities, and security modules that the node does not have.

use std::collections::HashSet;

use berth_plan::capability::{Cap, CapSet};
use berth_proto::cri::{LinuxContainerSecurityContext, security_profile::ProfileType};
use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::{
    NodeFacts,
    error::{Result, SpecError},
    provenance::{Provenance, Source},
};

/// What a container has unless the request or the handler says otherwise.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The usual set.
pub(crate) fn default_capabilities() -> CapSet {
    DEFAULT.iter().filter_map(|name| Cap::parse(name)).collect()
}

/// What the container may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// All that any of its programs can get.
    pub(super) bounding: CapSet,
    /// What every program has, whoever runs it.
    pub(super) ambient: CapSet,
}

/// ALL in either list first, then what is added, then what is dropped.
pub(super) fn granted(
    context: &LinuxContainerSecurityContext,
    default: CapSet,
    kernel: CapSet,
) -> Result<Granted> {
    if context.privileged {
        return Ok(Granted {
            bounding: kernel,
            ambient: CapSet::EMPTY,
        });
    }
    let mut set = default;
    let mut ambient = CapSet::EMPTY;
    if let Some(given) = &context.capabilities {
        let all = |names: &[String]| names.iter().any(|name| is_all(name));
        if all(&given.add_capabilities) {
            set = CapSet::all();
        }
        if all(&given.drop_capabilities) {
            set = CapSet::EMPTY;
        }
        if all(&given.add_ambient_capabilities) {
            return Err(SpecError::invalid("add_ambient_capabilities ALL")
                .with_remedy("name the capabilities"));
        }
        for cap in named("add_capabilities", &given.add_capabilities)?.iter() {
            set.insert(cap);
        }
        for cap in named("add_ambient_capabilities", &given.add_ambient_capabilities)?.iter() {
            set.insert(cap);
            ambient.insert(cap);
        }
        let dropped = named("drop_capabilities", &given.drop_capabilities)?;
        set = set.without(dropped);
        ambient = ambient.without(dropped);
    }
    Ok(Granted {
        bounding: set.and(kernel),
        ambient: ambient.and(kernel),
    })
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL")
}

fn named(field: &str, names: &[String]) -> Result<CapSet> {
    names
        .iter()
        .filter(|name| !is_all(name))
        .map(|name| {
            Cap::parse(name).ok_or_else(|| {
                SpecError::invalid(format!("{field}: {name:?} is no capability"))
                    .with_remedy("use names such as NET_ADMIN, or ALL")
            })
        })
        .collect()
}

/// The five sets for a user.
///
/// Another user than root has at first only what is ambient, as if it had been root
/// and changed its id; the bounding set is what setuid programs may gain.
pub(super) fn capabilities(
    granted: Granted,
    uid: u32,
    context: &LinuxContainerSecurityContext,
    provenance: &mut Provenance,
) -> Result<LinuxCapabilities> {
    let active = if uid == 0 {
        granted.bounding
    } else {
        granted.ambient
    };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(convert(granted.bounding)?))
        .set_effective(Some(convert(active)?))
        .set_permitted(Some(convert(active)?))
        // Only what ambient needs: more would be gained through files with inheritable
        // bits (CVE-2022-24769).
        .set_inheritable(Some(convert(granted.ambient)?))
        .set_ambient(Some(convert(granted.ambient)?));
    let asked = context.privileged || context.capabilities.is_some();
    provenance.set(
        "process.capabilities",
        if asked { Source::Cri } else { Source::Handler },
    );
    Ok(sets)
}

fn convert(set: CapSet) -> Result<HashSet<Capability>> {
    set.iter()
        .map(|cap| {
            cap.name().parse().map_err(|_unknown| {
                SpecError::unimplemented(format!("{cap} has no name in OCI specifications"))
            })
        })
        .collect()
}

/// A confinement that is asked for and cannot be applied is an error.
pub(super) fn check_modules(
    context: &LinuxContainerSecurityContext,
    node: &NodeFacts<'_>,
) -> Result<()> {
    // Privileged means without any of them.
    if context.privileged {
        return Ok(());
    }
    if let Some(wanted) = apparmor(context)? {
        return Err(if node.apparmor {
            SpecError::unimplemented(format!("apparmor: {wanted} is not supported yet"))
                .with_remedy("use Unconfined")
        } else {
            SpecError::precondition(format!("apparmor: {wanted}, but the node has no AppArmor"))
                .with_remedy("leave it out, or use Unconfined")
        });
    }
    let selinux = context.selinux_options.clone().unwrap_or_default();
    let parts = [selinux.user, selinux.role, selinux.r#type, selinux.level];
    if parts.iter().any(|part| !part.is_empty()) {
        let label = parts.join(":");
        return Err(if node.selinux {
            SpecError::unimplemented(format!("selinux_options {label}: not supported yet"))
        } else {
            SpecError::precondition(format!(
                "selinux_options {label}, but the node has no SELinux"
            ))
            .with_remedy("leave them out")
        });
    }
    Ok(())
}

/// What is asked for, if it is a profile; the newer field wins over the string.
fn apparmor(context: &LinuxContainerSecurityContext) -> Result<Option<String>> {
    if let Some(profile) = &context.apparmor {
        let reference = &profile.localhost_ref;
        return match profile.profile_type() {
            ProfileType::Localhost => Ok(Some(format!("profile {reference:?}"))),
            _ if !reference.is_empty() => Err(SpecError::invalid(format!(
                "apparmor.localhost_ref {reference:?} without profile_type Localhost"
            ))),
            ProfileType::RuntimeDefault => Ok(Some("RuntimeDefault".to_owned())),
            ProfileType::Unconfined => Ok(None),
        };
    }
    #[expect(deprecated, reason = "older callers know only this field")]
    let old = context.apparmor_profile.as_str();
    match old {
        // Sent for every container by older kubelets, whatever the node has.
        "" | "unconfined" | "runtime/default" => Ok(None),
        other => Ok(Some(format!("profile {other:?}"))),
    }
}
