//! The expressions that our rules are made of. A rule is a list of them, run in
//! order; a comparison that fails ends the rule.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::netlink::Request;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;

const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_NFPROTO: u32 = 15;
const NFPROTO_IPV4: u8 = 2;

const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;

const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;

const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;

const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
/// Bits of the packet's state, one above the number in `enum ip_conntrack_info`.
const STATE_ESTABLISHED_RELATED: u32 = 0b110;
/// IPS_DST_NAT: the connection's destination was translated, as published
/// ports do.
const STATUS_DNAT: u32 = 1 << 5;

const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFT_REG_VERDICT: u32 = 0;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;

/// The one register that is needed.
const REGISTER: u32 = 1;
/// Length of a link name in a register.
const IFNAMSIZ: usize = 16;

#[derive(Clone, Copy)]
pub(crate) enum Is {
    Equal = 0,
    NotEqual = 1,
}

#[derive(Clone, Copy)]
pub(crate) enum Side {
    Source = 12,
    Destination = 16,
}

/// Only packets that arrived on, or leave through, a link with this name.
pub(crate) fn arrives(rule: Request, is: Is, link: &str) -> Request {
    link_name(rule, NFT_META_IIFNAME, is, link)
}

pub(crate) fn leaves(rule: Request, is: Is, link: &str) -> Request {
    link_name(rule, NFT_META_OIFNAME, is, link)
}

fn link_name(rule: Request, key: u32, is: Is, link: &str) -> Request {
    let mut name = [0; IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(link.bytes()) {
        *to = from;
    }
    compare(meta(rule, key), is, &name)
}

/// Only IPv4 packets; a table of family inet sees both.
pub(crate) fn ipv4(rule: Request) -> Request {
    compare(meta(rule, NFT_META_NFPROTO), Is::Equal, &[NFPROTO_IPV4])
}

/// Only packets whose source or destination is in the subnet, or is not.
pub(crate) fn address(rule: Request, side: Side, is: Is, subnet: Ipv4Net) -> Request {
    let rule = expression(rule, "payload", |r| {
        r.be32(NFTA_PAYLOAD_DREG, REGISTER)
            .be32(NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER)
            .be32(NFTA_PAYLOAD_OFFSET, side as u32)
            .be32(NFTA_PAYLOAD_LEN, 4)
    });
    let rule = mask(rule, subnet.netmask().octets());
    compare(rule, is, &Ipv4Addr::octets(&subnet.network()))
}

/// Only packets of a connection that exists already, or that one brought about.
pub(crate) fn established(rule: Request) -> Request {
    any_bit(rule, NFT_CT_STATE, STATE_ESTABLISHED_RELATED)
}

/// Only packets of a connection with a translated destination.
pub(crate) fn published(rule: Request) -> Request {
    any_bit(rule, NFT_CT_STATUS, STATUS_DNAT)
}

fn any_bit(rule: Request, key: u32, bits: u32) -> Request {
    let rule = expression(rule, "ct", |r| {
        r.be32(NFTA_CT_DREG, REGISTER).be32(NFTA_CT_KEY, key)
    });
    // Conntrack loads numbers in the machine's order.
    compare(mask(rule, bits.to_ne_bytes()), Is::NotEqual, &[0; 4])
}

pub(crate) fn accept(rule: Request) -> Request {
    verdict(rule, NF_ACCEPT)
}

pub(crate) fn drop(rule: Request) -> Request {
    verdict(rule, NF_DROP)
}

/// The source becomes the address of the link that the packet leaves through.
pub(crate) fn masquerade(rule: Request) -> Request {
    expression(rule, "masq", |r| r)
}

fn verdict(rule: Request, code: u32) -> Request {
    expression(rule, "immediate", |r| {
        r.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)
            .nest(NFTA_IMMEDIATE_DATA, |r| {
                r.nest(NFTA_DATA_VERDICT, |r| r.be32(NFTA_VERDICT_CODE, code))
            })
    })
}

fn meta(rule: Request, key: u32) -> Request {
    expression(rule, "meta", |r| {
        r.be32(NFTA_META_DREG, REGISTER).be32(NFTA_META_KEY, key)
    })
}

fn mask(rule: Request, mask: [u8; 4]) -> Request {
    expression(rule, "bitwise", |r| {
        r.be32(NFTA_BITWISE_SREG, REGISTER)
            .be32(NFTA_BITWISE_DREG, REGISTER)
            .be32(NFTA_BITWISE_LEN, 4)
            .nest(NFTA_BITWISE_MASK, |r| r.attr(NFTA_DATA_VALUE, &mask))
            .nest(NFTA_BITWISE_XOR, |r| r.attr(NFTA_DATA_VALUE, &[0; 4]))
    })
}

fn compare(rule: Request, is: Is, value: &[u8]) -> Request {
    expression(rule, "cmp", |r| {
        r.be32(NFTA_CMP_SREG, REGISTER)
            .be32(NFTA_CMP_OP, is as u32)
            .nest(NFTA_CMP_DATA, |r| r.attr(NFTA_DATA_VALUE, value))
    })
}

fn expression(rule: Request, name: &str, data: impl FnOnce(Request) -> Request) -> Request {
    rule.nest(NFTA_LIST_ELEM, |r| {
        r.string(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data)
    })
}
