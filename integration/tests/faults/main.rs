//! Sweeps and storms that take minutes (`make test-faults`): what the shorter tests of
//! `tests/node` prove for single faults is proven here for all of them.
//!
//! Each prints a line `faults: NAME: ...` with what was done and found.

#![allow(
    unreachable_pub,
    missing_docs,
    clippy::print_stdout,
    reason = "a test binary has no outside; its output is the report"
)]

mod life;
mod power;
mod recovery;
mod storm;
mod sweep;
