//! Attaching a pod.

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use berth_phase::{Phase, Tracker};
use ipnet::Ipv4Net;
use nix::{errno::Errno, net::if_::if_nametoindex};

use crate::{
    address,
    bridge::{self, Bridge, Node},
    config::is_pod_address,
    error::Error,
    link::{
        self, IFLA_ADDRESS, IFLA_GROUP, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND,
        IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, IFLA_NET_NS_FD, State,
    },
    namespace,
    netlink::{Failure, Protocol, Request, Socket},
    podlink::{self, PodLink},
    sysctl,
};

/// The name of a pod's interface inside the pod.
pub const POD_INTERFACE: &str = "eth0";

/// Attribute of a veth's IFLA_INFO_DATA: header and attributes of the peer.
const VETH_INFO_PEER: u16 = 1;

/// A pod's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface inside the pod.
    pub interface: String,
    /// Its other end on the node.
    pub host_interface: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Prefix length of the pod's subnet.
    pub prefix: u8,
    /// The pod's default gateway: the bridge.
    pub gateway: Ipv4Addr,
    /// Hardware address of the pod's interface, as `02:be:0a:53:00:02`.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
}

/// One pod to be attached.
struct Pod<'a> {
    id: &'a str,
    netns: BorrowedFd<'a>,
    address: Ipv4Addr,
    host_interface: String,
}

impl Bridge {
    /// Gives the namespace `netns` an `eth0` with `address` on this bridge, a
    /// default route, and its `lo`. Sets the bridge up again if somebody has
    /// removed it.
    ///
    /// Repeating it after a crash replaces what the first attempt left. After
    /// an error drop the namespace: the host's end goes with it.
    ///
    /// # Errors
    /// [`Error::PodId`], [`Error::NotInSubnet`], [`Error::BridgeFull`],
    /// [`Error::LinkTaken`], or what the kernel refused.
    pub fn attach(
        &self,
        tracker: &Tracker,
        netns: BorrowedFd<'_>,
        pod_id: &str,
        address: Ipv4Addr,
    ) -> Result<Attachment, Error> {
        let subnet = self.config.subnet;
        if !is_pod_address(subnet, address) {
            return Err(Error::NotInSubnet { address, subnet });
        }
        let pod = Pod {
            id: pod_id,
            netns,
            address,
            host_interface: podlink::name(pod_id)?,
        };
        match self.attach_once(tracker, &pod) {
            Err(Error::NoBridge { .. }) => {
                self.ensure()?;
                self.attach_once(tracker, &pod)
            }
            result => result,
        }
    }

    fn attach_once(&self, tracker: &Tracker, pod: &Pod<'_>) -> Result<Attachment, Error> {
        namespace::on_own_thread(|| {
            namespace::enter(pod.netns)?;
            close_pod()?;
            tracker.enter(Phase::Network, "link")?;
            let mtu = self.make_pair(pod)?;
            tracker.enter(Phase::Network, "address")?;
            self.configure_pod(pod)?;
            namespace::enter(&self.host)?;
            sysctl::trust_no_neighbour(&pod.host_interface)?;
            Ok(self.attachment(pod, mtu))
        })
    }

    /// Makes both ends where they belong. Returns their MTU.
    fn make_pair(&self, pod: &Pod<'_>) -> Result<u32, Error> {
        let mut node = self.node();
        if node.index == 0 {
            return Err(self.no_bridge());
        }
        let mtu = node.mtu;
        let pair = self.pair(pod, &node);
        let mut made = node.route.call(&mut [pair.clone()]);
        // Either name may be taken, the host's or the pod's.
        if let Err(failure) = made
            && failure.errno == Errno::EEXIST
            && self.replace_leftover(&mut node, pod)?
        {
            made = node.route.call(&mut [pair]);
        }
        if let Err(failure) = made {
            return Err(self.refused(&mut node, pod, failure));
        }
        // Not in one datagram with the first: the kernel would carry it out after
        // a failure too, and mark a link that is another's.
        let mut mark = [self.mark(pod)];
        node.route
            .call(&mut mark)
            .map_err(|failure| Error::netlink("mark link", &pod.host_interface, failure))?;
        Ok(mtu)
    }

    fn pair(&self, pod: &Pod<'_>, node: &Node) -> Request {
        link::create(State::Up)
            .string(IFLA_IFNAME, &pod.host_interface)
            .u32(IFLA_MTU, node.mtu)
            .u32(IFLA_GROUP, podlink::GROUP)
            .u32(IFLA_MASTER, node.index)
            .nest(IFLA_LINKINFO, |r| {
                r.string(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |r| {
                    r.nest(VETH_INFO_PEER, |r| peer(r, pod, node.mtu))
                })
            })
    }

