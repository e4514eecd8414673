//! What hostile input must not do.
//!
//! Each target takes any bytes and panics if the code under it breaks its word:
//! nothing panics, nothing hangs, nothing grows beyond its limit, and what is
//! said of the particular target. `make fuzz` searches for such bytes;
//! `tests/seeds.rs` runs those in `seeds/` with the other tests.
//!
//! The agent and berthctl are programs, so their pure modules are included by path.
// Their own tests run with the programs.
#![cfg(not(test))]

mod images;
mod logs;
mod people;
mod protocols;
mod requests;

#[allow(
    dead_code,
    unused_imports,
    reason = "the agent's module as it is, of which a part is used here"
)]
#[path = "../../agent/src/spec/mod.rs"]
mod spec;

#[allow(
    dead_code,
    reason = "berthctl's modules as they are, of which a part is used here"
)]
mod log_reader;

#[allow(
    dead_code,
    reason = "berthctl's modules as they are, of which a part is used here"
)]
mod credentials;

#[allow(dead_code, reason = "the agent's module as it is")]
#[path = "../../agent/src/sandbox/lines.rs"]
mod lines;

/// A target: its name and what is done with the input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. The name is that of the directory below `seeds/`.
pub const TARGETS: &[Target] = &[
    ("tar", images::tar),
    ("whiteouts", images::whiteouts),
    ("references", images::references),
    ("documents", images::documents),
    ("layer", images::layer),
    ("import", images::import),
    ("challenges", images::challenges),
    ("hosts", images::hosts),
    ("credentials", people::credentials),
    ("resolver", people::resolver),
    ("accounts", requests::accounts),
    ("request", requests::request),
    ("seccomp", requests::seccomp),
    ("log", logs::log),
    ("datagram", protocols::datagram),
    ("spdy", protocols::spdy),
    ("sizes", protocols::sizes),
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|(known, _)| *known == name)
}
