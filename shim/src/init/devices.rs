//! Device nodes and the usual links in the container's /dev.

use std::{ffi::OsStr, os::fd::OwnedFd, path::Path};

use berth_proto::shim::{DeviceNode, Failure, Plan};
use berth_sys::resolve::{self, Scope};

use crate::wire::{Step as _, invalid};

/// Links that programs expect (OCI runtime specification, "Default Devices").
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the nodes. /dev has just been mounted, so that nothing is there yet and
/// nobody else can reach it; links are not followed all the same.
pub(super) fn make(plan: &Plan, root: &OwnedFd) -> Result<(), Failure> {
    if !plan.own_dev && plan.devices.is_empty() {
        return Ok(());
    }
    for device in &plan.devices {
        make_node(device, root)?;
    }
    // Without a mount of its own it is a directory of the image.
    let dev = resolve::make_directories(root, Path::new("dev"), 0o755, Scope::Beneath)
        .step("mount", || "opening /dev".to_owned())?;
    for (name, target) in LINKS {
        resolve::make_link(&dev, OsStr::new(name), OsStr::new(target))
            .step("mount", || format!("link /dev/{name}"))?;
    }
    Ok(())
}

fn make_node(device: &DeviceNode, root: &OwnedFd) -> Result<(), Failure> {
    let path = Path::new(&device.path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(invalid(format!("device path {}", device.path)));
    };
    if !path.starts_with("/dev") {
        return Err(invalid(format!("device {} lies outside /dev", device.path)));
    }
    let what = || format!("device {}", device.path);
    let dir = resolve::make_directories(root, parent, 0o755, Scope::Beneath).step("mount", what)?;
    resolve::make_node(&dir, name, device.mode, device.major, device.minor).step("mount", what)?;
    resolve::set_owner_and_mode(&dir, name, device.uid, device.gid, device.mode).step("mount", what)
}
