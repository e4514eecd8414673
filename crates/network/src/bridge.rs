//! The host's side of the network: bridge, rules, settings.

use std::{
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use nix::errno::Errno;

use crate::{
    address::{self, Route},
    config::NetworkConfig,
    error::Error,
    link::{
        self, IFLA_ADDRESS, IFLA_GROUP, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MASTER,
        IFLA_MTU, Link, State,
    },
    namespace,
    netlink::{Protocol, Socket},
    nft,
    podlink::{self, PodLink},
    sysctl, uplink,
};

/// The kernel destroys network namespaces after their last user has gone, some
/// 50 ms for twenty of them; hundreds that have just gone on a busy machine take seconds.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);
const LEAVE_POLL: Duration = Duration::from_millis(10);

/// A bridge and the pods' links on it, in the network namespace of the thread
/// that opened it. Calls may come from any thread, whichever namespace it is in.
#[derive(Debug)]
pub struct Bridge {
    pub(crate) config: NetworkConfig,
    pub(crate) host: OwnedFd,
    node: Mutex<Node>,
    /// For those who only look, so that a long list keeps no pod waiting.
    looking: Mutex<Socket>,
}

/// One socket for all changes: the kernel's network lock lets only one request
/// work at a time anyway.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) route: Socket,
    /// Index of the bridge; 0 before it is set up.
    pub(crate) index: u32,
    /// MTU in bytes of the bridge and of new pods.
    pub(crate) mtu: u32,
}

/// What [`Bridge::ensure`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// The bridge was not there before.
    pub created: bool,
    /// MTU in bytes of the bridge and of new pods.
    pub mtu: u32,
    /// Pods' links that had lost their bridge and were attached again.
    pub reattached: usize,
    /// The node did not forward IPv4 before; it does now, and keeps doing so
    /// when the bridge is removed, since others may have come to rely on it.
    pub enabled_forwarding: bool,
}

impl Bridge {
    /// Opens the network of the calling thread's namespace; changes nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for the first finding in `config`; [`Error::Netlink`]
    /// or [`Error::Namespace`] if the kernel cannot be talked to.
    pub fn open(config: NetworkConfig) -> Result<Self, Error> {
        if let Err(findings) = config.validate()
            && let Some(first) = findings.into_iter().next()
        {
            return Err(first.into());
        }
        let host = namespace::current()?;
        let open = || {
            Socket::open(Protocol::Route)
                .map_err(|errno| Error::netlink("open socket for", &config.bridge, errno))
        };
        let node = Mutex::new(Node {
            route: open()?,
            index: 0,
            mtu: 0,
        });
        let looking = Mutex::new(open()?);
        Ok(Self {
            config,
            host,
            node,
            looking,
        })
    }

    /// The configuration that it was opened with.
    #[must_use]
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Brings bridge, address, rules and settings into the configured state,
    /// whatever state they are in: at the agent's start, and whenever
    /// [`Bridge::is_intact`] says no. Running pods notice nothing.
    ///
    /// # Errors
    /// [`Error::SubnetTaken`], [`Error::SubnetChanged`], [`Error::NotABridge`],
    /// or what the kernel refused.
    pub fn ensure(&self) -> Result<Ensured, Error> {
        namespace::on_own_thread(|| {
            namespace::enter(&self.host)?;
            self.ensure_here()
        })
    }

    fn ensure_here(&self) -> Result<Ensured, Error> {
        let name = &self.config.bridge;
        let mut node = self.node();
        let links = link::list(&mut node.route)?;
        let routes = address::routes(&mut node.route)?;
        uplink::check_subnet(self.config.subnet, name, &links, &routes)?;
        node.mtu = self.mtu(&links, &routes);

        let present = links.iter().find(|link| link.name == *name);
        let index = match present {
            Some(link) => existing_bridge(link)?,
            None => self.create(&mut node)?,
        };
        node.index = index;
        self.close_ipv6_and_redirects()?;
        // Before the first packet can be forwarded.
        self.install_rules()?;
        self.settle_addresses(&mut node, &links)?;
        let up = [
            link::change(name, State::Up).u32(IFLA_MTU, node.mtu),
            address::add(index, self.gateway()),
        ];
        node.route
            .call(&mut { up })
            .map_err(|failure| Error::netlink("set up bridge", name, failure))?;
        let reattached = self.reattach(&mut node, &links)?;
        let enabled_forwarding = sysctl::read("ipv4/ip_forward")? != "1";
        if enabled_forwarding {
            // Only where needed: each write resets other settings of every link.
            sysctl::write("ipv4/ip_forward", "1")?;
        }
        Ok(Ensured {
            created: present.is_none(),
            mtu: node.mtu,
            reattached,
            enabled_forwarding,
        })
    }

