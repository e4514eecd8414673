//! Traffic counters of a link.

use std::{collections::BTreeMap, os::fd::BorrowedFd};

use crate::{
    error::Error,
    link, namespace,
    netlink::{Protocol, Socket},
};

/// Counters since the link was made, as the link's own namespace sees them
/// (`struct rtnl_link_stats64`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Damaged packets received.
    pub rx_errors: u64,
    /// Packets received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets dropped before they were sent.
    pub tx_dropped: u64,
}

impl LinkStats {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut numbers = bytes
            .chunks_exact(8)
            .filter_map(|chunk| chunk.try_into().ok())
            .map(u64::from_ne_bytes);
        let mut next = || numbers.next();
        // The order is the kernel's.
        let (rx_packets, tx_packets) = (next()?, next()?);
        let (rx_bytes, tx_bytes) = (next()?, next()?);
        let (rx_errors, tx_errors) = (next()?, next()?);
        let (rx_dropped, tx_dropped) = (next()?, next()?);
        Some(Self {
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        })
    }
}

impl LinkStats {
    /// The same as the other end of a veth pair sees it.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            rx_bytes: self.tx_bytes,
            rx_packets: self.tx_packets,
            rx_errors: self.tx_errors,
            rx_dropped: self.tx_dropped,
            tx_bytes: self.rx_bytes,
            tx_packets: self.rx_packets,
            tx_errors: self.rx_errors,
            tx_dropped: self.rx_dropped,
        }
    }
}

/// The counters of every link of the caller's own namespace, by name: one question for
/// all pods, whose ends of their pairs are in namespaces that would have to be entered.
///
/// # Errors
/// [`Error::Netlink`].
pub fn own_link_stats() -> Result<BTreeMap<String, LinkStats>, Error> {
    let mut socket = Socket::open(Protocol::Route)
        .map_err(|errno| Error::netlink("open socket for", "links", errno))?;
    let links = link::list_with_stats(&mut socket)?;
    let counted = links.into_iter().filter_map(|link| {
        let stats = LinkStats::parse(&link.stats)?;
        Some((link.name, stats))
    });
    Ok(counted.collect())
}

/// The counters of the link `interface` in the namespace `netns`; `None` if the
/// namespace has no such link.
///
/// # Errors
/// [`Error::Namespace`] if it cannot be entered, [`Error::Netlink`] otherwise.
pub fn link_stats(netns: BorrowedFd<'_>, interface: &str) -> Result<Option<LinkStats>, Error> {
    const OPERATION: &str = "read statistics of";
    namespace::on_own_thread(|| {
        namespace::enter(netns)?;
        let mut socket = Socket::open(Protocol::Route)
            .map_err(|errno| Error::netlink("open socket for", interface, errno))?;
        let Some(link) = link::find(&mut socket, interface)? else {
            return Ok(None);
        };
        LinkStats::parse(&link.stats)
            .map(Some)
            .ok_or_else(|| Error::answer(OPERATION, interface))
    })
}
