//! Device nodes of the request, or of the whole node for a privileged container, and
//! who may use them.

use std::path::{Component, Path, PathBuf};

use berth_proto::cri::Device;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{
    Inputs,
    error::{Result, SpecError},
    provenance::{Provenance, Source},
};

/// A device of the node, as the caller found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostDevice {
    /// Below the path that was looked at; empty for that itself.
    pub(crate) below: PathBuf,
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Places in /dev that every container has of its own.
const OWN: [&str; 5] = ["pts", "shm", "mqueue", "ptmx", "console"];

/// Nodes, and rules for the device controller.
#[derive(Debug, Default)]
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    pub(super) rules: Vec<LinuxDeviceCgroup>,
}

pub(super) fn devices(
    inputs: &Inputs<'_>,
    privileged: bool,
    provenance: &mut Provenance,
) -> Result<Devices> {
    if let Some(device) = inputs.config.cdi_devices.first() {
        return Err(SpecError::unimplemented(format!(
            "CDI_devices: {:?}: not supported yet",
            device.name
        ))
        .with_remedy("use devices"));
    }
    let mut all = Devices::default();
    if privileged {
        let dev = Path::new("/dev");
        for device in look(inputs, dev)? {
            let own = OWN.iter().any(|own| device.below.starts_with(own));
            if !own {
                all.nodes.push(node(dev.join(&device.below), &device));
            }
        }
        provenance.set("linux.devices", Source::Cri);
    }
    // Everything else is denied by whoever writes the groups; the usual devices are
    // allowed there too.
    let mut everything = LinuxDeviceCgroup::default();
    everything
        .set_allow(privileged)
        .set_typ(Some(LinuxDeviceType::A))
        .set_access(Some("rwm".to_owned()));
    all.rules.push(everything);
    for asked in &inputs.config.devices {
        all.add(asked, inputs)?;
        provenance.set("linux.devices", Source::Cri);
    }
    Ok(all)
}

impl Devices {
    fn add(&mut self, asked: &Device, inputs: &Inputs<'_>) -> Result<()> {
        let wrong =
            |what: &str| SpecError::invalid(format!("device {:?}: {what}", asked.host_path));
        let access = asked.permissions.as_str();
        if access.is_empty() || access.bytes().any(|b| !b"rwm".contains(&b)) {
            return Err(wrong(&format!(
                "permissions {access:?}: expected some of r, w and m"
            )));
        }
        let host = Path::new(&asked.host_path);
        if !host.is_absolute() || asked.host_path.contains('\0') {
            return Err(wrong("expected an absolute path of the node"));
        }
        let inside = if asked.container_path.is_empty() {
            host
        } else {
            Path::new(&asked.container_path)
        };
        let plain = inside.components().all(|part| part != Component::ParentDir)
            && !asked.container_path.contains('\0');
        if !plain || !inside.starts_with("/dev") || inside == Path::new("/dev") {
            return Err(wrong(&format!(
                "container_path {inside:?}: expected a path below /dev"
            )));
        }
        let found = look(inputs, host)?;
        if found.is_empty() {
            return Err(wrong(
                "is no device of the node, nor a directory of devices",
            ));
        }
        for device in found {
            let path = if device.below.as_os_str().is_empty() {
                inside.to_owned()
            } else {
                inside.join(&device.below)
            };
            self.nodes.push(node(path, &device));
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(true)
                .set_typ(Some(kind(&device)))
                .set_major(Some(i64::from(device.major)))
                .set_minor(Some(i64::from(device.minor)))
                .set_access(Some(access.to_owned()));
            self.rules.push(rule);
        }
        Ok(())
    }
}

fn look(inputs: &Inputs<'_>, path: &Path) -> Result<Vec<HostDevice>> {
    (inputs.devices)(path).map_err(|error| {
        SpecError::invalid(format!("device {}: cannot be looked at", path.display()))
            .with_source(error)
    })
}

fn kind(device: &HostDevice) -> LinuxDeviceType {
    if device.block {
        LinuxDeviceType::B
    } else {
        LinuxDeviceType::C
    }
}

fn node(path: PathBuf, device: &HostDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(path)
        .set_typ(kind(device))
        .set_major(i64::from(device.major))
        .set_minor(i64::from(device.minor))
        .set_file_mode(Some(device.mode & 0o7777))
        .set_uid(Some(device.uid))
        .set_gid(Some(device.gid));
    node
}
