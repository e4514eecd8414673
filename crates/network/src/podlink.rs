//! The host's end of a pod's veth pair: how it is named and recognised.

use std::net::Ipv4Addr;

use crate::{error::Error, link::Link};

/// The link group of every veth we make. Set when the link is made and not
/// after it, unlike the alias, so no crash leaves a link without its mark.
pub(crate) const GROUP: u32 = 0xBE27;

const PREFIX: &str = "veth";
/// With the prefix this fills the 15 bytes that a link name may have.
const DIGITS: usize = 11;
const ALIAS: &str = " pod ";

/// The host's end of a pod's veth pair, as found on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The first 11 digits of the pod's id.
    pub pod_id_part: String,
    /// The whole id; absent only if the pair's maker died on the spot.
    pub pod_id: Option<String>,
    /// The link's name.
    pub interface: String,
    /// The link's index.
    pub index: u32,
}

impl PodLink {
    /// Recognises the links of the pods of `bridge`, whose index is `master`,
    /// among a node's.
    pub(crate) fn of(link: &Link, bridge: &str, master: u32) -> Option<Self> {
        let part = link.name.strip_prefix(PREFIX)?;
        let of_our_kind = link.group == GROUP
            && link.kind.as_deref() == Some("veth")
            && part.len() == DIGITS
            && part.bytes().all(is_hex);
        let pod_id = match &link.alias {
            // Another bridge of ours has its own pods.
            Some(alias) => Some(alias.strip_prefix(bridge)?.strip_prefix(ALIAS)?.to_owned()),
            None => None,
        };
        let here = link.master.is_none_or(|index| index == master);
        (of_our_kind && here).then(|| Self {
            pod_id_part: part.to_owned(),
            pod_id,
            interface: link.name.clone(),
            index: link.index,
        })
    }

    /// Whether it is the pod's, by whole id where it is known.
    pub(crate) fn belongs_to(&self, pod_id: &str) -> bool {
        match &self.pod_id {
            Some(id) => id == pod_id,
            None => pod_id.starts_with(&self.pod_id_part),
        }
    }
}

/// The name of the host's end for a pod.
pub(crate) fn name(pod_id: &str) -> Result<String, Error> {
    match pod_id.get(..DIGITS) {
        // The alias has room for 255 bytes; pod ids have 64.
        Some(part) if pod_id.len() <= 128 && part.bytes().all(is_hex) => {
            Ok(format!("{PREFIX}{part}"))
        }
        _ => Err(Error::PodId {
            id: pod_id.chars().take(128).collect(),
        }),
    }
}

/// The alias of a pod's link, for people and for ourselves.
pub(crate) fn alias(bridge: &str, pod_id: &str) -> String {
    format!("{bridge}{ALIAS}{pod_id}")
}

/// The hardware address that goes with an IPv4 address: locally administered,
/// and the same for every pod that gets the address, so that what neighbours
/// remember of the pod before it stays true.
pub(crate) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0xbe, a, b, c, d]
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fill_a_link_name_exactly() {
        let name = name("0123456789abcdef").unwrap();
        assert_eq!(name, "veth0123456789a");
        assert_eq!(name.len(), 15);
    }

    #[test]
    fn ids_that_are_not_hexadecimal_make_no_name() {
        for bad in [
            "",
            "0123456789",
            "0123456789/..",
            "ABCDEFABCDEFA",
            "0123456789\u{e9}x",
        ] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert!(name(&"a".repeat(1_000_000)).is_err());
    }

    #[test]
    fn only_what_carries_our_mark_is_ours() {
        let link = Link {
            name: "veth0123456789a".to_owned(),
            kind: Some("veth".to_owned()),
            group: GROUP,
            alias: Some(alias("berth0", "0123456789abcd")),
            master: Some(7),
            ..Link::default()
        };
        let ours = PodLink::of(&link, "berth0", 7).unwrap();
        assert!(ours.belongs_to("0123456789abcd"));
        assert!(!ours.belongs_to("0123456789abff"));
        assert_eq!(PodLink::of(&link, "berth1", 7), None);
        assert_eq!(PodLink::of(&link, "berth0", 8), None);
        let unmarked = Link { group: 0, ..link };
        assert_eq!(PodLink::of(&unmarked, "berth0", 7), None);
    }
}
