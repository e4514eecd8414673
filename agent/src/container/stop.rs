//! StopContainer.

use std::{sync::Arc, time::Duration};

use berth_phase::Phase;

use super::{
    Container,
    state::{Exit, Reason},
    watch,
};
use crate::{
    error::{Error, Kind, Result},
    node::{Node, now},
    operation::{Fingerprint, Request, Value, Verb},
};

/// After the grace is over the shim kills; this long it may take until the end is
/// on record before the agent kills the group itself.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// A shim that lives tells the end of a killed container at once.
const SHIM_LIMIT: Duration = Duration::from_secs(2);
/// The longest that the end is awaited without a shim.
const LAST_LIMIT: Duration = Duration::from_secs(15);

/// Stops a container: signal, grace, kill. What is not there or does not run is
/// stopped.
///
/// # Errors
/// DeadlineExceeded if its processes do not die, which only a kernel that hangs does.
pub(crate) async fn stop(
    node: &Arc<Node>,
    id: &str,
    grace: Duration,
    deadline: Option<tokio::time::Instant>,
) -> Result<()> {
    let container = match node.container(id) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    // Calls with different graces go side by side: the shim signals once and
    // keeps the shortest, and each call waits for the same end.
    let object = format!("{}/{}", container.id, grace.as_millis());
    let request = Request::new(Verb::StopContainer, object)
        .fingerprint(Fingerprint::NOTHING)
        .deadline(deadline);
    let node_in = node.clone();
    node.operations
        .run(request, move |context| async move {
            context.enter(Phase::Signal, "")?;
            tokio::select! {
                stopped = stop_now(&node_in, &container, grace) => stopped?,
                // Its shim keeps the deadline, whoever waits for it.
                () = context.cancel.cancelled() => {
                    return Err(Error::unavailable(format!(
                        "container {} is being stopped, but this agent is being replaced",
                        container.id.short()
                    ))
                    .with_remedy("repeat the request"));
                }
            }
            Ok(Value::Done)
        })
        .await
        .map(drop)
}

/// The work itself. Idempotent.
///
/// # Errors
/// As [`stop`].
pub(crate) async fn stop_now(
    node: &Arc<Node>,
    container: &Arc<Container>,
    grace: Duration,
) -> Result<()> {
    if !container.record().state.may_live() {
        return Ok(());
    }
    container.ask_to_end(grace);
    let told = match container.live() {
        Some(live) => live.shim.stop(grace, 0).await,
        // Being built, or lost: there is nobody to ask.
        None => return kill_and_wait(node, container).await,
    };
    let wait = match told {
        Ok(()) => grace.saturating_add(KILL_LIMIT),
        // It may have ended at this very moment; else it hangs.
        Err(error) => {
            tracing::debug!(container = %container.id, %error, "shim did not take a stop");
            KILL_LIMIT
        }
    };
    if tokio::time::timeout(wait, container.exited()).await.is_ok() {
        return Ok(());
    }
    tracing::warn!(container = %container.id, "shim did not stop its container; killing its group");
    kill_and_wait(node, container).await
}

async fn kill_and_wait(node: &Arc<Node>, container: &Arc<Container>) -> Result<()> {
    watch::kill(node, container).await?;
    if container.live().is_none() {
        // Nobody watches it: it is being built, or its shim did not answer when the
        // agent started.
        if let Some(processes) = container.record().state.processes() {
            watch::kill_process(processes.shim)?;
            let why = "its shim did not answer and was killed with it".to_owned();
            watch::ended(node, container, Exit::lost(Reason::ShimLost, why, now())).await;
        }
        return Ok(());
    }
    if tokio::time::timeout(SHIM_LIMIT, container.exited())
        .await
        .is_ok()
    {
        return Ok(());
    }
    // It hangs: without it the end is read from the init itself.
    if let Some(processes) = container.record().state.processes() {
        watch::kill_process(processes.shim)?;
    }
    match tokio::time::timeout(LAST_LIMIT, container.exited()).await {
        Ok(_) => Ok(()),
        Err(_elapsed) => Err(Error::deadline(format!(
            "container {} was killed, but its end was not seen within {} s",
            container.id.short(),
            LAST_LIMIT.as_secs()
        ))
        .with_remedy(
            "repeat the call; if that does not help, a process of it hangs in the kernel",
        )),
    }
}
