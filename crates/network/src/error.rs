//! What can go wrong in the network.

use std::{io, net::Ipv4Addr};

use ipnet::Ipv4Net;
use nix::errno::Errno;

use crate::{config::ConfigError, netlink::Failure};

/// A failed operation on the pod network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no sense.
    #[error("invalid network configuration")]
    Config(#[from] ConfigError),
    /// The kernel refused a request.
    #[error("{operation} {object}")]
    Netlink {
        /// What was asked for.
        operation: &'static str,
        /// The link, address, route or table concerned.
        object: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// The kernel's answer lacks what it must contain.
    #[error("{operation} {object}: the kernel's answer cannot be read")]
    Answer {
        /// What was asked for.
        operation: &'static str,
        /// The object concerned.
        object: String,
    },
    /// A kernel setting could not be read or written.
    #[error("{operation} {path}")]
    Sysctl {
        /// `read` or `write`.
        operation: &'static str,
        /// The file below `/proc/sys`.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A network namespace could not be opened or entered.
    #[error("{operation} network namespace")]
    Namespace {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The bridge's name belongs to a link of another kind.
    #[error("link {name} exists and is a {kind}, not a bridge")]
    NotABridge {
        /// The configured name.
        name: String,
        /// The kind of the link that is there.
        kind: String,
    },
    /// The node already reaches part of the pod subnet elsewhere.
    #[error("subnet {subnet} overlaps {route}, which this node reaches through {interface}")]
    SubnetTaken {
        /// The configured subnet.
        subnet: Ipv4Net,
        /// The route that overlaps it.
        route: Ipv4Net,
        /// The interface of that route.
        interface: String,
    },
    /// The bridge serves pods in a subnet other than the configured one.
    #[error(
        "bridge {bridge} still has pods and address {present}; the configuration wants {wanted}"
    )]
    SubnetChanged {
        /// The bridge.
        bridge: String,
        /// The address that it has.
        present: Ipv4Net,
        /// The address that it should have.
        wanted: Ipv4Net,
    },
    /// A bridge has 1,023 ports and all of them are in use.
    #[error("bridge {bridge} has no port left: a bridge serves at most 1023 pods")]
    BridgeFull {
        /// The bridge.
        bridge: String,
    },
    /// The bridge has not been set up, or was removed by somebody.
    #[error("bridge {bridge} is not set up")]
    NoBridge {
        /// The bridge.
        bridge: String,
    },
    /// No link name can be made of the pod's id.
    #[error("pod id {id:?} does not begin with 11 lower-case hexadecimal digits")]
    PodId {
        /// The id.
        id: String,
    },
    /// The address is not one that the subnet gives to pods.
    #[error("address {address} is not a pod address of {subnet}")]
    NotInSubnet {
        /// The address.
        address: Ipv4Addr,
        /// The configured subnet.
        subnet: Ipv4Net,
    },
    /// The pod's link name belongs to something that is not ours or is another pod's.
    #[error("link {interface} exists and belongs to {owner}")]
    LinkTaken {
        /// The host's end.
        interface: String,
        /// Who has it.
        owner: String,
    },
    /// A failpoint asked for this.
    #[error(transparent)]
    Injected(#[from] berth_phase::Injected),
}

impl Error {
    pub(crate) fn netlink(
        operation: &'static str,
        object: impl Into<String>,
        cause: impl Into<Failure>,
    ) -> Self {
        Self::Netlink {
            operation,
            object: object.into(),
            source: cause.into().errno,
        }
    }

    pub(crate) fn answer(operation: &'static str, object: impl Into<String>) -> Self {
        Self::Answer {
            operation,
            object: object.into(),
        }
    }
}
