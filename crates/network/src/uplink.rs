//! What the node's other links say about ours.

use ipnet::Ipv4Net;

use crate::{address::Route, config::overlap, error::Error, link::Link};

/// Without a default route there is nothing to fit: Ethernet's own.
const FALLBACK_MTU: u32 = 1500;

/// The MTU of the link that the preferred default route goes through.
pub(crate) fn mtu(links: &[Link], routes: &[Route]) -> u32 {
    routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0)
        .filter_map(|route| Some((route.metric, find(links, route.link?)?.mtu)))
        .min_by_key(|(metric, _)| *metric)
        .map_or(FALLBACK_MTU, |(_, mtu)| mtu)
}

/// Refuses a subnet that the node reaches elsewhere: a bridge over it would cut
/// the node off from hosts that it talks to.
pub(crate) fn check_subnet(
    subnet: Ipv4Net,
    bridge: &str,
    links: &[Link],
    routes: &[Route],
) -> Result<(), Error> {
    for route in routes {
        // A default route overlaps everything and contradicts nothing.
        if route.destination.prefix_len() == 0 || !overlap(route.destination, subnet) {
            continue;
        }
        let interface = route
            .link
            .and_then(|index| find(links, index))
            .map_or("no interface", |link| link.name.as_str());
        if interface != bridge {
            return Err(Error::SubnetTaken {
                subnet,
                route: route.destination,
                interface: interface.to_owned(),
            });
        }
    }
    Ok(())
}

fn find(links: &[Link], index: u32) -> Option<&Link> {
    links.iter().find(|link| link.index == index)
}
