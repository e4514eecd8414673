//! Which filter the container gets.

use std::path::Path;

use berth_plan::{
    capability::CapSet,
    seccomp::{Machine, default_profile},
};
use berth_proto::cri::{LinuxContainerSecurityContext, security_profile::ProfileType};
use oci_spec::runtime::LinuxSeccomp;

use super::{
    Read,
    error::{Result, SpecError},
    provenance::{Provenance, Source},
};

/// Most bytes of a profile that are looked at.
const LARGEST_PROFILE: usize = 4 * 1024 * 1024;

/// What the request asks for.
enum Asked<'a> {
    Unconfined,
    Default,
    File(&'a str),
}

/// The profile, none for a container without one.
pub(super) fn profile(
    context: &LinuxContainerSecurityContext,
    bounding: CapSet,
    machine: Option<Machine>,
    read: Read<'_>,
    provenance: &mut Provenance,
) -> Result<Option<LinuxSeccomp>> {
    // Also where the container is privileged and the profile not used: what is
    // malformed was not meant.
    let asked = asked(context)?;
    if context.privileged {
        provenance.set("linux.seccomp", Source::Cri);
        return Ok(None);
    }
    let given = context.seccomp.is_some();
    provenance.set(
        "linux.seccomp",
        if given { Source::Cri } else { Source::Default },
    );
    match asked {
        Asked::Unconfined => Ok(None),
        Asked::Default => {
            let machine = machine.ok_or_else(|| {
                SpecError::unimplemented("seccomp filters for this kind of processor")
                    .with_remedy("use Unconfined")
            })?;
            // By the bounding set: what a setuid program gains it must be able to use.
            Ok(Some(default_profile(bounding, machine)))
        }
        Asked::File(path) => read_profile(path, read).map(Some),
    }
}

fn asked(context: &LinuxContainerSecurityContext) -> Result<Asked<'_>> {
    let Some(profile) = &context.seccomp else {
        #[expect(deprecated, reason = "older callers know only this field")]
        let old = context.seccomp_profile_path.as_str();
        return match old {
            "" | "unconfined" => Ok(Asked::Unconfined),
            "runtime/default" | "docker/default" => Ok(Asked::Default),
            other => match other.strip_prefix("localhost/") {
                Some(path) => file("seccomp_profile_path", path),
                None => Err(SpecError::invalid(format!(
                    "seccomp_profile_path {other:?}: expected unconfined, runtime/default or localhost/PATH"
                ))),
            },
        };
    };
    // An unknown number would otherwise read as the first of the list.
    let kind = ProfileType::try_from(profile.profile_type).map_err(|error| {
        SpecError::invalid(format!("seccomp.profile_type {}", profile.profile_type))
            .with_source(error)
    })?;
    let reference = profile.localhost_ref.as_str();
    match kind {
        ProfileType::Localhost => {
            let path = reference.strip_prefix("localhost/").unwrap_or(reference);
            file("seccomp.localhost_ref", path)
        }
        _ if !reference.is_empty() => Err(SpecError::invalid(format!(
            "seccomp.localhost_ref {reference:?} without profile_type Localhost"
        ))),
        ProfileType::RuntimeDefault => Ok(Asked::Default),
        ProfileType::Unconfined => Ok(Asked::Unconfined),
    }
}

fn file<'a>(field: &str, path: &'a str) -> Result<Asked<'a>> {
    let plain =
        path.starts_with('/') && !path.contains('\0') && path.split('/').all(|part| part != "..");
    if plain {
        Ok(Asked::File(path))
    } else {
        Err(SpecError::invalid(format!(
            "{field} {path:?}: expected an absolute path without \"..\""
        )))
    }
}

fn read_profile(path: &str, read: Read<'_>) -> Result<LinuxSeccomp> {
    let wrong = |what: &str| SpecError::invalid(format!("seccomp profile {path}: {what}"));
    let bytes =
        read(Path::new(path)).map_err(|error| wrong("cannot be read").with_source(error))?;
    if bytes.len() > LARGEST_PROFILE {
        return Err(wrong("is larger than 4 MiB"));
    }
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| wrong("is not JSON").with_source(error))?;
    // Another format that looks much like ours. Read as ours, its rules for some
    // capabilities, kernels or machines would hold for all.
    if let Some(foreign) = foreign(&value) {
        return Err(
            wrong(&format!("has {foreign:?}, which OCI profiles have not")).with_remedy(
                "convert it to the form of an OCI runtime specification's linux.seccomp",
            ),
        );
    }
    serde_json::from_value(value)
        .map_err(|error| wrong("is no profile of an OCI specification").with_source(error))
}

fn foreign(value: &serde_json::Value) -> Option<&'static str> {
    let said = |value: &serde_json::Value, key: &str| match value.get(key) {
        None | Some(serde_json::Value::Null) => false,
        Some(serde_json::Value::Object(map)) => !map.is_empty(),
        Some(serde_json::Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    if said(value, "archMap") {
        return Some("archMap");
    }
    let rules = value.get("syscalls").and_then(serde_json::Value::as_array);
    ["includes", "excludes"]
        .into_iter()
        .find(|key| rules.into_iter().flatten().any(|rule| said(rule, key)))
}
