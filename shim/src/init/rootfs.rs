//! The container's root: an overlay of its image's layers and its writable layer.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use berth_proto::shim::{Failure, IdMapping, Plan, RootPlan};
use berth_sys::{
    credentials,
    mount::{self, FsContext, attr},
    resolve::{self, Scope},
};
use nix::libc;

use crate::wire::{Slots, Step as _, invalid, system};

/// Where the root is attached before it is pivoted into: a directory of the slim
/// mount namespace's own root, which nobody else sees.
const STAGING: &str = "/mnt";

/// Mounts the root and returns a descriptor of it.
pub(crate) fn assemble(plan: &Plan, slots: &Slots) -> Result<OwnedFd, Failure> {
    stage_made(plan, make(plan, slots)?)
}

/// Makes the root for somebody who will be in another user namespace, and leaves nothing
/// of it in this mount namespace.
pub(crate) fn make_outside(plan: &Plan, slots: &Slots) -> Result<OwnedFd, Failure> {
    // Overlay works on its layers as who has mounted it, and must be somebody whom the
    // mapping of their ids knows: the root of the user namespace.
    let namespaces = plan.namespaces.as_ref();
    let root_of = |maps: Option<&Vec<IdMapping>>| {
        let maps = maps.into_iter().flatten();
        maps.filter(|map| map.inside == 0)
            .map(|map| map.outside)
            .next()
            .ok_or_else(|| invalid("the user namespace has no root"))
    };
    let uid = root_of(namespaces.map(|all| &all.uid_mappings))?;
    let gid = root_of(namespaces.map(|all| &all.gid_mappings))?;
    let what = || "making files as the root of the user namespace".to_owned();
    credentials::set_fs_ids(uid, gid).step("rootfs", what)?;
    let root = make(plan, slots)?;
    credentials::set_fs_ids(0, 0).step("rootfs", what)?;
    match mount::unmount(c"/mnt", libc::MNT_DETACH) {
        // EINVAL: nothing had to be attached there.
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(system(
            "rootfs",
            "detaching the tree of the layers".to_owned(),
            &error,
        )),
        _ => Ok(root),
    }
}

/// Attaches a root that is made where it is pivoted into.
pub(super) fn stage_made(plan: &Plan, mount: OwnedFd) -> Result<OwnedFd, Failure> {
    let staging = match plan_of(plan)?.staging.as_str() {
        "" => STAGING,
        given => given,
    };
    let staging = std::fs::File::open(staging).step("rootfs", || staging.to_owned())?;
    mount::attach(&mount, &staging).step("rootfs", || "attaching the root".to_owned())?;
    Ok(mount)
}

fn plan_of(plan: &Plan) -> Result<&RootPlan, Failure> {
    plan.root
        .as_ref()
        .ok_or_else(|| invalid("the plan has no root"))
}

fn make(plan: &Plan, slots: &Slots) -> Result<OwnedFd, Failure> {
    let root = plan_of(plan)?;
    let tree = slots.get(root.tree_slot)?;
    match (root.layers.as_slice(), root.upper.as_str()) {
        // The tree is the root itself, with what is mounted below it.
        ([], "") => whole(tree),
        ([only], "") => bind(root, tree, only),
        (_, "") => overlay(root, tree, false),
        _ => overlay(root, tree, true),
    }
}

/// A directory of the tree as the root.
fn bind(root: &RootPlan, tree: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Failure> {
    stage(root, tree)?;
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
fn stage(root: &RootPlan, tree: BorrowedFd<'_>) -> Result<(), Failure> {
    let what = || "attaching the tree of the layers".to_owned();
    mount::set_attributes(tree, 0, 0, libc::MS_PRIVATE, true).step("rootfs", what)?;
    let staging = match root.layers_staging.as_str() {
        "" => STAGING,
        given => given,
    };
    let staging = std::fs::File::open(staging).step("rootfs", || staging.to_owned())?;
    mount::attach(tree, &staging).step("rootfs", what)
}

fn below(tree: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Failure> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    resolve::open(tree, Path::new(path), flags, 0, Scope::Beneath)
        .step("rootfs", || format!("opening {path}"))
}

fn overlay(root: &RootPlan, tree: BorrowedFd<'_>, writable: bool) -> Result<OwnedFd, Failure> {
    stage(root, tree)?;
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