    /// No IPv6 address can appear before this: a veth has no carrier before its
    /// peer is up.
    fn mark(&self, pod: &Pod<'_>) -> Request {
        let alias = podlink::alias(&self.config.bridge, pod.id);
        let mark = link::change(&pod.host_interface, State::AsIs).string(IFLA_IFALIAS, &alias);
        if sysctl::has_ipv6() {
            link::without_ipv6_address(mark)
        } else {
            mark
        }
    }

    /// Deletes what an earlier attempt for the same pod left; false if there is
    /// nothing of the kind.
    fn replace_leftover(&self, node: &mut Node, pod: &Pod<'_>) -> Result<bool, Error> {
        let Some(link) = link::find(&mut node.route, &pod.host_interface)? else {
            return Ok(false);
        };
        match PodLink::of(&link, &self.config.bridge, node.index) {
            Some(leftover) if leftover.belongs_to(pod.id) => {
                tracing::info!(pod = pod.id, link = %link.name, "replacing a leftover link");
                bridge::delete(&mut node.route, &pod.host_interface)?;
                Ok(true)
            }
            Some(PodLink {
                pod_id: Some(id), ..
            }) => Err(self.taken(pod, format!("pod {id}"))),
            _ => Err(self.taken(pod, "another program".to_owned())),
        }
    }

    fn taken(&self, pod: &Pod<'_>, owner: String) -> Error {
        Error::LinkTaken {
            interface: pod.host_interface.clone(),
            owner,
        }
    }

    fn no_bridge(&self) -> Error {
        Error::NoBridge {
            bridge: self.config.bridge.clone(),
        }
    }

    fn refused(&self, node: &mut Node, pod: &Pod<'_>, failure: Failure) -> Error {
        match failure.errno {
            Errno::EXFULL => Error::BridgeFull {
                bridge: self.config.bridge.clone(),
            },
            // The kernel says EINVAL for a master that does not exist.
            Errno::EINVAL if !self.is_here(node) => self.no_bridge(),
            _ => Error::netlink("create link", &pod.host_interface, failure),
        }
    }

    fn is_here(&self, node: &mut Node) -> bool {
        let found = link::find(&mut node.route, &self.config.bridge);
        found.is_ok_and(|link| link.is_some_and(|link| link.index == node.index))
    }

    /// Runs inside the pod's namespace.
    fn configure_pod(&self, pod: &Pod<'_>) -> Result<(), Error> {
        let mut socket = Socket::open(Protocol::Route)
            .map_err(|errno| Error::netlink("open socket in pod", pod.id, errno))?;
        let index = if_nametoindex(POD_INTERFACE)
            .map_err(|errno| Error::netlink("look up pod link", POD_INTERFACE, errno))?;
        let mut requests = [
            link::change("lo", State::Up),
            address::add(index, self.pod_net(pod.address)),
            link::change(POD_INTERFACE, State::Up),
            address::default_route(index, self.config.gateway()),
        ];
        const STEPS: [&str; 4] = [
            "bring up lo of pod",
            "set address of pod",
            "bring up eth0 of pod",
            "set default route of pod",
        ];
        match socket.call(&mut requests) {
            Ok(_) => Ok(()),
            Err(failure) => {
                let step = STEPS.get(failure.request).unwrap_or(&"configure pod");
                Err(Error::netlink(step, pod.id, failure))
            }
        }
    }

    fn pod_net(&self, address: Ipv4Addr) -> Ipv4Net {
        Ipv4Net::new(address, self.config.subnet.prefix_len()).unwrap_or(self.config.subnet)
    }

    fn attachment(&self, pod: &Pod<'_>, mtu: u32) -> Attachment {
        let mac = podlink::mac(pod.address).map(|byte| format!("{byte:02x}"));
        Attachment {
            interface: POD_INTERFACE.to_owned(),
            host_interface: pod.host_interface.clone(),
            address: pod.address,
            prefix: self.config.subnet.prefix_len(),
            gateway: self.config.gateway(),
            mac: mac.join(":"),
            mtu,
        }
    }
}

fn peer(request: Request, pod: &Pod<'_>, mtu: u32) -> Request {
    let netns = pod.netns.as_raw_fd().cast_unsigned();
    request
        .raw(&link::header(0, State::AsIs))
        .string(IFLA_IFNAME, POD_INTERFACE)
        .u32(IFLA_MTU, mtu)
        .attr(IFLA_ADDRESS, &podlink::mac(pod.address))
        .u32(IFLA_NET_NS_FD, netns)
}

/// Settings that interfaces of the pod are born with, so that there is no
/// moment at which they listen to a neighbour. IPv6 stays on lo (programs bind
/// to ::1) and off elsewhere: this network gives no IPv6 address, and a
/// link-local one would be a way around what is allowed (CVE-2024-32473).
fn close_pod() -> Result<(), Error> {
    sysctl::write_ipv6("default", "disable_ipv6", "1")?;
    sysctl::trust_no_neighbour("default")?;
    // A host, other than a router, takes redirects if either value says so.
    sysctl::write("ipv4/conf/all/accept_redirects", "0")
}
