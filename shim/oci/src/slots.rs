//! Opening what a plan's slots name.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use berth_cgroup::Group;
use berth_plan::{IdMaps, Slot};
use berth_proto::shim::IdMapping;
use berth_sys::{mount, namespace};
use nix::libc;

/// Where the slots' content comes from.
pub(crate) struct Sources<'a> {
    pub(crate) rootfs: &'a Path,
    pub(crate) group: &'a Group,
    pub(crate) preserved: &'a [BorrowedFd<'a>],
}

impl Sources<'_> {
    /// Opens every slot, in order.
    pub(crate) fn open(&self, slots: &[Slot]) -> Result<Vec<OwnedFd>> {
        slots.iter().map(|slot| self.open_one(slot)).collect()
    }

    fn open_one(&self, slot: &Slot) -> Result<OwnedFd> {
        match slot {
            Slot::StateTree => tree(self.rootfs, true, 0)
                .with_context(|| format!("cloning the root file system {}", self.rootfs.display())),
            Slot::Bind {
                source,
                recursive,
                propagation,
                idmap,
            } => {
                let what = || format!("mount source {}", source.display());
                let tree = tree(source, *recursive, *propagation).with_context(what)?;
                if let Some(maps) = idmap {
                    map_ids(&tree, maps)
                        .with_context(|| format!("mapping the ids of {}", what()))?;
                }
                Ok(tree)
            }
            Slot::Namespace { kind, path } => File::open(path)
                .map(OwnedFd::from)
                .with_context(|| format!("{} namespace {}", kind.name(), path.display())),
            Slot::CgroupDir(number) => self
                .dir(*number)?
                .try_clone_to_owned()
                .context("duplicating a control group"),
            Slot::CgroupTree(number) => mount::clone_tree(self.dir(*number)?, c"", false)
                .context("cloning the tree of a control group"),
            Slot::Stream(number) => stream(*number).context("duplicating a standard stream"),
            Slot::Preserved(number) => usize::try_from(*number)
                .ok()
                .and_then(|at| self.preserved.get(at))
                .context("a descriptor to be preserved")?
                .try_clone_to_owned()
                .context("duplicating a descriptor to be preserved"),
            Slot::PodShm | Slot::PodNamespace(_) | Slot::LogFile => {
                bail!("the plan asks for something of a pod: {slot:?}")
            }
        }
    }

    fn dir(&self, number: usize) -> Result<BorrowedFd<'_>> {
        let dir = self.group.dirs().get(number);
        dir.map(|dir| dir.fd.as_fd())
            .context("a control group of the plan does not exist")
    }
}

/// While nobody can reach the tree: the kernel maps no mount that is in use.
fn map_ids(tree: &OwnedFd, maps: &IdMaps) -> io::Result<()> {
    let lines = |maps: &[IdMapping]| -> String {
        let lines = maps
            .iter()
            .map(|map| format!("{} {} {}\n", map.inside, map.outside, map.count));
        lines.collect()
    };
    let users = namespace::mapped_users(&lines(&maps.uids), &lines(&maps.gids))?;
    mount::map_ids(tree, &users, maps.recursive)
}

fn stream(number: u8) -> io::Result<OwnedFd> {
    match number {
        0 => io::stdin().as_fd().try_clone_to_owned(),
        1 => io::stdout().as_fd().try_clone_to_owned(),
        _ => io::stderr().as_fd().try_clone_to_owned(),
    }
}

/// A detached tree of `path`, links followed: whoever wrote the configuration may
/// name any path of the node.
fn tree(path: &Path, recursive: bool, propagation: u64) -> io::Result<OwnedFd> {
    let source = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    let tree = mount::clone_tree(source.as_fd(), c"", recursive)?;
    if propagation != 0 {
        mount::set_attributes(&tree, 0, 0, propagation, recursive)?;
    }
    Ok(tree)
}
