//! What was done to an object, phase by phase.

use std::sync::Arc;

use berth_proto::berth::v1::{ExplainResponse, TimelineEntry, TimelinePhase};

use crate::{
    error::{Error, Result},
    node::{Node, blocking},
    timeline::{Entry, Miss, select},
};

/// Candidates that are named when several fit.
const NAMED: usize = 10;

/// # Errors
/// NotFound, or InvalidArgument if several objects fit.
pub(super) async fn explain(node: &Arc<Node>, object: &str) -> Result<ExplainResponse> {
    if object.is_empty() {
        return Err(Error::invalid("nothing to explain is named"));
    }
    let timeline = node.timeline.clone();
    let mut entries = blocking("read the timeline", move || {
        timeline
            .read()
            .map_err(|error| Error::io("read the timeline", error))
    })
    .await?;
    entries.extend(node.operations.entries());
    let image = node.images.find(object).ok().flatten();
    let image = image.as_ref().map(|image| image.id.as_str());
    let selected = select(entries, object, image).map_err(|miss| match miss {
        Miss::None => Error::not_found(format!("nothing that was done to {object:?} is on record"))
            .with_remedy("the timeline keeps the last operations only; see docs/reliability.md"),
        Miss::Several(ids) => Error::invalid(format!(
            "{object:?} could be any of: {}",
            ids[..ids.len().min(NAMED)].join(", ")
        )),
    })?;
    Ok(ExplainResponse {
        object: selected.object,
        entries: selected.entries.into_iter().map(entry).collect(),
    })
}

fn entry(entry: Entry) -> TimelineEntry {
    TimelineEntry {
        what: entry.what,
        object: entry.object,
        ids: entry.ids,
        started_at: entry.at,
        took: entry.took,
        phases: entry
            .phases
            .into_iter()
            .map(|span| TimelinePhase {
                phase: span.phase,
                step: span.step,
                after: span.after,
                took: span.took,
            })
            .collect(),
        omitted_phases: entry.omitted,
        error: entry.error,
        note: entry.note,
        running: entry.running,
    }
}
