//! What is mounted where.

use std::path::{Component, Path, PathBuf};

use berth_proto::cri::{
    LinuxContainerSecurityContext, Mount as Asked, MountPropagation, NamespaceMode, UserNamespace,
};
use oci_spec::runtime::Mount;

use super::{
    IMAGE_DIR, IMAGE_VOLUME_FAILED, Inputs, POD_DIR, RRO_UNSUPPORTED,
    error::{Result, SpecError},
    provenance::{Provenance, Source},
    users::Users,
};

/// All mounts, parents before what lies below them, and how many of them are
/// anonymous volumes.
#[derive(Debug)]
pub(super) struct Mounts {
    pub(super) list: Vec<Mount>,
    pub(super) volumes: usize,
}

/// The request's mounts take the place of any other at the same path.
pub(super) fn mounts(
    inputs: &Inputs<'_>,
    context: &LinuxContainerSecurityContext,
    provenance: &mut Provenance,
) -> Result<Mounts> {
    let mut asked = Vec::new();
    let mut images = 0;
    // Mounted trees through which a mount of ours would appear on the node.
    let mut shared = Vec::new();
    for mount in &inputs.config.mounts {
        let made = if mount
            .image
            .as_ref()
            .is_some_and(|image| !image.image.is_empty())
        {
            images += 1;
            of_image(mount, images - 1)?
        } else {
            requested(mount, inputs)?
        };
        if mount.propagation() == MountPropagation::PropagationBidirectional {
            shared.push(made.destination().clone());
        }
        provenance.set(
            format!("mounts[{}]", made.destination().display()),
            Source::Cri,
        );
        asked.push(made);
    }
    let free = |list: &[Mount], at: &Path| list.iter().all(|mount| mount.destination() != at);
    let mut list: Vec<Mount> = defaults(inputs, context)
        .into_iter()
        .filter(|mount| free(&asked, mount.destination()))
        .filter(|mount| {
            !shared
                .iter()
                .any(|tree| mount.destination().starts_with(tree))
        })
        .collect();
    for mount in &list {
        let field = format!("mounts[{}]", mount.destination().display());
        provenance.set(field, Source::Default);
    }
    let mut volumes = 0;
    for volume in &inputs.image.volumes {
        let destination = inside("the image's volume", volume)?;
        if !free(&asked, &destination) || !free(&list, &destination) {
            continue;
        }
        // An empty directory there would hide what belongs to the kernel.
        if ["/proc", "/sys", "/dev"]
            .iter()
            .any(|place| destination.starts_with(place))
        {
            return Err(SpecError::invalid(format!(
                "the image's volume {volume:?} lies in a place of the kernel's"
            )));
        }
        provenance.set(format!("mounts[{}]", destination.display()), Source::Image);
        let mut volume = bind(
            &(inputs.volume)(volumes),
            &destination,
            &["rbind", "rprivate"],
        );
        map_ids(&mut volume, inputs);
        list.push(volume);
        volumes += 1;
    }
    list.extend(asked);
    // Stable: what was asked for in an order stays in it.
    list.sort_by_key(|mount| mount.destination().components().count());
    Ok(Mounts { list, volumes })
}

/// Mounts that the node and the container show each other need a root that tells.
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

/// A place in the container in its shortest spelling.
fn inside(whose: &str, path: &str) -> Result<PathBuf> {
    let clean: PathBuf = Path::new(path).components().collect();
    let upwards = clean.components().any(|part| part == Component::ParentDir);
    if clean.is_absolute() && !upwards && !path.contains('\0') && clean != Path::new("/") {
        Ok(clean)
    } else {
        Err(SpecError::invalid(format!(
            "{whose} {path:?}: expected an absolute path below / without \"..\""
        )))
    }
}

fn requested(mount: &Asked, inputs: &Inputs<'_>) -> Result<Mount> {
    let at = &mount.container_path;
    let destination = inside("mounts.container_path", at)?;
    let mapped = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if mapped {
        let asked = UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: mount.uid_mappings.clone(),
            gids: mount.gid_mappings.clone(),
        };
        Users::check(inputs.users, Some(&asked)).map_err(|error| {
            SpecError::invalid(format!("mount at {at:?}: uidMappings and gidMappings"))
                .with_source(error)
        })?;
    }
    if mount.selinux_relabel && inputs.node.selinux {
        return Err(SpecError::unimplemented(format!(
            "mount at {at:?}: selinux_relabel is not supported yet"
        )));
    }
    if !Path::new(&mount.host_path).is_absolute() || mount.host_path.contains('\0') {
        return Err(SpecError::invalid(format!(
            "mount at {at:?}: host_path {:?}: expected an absolute path of the node",
            mount.host_path
        )));
    }
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let mut options = vec!["rbind", propagation];
    options.extend(access(mount, propagation, inputs.node.recursive_read_only)?);
    options.extend(further_options(mount)?);
    let mut made = bind(Path::new(&mount.host_path), &destination, &options);
    if mapped {
        map_ids(&mut made, inputs);
    }
    Ok(made)
}

