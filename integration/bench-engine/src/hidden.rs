//! A mount namespace without the v2 hierarchy of a hybrid node: Debian's crun refuses
//! to work where it sees both.

use std::{fs::File, thread};

use anyhow::{Context as _, Result, anyhow};
use berth_integration::leak::hierarchies;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

#[derive(Debug)]
pub(crate) struct Hidden(File);

impl Hidden {
    /// None where there is but one kind of hierarchy.
    pub(crate) fn make() -> Result<Option<Self>> {
        let mounts = hierarchies()?;
        let Some(v2) = mounts
            .iter()
            .find(|mount| mount.join("cgroup.controllers").exists())
            .filter(|_| mounts.len() > 1)
        else {
            return Ok(None);
        };
        // Only the thread that unshares moves.
        let file = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS).context("unshare the mount namespace")?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
            umount2(v2, MntFlags::MNT_DETACH).context("hide the v2 hierarchy")?;
            File::open("/proc/thread-self/ns/mnt").context("open the new namespace")
        })?;
        Ok(Some(Self(file)))
    }

    /// Runs `work` on a thread in it.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_FS)?;
            setns(&self.0, CloneFlags::CLONE_NEWNS).context("enter the mount namespace")?;
            work()
        })
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .map_err(|_panic| anyhow!("a thread panicked"))?
    })
}
