//! The container's root: an overlay of its image's layers and its writable layer.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use berth_proto::shim::{Failure, Plan, RootPlan};
use berth_sys::{
    mount::{self, FsContext, attr},
    resolve::{self, Scope},
};
use nix::libc;

use crate::wire::{Slots, Step as _, invalid, system};

/// Where the root is attached before it is pivoted into: a directory of the slim
/// mount namespace's own root, which nobody else sees.
const STAGING: &str = "/mnt";

/// Mounts the root and returns a descriptor of it.
pub(super) fn assemble(plan: &Plan, slots: &Slots) -> Result<OwnedFd, Failure> {
    let root = plan
        .root
        .as_ref()
        .ok_or_else(|| invalid("the plan has no root"))?;
    let tree = slots.get(root.tree_slot)?;
    let mount = match (root.layers.as_slice(), root.upper.as_str()) {
        // The tree is the root itself, with what is mounted below it.
        ([], "") => whole(tree)?,
        ([only], "") => bind(tree, only)?,
        (_, "") => overlay(root, tree, false)?,
        _ => overlay(root, tree, true)?,
    };
    let staging = match root.staging.as_str() {
        "" => STAGING,
        given => given,
    };
    let staging = std::fs::File::open(staging).step("rootfs", || staging.to_owned())?;
    mount::attach(&mount, &staging).step("rootfs", || "attaching the root".to_owned())?;
    Ok(mount)
}

/// A directory of the tree as the root.
fn bind(tree: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Failure> {
    stage(tree)?;
    let directory = below(tree, path)?;
    let what = || format!("cloning the tree at {path:?}");
    mount::clone_tree(&directory, c"", true).step("rootfs", what)
}

fn whole(tree: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let what = || "taking the tree of the root".to_owned();
    mount::set_attributes(tree, 0, 0, libc::MS_PRIVATE, true).step("rootfs", what)?;
    tree.try_clone_to_owned().step("rootfs", what)
}

/// Attaches the tree; the pivot takes it off again. The kernel clones only what is
/// mounted in this namespace, and before Linux 6.15 overlay clones its layers like that.
fn stage(tree: BorrowedFd<'_>) -> Result<(), Failure> {
    let what = || "attaching the tree of the layers".to_owned();
    mount::set_attributes(tree, 0, 0, libc::MS_PRIVATE, true).step("rootfs", what)?;
    let staging = std::fs::File::open(STAGING).step("rootfs", || STAGING.to_owned())?;
    mount::attach(tree, &staging).step("rootfs", what)
}

fn below(tree: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Failure> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    resolve::open(tree, Path::new(path), flags, 0, Scope::Beneath)
        .step("rootfs", || format!("opening {path}"))
}

fn overlay(root: &RootPlan, tree: BorrowedFd<'_>, writable: bool) -> Result<OwnedFd, Failure> {
    stage(tree)?;
    let layers = root
        .layers
        .iter()
        .map(|layer| below(tree, layer))
        .collect::<Result<Vec<_>, _>>()?;
    let context = FsContext::open("overlay").step("rootfs", || "overlay".to_owned())?;
    let describe = |error: io::Error| {
        let said = context.complaint();
        system("rootfs", format!("overlay: {said}"), &error)
    };
    lower(&context, &layers).map_err(describe)?;
    // Open until the mount is made: that is when old kernels resolve the names.
    let mut directories = Vec::new();
    if writable {
        for (key, path) in [("upperdir", &root.upper), ("workdir", &root.work)] {
            let directory = below(tree, path)?;
            set_directory(&context, key, directory.as_fd()).map_err(describe)?;
            directories.push(directory);
        }
        if root.volatile {
            context.flag("volatile").map_err(describe)?;
        }
    }
    context.mount(0).map_err(describe)
}

/// One by one where overlay can. Older kernels take all layers in one value of at
/// most 255 bytes: below /proc/self/fd the names of descriptors are short.
fn lower(context: &FsContext, layers: &[OwnedFd]) -> io::Result<()> {
    for (index, layer) in layers.iter().enumerate() {
        let taken = match context.descriptor("lowerdir+", layer.as_fd()) {
            // What a file system says that does not know this interface at all.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Err(error),
            taken => by_name(taken, context, "lowerdir+", layer.as_fd()),
        };
        match taken.as_ref().map_err(io::Error::raw_os_error) {
            // EINVAL is what overlay says to a key that it does not know, be it
            // given by name or by descriptor; it would say so to the first.
            Err(Some(libc::EOPNOTSUPP | libc::EINVAL)) if index == 0 => {
                let names: Vec<_> = layers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
                // The pivot sets the working directory again.
                std::env::set_current_dir("/proc/self/fd")?;
                return context.string("lowerdir", &names.join(":"));
            }
            _ => taken?,
        }
    }
    Ok(())
}

fn set_directory(context: &FsContext, key: &str, dir: BorrowedFd<'_>) -> io::Result<()> {
    by_name(context.descriptor(key, dir), context, key, dir)
}

/// By descriptor from Linux 6.13 on; before, overlay takes names only, and the
/// name of a descriptor below /proc/self/fd leads to the very same directory.
/// EBADF comes from kernels that refuse O_PATH here before they ask overlay.
fn by_name(
    taken: io::Result<()>,
    context: &FsContext,
    key: &str,
    dir: BorrowedFd<'_>,
) -> io::Result<()> {
    match taken.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(libc::EINVAL | libc::EBADF | libc::EOPNOTSUPP)) => {
            context.string(key, &format!("/proc/self/fd/{}", dir.as_raw_fd()))
        }
        _ => taken,
    }
}

/// Sets how mounts of the whole tree tell others, after the pivot.
pub(super) fn set_propagation(plan: &Plan) -> Result<(), Failure> {
    match plan.root.as_ref().map_or(0, |root| root.propagation) {
        0 => Ok(()),
        flags => mount::set_propagation_path(c"/", flags)
            .step("rootfs", || "propagation of the root".to_owned()),
    }
}

/// Makes the root itself read-only; what is mounted below keeps its own word.
pub(super) fn make_readonly(plan: &Plan) -> Result<(), Failure> {
    if !plan.root.as_ref().is_some_and(|root| root.readonly) {
        return Ok(());
    }
    let root = std::fs::File::open("/").step("rootfs", || "/".to_owned())?;
    mount::set_attributes(&root, attr::RDONLY, 0, 0, false)
        .step("rootfs", || "making the root read-only".to_owned())
}
