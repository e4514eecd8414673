//! Which pod has which address. Pure: owners and history are the caller's to record.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::SystemTime,
};

use ipnet::Ipv4Net;

use crate::config::{first_address, is_pod_address};

/// Hands out the addresses of one subnet.
///
/// An address that was never used comes first, in ascending order; then the one
/// that has been free for longest. So an address rests for as long as the
/// subnet allows before another pod gets it: peers may still hold connections
/// to the pod before, and its link goes away asynchronously.
#[derive(Clone, Debug)]
pub struct Ipam {
    subnet: Ipv4Net,
    in_use: BTreeSet<Ipv4Addr>,
    freed: BTreeSet<(SystemTime, Ipv4Addr)>,
    freed_at: BTreeMap<Ipv4Addr, SystemTime>,
    /// All addresses below it were in use at some time or are passed over.
    fresh: u32,
}

/// Why an address cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// All are in use.
    #[error("subnet {subnet} has no free address: all {in_use} are in use")]
    Exhausted {
        /// The subnet.
        subnet: Ipv4Net,
        /// How many addresses pods have.
        in_use: usize,
    },
    /// The address is not one that pods get.
    #[error("address {address} is not a pod address of {subnet}")]
    NotAPodAddress {
        /// The address.
        address: Ipv4Addr,
        /// The subnet.
        subnet: Ipv4Net,
    },
    /// Another owner has the address.
    #[error("address {address} is already in use")]
    InUse {
        /// The address.
        address: Ipv4Addr,
    },
}

impl Ipam {
    /// All addresses of `subnet` are free, except the network's, the gateway's
    /// (the first) and the broadcast's, which are never given out.
    #[must_use]
    pub fn new(subnet: Ipv4Net) -> Self {
        Self {
            subnet,
            in_use: BTreeSet::new(),
            freed: BTreeSet::new(),
            freed_at: BTreeMap::new(),
            fresh: first_address(subnet).to_bits(),
        }
    }

    /// Takes an address.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`].
    pub fn allocate(&mut self) -> Result<Ipv4Addr, IpamError> {
        let address = match self.next_fresh() {
            Some(address) => address,
            None => {
                self.freed
                    .first()
                    .map(|&(_, address)| address)
                    .ok_or(IpamError::Exhausted {
                        subnet: self.subnet,
                        in_use: self.in_use.len(),
                    })?
            }
        };
        self.take(address);
        Ok(address)
    }

    /// Takes a given address, as when the records are read after a start.
    ///
    /// # Errors
    /// [`IpamError::InUse`], [`IpamError::NotAPodAddress`].
    pub fn reserve(&mut self, address: Ipv4Addr) -> Result<(), IpamError> {
        self.check(address)?;
        if self.in_use.contains(&address) {
            return Err(IpamError::InUse { address });
        }
        self.take(address);
        Ok(())
    }

    /// Gives an address back, free since `at`. Freeing one that is free only
    /// moves its time forward, so a repeated removal does no harm and the
    /// history may be told in any order after a start.
    ///
    /// # Errors
    /// [`IpamError::NotAPodAddress`].
    pub fn release(&mut self, address: Ipv4Addr, at: SystemTime) -> Result<(), IpamError> {
        self.check(address)?;
        self.in_use.remove(&address);
        let at = match self.freed_at.get(&address) {
            Some(&before) => before.max(at),
            None => at,
        };
        self.forget_history(address);
        self.freed.insert((at, address));
        self.freed_at.insert(address, at);
        Ok(())
    }

    /// Whether a pod has `address`.
    #[must_use]
    pub fn is_in_use(&self, address: Ipv4Addr) -> bool {
        self.in_use.contains(&address)
    }

