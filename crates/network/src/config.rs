//! The configuration of the built-in network.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The largest MTU a veth takes (ETH_MAX_MTU); the least is what IPv4 needs (RFC 791).
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65535;

/// Below /30 there is no room for the gateway and a pod beside the network and
/// broadcast addresses.
const LONGEST_PREFIX: u8 = 30;

/// The built-in pod network, section `[network]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Name of the bridge, and of our nftables table. Default `berth0`.
    pub bridge: String,
    /// The pods' subnet; its first address is the bridge's own and the pods'
    /// gateway. Default `10.83.0.0/18`.
    ///
    /// None of the usual neighbours takes it: Docker (172.17.0.0/16 and on,
    /// 192.168.0.0/16), Podman and the CNI examples (10.88.0.0/16 and on),
    /// nerdctl (10.4.0.0/24), kubeadm's services (10.96.0.0/12), flannel
    /// (10.244.0.0/16), Calico (192.168.0.0/16), k3s (10.42.0.0/15), MicroK8s
    /// (10.1.0.0/16), OpenShift (10.128.0.0/14), libvirt (192.168.122.0/24).
    /// A bridge serves 1,023 pods, but 16,381 addresses let each rest for a
    /// minute after its pod even at 150 pods per second.
    pub subnet: Ipv4Net,
    /// MTU in bytes of the bridge and of the pods' interfaces. Default: that of
    /// the interface with the default route, or 1500 without one.
    pub mtu: Option<u32>,
    /// Whether traffic of pods that leaves the subnet gets the node's address.
    /// Default true; false only where the network around routes the subnet.
    pub masquerade: bool,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bridge: "berth0".to_owned(),
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 83, 0, 0), 18),
            mtu: None,
            masquerade: true,
        }
    }
}

/// What is wrong with a [`NetworkConfig`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The kernel or `/proc/sys` would not take the name.
    #[error("bridge {0:?}: expected 1 to 15 letters, digits, '-' or '_', beginning with a letter")]
    Bridge(String),
    /// The subnet has bits set behind its prefix.
    #[error("subnet {given}: did you mean {meant}?")]
    HostBits {
        /// What was given.
        given: Ipv4Net,
        /// The same with the host's bits cleared.
        meant: Ipv4Net,
    },
    /// The subnet has no room for a pod.
    #[error("subnet {0}: the longest prefix that leaves room for a pod is /30")]
    TooSmall(Ipv4Net),
    /// The subnet is not made of ordinary addresses.
    #[error("subnet {0}: loopback, link-local, multicast and reserved addresses cannot be a pod's")]
    NotUnicast(Ipv4Net),
    /// The MTU is out of range.
    #[error("mtu {0}: expected 68 to 65535")]
    Mtu(u32),
}

impl NetworkConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// All findings, so that one run of a checker shows them all; never empty.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut found = Vec::new();
        if !is_link_name(&self.bridge) {
            found.push(ConfigError::Bridge(self.bridge.clone()));
        }
        if self.subnet.addr() != self.subnet.network() {
            found.push(ConfigError::HostBits {
                given: self.subnet,
                meant: self.subnet.trunc(),
            });
        }
        if self.subnet.prefix_len() > LONGEST_PREFIX {
            found.push(ConfigError::TooSmall(self.subnet));
        }
        if !is_unicast(self.subnet) {
            found.push(ConfigError::NotUnicast(self.subnet));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !MTU_RANGE.contains(mtu)) {
            found.push(ConfigError::Mtu(mtu));
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    /// The bridge's own address: the first of the subnet.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        first_address(self.subnet)
    }
}

pub(crate) fn first_address(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(subnet.network().to_bits().wrapping_add(1))
}

/// Whether a pod may have `address`: in the subnet and neither its network, its
/// broadcast nor the gateway's address.
pub(crate) fn is_pod_address(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address)
        && address != subnet.network()
        && address != subnet.broadcast()
        && address != first_address(subnet)
}

// Stricter than the kernel (which refuses only '/', ':' and blanks): the name
// is part of a path below /proc/sys/net, where a dot would separate.
fn is_link_name(name: &str) -> bool {
    name.len() <= 15
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn is_unicast(subnet: Ipv4Net) -> bool {
    // 0/8, loopback, link-local, and everything from multicast upwards.
    let special: [Ipv4Net; 4] = [
        Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
        Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
        Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
    ];
    !special.iter().any(|bad| overlap(*bad, subnet))
}

pub(crate) fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut NetworkConfig)) -> Result<(), Vec<ConfigError>> {
        let mut config = NetworkConfig::default();
        change(&mut config);
        config.validate()
    }

    #[test]
    fn an_empty_section_is_the_default_and_valid() {
        let config: NetworkConfig = toml::from_str("").unwrap();
        assert_eq!(config, NetworkConfig::default());
        config.validate().unwrap();
        assert_eq!(config.gateway(), Ipv4Addr::new(10, 83, 0, 1));
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = toml::from_str::<NetworkConfig>("brigde = 'x'").unwrap_err();
        assert!(error.to_string().contains("brigde"), "{error}");
    }

    #[test]
    fn every_finding_is_reported() {
        let found = with(|c| {
            c.bridge = "../etc".to_owned();
            c.subnet = "10.1.2.3/31".parse().unwrap();
            c.mtu = Some(1);
        })
        .unwrap_err();
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn subnets_that_hold_special_addresses_are_refused() {
        for bad in ["127.0.0.0/8", "224.1.0.0/16", "0.0.0.0/0", "169.254.8.0/24"] {
            let result = with(|c| c.subnet = bad.parse().unwrap());
            assert!(result.is_err(), "{bad}");
        }
        with(|c| c.subnet = "100.64.0.0/10".parse().unwrap()).unwrap();
    }
}
