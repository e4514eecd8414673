//! Links of the node that are given to a container (runtime specification,
//! `linux.netDevices`).

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use crate::{
    address,
    error::Error,
    link::{self, IFLA_IFNAME, IFLA_NET_NS_FD, RTM_NEWLINK, State, header},
    namespace,
    netlink::{Protocol, Request, Socket},
};

/// Moves the link `from` of the caller's network namespace into `target`, where it is
/// called `to`, has the addresses of global scope that it had, and is up.
///
/// # Errors
/// [`Error::Netlink`] if there is none, or if the name is taken there. A link that was
/// moved and could not be set up stays where it is: the kernel gives real ones back
/// when the namespace goes.
pub fn move_link(from: &str, to: &str, target: BorrowedFd<'_>) -> Result<(), Error> {
    const OPERATION: &str = "move link";
    let failed = |failure| Error::netlink(OPERATION, from, failure);
    let open = || {
        Socket::open(Protocol::Route).map_err(|source| Error::Netlink {
            operation: OPERATION,
            object: from.to_owned(),
            source,
        })
    };
    let mut socket = open()?;
    let missing = |name: &str| Error::Netlink {
        operation: OPERATION,
        object: name.to_owned(),
        source: nix::errno::Errno::ENODEV,
    };
    let found = link::find(&mut socket, from)?.ok_or_else(|| missing(from))?;
    let addresses = address::kept(&mut socket, found.index)?;
    let number = u32::try_from(target.as_fd().as_raw_fd()).unwrap_or(u32::MAX);
    let request = Request::new(RTM_NEWLINK, 0, &header(found.index, State::AsIs))
        .u32(IFLA_NET_NS_FD, number)
        .string(IFLA_IFNAME, to);
    socket.call(&mut [request]).map_err(failed)?;
    namespace::on_own_thread(|| {
        namespace::enter(target)?;
        let mut socket = open()?;
        let moved = link::find(&mut socket, to)?.ok_or_else(|| missing(to))?;
        let mut requests: Vec<Request> = addresses
            .iter()
            .map(|address| address.on(moved.index))
            .collect();
        requests.push(Request::new(
            RTM_NEWLINK,
            0,
            &header(moved.index, State::Up),
        ));
        socket.call(&mut requests).map_err(failed)?;
        Ok(())
    })
}