/// Whoever owns a file on the node owns it in the pod, whose users have other numbers.
fn map_ids(mount: &mut Mount, inputs: &Inputs<'_>) {
    if let Some(users) = inputs.users {
        let (uids, gids) = users.oci();
        mount
            .set_uid_mappings(Some(uids))
            .set_gid_mappings(Some(gids));
    }
}

fn further_options(mount: &Asked) -> Result<Vec<&str>> {
    let at = &mount.container_path;
    let known = |option: &str| matches!(option, "noexec" | "nodev" | "nosuid");
    match mount.mount_options.iter().find(|option| !known(option)) {
        None => Ok(mount.mount_options.iter().map(String::as_str).collect()),
        Some(other) => Err(SpecError::invalid(format!(
            "mount at {at:?}: mount_options {other:?}: expected noexec, nodev or nosuid"
        ))),
    }
}

/// An image as a volume: `number` counts those of the request. What is in it is content,
/// so that its devices and set-user-id bits mean nothing.
fn of_image(mount: &Asked, number: usize) -> Result<Mount> {
    let at = &mount.container_path;
    let refuse = |why: &str| {
        Err(SpecError::invalid(format!(
            "{IMAGE_VOLUME_FAILED}: mount at {at:?}: {why}"
        )))
    };
    let destination = inside("mounts.container_path", at)?;
    if !mount.host_path.is_empty() {
        return refuse("host_path and image exclude each other");
    }
    if !mount.readonly {
        return refuse("an image can only be mounted readonly");
    }
    if mount.propagation() != MountPropagation::PropagationPrivate {
        return refuse("an image has nothing to propagate");
    }
    let mut options = vec!["bind", "rprivate", "ro", "nosuid", "nodev"];
    options.extend(further_options(mount)?);
    let source = Path::new(IMAGE_DIR).join(number.to_string());
    Ok(bind(&source, &destination, &options))
}

fn access(mount: &Asked, propagation: &str, node_can: bool) -> Result<Option<&'static str>> {
    let at = &mount.container_path;
    if !mount.recursive_read_only {
        return Ok(mount.readonly.then_some("ro"));
    }
    if !mount.readonly {
        return Err(SpecError::invalid(format!(
            "mount at {at:?}: recursive_read_only without readonly"
        )));
    }
    if propagation != "rprivate" {
        return Err(SpecError::invalid(format!(
            "mount at {at:?}: recursive_read_only needs PROPAGATION_PRIVATE"
        )));
    }
    if !node_can {
        // Kubelets know this error by its first word.
        return Err(SpecError::precondition(format!(
            "{RRO_UNSUPPORTED}: mount at {at:?}: the kernel cannot make mounts read-only recursively"
        )));
    }
    Ok(Some("rro"))
}

fn defaults(inputs: &Inputs<'_>, context: &LinuxContainerSecurityContext) -> Vec<Mount> {
    let sys = if context.privileged { "rw" } else { "ro" };
    let mut list = vec![
        made("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        made(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        made(
            "/dev/pts",
            "devpts",
            // 5 is the group tty wherever there is one.
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        made("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        made("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        made(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", sys],
        ),
    ];
    let shm = if inputs.pod_namespaces.ipc() == NamespaceMode::Node {
        PathBuf::from("/dev/shm")
    } else {
        Path::new(POD_DIR).join("shm")
    };
    let options = ["rbind", "rprivate", "nosuid", "noexec", "nodev"];
    list.push(bind(&shm, Path::new("/dev/shm"), &options));
    let files = inputs.files;
    for (source, destination) in [
        (&files.hostname, "/etc/hostname"),
        (&files.hosts, "/etc/hosts"),
        (&files.resolv_conf, "/etc/resolv.conf"),
    ] {
        let mut options = vec!["rbind", "rprivate"];
        // A root that cannot be written has no writable files in it.
        options.extend(context.readonly_rootfs.then_some("ro"));
        let mut file = bind(source, Path::new(destination), &options);
        map_ids(&mut file, inputs);
        list.push(file);
    }
    list
}

fn made(destination: &str, fstype: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(fstype.to_owned()))
        .set_source(Some(fstype.into()))
        .set_options(Some(
            options.iter().map(|&option| option.to_owned()).collect(),
        ));
    mount
}

fn bind(source: &Path, destination: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.to_owned())
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(
            options.iter().map(|&option| option.to_owned()).collect(),
        ));
    mount
}
