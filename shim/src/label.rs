//! AppArmor profiles and SELinux labels: what the program gets at execve.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd},
    path::Path,
};

use berth_proto::shim::{Failure, ProcessPlan, failure::Kind};
use berth_sys::resolve::{self, Scope};
use nix::libc;

use crate::wire::Step as _;

/// Refuses what the kernel has no idea of, before anything is made for it.
pub(crate) fn check(process: &ProcessPlan, mount_labels: bool) -> Result<(), Failure> {
    if !process.apparmor_profile.is_empty() && !has_apparmor() {
        return Err(missing(format!(
            "process.apparmorProfile {}: this kernel has no AppArmor, or it is off",
            process.apparmor_profile
        )));
    }
    let label = &process.selinux_label;
    if (!label.is_empty() || mount_labels) && !has_selinux() {
        let field = if label.is_empty() {
            "linux.mountLabel".to_owned()
        } else {
            format!("process.selinuxLabel {label}")
        };
        return Err(missing(format!(
            "{field}: this kernel has no SELinux, or it is off"
        )));
    }
    Ok(())
}

fn missing(detail: String) -> Failure {
    Failure {
        kind: Kind::Invalid.into(),
        step: "plan".to_owned(),
        errno: 0,
        detail,
    }
}

fn has_apparmor() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// The file system is registered when SELinux is on.
fn has_selinux() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|text| {
        text.lines()
            .any(|line| line.split_whitespace().last() == Some("selinuxfs"))
    })
}

/// Files of the caller's own attributes, open since a time when its /proc was known.
#[derive(Debug, Default)]
pub(crate) struct Labels(Vec<(OwnedFd, String)>);

impl Labels {
    /// Opens them below `root`, in whose /proc only the kernel's own is believed.
    pub(crate) fn open(process: &ProcessPlan, root: impl AsFd) -> Result<Self, Failure> {
        let mut labels = Self::default();
        let profile = &process.apparmor_profile;
        if !profile.is_empty() {
            let file = attribute(&root, "proc/self/attr/apparmor/exec")
                // Before Linux 5.8 one file served whichever module there was.
                .or_else(|_| attribute(&root, "proc/self/attr/exec"))
                .step("exec", || "opening AppArmor's attribute".to_owned())?;
            labels.0.push((file, format!("exec {profile}")));
        }
        if !process.selinux_label.is_empty() {
            let file = attribute(&root, "proc/self/attr/exec")
                .step("exec", || "opening SELinux's attribute".to_owned())?;
            labels.0.push((file, process.selinux_label.clone()));
        }
        Ok(labels)
    }

    /// Numbers of the files.
    pub(crate) fn raw(&self) -> Vec<RawFd> {
        self.0.iter().map(|(file, _)| file.as_raw_fd()).collect()
    }

    /// Asks the kernel for them at the next execve.
    pub(crate) fn apply(self) -> Result<(), Failure> {
        for (file, value) in self.0 {
            File::from(file)
                .write_all(value.as_bytes())
                .step("exec", || format!("asking for the label {value:?}"))?;
        }
        Ok(())
    }
}

/// A file that is not the kernel's would swallow the label, and the program would run
/// without it.
fn attribute(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let file = resolve::open(root, Path::new(path), libc::O_WRONLY, 0, Scope::InRoot)?;
    if !resolve::is_procfs(&file)? {
        return Err(io::Error::other("it is not a file of the kernel's procfs"));
    }
    Ok(file)
}
