//! Entering the container's control groups and the pod's namespaces.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use berth_proto::shim::{Failure, Plan, Sysctl, namespace_target::Mode};
use berth_sys::{
    credentials, namespace,
    resolve::{self, Scope},
};
use nix::libc;

use crate::{
    spawn::{has_helper, has_new_users, mode},
    wire::{Slots, Step as _, invalid},
};

/// What must be done while this is still the node's root: entering the groups, and a
/// session keyring, whose keys are then not counted against a user.
pub(crate) fn as_root(plan: &Plan, slots: &Slots) -> Result<(), Failure> {
    credentials::own_session_keyring().step("clone", || "a session keyring".to_owned())?;
    groups(plan, slots)
}

/// Moves this process into the container's groups. A process that moves itself
/// through v1's `tasks` does not wait for the grace period that a foreign write
/// to `cgroup.procs` costs.
fn groups(plan: &Plan, slots: &Slots) -> Result<(), Failure> {
    for dir in plan.cgroup.iter().flat_map(|cgroup| &cgroup.dirs) {
        // In the v2 group it was born.
        if !dir.v2 {
            enter(slots.get(dir.slot)?, "tasks").step("cgroup", || {
                format!("entering the {} group", dir.controllers)
            })?;
        }
    }
    Ok(())
}

fn enter(dir: BorrowedFd<'_>, file: &str) -> io::Result<()> {
    let file = resolve::open(dir, Path::new(file), libc::O_WRONLY, 0, Scope::Beneath)?;
    move_self(file)
}

/// Moves the caller through an open `tasks` or `cgroup.procs` file.
pub(crate) fn move_self(file: OwnedFd) -> io::Result<()> {
    File::from(file).write_all(b"0")
}

/// Joins what the pod shares and sets up what is new.
pub(super) fn namespaces(plan: &Plan, slots: &Slots) -> Result<(), Failure> {
    let namespaces = plan
        .namespaces
        .as_ref()
        .ok_or_else(|| invalid("the plan has no namespaces"))?;
    for (target, flag, name) in [
        (&namespaces.net, libc::CLONE_NEWNET, "network"),
        (&namespaces.ipc, libc::CLONE_NEWIPC, "IPC"),
        (&namespaces.uts, libc::CLONE_NEWUTS, "UTS"),
        (&namespaces.cgroup, libc::CLONE_NEWCGROUP, "cgroup"),
    ] {
        // Before a user namespace was entered the shim or its helper has joined them:
        // from within there is no right to namespaces that belong to the node.
        let before = has_new_users(plan) || has_helper(plan);
        if mode(target.as_ref()) == Mode::Join && !before {
            let slot = target.map(|target| target.slot).unwrap_or_default();
            let fd = slots.get(slot)?;
            namespace::setns(fd.as_fd(), flag)
                .step("clone", || format!("joining the {name} namespace"))?;
        }
    }
    // Only now: the root of a new cgroup namespace is where its maker is.
    if mode(namespaces.cgroup.as_ref()) == Mode::New {
        namespace::unshare(libc::CLONE_NEWCGROUP)
            .step("clone", || "making a cgroup namespace".to_owned())?;
    }
    if mode(namespaces.net.as_ref()) == Mode::New {
        namespace::loopback_up().step("clone", || "bringing loopback up".to_owned())?;
    }
    if mode(namespaces.uts.as_ref()) == Mode::New {
        namespace::sethostname(namespaces.hostname.as_bytes())
            .step("clone", || "setting the host name".to_owned())?;
        if !namespaces.domainname.is_empty() {
            namespace::setdomainname(namespaces.domainname.as_bytes())
                .step("clone", || "setting the domain name".to_owned())?;
        }
    }
    write_sysctls(&plan.sysctls)
}

/// Writes kernel parameters of the caller's namespaces through its own procfs.
pub(crate) fn write_sysctls(sysctls: &[Sysctl]) -> Result<(), Failure> {
    for sysctl in sysctls {
        let path = Path::new("/proc/sys").join(sysctl.name.replace('.', "/"));
        fs::write(&path, &sysctl.value).step("netns", || {
            format!("sysctl {} = {}", sysctl.name, sysctl.value)
        })?;
    }
    Ok(())
}
