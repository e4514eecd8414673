//! A pod sandbox and a started container in one step, or nothing at all.

use std::{sync::Arc, time::Duration};

use berth_phase::Phase;
use berth_proto::{
    berth::v1::{RunRequest, RunResponse, WaitResponse},
    cri::RunPodSandboxRequest,
};
use tokio::time::Instant;

use crate::{
    container::{
        self,
        state::{Exit, State},
    },
    error::{Error, Result},
    node::Node,
    operation::{Fingerprint, Request, Value, Verb},
    sandbox,
    store::MadeBy,
};

/// How long the exit of a container that is to be removed after it is kept for a
/// Wait that has not come yet.
const UNASKED: Duration = Duration::from_secs(30);
/// How long a container waits for the start that its maker promised.
const UNSTARTED: Duration = Duration::from_secs(60);

pub(super) async fn run(
    node: &Arc<Node>,
    request: RunRequest,
    deadline: Option<Instant>,
) -> Result<RunResponse> {
    let fingerprint = Fingerprint::of_message(&request);
    let metadata = request
        .pod
        .as_ref()
        .and_then(|pod| pod.metadata.clone())
        .ok_or_else(|| Error::invalid("the pod's config has no metadata"))?;
    let taken = node.sandboxes().into_iter().find(|sandbox| {
        let record = sandbox.record();
        record.made_by == MadeBy::People
            && record.config.metadata.as_ref().is_some_and(|other| {
                other.name == metadata.name
                    && other.namespace == metadata.namespace
                    && other.uid != metadata.uid
            })
    });
    if let Some(taken) = taken {
        return Err(Error::already_exists(format!(
            "the name {:?} is taken by pod {}",
            metadata.name,
            taken.id.short()
        ))
        .with_remedy("remove it, or choose another name"));
    }
    let key = format!("{}/{}", metadata.namespace, metadata.name);
    let operation = Request::new(Verb::Run, key)
        .fingerprint(fingerprint)
        .deadline(deadline);
    let node_in = node.clone();
    let value = node
        .operations
        .run(operation, move |context| async move {
            let node = node_in;
            context.enter(Phase::Reserve, "pod")?;
            let pod = RunPodSandboxRequest {
                config: request.pod,
                runtime_handler: request.runtime_handler,
            };
            let pod_id = sandbox::run(&node, pod, MadeBy::People, None).await?;
            context.makes(&pod_id);
            let undo = (node.clone(), pod_id.clone());
            context.undo.push("pod", move || async move {
                let (node, id) = undo;
                sandbox::remove(&node, &id, None).await
            });
            context.enter(Phase::Clone, "container")?;
            let config = request.container.unwrap_or_default();
            let create = berth_proto::cri::CreateContainerRequest {
                pod_sandbox_id: pod_id.clone(),
                config: Some(config),
                sandbox_config: None,
            };
            let id = container::create_for(&node, create, request.remove_after_exit, None).await?;
            context.makes(&id);
            if request.hold {
                let (node, id) = (node.clone(), id.clone());
                tokio::spawn(async move { remove_unstarted(&node, &id).await });
            } else {
                context.enter(Phase::Exec, "container")?;
                container::start(&node, &id, None).await?;
            }
            if request.remove_after_exit {
                let (node, id) = (node.clone(), id.clone());
                tokio::spawn(async move { remove_unasked(&node, &id).await });
            }
            Ok(Value::Id(format!("{pod_id} {id}")))
        })
        .await?;
    let both = value.into_id()?;
    let (pod, container) = both
        .split_once(' ')
        .ok_or_else(|| Error::internal("an operation gave no ids"))?;
    Ok(RunResponse {
        pod_sandbox_id: pod.to_owned(),
        container_id: container.to_owned(),
    })
}

/// Waits for the end of a container and tells it.
pub(super) async fn wait(node: &Arc<Node>, id: &str) -> Result<WaitResponse> {
    let container = node.container(id)?;
    let exit = container.exited().await;
    let record = container.record();
    if record.remove_after_exit {
        // In a task of its own: the caller may go away at this very moment.
        let (node, pod) = (node.clone(), record.sandbox_id.clone());
        tokio::spawn(async move {
            if let Err(error) = sandbox::remove(&node, pod.as_str(), None).await {
                tracing::warn!(%pod, error = error.sentence(), "a pod could not be removed after its exit");
            }
        });
    }
    Ok(answer(&exit))
}

fn answer(exit: &Exit) -> WaitResponse {
    WaitResponse {
        exit_code: exit.code,
        reason: exit.reason.name().to_owned(),
        message: exit.message.clone(),
        finished_at: exit.finished_at,
    }
}

/// Goes on with what the agent before had promised: to remove containers after their
/// exit.
pub(crate) fn resume(node: &Arc<Node>) {
    for container in node.containers() {
        let record = container.record();
        if record.remove_after_exit {
            let (node, id) = (node.clone(), record.id.to_string());
            tokio::spawn(async move { remove_unasked(&node, &id).await });
        }
    }
}

/// Whoever was to start it may have gone.
async fn remove_unstarted(node: &Arc<Node>, id: &str) {
    tokio::time::sleep(UNSTARTED).await;
    if node.retired.is_cancelled() {
        return;
    }
    let Ok(container) = node.container(id) else {
        return;
    };
    if !matches!(container.record().state, State::Created { .. }) {
        return;
    }
    let pod = container.record().sandbox_id.clone();
    tracing::info!(%pod, container = id, "a container was made and never started; it is removed");
    if let Err(error) = sandbox::remove(node, pod.as_str(), None).await {
        tracing::warn!(%pod, error = error.sentence(), "a pod could not be removed");
    }
}

/// Nobody may ever ask, such as after `run --rm -d`.
async fn remove_unasked(node: &Arc<Node>, id: &str) {
    let Ok(container) = node.container(id) else {
        return;
    };
    container.exited().await;
    tokio::time::sleep(UNASKED).await;
    if node.retired.is_cancelled() {
        return;
    }
    let pod = container.record().sandbox_id.clone();
    if let Err(error) = sandbox::remove(node, pod.as_str(), None).await {
        tracing::warn!(%pod, error = error.sentence(), "a pod could not be removed after its exit");
    }
}
