//! Classes of published vulnerabilities, each tried against a live container.
//!
//! docs/security-tests.md says which test stands for which class. Where an older
//! runtime of Debian's is known to fall for one, the same scenario is first run on
//! that, so that a test which could never fail is noticed.

#![allow(unreachable_pub, missing_docs, reason = "a test binary has no outside")]

mod canary;
mod ground;
mod oci;
mod probe;
mod reference;

mod entering;
mod groups;
mod identity;
mod image_words;
mod kernel;
mod logs;
mod masks;
mod mounts;
mod node;
mod rust;
mod terminal;
