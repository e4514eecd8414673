//! Links: RTM_NEWLINK, RTM_DELLINK and RTM_GETLINK (`linux/if_link.h`).

use crate::{
    error::Error,
    netlink::{Attributes, Reply, Request, Socket, flags, text, u32_of},
};

pub(crate) const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

/// Size of `struct ifinfomsg`.
pub(crate) const IFINFOMSG: usize = 16;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_IFALIAS: u16 = 20;
pub(crate) const IFLA_STATS64: u16 = 23;
const IFLA_AF_SPEC: u16 = 26;
pub(crate) const IFLA_GROUP: u16 = 27;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
/// Statistics are most of a link's description and nothing to a list.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const AF_INET6: u16 = 10;

const IFF_UP: u32 = 1;

/// What is to become of a link's IFF_UP.
#[derive(Clone, Copy)]
pub(crate) enum State {
    AsIs,
    Up,
}

/// `struct ifinfomsg`; index 0 leaves the choice to IFLA_IFNAME.
pub(crate) fn header(index: u32, state: State) -> [u8; IFINFOMSG] {
    let up = match state {
        State::AsIs => 0,
        State::Up => IFF_UP,
    };
    let mut bytes = [0; IFINFOMSG];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&up.to_ne_bytes());
    bytes[12..16].copy_from_slice(&up.to_ne_bytes());
    bytes
}

/// A request that makes a link of `kind` called `name`, which must not exist.
pub(crate) fn create(state: State) -> Request {
    let flags = flags::CREATE | flags::EXCLUSIVE;
    Request::new(RTM_NEWLINK, flags, &header(0, state))
}

/// A request that changes the link called `name`.
pub(crate) fn change(name: &str, state: State) -> Request {
    Request::new(RTM_NEWLINK, 0, &header(0, state)).string(IFLA_IFNAME, name)
}

/// No link-local IPv6 address when the link comes up. (The sysctl would do too,
/// but only after the link exists, in a step of its own.)
pub(crate) fn without_ipv6_address(request: Request) -> Request {
    request.nest(IFLA_AF_SPEC, |r| {
        r.nest(AF_INET6, |r| {
            r.attr(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
        })
    })
}

pub(crate) fn delete(name: &str) -> Request {
    Request::new(RTM_DELLINK, 0, &header(0, State::AsIs)).string(IFLA_IFNAME, name)
}

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) up: bool,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) alias: Option<String>,
    pub(crate) group: u32,
    /// Index of the bridge that it is a port of.
    pub(crate) master: Option<u32>,
    /// Kind of a virtual link, such as `veth`.
    pub(crate) kind: Option<String>,
    /// `struct rtnl_link_stats64`.
    pub(crate) stats: Vec<u8>,
}

impl Link {
    fn parse(reply: &Reply) -> Option<Self> {
        let (fixed, attributes) = reply.split(IFINFOMSG)?;
        let mut link = Self {
            index: u32_of(&fixed[4..8])?,
            up: u32_of(&fixed[8..12])? & IFF_UP != 0,
            ..Self::default()
        };
        for (kind, value) in attributes {
            match kind {
                IFLA_IFNAME => link.name = text(value),
                IFLA_MTU => link.mtu = u32_of(value)?,
                IFLA_IFALIAS => link.alias = Some(text(value)),
                IFLA_GROUP => link.group = u32_of(value)?,
                IFLA_MASTER => link.master = u32_of(value),
                IFLA_STATS64 => link.stats = value.to_vec(),
                IFLA_LINKINFO => {
                    link.kind = Attributes(value)
                        .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                        .map(|(_, value)| text(value));
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// The link called `name`, if there is one.
pub(crate) fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    const OPERATION: &str = "look up link";
    let request = Request::new(RTM_GETLINK, 0, &header(0, State::AsIs)).string(IFLA_IFNAME, name);
    match socket.call(&mut [request]) {
        Ok(replies) => replies
            .iter()
            .find(|reply| reply.kind == RTM_NEWLINK)
            .and_then(Link::parse)
            .map(Some)
            .ok_or_else(|| Error::answer(OPERATION, name)),
        Err(failure) if failure.errno == nix::errno::Errno::ENODEV => Ok(None),
        Err(failure) => Err(Error::netlink(OPERATION, name, failure)),
    }
}

/// All links of the socket's namespace, without their statistics.
pub(crate) fn list(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    dump(socket, RTEXT_FILTER_SKIP_STATS)
}

/// All links of the socket's namespace with their statistics.
pub(crate) fn list_with_stats(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    dump(socket, 0)
}

fn dump(socket: &mut Socket, filter: u32) -> Result<Vec<Link>, Error> {
    const OPERATION: &str = "list links";
    let request = Request::unacknowledged(RTM_GETLINK, flags::DUMP, &header(0, State::AsIs))
        .u32(IFLA_EXT_MASK, filter);
    let replies = socket
        .dump(&request)
        .map_err(|failure| Error::netlink(OPERATION, "", failure))?;
    replies
        .iter()
        .filter(|reply| reply.kind == RTM_NEWLINK)
        .map(|reply| Link::parse(reply).ok_or_else(|| Error::answer(OPERATION, "")))
        .collect()
}
