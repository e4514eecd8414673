//! UpdatePodSandboxResources: what a kubelet says after it has resized a pod.

use std::sync::Arc;

use berth_phase::Phase;
use berth_proto::cri::UpdatePodSandboxResourcesRequest;

use crate::{
    container,
    error::{Error, Result},
    node::Node,
    operation::{Fingerprint, Request, Value, Verb},
    spec,
    store::{PodResources, SandboxRecord},
};

/// Writes down what the pod may use. Its control group is the kubelet's, which has
/// changed it already.
///
/// # Errors
/// NotFound; FailedPrecondition unless the sandbox is ready; InvalidArgument for
/// limits that cannot be.
pub(crate) async fn update(
    node: &Arc<Node>,
    request: UpdatePodSandboxResourcesRequest,
    deadline: Option<tokio::time::Instant>,
) -> Result<()> {
    let sandbox = node.sandbox(&request.pod_sandbox_id)?;
    let fingerprint = Fingerprint::of_message(&request);
    for given in request.overhead.iter().chain(&request.resources) {
        spec::limits(given)?;
    }
    let operation = Request::new(Verb::UpdatePodSandbox, sandbox.id.to_string())
        .fingerprint(fingerprint)
        .deadline(deadline);
    let node_in = node.clone();
    node.operations
        .run(operation, move |context| async move {
            let _turn = sandbox.turn.lock().await;
            context.enter(Phase::Validate, "")?;
            let record = sandbox.record();
            if !record.state.is_ready() || record.removing {
                return Err(Error::precondition(format!(
                    "pod sandbox {} is not ready",
                    sandbox.id.short()
                )));
            }
            let linux = record.config.linux.clone().unwrap_or_default();
            let mut known = record.updated.clone().unwrap_or(PodResources {
                overhead: linux.overhead.unwrap_or_default(),
                resources: linux.resources.unwrap_or_default(),
            });
            if let Some(overhead) = &request.overhead {
                known.overhead = container::merge(&known.overhead, overhead);
            }
            if let Some(resources) = &request.resources {
                known.resources = container::merge(&known.resources, resources);
            }
            context.enter(Phase::Record, "resources")?;
            let mut changed = SandboxRecord::clone(&record);
            changed.updated = Some(known);
            sandbox.replace(&node_in, changed).await?;
            Ok(Value::Done)
        })
        .await
        .map(drop)
}
