//! Netlink: messages out, replies in. Layout and constants as in
//! `linux/netlink.h`, `linux/rtnetlink.h` and `linux/netfilter/nfnetlink.h`.

mod message;
mod parse;
mod socket;

pub(crate) use message::{Request, flags};
pub(crate) use parse::{Attributes, Reply, text, u32_of};
pub(crate) use socket::{Failure, Protocol, Socket};
