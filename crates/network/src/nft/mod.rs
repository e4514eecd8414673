//! Our own nftables table, named like the bridge. One atomic transaction
//! replaces it whole; no other table is ever named in a request
//! (`linux/netfilter/nf_tables.h`).
//!
//! ```text
//! table inet berth0 {
//!     chain prerouting {
//!         type filter hook prerouting priority raw; policy accept;
//!         iifname "berth0" ip daddr 127.0.0.0/8 drop
//!     }
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         oifname "berth0" iifname != "berth0" ct state established,related accept
//!         oifname "berth0" iifname != "berth0" ct status dnat accept
//!         oifname "berth0" iifname != "berth0" drop
//!     }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr SUBNET ip daddr != SUBNET masquerade
//!     }
//! }
//! ```
//!
//! The kernel itself drops what comes from outside for 127/8, but not any more
//! where somebody has set `route_localnet` for all links, as kube-proxy does
//! (CVE-2020-8558).
//!
//! The node forwards as soon as `ip_forward` is on, so without the drop every
//! neighbour that routes the subnet to the node would reach all ports of all
//! pods, published or not. Pods, and the node itself, are not affected. An
//! accept here does not undo a drop in somebody else's table: where a firewall
//! drops forwarded packets, it must let the bridge through itself.

mod expression;
mod table;

pub(crate) use table::{install, is_complete, remove};
