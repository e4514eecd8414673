//! RemovePodSandbox.

use std::sync::Arc;

use berth_phase::Phase;

use super::{run::forget, stop::halt};
use crate::{
    container,
    error::{Error, Kind, Result},
    ids::SandboxId,
    node::{Node, blocking},
    operation::{Request, Value, Verb},
    store::{MadeBy, SandboxRecord},
};

/// Removes a sandbox with its containers. What is not there is removed.
///
/// # Errors
/// Internal if something could not be undone; the record stays and the call can be repeated.
pub(crate) async fn remove(
    node: &Arc<Node>,
    id: &str,
    deadline: Option<tokio::time::Instant>,
) -> Result<()> {
    let sandbox = match node.sandbox(id) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let request = Request::new(Verb::RemovePodSandbox, sandbox.id.to_string()).deadline(deadline);
    let node_in = node.clone();
    node.operations
        .run(request, move |context| async move {
            let node = node_in;
            let _turn = sandbox.turn.lock().await;
            context.enter(Phase::Record, "removing")?;
            if !sandbox.record().removing {
                let mut record = SandboxRecord::clone(&sandbox.record());
                record.removing = true;
                sandbox.replace(&node, record).await?;
            }
            halt(&node, &sandbox, &context).await?;
            context.enter(Phase::Delete, "containers")?;
            for container in node.containers_of(&sandbox.id) {
                container::remove(&node, container.id.as_str(), None).await?;
            }
            context.enter(Phase::Delete, "files")?;
            delete_files(&node, &sandbox.id).await?;
            // What had to stay for the containers' sake.
            super::group::remove(&node, &sandbox.id).await?;
            if sandbox.record().made_by == MadeBy::People {
                let logs = node.dirs.logs(&sandbox.id);
                blocking("delete logs", move || delete(&logs)).await?;
            }
            context.enter(Phase::Record, "gone")?;
            forget(&node, &sandbox.id).await?;
            tracing::info!(pod = %sandbox.id, "pod sandbox is removed");
            Ok(Value::Done)
        })
        .await
        .map(drop)
}

/// Deletes the files that the runtime provided to the pod.
pub(super) async fn delete_files(node: &Arc<Node>, id: &SandboxId) -> Result<()> {
    let dir = node.dirs.pod(id);
    blocking("delete the files of the pod", move || delete(&dir)).await
}

/// Deletes a directory of ours. Somebody else's mount in it ends that and is not entered.
fn delete(dir: &std::path::Path) -> Result<()> {
    berth_image::remove_directory(dir)
        .map_err(|error| Error::io(format!("delete {}", dir.display()), error))
}
