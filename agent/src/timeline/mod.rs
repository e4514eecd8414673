//! The timeline: what was done to which object, phase by phase, kept on disk
//! beyond the life of object and agent.
//!
//! Every operation has a [`Recorder`] that its tracker tells of phases. When the
//! operation has ended its [`Entry`] goes to a thread that appends it to a ring of
//! files below the root ([`ring`]), so that no request waits for the disk. What a
//! killed agent had not handed over yet is lost; it is milliseconds. `select` finds
//! the entries of one object again.

mod entry;
mod recorder;
mod ring;
mod select;

pub(crate) use entry::{Entry, Span};
pub(crate) use recorder::Recorder;
pub(crate) use ring::Timeline;
pub(crate) use select::{Miss, select};