    /// The addresses that pods have, ascending.
    pub fn in_use(&self) -> impl ExactSizeIterator<Item = Ipv4Addr> + '_ {
        self.in_use.iter().copied()
    }

    /// The subnet.
    #[must_use]
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    fn next_fresh(&mut self) -> Option<Ipv4Addr> {
        let end = self.subnet.broadcast().to_bits();
        while self.fresh < end {
            let address = Ipv4Addr::from_bits(self.fresh);
            if is_pod_address(self.subnet, address)
                && !self.in_use.contains(&address)
                && !self.freed_at.contains_key(&address)
            {
                return Some(address);
            }
            self.fresh += 1;
        }
        None
    }

    fn take(&mut self, address: Ipv4Addr) {
        self.forget_history(address);
        self.in_use.insert(address);
    }

    fn forget_history(&mut self, address: Ipv4Addr) {
        if let Some(at) = self.freed_at.remove(&address) {
            self.freed.remove(&(at, address));
        }
    }

    fn check(&self, address: Ipv4Addr) -> Result<(), IpamError> {
        if is_pod_address(self.subnet, address) {
            return Ok(());
        }
        Err(IpamError::NotAPodAddress {
            address,
            subnet: self.subnet,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn slash(prefix: u8) -> Ipam {
        Ipam::new(Ipv4Net::new(Ipv4Addr::new(10, 9, 8, 0), prefix).unwrap())
    }

    fn host(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 8, last)
    }

    #[test]
    fn the_first_pod_gets_the_address_after_the_gateway() {
        assert_eq!(slash(24).allocate().unwrap(), host(2));
    }

    #[test]
    fn unused_addresses_come_before_freed_ones_and_those_in_order_of_their_freeing() {
        let mut ipam = slash(29);
        for last in 2..=6 {
            assert_eq!(ipam.allocate().unwrap(), host(last));
        }
        ipam.release(host(4), at(20)).unwrap();
        ipam.release(host(2), at(30)).unwrap();
        ipam.release(host(6), at(10)).unwrap();
        let order: Vec<_> = (0..3).map(|_| ipam.allocate().unwrap()).collect();
        assert_eq!(order, [host(6), host(4), host(2)]);
    }

    #[test]
    fn exhaustion_names_the_subnet_and_the_count() {
        let mut ipam = slash(30);
        ipam.allocate().unwrap();
        let error = ipam.allocate().unwrap_err();
        let said = "subnet 10.9.8.0/30 has no free address: all 1 are in use";
        assert_eq!(error.to_string(), said);
        ipam.release(host(2), at(1)).unwrap();
        assert_eq!(ipam.allocate().unwrap(), host(2));
    }

    #[test]
    fn a_thousand_pods_in_turn_never_exhaust_a_small_subnet() {
        let mut ipam = slash(28);
        for turn in 0..1_000 {
            let address = ipam.allocate().unwrap();
            ipam.release(address, at(turn)).unwrap();
        }
        assert_eq!(ipam.in_use().len(), 0);
    }

    #[test]
    fn what_the_records_say_is_not_given_out_again() {
        let mut ipam = slash(28);
        ipam.reserve(host(2)).unwrap();
        ipam.release(host(3), at(5)).unwrap();
        assert_eq!(ipam.allocate().unwrap(), host(4));
        assert_eq!(
            ipam.reserve(host(2)),
            Err(IpamError::InUse { address: host(2) })
        );
    }

    #[test]
    fn a_repeated_release_does_not_make_an_address_look_older() {
        let mut ipam = slash(29);
        while ipam.allocate().is_ok() {}
        ipam.release(host(2), at(9)).unwrap();
        ipam.release(host(3), at(5)).unwrap();
        ipam.release(host(2), at(1)).unwrap();
        assert_eq!(ipam.allocate().unwrap(), host(3));
    }

    #[test]
    fn gateway_network_and_broadcast_are_nobodys() {
        let mut ipam = slash(24);
        for bad in [host(0), host(1), host(255), Ipv4Addr::new(10, 9, 9, 2)] {
            assert!(ipam.reserve(bad).is_err(), "{bad}");
            assert!(ipam.release(bad, at(0)).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_address_has_two_owners(steps in proptest::collection::vec(any::<Option<u8>>(), 1..300)) {
            let mut ipam = slash(28);
            let mut owned = BTreeSet::new();
            for (time, step) in steps.into_iter().enumerate() {
                match step {
                    None => match ipam.allocate() {
                        Ok(address) => prop_assert!(owned.insert(address)),
                        Err(_) => prop_assert_eq!(owned.len(), 13),
                    },
                    Some(last) => {
                        if ipam.release(host(last), at(time as u64)).is_ok() {
                            owned.remove(&host(last));
                        }
                    }
                }
                prop_assert!(ipam.in_use().eq(owned.iter().copied()));
            }
        }
    }
}
