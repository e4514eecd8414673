//! The programs, from outside. One test binary: linking is most of the time
//! that tests take to build.
//!
//! Every test has a node of its own and ends with the leak oracle
//! ([`berth_integration::Node::finish`]).

#![allow(unreachable_pub, missing_docs, reason = "a test binary has no outside")]

mod answers;
mod bad_input;
mod client_crictl;
mod client_ctl;
mod client_exec;
mod client_python;
mod client_terminal;
mod collection;
mod damaged;
mod doctor;
mod events;
mod exec;
mod exit;
mod explain;
mod failpoints;
mod fixture;
mod footprint;
mod images;
mod kubelet;
mod lifecycle;
mod login;
mod logs;
mod mirrors;
mod names;
mod network;
mod other_runtimes;
mod platforms;
mod push;
mod registry;
mod restart;
mod sandbox;
mod security;
mod serving;
mod stats;
mod streaming;
mod telemetry;
mod update;
mod upgrade;
mod users;
mod volumes;
