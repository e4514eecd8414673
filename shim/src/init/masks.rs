//! Masked and read-only paths. They fail closed: a path that is there and cannot
//! be covered ends the start; only a path that is not there is passed over.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use berth_proto::shim::{Failure, Plan};
use berth_sys::{
    mount::{self, FsContext, attr},
    resolve::{self, Scope},
};
use nix::libc;

use crate::wire::{Step as _, system};

/// Covers what the plan names, after the pivot, when `root` is the container's.
pub(super) fn apply(plan: &Plan, root: &OwnedFd) -> Result<(), Failure> {
    for path in &plan.readonly_paths {
        let Some(target) = find(root, path)? else {
            continue;
        };
        let what = || format!("read-only path {path}");
        let tree = mount::clone_tree(&target, c"", true).step("mount", what)?;
        mount::set_attributes(&tree, attr::RDONLY, 0, 0, true).step("mount", what)?;
        mount::attach(&tree, &target).step("mount", what)?;
    }
    if plan.masked_paths.is_empty() {
        return Ok(());
    }
    let null = null_device(root)?;
    for path in &plan.masked_paths {
        let Some(target) = find(root, path)? else {
            continue;
        };
        let what = || format!("masked path {path}");
        let cover = if resolve::file_type(&target).step("mount", what)? == libc::S_IFDIR {
            empty_directory().step("mount", what)?
        } else {
            mount::clone_tree(null.as_fd(), c"", false).step("mount", what)?
        };
        mount::attach(&cover, &target).step("mount", what)?;
    }
    Ok(())
}

/// Opens `path` if it is there. Below /proc and /sys no link is followed, so that
/// an image cannot make the cover land elsewhere (CVE-2025-31133).
fn find(root: &OwnedFd, path: &str) -> Result<Option<OwnedFd>, Failure> {
    let path = Path::new(path);
    let own = path.starts_with("/proc") || path.starts_with("/sys");
    let scope = if own { Scope::Beneath } else { Scope::InRoot };
    match resolve::open_path(root, path, scope) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(system("mount", path.display().to_string(), &error)),
    }
}

fn empty_directory() -> io::Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.string("size", "0")?;
    context.string("nr_inodes", "1")?;
    context.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)
}

/// The container's /dev/null, proven to be that: binding whatever lies there
/// would put a file of the attacker's choice over what is to be hidden.
fn null_device(root: &OwnedFd) -> Result<OwnedFd, Failure> {
    let what = || "/dev/null for masked paths".to_owned();
    let fd = resolve::open_path(root, Path::new("dev/null"), Scope::Beneath).step("mount", what)?;
    let metadata = std::fs::File::from(fd.try_clone().step("mount", what)?)
        .metadata()
        .step("mount", what)?;
    let is_null =
        metadata.mode() & libc::S_IFMT == libc::S_IFCHR && metadata.rdev() == libc::makedev(1, 3);
    if is_null {
        Ok(fd)
    } else {
        Err(system(
            "mount",
            what(),
            &io::Error::other("it is not the null device"),
        ))
    }
}
