//! The table as transactions.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nix::errno::Errno;

use super::expression::{
    Is, Side, accept, address, arrives, drop, established, ipv4, leaves, masquerade, published,
};
use crate::{
    config::NetworkConfig,
    error::Error,
    netlink::{Request, Socket, flags},
};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFPROTO_INET: u8 = 1;
const NFNETLINK_V0: u8 = 0;
/// Size of `struct nfgenmsg`.
const NFGENMSG: usize = 4;

const NEW_TABLE: u16 = kind(0);
const DELETE_TABLE: u16 = kind(2);
const NEW_CHAIN: u16 = kind(3);
const NEW_RULE: u16 = kind(6);
const GET_RULE: u16 = kind(7);

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;

const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_FORWARD: u32 = 2;
const NF_INET_POST_ROUTING: u32 = 4;
/// Before any translation of addresses.
const PRIORITY_RAW: i32 = -300;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;
const NF_ACCEPT: u32 = 1;

const PREROUTING: &str = "prerouting";
const FORWARD: &str = "forward";
const POSTROUTING: &str = "postrouting";

const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

const fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message
}

/// Creates the table, or replaces it, in one transaction.
pub(crate) fn install(socket: &mut Socket, config: &NetworkConfig) -> Result<(), Error> {
    let name = &config.bridge;
    // Add, delete, add: deleting what is not there would fail the transaction,
    // and adding what is there leaves the old rules in place.
    let mut batch = vec![table(NEW_TABLE, name), table(DELETE_TABLE, name)];
    batch.push(table(NEW_TABLE, name));
    batch.push(chain(
        name,
        PREROUTING,
        "filter",
        NF_INET_PRE_ROUTING,
        PRIORITY_RAW,
    ));
    batch.push(chain(
        name,
        FORWARD,
        "filter",
        NF_INET_FORWARD,
        PRIORITY_FILTER,
    ));
    if config.masquerade {
        let hook = NF_INET_POST_ROUTING;
        batch.push(chain(name, POSTROUTING, "nat", hook, PRIORITY_SRCNAT));
    }
    batch.extend(rules(config));
    transact(socket, "install table", name, batch)
}

/// Removes the table if it is there.
pub(crate) fn remove(socket: &mut Socket, name: &str) -> Result<(), Error> {
    let batch = vec![table(NEW_TABLE, name), table(DELETE_TABLE, name)];
    transact(socket, "remove table", name, batch)
}

/// Whether the table is there with as many rules as it should have: somebody
/// may have flushed the whole rule set.
pub(crate) fn is_complete(socket: &mut Socket, config: &NetworkConfig) -> Result<bool, Error> {
    let request = Request::unacknowledged(GET_RULE, flags::DUMP, &header(NFPROTO_INET, 0))
        .string(NFTA_RULE_TABLE, &config.bridge);
    match socket.dump(&request) {
        Ok(replies) => {
            let present = replies.iter().filter(|reply| reply.kind == NEW_RULE);
            // Older kernels do not filter a dump by its table.
            let ours = present.filter(|reply| {
                reply.split(NFGENMSG).is_some_and(|(_, mut attributes)| {
                    attributes.any(|(kind, value)| {
                        kind == NFTA_RULE_TABLE && crate::netlink::text(value) == config.bridge
                    })
                })
            });
            Ok(ours.count() == rules(config).len())
        }
        Err(failure) if failure.errno == Errno::ENOENT => Ok(false),
        Err(failure) => Err(Error::netlink(
            "list rules of table",
            &config.bridge,
            failure,
        )),
    }
}

fn rules(config: &NetworkConfig) -> Vec<Request> {
    let bridge = &config.bridge;
    let towards_pods = |r| arrives(leaves(r, Is::Equal, bridge), Is::NotEqual, bridge);
    let mut rules = vec![
        rule(bridge, PREROUTING, |r| {
            let from_pods = ipv4(arrives(r, Is::Equal, bridge));
            drop(address(from_pods, Side::Destination, Is::Equal, LOOPBACK))
        }),
        rule(bridge, FORWARD, |r| accept(established(towards_pods(r)))),
        rule(bridge, FORWARD, |r| accept(published(towards_pods(r)))),
        rule(bridge, FORWARD, |r| drop(towards_pods(r))),
    ];
    if config.masquerade {
        rules.push(rule(bridge, POSTROUTING, |r| {
            let from_pods = address(ipv4(r), Side::Source, Is::Equal, config.subnet);
            masquerade(address(
                from_pods,
                Side::Destination,
                Is::NotEqual,
                config.subnet,
            ))
        }));
    }
    rules
}

fn table(kind: u16, name: &str) -> Request {
    let flags = if kind == NEW_TABLE { flags::CREATE } else { 0 };
    Request::new(kind, flags, &header(NFPROTO_INET, 0)).string(NFTA_TABLE_NAME, name)
}

fn chain(table: &str, name: &str, kind: &str, hook: u32, priority: i32) -> Request {
    Request::new(NEW_CHAIN, flags::CREATE, &header(NFPROTO_INET, 0))
        .string(NFTA_CHAIN_TABLE, table)
        .string(NFTA_CHAIN_NAME, name)
        .nest(NFTA_CHAIN_HOOK, |r| {
            r.be32(NFTA_HOOK_HOOKNUM, hook)
                .be32(NFTA_HOOK_PRIORITY, priority.cast_unsigned())
        })
        .be32(NFTA_CHAIN_POLICY, NF_ACCEPT)
        .string(NFTA_CHAIN_TYPE, kind)
}

fn rule(table: &str, chain: &str, expressions: impl FnOnce(Request) -> Request) -> Request {
    let flags = flags::CREATE | flags::APPEND;
    Request::new(NEW_RULE, flags, &header(NFPROTO_INET, 0))
        .string(NFTA_RULE_TABLE, table)
        .string(NFTA_RULE_CHAIN, chain)
        .nest(NFTA_RULE_EXPRESSIONS, expressions)
}

fn transact(
    socket: &mut Socket,
    operation: &'static str,
    table: &str,
    batch: Vec<Request>,
) -> Result<(), Error> {
    let edge = header(0, NFNL_SUBSYS_NFTABLES);
    let mut requests = vec![Request::unacknowledged(NFNL_MSG_BATCH_BEGIN, 0, &edge)];
    requests.extend(batch);
    requests.push(Request::unacknowledged(NFNL_MSG_BATCH_END, 0, &edge));
    match socket.call(&mut requests) {
        Ok(_) => Ok(()),
        Err(failure) => Err(Error::netlink(
            operation,
            format!("{table} (message {})", failure.request),
            failure,
        )),
    }
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> [u8; NFGENMSG] {
    let [high, low] = resource.to_be_bytes();
    [family, NFNETLINK_V0, high, low]
}
