//! IPv4 addresses and routes (`linux/if_addr.h`, `linux/rtnetlink.h`).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::{
    error::Error,
    netlink::{Reply, Request, Socket, flags, u32_of},
};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const AF_INET: u8 = 2;

/// Size of `struct ifaddrmsg`.
const IFADDRMSG: usize = 8;
const IFA_LOCAL: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_BROADCAST: u16 = 4;

/// Size of `struct rtmsg`.
const RTMSG: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;

fn address_header(index: u32, prefix: u8) -> [u8; IFADDRMSG] {
    let mut bytes = [0; IFADDRMSG];
    bytes[0] = AF_INET;
    bytes[1] = prefix;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes
}

/// Gives the link `index` an address. Repeating it changes nothing.
pub(crate) fn add(index: u32, address: Ipv4Net) -> Request {
    let flags = flags::CREATE | flags::REPLACE;
    Request::new(
        RTM_NEWADDR,
        flags,
        &address_header(index, address.prefix_len()),
    )
    .attr(IFA_LOCAL, &address.addr().octets())
    .attr(IFA_ADDRESS, &address.addr().octets())
    .attr(IFA_BROADCAST, &address.broadcast().octets())
}

pub(crate) fn remove(index: u32, address: Ipv4Net) -> Request {
    Request::new(RTM_DELADDR, 0, &address_header(index, address.prefix_len()))
        .attr(IFA_LOCAL, &address.addr().octets())
}

/// The IPv4 addresses of the link `index`.
pub(crate) fn of_link(socket: &mut Socket, index: u32) -> Result<Vec<Ipv4Net>, Error> {
    const OPERATION: &str = "list addresses";
    let request = Request::unacknowledged(RTM_GETADDR, flags::DUMP, &address_header(0, 0));
    let replies = socket
        .dump(&request)
        .map_err(|failure| Error::netlink(OPERATION, "", failure))?;
    let mut addresses = Vec::new();
    for reply in replies.iter().filter(|reply| reply.kind == RTM_NEWADDR) {
        let (owner, address) = parse_address(reply).ok_or_else(|| Error::answer(OPERATION, ""))?;
        if owner == index {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn parse_address(reply: &Reply) -> Option<(u32, Ipv4Net)> {
    let (fixed, mut attributes) = reply.split(IFADDRMSG)?;
    let (_, local) = attributes.find(|(kind, _)| *kind == IFA_LOCAL)?;
    let address = Ipv4Net::new(ipv4_of(local)?, fixed[1]).ok()?;
    Some((u32_of(&fixed[4..8])?, address))
}

/// A default route through `gateway` on the link `index`.
pub(crate) fn default_route(index: u32, gateway: Ipv4Addr) -> Request {
    let mut fixed = [0; RTMSG];
    fixed[0] = AF_INET;
    fixed[4] = RT_TABLE_MAIN;
    fixed[5] = RTPROT_STATIC;
    fixed[6] = RT_SCOPE_UNIVERSE;
    fixed[7] = RTN_UNICAST;
    Request::new(RTM_NEWROUTE, flags::CREATE | flags::REPLACE, &fixed)
        .attr(RTA_GATEWAY, &gateway.octets())
        .u32(RTA_OIF, index)
}

/// An IPv4 route of the main table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    /// Index of the link; none for unreachable and multipath routes.
    pub(crate) link: Option<u32>,
    pub(crate) metric: u32,
}

/// The main table.
pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<Route>, Error> {
    const OPERATION: &str = "list routes";
    let mut fixed = [0; RTMSG];
    fixed[0] = AF_INET;
    let request = Request::unacknowledged(RTM_GETROUTE, flags::DUMP, &fixed);
    let replies = socket
        .dump(&request)
        .map_err(|failure| Error::netlink(OPERATION, "", failure))?;
    let mut routes = Vec::new();
    for reply in replies.iter().filter(|reply| reply.kind == RTM_NEWROUTE) {
        // Without strict checking the kernel lists all tables.
        if reply.payload.get(4) == Some(&RT_TABLE_MAIN) {
            routes.push(parse_route(reply).ok_or_else(|| Error::answer(OPERATION, ""))?);
        }
    }
    Ok(routes)
}

fn parse_route(reply: &Reply) -> Option<Route> {
    let (fixed, attributes) = reply.split(RTMSG)?;
    let (mut destination, mut link, mut metric) = (Ipv4Addr::UNSPECIFIED, None, 0);
    for (kind, value) in attributes {
        match kind {
            RTA_DST => destination = ipv4_of(value)?,
            RTA_OIF => link = u32_of(value),
            RTA_PRIORITY => metric = u32_of(value)?,
            _ => {}
        }
    }
    Some(Route {
        destination: Ipv4Net::new(destination, fixed[1]).ok()?,
        link,
        metric,
    })
}

fn ipv4_of(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

/// A permanent address of global scope, of any family, as the kernel describes it.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    fixed: [u8; IFADDRMSG],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Kept {
    /// A request that gives it to the link `index`.
    pub(crate) fn on(&self, index: u32) -> Request {
        let mut fixed = self.fixed;
        // The flags are those of its life so far.
        fixed[2] = 0;
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        let request = Request::new(RTM_NEWADDR, flags::CREATE | flags::REPLACE, &fixed);
        let attributes = self.attributes.iter();
        attributes.fold(request, |request, (kind, value)| request.attr(*kind, value))
    }
}

/// The addresses of the link `index` that are worth keeping when it moves.
pub(crate) fn kept(socket: &mut Socket, index: u32) -> Result<Vec<Kept>, Error> {
    /// RT_SCOPE_UNIVERSE.
    const GLOBAL: u8 = 0;
    const IFA_F_PERMANENT: u8 = 0x80;
    const OPERATION: &str = "list addresses";
    let request = Request::unacknowledged(RTM_GETADDR, flags::DUMP, &[0; IFADDRMSG]);
    let replies = socket
        .dump(&request)
        .map_err(|failure| Error::netlink(OPERATION, "", failure))?;
    let mut addresses = Vec::new();
    for reply in replies.iter().filter(|reply| reply.kind == RTM_NEWADDR) {
        let (fixed, attributes) = reply
            .split(IFADDRMSG)
            .ok_or_else(|| Error::answer(OPERATION, ""))?;
        let kept = fixed[2] & IFA_F_PERMANENT != 0 && fixed[3] == GLOBAL;
        if u32_of(&fixed[4..8]) != Some(index) || !kept {
            continue;
        }
        let mut own = [0; IFADDRMSG];
        own.copy_from_slice(fixed);
        addresses.push(Kept {
            fixed: own,
            attributes: attributes
                .filter(|(kind, _)| matches!(*kind, IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST))
                .map(|(kind, value)| (kind, value.to_vec()))
                .collect(),
        });
    }
    Ok(addresses)
}
