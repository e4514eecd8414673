//! Device nodes and who may use which.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use berth_proto::cri::Device;
use nix::libc;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};

use super::unbuilt;
use crate::error::{Error, Result};

/// Of the node: directories that are not devices of the node but of each container.
const NOT_COPIED: [&str; 7] = [
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/dev/console",
    "/dev/.lxc",
    "/dev/.lxd-mounts",
    "/dev/fd",
];
/// A node with more devices than that is not to be copied one by one.
const MOST: usize = 4096;

struct Found {
    inside: PathBuf,
    kind: LinuxDeviceType,
    major: i64,
    minor: i64,
    mode: u32,
    uid: u32,
    gid: u32,
    access: String,
}

/// Nodes beside the default ones.
pub(super) fn nodes(asked: &[Device], privileged: bool) -> Result<Vec<LinuxDevice>> {
    find(asked, privileged)?
        .into_iter()
        .map(|device| {
            LinuxDeviceBuilder::default()
                .path(device.inside)
                .typ(device.kind)
                .major(device.major)
                .minor(device.minor)
                .file_mode(device.mode)
                .uid(device.uid)
                .gid(device.gid)
                .build()
                .map_err(unbuilt)
        })
        .collect()
}

/// What the group allows: everything for a privileged container; else the default
/// nodes, terminals, and what was asked for. Nodes may be made, but not used.
pub(super) fn rules(asked: &[Device], privileged: bool) -> Result<Vec<LinuxDeviceCgroup>> {
    if privileged {
        return Ok(vec![rule(LinuxDeviceType::A, None, None, "rwm")?]);
    }
    let mut rules = vec![
        rule(LinuxDeviceType::C, None, None, "m")?,
        rule(LinuxDeviceType::B, None, None, "m")?,
    ];
    for (major, minor) in [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ] {
        rules.push(rule(LinuxDeviceType::C, Some(major), minor, "rwm")?);
    }
    for device in find(asked, false)? {
        rules.push(rule(
            device.kind,
            Some(device.major),
            Some(device.minor),
            &device.access,
        )?);
    }
    Ok(rules)
}

fn rule(
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Result<LinuxDeviceCgroup> {
    let mut builder = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(kind)
        .access(access);
    if let Some(major) = major {
        builder = builder.major(major);
    }
    if let Some(minor) = minor {
        builder = builder.minor(minor);
    }
    builder.build().map_err(unbuilt)
}

fn find(asked: &[Device], privileged: bool) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    if privileged {
        below(Path::new("/dev"), Path::new("/dev"), "rwm", &mut found);
    }
    for device in asked {
        let access = device.permissions.as_str();
        if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
            return Err(Error::invalid(format!(
                "device {} with permissions {access:?}: expected some of \"rwm\"",
                device.host_path
            )));
        }
        let inside = match device.container_path.as_str() {
            "" => device.host_path.as_str(),
            path => path,
        };
        let inside = Path::new(inside);
        if !inside.starts_with("/dev") || inside.components().any(|part| part.as_os_str() == "..") {
            return Err(Error::invalid(format!(
                "device at {} in the container: expected a path below /dev",
                inside.display()
            )));
        }
        let before = found.len();
        // A link of the node leads to the device that is meant.
        let host = fs::canonicalize(&device.host_path).map_err(|error| {
            Error::invalid(format!("device {}", device.host_path)).with_source(error)
        })?;
        if host.is_dir() {
            below(&host, inside, access, &mut found);
        } else {
            found.extend(look(&host, inside, access));
        }
        if found.len() == before {
            return Err(Error::invalid(format!("{} is no device", device.host_path)));
        }
    }
    Ok(found)
}

fn below(host: &Path, inside: &Path, access: &str, found: &mut Vec<Found>) {
    let Ok(entries) = fs::read_dir(host) else {
        return;
    };
    for entry in entries.flatten() {
        let (host, inside) = (entry.path(), inside.join(entry.file_name()));
        if NOT_COPIED.iter().any(|one| Path::new(one) == host) || found.len() >= MOST {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => below(&host, &inside, access, found),
            Ok(_) => found.extend(look(&host, &inside, access)),
            Err(_) => {}
        }
    }
}

fn look(host: &Path, inside: &Path, access: &str) -> Option<Found> {
    let metadata = fs::symlink_metadata(host).ok()?;
    let kind = if metadata.file_type().is_char_device() {
        LinuxDeviceType::C
    } else if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    Some(Found {
        inside: inside.to_owned(),
        kind,
        major: i64::from(libc::major(metadata.rdev())),
        minor: i64::from(libc::minor(metadata.rdev())),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}
