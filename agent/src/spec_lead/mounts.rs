//! What is mounted where.

use std::path::{Component, Path, PathBuf};

use berth_proto::cri::{
    LinuxContainerSecurityContext, Mount as Asked, MountPropagation, NamespaceMode,
};
use oci_spec::runtime::{Mount, MountBuilder};

use super::{Inputs, unbuilt};
use crate::error::{Error, Result};

/// The default mounts, the pod's files, the image's volumes and the request's
/// mounts, which take the place of any other at the same path. Parents come
/// before what lies below them. Returns how many anonymous volumes there are.
pub(super) fn all(
    inputs: &Inputs<'_>,
    context: &LinuxContainerSecurityContext,
) -> Result<(Vec<Mount>, usize)> {
    let asked = inputs
        .config
        .mounts
        .iter()
        .map(requested)
        .collect::<Result<Vec<_>>>()?;
    let taken: Vec<PathBuf> = asked.iter().map(|m| clean(m.destination())).collect();
    let mut mounts: Vec<Mount> = defaults(inputs, context)?
        .into_iter()
        .filter(|mount| !taken.contains(&clean(mount.destination())))
        .collect();
    let mut volumes = 0;
    for volume in &inputs.image.volumes {
        let destination = inside(volume, "volume of the image")?;
        let covered = taken.contains(&destination)
            || mounts
                .iter()
                .any(|mount| clean(mount.destination()) == destination);
        if !covered {
            let source = (inputs.volume)(volumes);
            mounts.push(bind(&source, &destination, &["rbind", "rprivate"])?);
            volumes += 1;
        }
    }
    mounts.extend(asked);
    // Stable: what was given in an order stays in it.
    mounts.sort_by_key(|mount| clean(mount.destination()).components().count());
    Ok((mounts, volumes))
}

/// Mounts that reach the host need a root that tells, or listens.
pub(super) fn root_propagation(mounts: &[Asked]) -> Option<String> {
    let has = |mode| mounts.iter().any(|mount| mount.propagation() == mode);
    if has(MountPropagation::PropagationBidirectional) {
        Some("rshared".to_owned())
    } else if has(MountPropagation::PropagationHostToContainer) {
        Some("rslave".to_owned())
    } else {
        None
    }
}

/// `/a//b/` and `/a/b` are one place.
fn clean(path: &Path) -> PathBuf {
    path.components().collect()
}

fn inside(path: &str, whose: &str) -> Result<PathBuf> {
    let cleaned = clean(Path::new(path));
    let upwards = cleaned
        .components()
        .any(|part| part == Component::ParentDir);
    if !cleaned.is_absolute() || upwards || path.contains('\0') || cleaned == Path::new("/") {
        return Err(Error::invalid(format!(
            "{whose} at {path:?}: expected an absolute path below / without \"..\""
        )));
    }
    Ok(cleaned)
}

fn requested(mount: &Asked) -> Result<Mount> {
    let destination = inside(&mount.container_path, "mount")?;
    if mount
        .image
        .as_ref()
        .is_some_and(|image| !image.image.is_empty())
    {
        return Err(Error::unimplemented(
            "ImageVolumeMountFailed: image volumes are not supported yet",
        ));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(Error::unimplemented(
            "mounts with id mappings are not supported yet",
        ));
    }
    if !Path::new(&mount.host_path).is_absolute() || mount.host_path.contains('\0') {
        return Err(Error::invalid(format!(
            "mount of {:?} at {}: expected an absolute path of the node",
            mount.host_path, mount.container_path
        )));
    }
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let mut options = vec!["rbind", propagation];
    match (mount.readonly, mount.recursive_read_only) {
        (false, true) => {
            return Err(Error::invalid(format!(
                "mount at {}: recursive_read_only without readonly",
                mount.container_path
            )));
        }
        (true, true) if propagation != "rprivate" => {
            return Err(Error::invalid(format!(
                "mount at {}: recursive_read_only with propagation other than private",
                mount.container_path
            )));
        }
        (true, true) => options.push("rro"),
        (true, false) => options.push("ro"),
        (false, false) => options.push("rw"),
    }
    for option in &mount.mount_options {
        match option.as_str() {
            "noexec" | "nodev" | "nosuid" => options.push(option),
            other => {
                return Err(Error::invalid(format!(
                    "mount at {}: option {other:?}: expected noexec, nodev or nosuid",
                    mount.container_path
                )));
            }
        }
    }
    bind(Path::new(&mount.host_path), &destination, &options)
}

fn defaults(inputs: &Inputs<'_>, context: &LinuxContainerSecurityContext) -> Result<Vec<Mount>> {
    let sys_mode = if context.privileged { "rw" } else { "ro" };
    let files_mode = if context.readonly_rootfs { "ro" } else { "rw" };
    let mut mounts = vec![
        made("proc", "/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        made(
            "tmpfs",
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        made(
            "devpts",
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        made(
            "mqueue",
            "/dev/mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        )?,
        made(
            "sysfs",
            "/sys",
            "sysfs",
            &["nosuid", "noexec", "nodev", sys_mode],
        )?,
        made(
            "cgroup",
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", sys_mode],
        )?,
    ];
    if inputs.pod_namespaces.ipc() == NamespaceMode::Pod {
        mounts.push(bind(
            &Path::new(super::POD_DIR).join("shm"),
            Path::new("/dev/shm"),
            &["rbind", "rprivate", "nosuid", "nodev", "noexec"],
        )?);
    } else {
        mounts.push(bind(
            Path::new("/dev/shm"),
            Path::new("/dev/shm"),
            &["rbind", "rprivate"],
        )?);
    }
    for (source, destination) in [
        (&inputs.files.hosts, "/etc/hosts"),
        (&inputs.files.hostname, "/etc/hostname"),
        (&inputs.files.resolv_conf, "/etc/resolv.conf"),
    ] {
        mounts.push(bind(
            source,
            Path::new(destination),
            &["rbind", "rprivate", files_mode],
        )?);
    }
    Ok(mounts)
}

fn made(kind: &str, destination: &str, source: &str, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .typ(kind)
        .source(source)
        .destination(destination)
        .options(options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(unbuilt)
}

fn bind(source: &Path, destination: &Path, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .typ("bind")
        .source(source)
        .destination(destination)
        .options(options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(unbuilt)
}
