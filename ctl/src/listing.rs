//! Every pod and container: from `berth.v1`, which also knows those made by
//! `run`, or from plain CRI where the runtime is another one.

use berth_proto::cri;
use tonic::{Code, Status};

use crate::{
    connect::Connection,
    failure::{Failure, Outcome},
};

/// Whether the other side does not have our own calls. A gateway that knows
/// nothing of a service says so in either way.
pub(crate) fn is_missing(status: &Status) -> bool {
    status.code() == Code::Unimplemented
}

/// Pod sandboxes that match, the newest first.
pub(crate) async fn pods(
    connection: &Connection,
    filter: Option<cri::PodSandboxFilter>,
) -> Outcome<Vec<cri::PodSandbox>> {
    let request = cri::ListPodSandboxRequest { filter };
    let answer = match connection
        .node()
        .list_pods(connection.read(request.clone()))
        .await
    {
        Err(status) if is_missing(&status) => {
            connection
                .runtime()
                .list_pod_sandbox(connection.read(request))
                .await
        }
        answer => answer,
    };
    let mut items = answer
        .map_err(|status| Failure::refused("cannot list the pods", &status))?
        .into_inner()
        .items;
    items.sort_by(|a, b| (b.created_at, &a.id).cmp(&(a.created_at, &b.id)));
    Ok(items)
}

/// Containers that match, the newest first.
pub(crate) async fn containers(
    connection: &Connection,
    filter: Option<cri::ContainerFilter>,
) -> Outcome<Vec<cri::Container>> {
    let request = cri::ListContainersRequest { filter };
    let answer = match connection
        .node()
        .list_containers(connection.read(request.clone()))
        .await
    {
        Err(status) if is_missing(&status) => {
            connection
                .runtime()
                .list_containers(connection.read(request))
                .await
        }
        answer => answer,
    };
    let mut containers = answer
        .map_err(|status| Failure::refused("cannot list the containers", &status))?
        .into_inner()
        .containers;
    containers.sort_by(|a, b| (b.created_at, &a.id).cmp(&(a.created_at, &b.id)));
    Ok(containers)
}

/// Images that match.
pub(crate) async fn images(
    connection: &Connection,
    filter: Option<cri::ImageFilter>,
) -> Outcome<Vec<cri::Image>> {
    Ok(connection
        .images()
        .list_images(connection.read(cri::ListImagesRequest { filter }))
        .await
        .map_err(|status| Failure::refused("cannot list the images", &status))?
        .into_inner()
        .images)
}

/// The status of a container, by its whole id.
pub(crate) async fn container_status(
    connection: &Connection,
    id: &str,
    verbose: bool,
) -> Result<cri::ContainerStatusResponse, Status> {
    let request = cri::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose,
    };
    connection
        .runtime()
        .container_status(connection.read(request))
        .await
        .map(tonic::Response::into_inner)
}
