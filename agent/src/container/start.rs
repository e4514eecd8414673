//! StartContainer.

use std::sync::Arc;

use berth_phase::Phase;

use super::{
    convert,
    state::{Event, State},
};
use crate::{
    error::{Error, Result},
    node::{Node, now},
    operation::{Request, Value, Verb},
};

/// Starts a created container.
///
/// # Errors
/// FailedPrecondition unless it is created and its pod ready. A program that
/// cannot be executed makes the container exited, with code 128.
pub(crate) async fn start(
    node: &Arc<Node>,
    id: &str,
    deadline: Option<tokio::time::Instant>,
) -> Result<()> {
    let container = node.container(id)?;
    let request = Request::new(Verb::StartContainer, container.id.to_string()).deadline(deadline);
    let node_in = node.clone();
    node.operations
        .run(request, move |context| async move {
            let node = node_in;
            let _turn = container.turn.lock().await;
            context.enter(Phase::Validate, "")?;
            let record = container.record();
            if !matches!(record.state, State::Created { .. }) || record.removing {
                return Err(Error::precondition(format!(
                    "container {} is {}; only a created container can be started",
                    container.id.short(),
                    record.state.name()
                )));
            }
            let sandbox = node.sandbox(record.sandbox_id.as_str())?;
            if !sandbox.record().state.is_ready() {
                return Err(Error::precondition(format!(
                    "pod sandbox {} is not ready",
                    sandbox.id.short()
                )));
            }
            let live = container.live().ok_or_else(|| {
                Error::internal(format!("container {} has no shim", container.id.short()))
            })?;
            context.enter(Phase::Exec, "")?;
            match live.shim.start().await {
                Ok(at) => {
                    context.enter(Phase::Record, "started")?;
                    // A program that ends at once may be recorded as exited already.
                    if container.record().state.exit().is_none() {
                        let applied = container.apply(&node, Event::Started { at }).await;
                        if container.record().state.exit().is_none() {
                            applied?;
                        }
                    }
                    Ok(Value::Done)
                }
                // It runs: an earlier call let it go, and its record was never written.
                Err(error) if error.is_state() => {
                    let state = live
                        .shim
                        .state()
                        .await
                        .map_err(convert("ask the container's shim"))?;
                    if state.started_at == 0 {
                        return Err(convert("start the container")(error));
                    }
                    let at = state.started_at;
                    container.apply(&node, Event::Started { at }).await?;
                    Ok(Value::Done)
                }
                Err(error) => {
                    let failure = convert("start the container")(error);
                    let event = Event::StartFailed {
                        at: now(),
                        message: failure.sentence(),
                    };
                    // The shim tells the same; whoever comes first writes it down.
                    if let Err(error) = container.apply(&node, event).await
                        && container.record().state.exit().is_none()
                    {
                        return Err(failure.with_undo_failures(vec![error]));
                    }
                    Err(failure)
                }
            }
        })
        .await
        .map(drop)
}
