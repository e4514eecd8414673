//! ListMetricDescriptors and ListPodSandboxMetrics: what a kubelet passes on under the
//! names that cluster dashboards know.
//!
//! The names are fixed by those who read them. Values are whole numbers, as CRI has them;
//! what the kernel does not measure on this node has a descriptor and no value.

mod descriptor;
mod process;
mod source;

use std::sync::Arc;

use berth_proto::cri::PodSandboxMetrics;

use crate::{
    error::Result,
    node::{Node, blocking},
    sandbox,
};

pub(crate) use descriptor::descriptors;

/// The metrics of every pod that is ready, and of its containers.
///
/// # Errors
/// Internal if the task dies.
pub(crate) async fn list(node: &Arc<Node>) -> Result<Vec<PodSandboxMetrics>> {
    let mut pods = node.sandboxes();
    pods.retain(|sandbox| sandbox::is_told(node, sandbox));
    let links = sandbox::links(node, &pods).await?;
    let node = node.clone();
    blocking("read metrics of pods", move || {
        let ground = source::Ground::of(&node);
        Ok(pods
            .iter()
            .map(|pod| ground.pod(pod, links.get(&pod.id)))
            .collect())
    })
    .await
}
