//! RemoveContainer.

use std::{sync::Arc, time::Duration};

use berth_phase::Phase;
use berth_proto::cri::ContainerEventType;

use super::{Container, files, stop_now};
use crate::{
    error::{Kind, Result},
    ids::ContainerId,
    image,
    node::{Node, blocking},
    operation::{Request, Value, Verb},
    store::{Change, Effect},
};

/// Longest wait for the last process of a group to leave it.
const CGROUP_LIMIT: Duration = Duration::from_secs(10);

/// Removes a container, by force if it runs. What is not there is removed. Its
/// log file stays: whoever named it deletes it.
///
/// # Errors
/// Internal if something could not be undone; the record stays and the call can be repeated.
pub(crate) async fn remove(
    node: &Arc<Node>,
    id: &str,
    deadline: Option<tokio::time::Instant>,
) -> Result<()> {
    let container = match node.container(id) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let request = Request::new(Verb::RemoveContainer, container.id.to_string()).deadline(deadline);
    let node_in = node.clone();
    node.operations
        .run(request, move |context| async move {
            let node = node_in;
            let _turn = container.turn.lock().await;
            context.enter(Phase::Record, "removing")?;
            if !container.record().removing {
                container
                    .change(&node, |record| {
                        record.removing = true;
                        Ok(())
                    })
                    .await?;
            }
            context.enter(Phase::Kill, "")?;
            stop_now(&node, &container, Duration::ZERO).await?;
            context.enter(Phase::Teardown, "")?;
            tear_down(&node, &container).await?;
            context.enter(Phase::Record, "gone")?;
            forget(&node, &container.id).await?;
            let record = container.record();
            for image in [&record.image_id].into_iter().chain(&record.volume_images) {
                image::collect_after(&node, image).await;
            }
            Ok(Value::Done)
        })
        .await
        .map(drop)
}

/// Undoes every effect of a container whose processes are dead. Idempotent.
pub(super) async fn tear_down(node: &Arc<Node>, container: &Container) -> Result<()> {
    let effects = node.store.ledger_of(container.id.as_str()).await?;
    let layout = node.layout.clone();
    let group = container.record().cgroup.clone();
    let shim = node.dirs.shim(&container.id);
    let own = node.dirs.container(&container.id);
    blocking("tear a container down", move || {
        // Usually nobody is left in it.
        crate::cgroup::kill(&layout, &group, CGROUP_LIMIT)?;
        crate::cgroup::remove(&layout, &group, CGROUP_LIMIT)?;
        for entry in effects {
            if let Effect::CreatedCgroupAncestor { path } = entry.effect {
                // Others may live below it by now; then it goes with the last of them.
                crate::cgroup::remove_if_empty(&layout, &path);
            }
        }
        files::delete(&shim)?;
        files::delete(&own)
    })
    .await
}

/// Strikes a container out, when nothing of it is left.
pub(super) async fn forget(node: &Arc<Node>, id: &ContainerId) -> Result<()> {
    node.store
        .write(
            vec![
                Change::delete_container(id),
                Change::remove_effects_of(id.as_str()),
            ],
            crate::store::Durability::Soon,
        )
        .await?;
    let gone = node.container(id.as_str());
    node.drop_container(id);
    if let Ok(record) = gone.map(|gone| gone.record())
        && record.state.cri().is_some()
    {
        let kind = ContainerEventType::ContainerDeletedEvent;
        node.events
            .tell(node, &record.sandbox_id, id.as_str(), kind);
    }
    Ok(())
}
