//! A world to test in: network namespaces that nobody else sees and that vanish
//! with their descriptors. One plays the node, one the network around it, the
//! others are pods.
#![allow(dead_code, reason = "no test program uses all of it")]

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    process::Command,
    thread,
    time::Duration,
};

use berth_network::{Attachment, Bridge, NetworkConfig};
use berth_phase::Tracker;
use nix::sched::{CloneFlags, setns, unshare};

/// What stands for the world outside.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The node's own address there.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

pub(crate) struct Namespace(OwnedFd);

impl Namespace {
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root (CAP_SYS_ADMIN)");
            Self(File::open("/proc/thread-self/ns/net").unwrap().into())
        });
        made.join().unwrap()
    }

    /// Runs `work` in the namespace, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a program there that must succeed; returns what it printed.
    pub(crate) fn shell(&self, line: &str) -> String {
        self.run(|| {
            let output = Command::new("sh").args(["-ec", line]).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{line}: {stderr}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// Whether a TCP connection from here to `to` comes about.
    pub(crate) fn reaches(&self, to: SocketAddr, patience: Duration) -> bool {
        self.run(|| TcpStream::connect_timeout(&to, patience).is_ok())
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A node with an uplink of MTU 1400 into the world outside.
pub(crate) struct Ground {
    pub outside: Namespace,
    pub node: Namespace,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let (outside, node) = (Namespace::new(), Namespace::new());
        node.shell(&format!(
            "ip link set lo up
             ip link add up0 mtu 1400 type veth peer name up1 mtu 1400 netns {}
             ip addr add {NODE}/24 dev up0; ip link set up0 up; ",
            outside.path()
        ));
        outside.shell(&format!(
            "ip link set lo up; ip addr add {OUTSIDE}/24 dev up1; ip link set up1 up"
        ));
        node.shell(&format!("ip route add default via {OUTSIDE}"));
        Self { outside, node }
    }

    /// The bridge as configured by default, set up.
    pub(crate) fn bridge(&self) -> Bridge {
        let bridge = self.open(NetworkConfig::default());
        bridge.ensure().unwrap();
        bridge
    }

    pub(crate) fn open(&self, config: NetworkConfig) -> Bridge {
        self.node.run(|| Bridge::open(config)).unwrap()
    }
}

/// An id as pods have it, of which the first digits tell `number`.
pub(crate) fn pod_id(number: u32) -> String {
    format!("{number:08x}{:056x}", 0xabcdef)
}

pub(crate) fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 83, 0, last)
}

/// A fresh pod attached as `number`, with that as the last part of its address.
pub(crate) fn pod(bridge: &Bridge, number: u8) -> (Namespace, Attachment) {
    let netns = Namespace::new();
    let tracker = Tracker::unobserved("attach");
    let attachment = bridge
        .attach(
            &tracker,
            netns.as_fd(),
            &pod_id(u32::from(number)),
            address(number),
        )
        .unwrap();
    (netns, attachment)
}
