//! The built-in pod network: one Linux bridge, a veth pair per pod, an address
//! from our own allocator and masquerade in an nftables table of our own, all
//! over netlink and without any other program.
//!
//! [`Bridge`] is the host's side and synchronous: its calls block for some
//! milliseconds, or longer where the kernel holds its network lock, so an
//! asynchronous caller uses a blocking thread. [`Ipam`] is pure: who owns which
//! address is the caller's to record.
//!
//! A pod is detached by dropping its network namespace. The kernel then removes
//! `eth0` and with it the host's end, many at a time; deleting a veth by name
//! waits for grace periods of its own (13 to 28 ms each). That is why there is
//! no `detach` here and [`Bridge::purge`] is for leftovers only.

mod address;
mod attach;
mod bridge;
mod config;
mod error;
mod ipam;
mod link;
mod moved;
mod namespace;
mod netlink;
mod nft;
mod podlink;
mod stats;
mod sysctl;
mod uplink;

pub use attach::{Attachment, POD_INTERFACE};
pub use bridge::{Bridge, Ensured};
pub use config::{ConfigError, NetworkConfig};
pub use error::Error;
pub use ipam::{Ipam, IpamError};
pub use ipnet::Ipv4Net;
pub use moved::move_link;
pub use podlink::PodLink;
pub use stats::{LinkStats, link_stats, own_link_stats};
