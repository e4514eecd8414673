//! A node to test against, seen only from outside.
//!
//! [`Node`] starts `berth-agent` with directories and a network namespace of
//! its own; [`registry::Registry`] is a registry that misbehaves on request,
//! [`distribution::Distribution`] one that does not;
//! [`image`] assembles images from files; [`leak`] finds what a node left
//! behind. Nothing here uses the code of the programs under test but their
//! wire schemas.

pub mod cgroup;
pub mod collector;
pub mod conformance;
pub mod distribution;
pub mod failpoints;
pub mod image;
pub mod leak;
pub mod log;
pub mod metrics;
pub mod netns;
pub mod node;
pub mod pod;
pub mod programs;
pub mod registry;
pub mod wait;

pub use netns::NetNs;
pub use node::Node;
