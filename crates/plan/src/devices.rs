//! Device nodes of a container's own /dev.

use std::path::Path;

use berth_proto::shim::{DeviceNode, MountStep};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::{
    error::PlanError,
    input::{Slot, Slots},
    limits,
    options::attr,
};

const FIELD: &str = "linux.devices";

/// What every container has (runtime specification, "Default Devices"); ptmx and the
/// links come with the terminals.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Any kind of node for everybody, where the specification says nothing.
const DEFAULT_MODE: u32 = 0o666;

/// Where the shim makes links, whatever nodes the host has under these names.
const LINKS: [&str; 5] = [
    "/dev/fd",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
    "/dev/ptmx",
];

/// The default nodes and those of `given`, of which later ones replace earlier ones.
/// A node that `mounts` or the terminal cover is left out: nodes are made when all is
/// mounted, and it could not be.
pub(crate) fn devices(
    given: &[LinuxDevice],
    mounts: &[MountStep],
    terminal: bool,
) -> Result<Vec<DeviceNode>, PlanError> {
    let mut nodes: Vec<DeviceNode> = DEFAULT
        .iter()
        .map(|(path, major, minor)| DeviceNode {
            path: (*path).to_owned(),
            mode: libc::S_IFCHR | DEFAULT_MODE,
            major: *major,
            minor: *minor,
            uid: 0,
            gid: 0,
        })
        .collect();
    for device in given {
        let node = node(device)?;
        nodes.retain(|other| other.path != node.path);
        nodes.push(node);
    }
    nodes.retain(|node| {
        let covered = mounts.iter().any(|mount| {
            mount.destination.starts_with("/dev/")
                && Path::new(&node.path).starts_with(&mount.destination)
        });
        let console = terminal && node.path == "/dev/console";
        !covered && !console && !LINKS.contains(&node.path.as_str())
    });
    Ok(nodes)
}

/// The node's own device of the same path.
pub(crate) fn bind_device(path: String, slots: &mut Slots) -> MountStep {
    MountStep {
        bind: true,
        bind_slot: slots.add(Slot::Bind {
            source: path.clone().into(),
            recursive: false,
            propagation: libc::MS_PRIVATE,
            idmap: None,
        }),
        destination: path,
        attr_set: attr::NOSUID | attr::NOEXEC,
        file: true,
        ..MountStep::default()
    }
}

fn node(device: &LinuxDevice) -> Result<DeviceNode, PlanError> {
    let path = device.path();
    let clean = path.to_str().filter(|text| {
        text.strip_prefix("/dev/")
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
            && !text.contains('\0')
    });
    let Some(clean) = clean else {
        let reason = "devices can only be made below /dev, by a plain path";
        return Err(PlanError::invalid(FIELD, path.display(), reason));
    };
    let kind = match device.typ() {
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            let reason = "type must be b, c, u or p";
            return Err(PlanError::invalid(FIELD, path.display(), reason));
        }
    };
    // A FIFO has no numbers.
    let (major, minor) = if kind == libc::S_IFIFO {
        (0, 0)
    } else {
        (
            limits::major(FIELD, device.major())?,
            limits::minor(FIELD, device.minor())?,
        )
    };
    let owner = |id: Option<u32>| match id.unwrap_or(0) {
        u32::MAX => Err(PlanError::invalid(
            FIELD,
            path.display(),
            "its owner is no id",
        )),
        id => Ok(id),
    };
    Ok(DeviceNode {
        path: clean.to_owned(),
        // Some callers pass the whole st_mode.
        mode: kind | (device.file_mode().unwrap_or(DEFAULT_MODE) & 0o7777),
        major,
        minor,
        uid: owner(device.uid())?,
        gid: owner(device.gid())?,
    })
}
