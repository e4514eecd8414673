//! A network namespace of one's own, for the agent, its registry and its pods.

use std::{
    fs::File,
    os::fd::{AsFd as _, OwnedFd},
    os::unix::fs::MetadataExt as _,
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that lives as long as this value or a process in it.
#[derive(Debug)]
pub struct NetNs {
    handle: OwnedFd,
    inode: u64,
}

impl NetNs {
    /// Creates a namespace whose loopback device is up.
    ///
    /// # Errors
    /// If this process is not root, or `ip` is missing.
    pub fn new() -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces need root: run the tests as root"
        );
        // Only the thread that unshares moves, so the caller stays where it is.
        let file = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
            let up = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .context("run ip (package iproute2)")?;
            ensure!(up.success(), "ip link set lo up: {up}");
            File::open("/proc/thread-self/ns/net").context("open the new namespace")
        })?;
        let inode = file.metadata()?.ino();
        Ok(Self {
            handle: file.into(),
            inode,
        })
    }

    /// The namespace that this process is in.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn current() -> Result<Self> {
        let file = File::open("/proc/self/ns/net").context("open the network namespace")?;
        let inode = file.metadata()?.ino();
        Ok(Self {
            handle: file.into(),
            inode,
        })
    }

    /// The number in `/proc/PID/ns/net` of every process in it.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `work` on a thread in the namespace. Sockets that it opens and
    /// processes that it starts belong to the namespace for ever.
    ///
    /// # Errors
    /// Those of `work`, or if the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            setns(self.handle.as_fd(), CloneFlags::CLONE_NEWNET)
                .context("enter the network namespace")?;
            work()
        })
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .map_err(|_panic| anyhow!("the thread in the namespace panicked"))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_has_a_loopback_of_its_own() {
        let netns = NetNs::new().unwrap();
        let here = File::open("/proc/self/ns/net").unwrap();
        assert_ne!(netns.inode(), here.metadata().unwrap().ino());
        let listener = netns
            .enter(|| Ok(std::net::TcpListener::bind("127.0.0.1:0")?))
            .unwrap();
        let address = listener.local_addr().unwrap();
        assert!(std::net::TcpStream::connect(address).is_err());
        netns
            .enter(|| Ok(std::net::TcpStream::connect(address)?))
            .unwrap();
    }
}
