//! One line of the timeline.

use serde::{Deserialize, Serialize};

/// Something that was done, or that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// A stable name: that of an operation such as `create-container`, or of an
    /// event such as `exited`.
    pub(crate) what: String,
    /// What the operation calls its object: an id, a unique name, a reference.
    pub(crate) object: String,
    /// The ids of the objects that it concerns, the pod first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ids: Vec<String>,
    /// When it began, in Unix nanoseconds.
    pub(crate) at: i64,
    /// How long it took, in nanoseconds; 0 for an event.
    #[serde(default)]
    pub(crate) took: i64,
    /// Its phases in the order in which they ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) phases: Vec<Span>,
    /// Phases beyond the bound, which are not listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) omitted: u32,
    /// Why it failed; empty if it did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) error: String,
    /// What there is to say of an event.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
    /// It has not ended yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) running: bool,
}

/// One phase of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    /// Its stable name.
    pub(crate) phase: String,
    /// What tells several steps of one phase apart; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) step: String,
    /// When it began, in nanoseconds since the operation did.
    pub(crate) after: i64,
    /// How long it took, in nanoseconds.
    pub(crate) took: i64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Entry {
    /// An event of now that concerns the objects `ids`.
    pub(crate) fn event(what: &str, ids: &[&str], note: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            object: ids.last().copied().unwrap_or_default().to_owned(),
            ids: ids.iter().map(|&id| id.to_owned()).collect(),
            at: crate::node::now(),
            note: note.into(),
            ..Self::default()
        }
    }
}
