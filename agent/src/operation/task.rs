//! The task that carries one operation out.

use std::sync::Arc;

use tracing::Instrument as _;

use super::{
    Context, Undo,
    operations::{Inner, Work},
    table::Operation,
};
use crate::error::Error;

tokio::task_local! {
    /// Set in the tasks of operations: what one does in steps it may also do while no
    /// others are taken.
    static PART: ();
}

/// Whether this is a part of an operation that was admitted already.
pub(super) fn is_part() -> bool {
    PART.try_with(|()| ()).is_ok()
}

/// Makes `work` a part of an operation.
pub(super) fn part<F: Future>(work: F) -> impl Future<Output = F::Output> {
    PART.scope((), work)
}

/// Starts the task. It goes on when its callers leave; what they see of it is
/// told by [`Inner::finished`], which is reached even if the work panics.
pub(super) fn spawn(table: Arc<Inner>, operation: Arc<Operation>, work: Work) {
    let undo = Undo::default();
    let context = Context {
        tracker: operation.tracker.clone(),
        cancel: operation.cancel.clone(),
        undo: undo.clone(),
        operation: Arc::clone(&operation),
        table: Arc::clone(&table),
    };
    // The first caller's span; those who join have only their own wait to show.
    let span = tracing::Span::current();
    let tracker = operation.tracker.clone();
    // A task within the task, so that a panic is a result like any other.
    let inner = tokio::spawn(
        part(async move {
            let value = work(context).await?;
            tracker.finish()?;
            Ok(value)
        })
        .instrument(span.clone()),
    );
    tokio::spawn(
        async move {
            let result = match inner.await {
                Ok(result) => result,
                Err(join) => {
                    Err(Error::internal(format!("{operation} panicked")).with_source(join))
                }
            };
            let tracker = &operation.tracker;
            let result = match result {
                Ok(value) => {
                    undo.disarm();
                    Ok(value)
                }
                Err(error) => {
                    let phase = tracker.current().map(|(phase, _)| phase);
                    let failures = undo.unwind(tracker).await;
                    Err(error.in_phase(phase).with_undo_failures(failures))
                }
            };
            tracker.end();
            table.finished(&operation, result);
        }
        .instrument(span),
    );
}
