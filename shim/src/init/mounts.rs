//! The plan's mounts, each attached by descriptor below the root.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use berth_proto::shim::{Failure, MountStep};
use berth_sys::{
    mount::{self, FsContext},
    resolve::{self, Scope},
};
use nix::libc;

use super::copy_up;
use crate::wire::{Slots, Step as _, system};

/// Carries out `steps` in order.
pub(super) fn attach_all(
    steps: &[MountStep],
    root: &OwnedFd,
    slots: &Slots,
) -> Result<(), Failure> {
    for step in steps {
        attach(step, root, slots)?;
    }
    Ok(())
}

fn attach(step: &MountStep, root: &OwnedFd, slots: &Slots) -> Result<(), Failure> {
    let created;
    let tree = if step.bind {
        // As the agent opened it: the kernel would not clone it again here, since it
        // comes from another mount namespace.
        slots.get(step.bind_slot)?
    } else if let Some(tree) = create(step)? {
        created = tree;
        created.as_fd()
    } else {
        // Optional, and the kernel does not have it.
        return Ok(());
    };
    let target = target(step, root)?;
    if step.copy_up {
        let own_mode = step
            .options
            .iter()
            .any(|option| option.starts_with("mode="));
        let tree = tree.try_clone_to_owned();
        tree.and_then(|tree| copy_up::copy(&target, &tree, own_mode))
            .step("mount", || format!("copying up {}", step.destination))?;
    }
    let what = || format!("attributes of {}", step.destination);
    if step.attr_set | step.attr_clear | step.propagation != 0 {
        // Propagation first: a tree cloned from a shared mount would carry the
        // change of attributes nowhere, but later mounts below it would.
        let (set, clear) = (step.attr_set, step.attr_clear);
        mount::set_attributes(tree, set, clear, step.propagation, step.recursive)
            .step("mount", what)?;
    }
    if step.top_set | step.top_clear != 0 {
        mount::set_attributes(tree, step.top_set, step.top_clear, 0, false).step("mount", what)?;
    }
    mount::attach(tree, &target).step("mount", || step.destination.clone())
}

/// The mount point, made if it is missing.
fn target(step: &MountStep, root: &OwnedFd) -> Result<OwnedFd, Failure> {
    let path = Path::new(&step.destination);
    // What the runtime itself mounts at these places must lie there and not where
    // a link of the image leads (CVE-2023-27561 and its kin).
    let own = ["/proc", "/sys", "/dev"]
        .iter()
        .any(|place| path.starts_with(place))
        && !step.bind;
    let scope = if own { Scope::Beneath } else { Scope::InRoot };
    let made = if step.file {
        resolve::make_file(root, path, scope)
    } else {
        resolve::make_directories(root, path, 0o755, scope)
    };
    let what = || format!("mount point {}", step.destination);
    let target = made.step("mount", what)?;
    // A link of the image must not lead a volume over a file of procfs, which would
    // undo masks or fool whoever reads it (CVE-2019-16884).
    let meant = path.starts_with("/proc");
    if step.bind && !meant && resolve::is_procfs(&target).step("mount", what)? {
        return Err(system(
            "mount",
            what(),
            &std::io::Error::other("it lies in /proc by way of a link"),
        ));
    }
    Ok(target)
}

fn create(step: &MountStep) -> Result<Option<OwnedFd>, Failure> {
    let what = || format!("{} for {}", step.fstype, step.destination);
    let context = match FsContext::open(&step.fstype) {
        Err(error) if step.optional && error.raw_os_error() == Some(libc::ENODEV) => {
            return Ok(None);
        }
        other => other.step("mount", what)?,
    };
    let set = || {
        if !step.source.is_empty() {
            context.string("source", &step.source)?;
        }
        for option in &step.options {
            match option.split_once('=') {
                // The name of a v1 hierarchy is a key of its own in mount data.
                Some((key, value)) => context.string(key, value)?,
                None => context.flag(option)?,
            }
        }
        // What is copied must be written first; the rest comes with the other attributes.
        context.mount(if step.copy_up { 0 } else { step.attr_set })
    };
    match set() {
        Ok(tree) => Ok(Some(tree)),
        Err(error) if step.optional && error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => {
            let said = context.complaint();
            let detail = if said.is_empty() {
                what()
            } else {
                format!("{}: {said}", what())
            };
            Err(system("mount", detail, &error))
        }
    }
}
