//! Mutating operations that outlive the request that asked for them.
//!
//! ```ignore
//! let operations = Operations::new(observer, timeline);
//! operations.on_unclaimed(move |left| async move { agent.remove(left).await });
//!
//! let value = operations
//!     .run(
//!         Request::new(Verb::CreateContainer, name_key)   // "namespace/pod/uid/0/container/0"
//!             .fingerprint(Fingerprint::of_message(&request))
//!             .deadline(deadline),                        // Option<Instant>, of this caller only
//!         move |context| async move {
//!             context.enter(Phase::Reserve, "")?;          // phase, failpoint and cancellation in one
//!             context.makes(id.as_str());                  // hidden until somebody has the answer
//!             store.put_container(&record, durability).await?;
//!             context.undo.push_if_clean("record", move || async move { .. });
//!             context.enter(Phase::Cgroup, "create")?;
//!             context.undo.push("cgroup", move || async move { .. });   // before the effect is made
//!             ..
//!             Ok(Value::Id(id.to_string()))
//!         },
//!     )
//!     .await?;
//! let id = value.into_id()?;
//! ```
//!
//! A key (verb and object) has one operation at a time, in a task of its own.
//! - A caller that goes away, or whose deadline passes, does not tear it (a
//!   pull alone is cancelled when its last caller leaves).
//! - The same request (equal fingerprint) joins it and gets its result. Where
//!   the result is an object or happens once, it is kept: for the next same
//!   request if nobody has got it, and once more within [`Limits::redelivery`]
//!   after somebody has, because a reply can be lost.
//! - A different request cancels it, waits until it is undone, and starts
//!   anew; for verbs that are not undone it just waits.
//! - A new object is hidden ([`Operations::is_unclaimed`]) until a caller has
//!   got the answer, and withdrawn after [`Limits::claim`] if none comes. Who
//!   stops or removes an object calls [`Operations::forget`], so that its id is
//!   not handed out again.
//! - If it fails, is cancelled or panics, what it pushed on [`Undo`] is carried
//!   out in reverse, each step with a limit. The first failure is what callers
//!   get; failures of the undoing are appended to it.
//! - Work that returns `Ok` has happened, cancelled or not.
//!
//! What is deliberately absent: aborting a task in the middle. Work is called
//! off at the boundaries of its phases and wherever it asks its context.

mod admission;
mod context;
mod keep;
mod operations;
mod request;
mod table;
mod task;
#[cfg(test)]
mod tests;
mod undo;
mod wait;

pub(crate) use context::Context;
pub(crate) use operations::{Limits, Operations, Unclaimed};
pub(crate) use request::{Fingerprint, Request, Value, Verb};
pub(crate) use undo::Undo;