    /// Whether bridge, address and rules are all in place. Cheap enough to ask
    /// every few seconds.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn is_intact(&self) -> Result<bool, Error> {
        let index = self.node().index;
        let mut socket = self.looking();
        let Some(link) = link::find(&mut socket, &self.config.bridge)? else {
            return Ok(false);
        };
        let in_place = link.up
            && link.index == index
            && address::of_link(&mut socket, index)?.contains(&self.gateway());
        drop(socket);
        Ok(in_place && nft::is_complete(&mut self.nft_socket()?, &self.config)?)
    }

    /// The host's ends of all pods' links, for a search for leftovers.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn links(&self) -> Result<Vec<PodLink>, Error> {
        let links = link::list(&mut self.looking())?;
        Ok(self.pod_links(&links).collect())
    }

    /// Deletes the link of a pod whose namespace somebody still holds. Returns
    /// whether there was one.
    ///
    /// This waits for the kernel for 13 to 28 ms: where the namespace can be
    /// dropped, drop it instead.
    ///
    /// # Errors
    /// [`Error::PodId`], or what the kernel refused.
    pub fn purge(&self, pod_id: &str) -> Result<bool, Error> {
        let interface = podlink::name(pod_id)?;
        let links = self.links()?;
        let ours = links.iter().any(|link| link.belongs_to(pod_id));
        if !ours {
            return Ok(false);
        }
        let mut node = self.node();
        delete(&mut node.route, &interface)
    }

    /// Removes bridge and rules, for a clean stop without pods. Returns false
    /// and leaves everything as it is if there are still pods' links after ten
    /// seconds, within which those of pods just removed go away.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn remove(&self) -> Result<bool, Error> {
        let name = &self.config.bridge;
        let deadline = Instant::now() + LEAVE_LIMIT;
        let mut node = loop {
            let mut node = self.node();
            let links = link::list(&mut node.route)?;
            let bridge = links.iter().find(|link| link.name == *name);
            let ports = |index| links.iter().any(|link| link.master == Some(index));
            if !bridge.is_some_and(|link| ports(link.index)) {
                break node;
            }
            drop(node);
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(LEAVE_POLL);
        };
        nft::remove(&mut self.nft_socket()?, name)?;
        if let Some(link) = link::find(&mut node.route, name)?
            // A bridge that the administrator made is the administrator's.
            && link.group == podlink::GROUP
        {
            delete(&mut node.route, name)?;
        }
        node.index = 0;
        Ok(true)
    }

    pub(crate) fn node(&self) -> MutexGuard<'_, Node> {
        // A panic cannot leave it torn: stale answers are told by their number.
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looking(&self) -> MutexGuard<'_, Socket> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn gateway(&self) -> Ipv4Net {
        Ipv4Net::new(self.config.gateway(), self.config.subnet.prefix_len())
            .unwrap_or(self.config.subnet)
    }

    fn mtu(&self, links: &[Link], routes: &[Route]) -> u32 {
        self.config
            .mtu
            .unwrap_or_else(|| uplink::mtu(links, routes))
    }

    /// A bridge takes the least address of its ports unless it was given one,
    /// and then every pod's neighbour table goes stale when a pod comes or goes.
    fn create(&self, node: &mut Node) -> Result<u32, Error> {
        let name = &self.config.bridge;
        let request = link::create(State::AsIs)
            .string(IFLA_IFNAME, name)
            .u32(IFLA_MTU, node.mtu)
            .u32(IFLA_GROUP, podlink::GROUP)
            .attr(IFLA_ADDRESS, &podlink::mac(self.config.gateway()))
            .nest(IFLA_LINKINFO, |r| r.string(IFLA_INFO_KIND, "bridge"));
        node.route
            .call(&mut [request])
            .map_err(|failure| Error::netlink("create bridge", name, failure))?;
        link::find(&mut node.route, name)?
            .map(|link| link.index)
            .ok_or_else(|| Error::answer("create bridge", name))
    }

    fn close_ipv6_and_redirects(&self) -> Result<(), Error> {
        let name = &self.config.bridge;
        sysctl::write_ipv6(name, "disable_ipv6", "1")?;
        sysctl::trust_no_neighbour(name)?;
        // Pods send from the subnet only, and never to the node's loopback
        // addresses (CVE-2020-8558).
        sysctl::write(&format!("ipv4/conf/{name}/rp_filter"), "1")?;
        sysctl::write(&format!("ipv4/conf/{name}/route_localnet"), "0")
    }

    fn nft_socket(&self) -> Result<Socket, Error> {
        namespace::on_own_thread(|| {
            namespace::enter(&self.host)?;
            Socket::open(Protocol::Netfilter).map_err(|errno| {
                Error::netlink("open socket for table", &self.config.bridge, errno)
            })
        })
    }

    fn install_rules(&self) -> Result<(), Error> {
        nft::install(&mut self.nft_socket()?, &self.config)
    }

    /// Takes addresses of an earlier configuration away where no pod uses them.
    fn settle_addresses(&self, node: &mut Node, links: &[Link]) -> Result<(), Error> {
        let wanted = self.gateway();
        let name = &self.config.bridge;
        for present in address::of_link(&mut node.route, node.index)? {
            if present == wanted {
                continue;
            }
            if links.iter().any(|link| link.master == Some(node.index)) {
                return Err(Error::SubnetChanged {
                    bridge: name.clone(),
                    present,
                    wanted,
                });
            }
            node.route
                .call(&mut [address::remove(node.index, present)])
                .map_err(|failure| {
                    Error::netlink("remove address", format!("{present} of {name}"), failure)
                })?;
        }
        Ok(())
    }

    /// Links of running pods that somebody's removal of the bridge cut off.
    fn reattach(&self, node: &mut Node, links: &[Link]) -> Result<usize, Error> {
        let index = node.index;
        let mut count = 0;
        for pod in self.pod_links(links) {
            let lost = links
                .iter()
                .any(|link| link.index == pod.index && link.master.is_none());
            if !lost || pod.pod_id.is_none() {
                continue;
            }
            let request = link::change(&pod.interface, State::Up).u32(IFLA_MASTER, index);
            match node.route.call(&mut [request]) {
                Ok(_) => count += 1,
                // Its namespace has gone meanwhile.
                Err(failure) if failure.errno == Errno::ENODEV => {}
                Err(failure) => {
                    return Err(Error::netlink("attach link", pod.interface, failure));
                }
            }
        }
        Ok(count)
    }

    fn pod_links<'a>(&'a self, links: &'a [Link]) -> impl Iterator<Item = PodLink> + 'a {
        let name = &self.config.bridge;
        let bridge = links.iter().find(|link| link.name == *name);
        let index = bridge.map_or(0, |link| link.index);
        links
            .iter()
            .filter_map(move |link| PodLink::of(link, name, index))
    }
}

fn existing_bridge(link: &Link) -> Result<u32, Error> {
    match link.kind.as_deref() {
        Some("bridge") => Ok(link.index),
        kind => Err(Error::NotABridge {
            name: link.name.clone(),
            kind: kind.unwrap_or("physical link").to_owned(),
        }),
    }
}

/// Deletes a link; false if it went by itself meanwhile.
pub(crate) fn delete(socket: &mut Socket, name: &str) -> Result<bool, Error> {
    match socket.call(&mut [link::delete(name)]) {
        Ok(_) => Ok(true),
        Err(failure) if failure.errno == Errno::ENODEV => Ok(false),
        Err(failure) => Err(Error::netlink("delete link", name, failure)),
    }
}
