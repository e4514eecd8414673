//! `runtime.v1.RuntimeService`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use berth_proto::cri::{self, runtime_service_server::RuntimeService};
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status};

use super::{
    deadline,
    stream::{Streamed, pieces},
    version::{KUBELET_API, RUNTIME_API, RUNTIME_NAME, VERSION},
};
use crate::{container, kernel, node::Node, podmetrics, sandbox, store::MadeBy, streaming};

/// Serves the RuntimeService.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    node: Arc<Node>,
}

impl Runtime {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn unimplemented(what: &str) -> Status {
    Status::unimplemented(format!("{what} not supported yet"))
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            version: KUBELET_API.to_owned(),
            runtime_name: RUNTIME_NAME.to_owned(),
            runtime_version: VERSION.to_owned(),
            runtime_api_version: RUNTIME_API.to_owned(),
        }))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let node = &self.node;
        let condition = |kind: &str, problem: Option<String>| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status: problem.is_none(),
            reason: problem
                .as_ref()
                .map_or_else(String::new, |_| format!("{kind}Problem")),
            message: problem.unwrap_or_default(),
        };
        let handlers = node
            .config
            .handler_names()
            .map(|name| cri::RuntimeHandler {
                name: name.to_owned(),
                features: Some(cri::RuntimeHandlerFeatures {
                    // Another runtime may be of any age.
                    recursive_read_only_mounts: node.config.other_runtime(name).is_none(),
                    user_namespaces: node.config.other_runtime(name).is_none()
                        && node.facts.no_user_namespaces().is_none(),
                }),
            })
            .collect();
        let info = if request.into_inner().verbose {
            status_info(node)
        } else {
            BTreeMap::new()
        };
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", None),
                    condition("NetworkReady", node.network.problem()),
                ],
            }),
            info,
            runtime_handlers: handlers,
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                // A user of a pod has no say in the node's network, nor in its sysfs.
                user_namespaces_host_network: false,
                mount_options: true,
            }),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        Ok(Response::new(cri::RuntimeConfigResponse {
            linux: Some(cri::LinuxRuntimeConfiguration {
                cgroup_driver: cri::CgroupDriver::Cgroupfs.into(),
            }),
        }))
    }

    // -------------------------------------------------------------- sandboxes

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let id = sandbox::run(&self.node, request, MadeBy::Cri, deadline).await?;
        Ok(Response::new(cri::RunPodSandboxResponse {
            pod_sandbox_id: id,
        }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        let deadline = deadline(&request);
        let id = request.into_inner().pod_sandbox_id;
        sandbox::stop(&self.node, &id, deadline).await?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let deadline = deadline(&request);
        let id = request.into_inner().pod_sandbox_id;
        sandbox::remove(&self.node, &id, deadline).await?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        // First, so that no event which is not in the statuses is older.
        let timestamp = self.node.events.time();
        let sandbox = self.node.sandbox(&request.pod_sandbox_id)?;
        let (status, info) = sandbox::status(&self.node, sandbox.id.as_str(), request.verbose)?;
        let statuses = container::statuses(&self.node, &sandbox.id);
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(status),
            info,
            // Both, for kubelets that listen to events: the time is comparable with theirs.
            containers_statuses: statuses,
            timestamp,
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let filter = request.into_inner().filter;
        Ok(Response::new(cri::ListPodSandboxResponse {
            items: sandbox::list(&self.node, filter.as_ref(), false),
        }))
    }

    // ------------------------------------------------------------- containers

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let deadline = deadline(&request);
        let id = container::create(&self.node, request.into_inner(), deadline).await?;
        Ok(Response::new(cri::CreateContainerResponse {
            container_id: id,
        }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let deadline = deadline(&request);
        let id = request.into_inner().container_id;
        container::start(&self.node, &id, deadline).await?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let deadline = deadline(&request);
        let request = request.into_inner();
        let seconds = u64::try_from(request.timeout).map_err(|_negative| {
            Status::invalid_argument(format!(
                "timeout {}: expected 0 or more seconds",
                request.timeout
            ))
        })?;
        let grace = Duration::from_secs(seconds);
        container::stop(&self.node, &request.container_id, grace, deadline).await?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let deadline = deadline(&request);
        let id = request.into_inner().container_id;
        container::remove(&self.node, &id, deadline).await?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let filter = request.into_inner().filter;
        Ok(Response::new(cri::ListContainersResponse {
            containers: container::list(&self.node, filter.as_ref(), false),
        }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let (status, info) = container::status(&self.node, &request.container_id, request.verbose)?;
        Ok(Response::new(cri::ContainerStatusResponse {
            status: Some(status),
            info,
        }))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        let deadline = deadline(&request);
        let id = request.into_inner().container_id;
        container::reopen_log(&self.node, &id, deadline).await?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        let limit = match u64::try_from(request.timeout) {
            Ok(0) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_negative) => {
                return Err(Status::invalid_argument(format!(
                    "timeout {}: expected 0 or more seconds",
                    request.timeout
                )));
            }
        };
        let output =
            container::exec_sync(&self.node, &request.container_id, request.cmd, limit).await?;
        Ok(Response::new(cri::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        }))
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let request = request.into_inner();
        let url = streaming::url(
            &self.node,
            streaming::Request::Exec(streaming::Exec {
                container: request.container_id,
                command: request.cmd,
                tty: request.tty,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                ..streaming::Exec::default()
            }),
        )?;
        Ok(Response::new(cri::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let request = request.into_inner();
        let url = streaming::url(
            &self.node,
            streaming::Request::Attach(streaming::Attach {
                container: request.container_id,
                tty: request.tty,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
            }),
        )?;
        Ok(Response::new(cri::AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        let request = request.into_inner();
        let ports = request.port.into_iter().map(|port| {
            u16::try_from(port)
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| {
                    Status::invalid_argument(format!("port {port}: expected 1 to 65535"))
                })
        });
        let url = streaming::url(
            &self.node,
            streaming::Request::PortForward(streaming::PortForward {
                pod: request.pod_sandbox_id,
                ports: ports.collect::<Result<_, _>>()?,
            }),
        )?;
        Ok(Response::new(cri::PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let stats = container::stats(&self.node, &id).await?;
        Ok(Response::new(cri::ContainerStatsResponse {
            stats: Some(stats),
        }))
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let filter = request.into_inner().filter;
        let stats = container::list_stats(&self.node, filter).await?;
        Ok(Response::new(cri::ListContainerStatsResponse { stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let stats = sandbox::stats(&self.node, &id).await?;
        Ok(Response::new(cri::PodSandboxStatsResponse {
            stats: Some(stats),
        }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter;
        let stats = sandbox::list_stats(&self.node, filter).await?;
        Ok(Response::new(cri::ListPodSandboxStatsResponse { stats }))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        Ok(Response::new(cri::ListMetricDescriptorsResponse {
            descriptors: podmetrics::descriptors(),
        }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        Ok(Response::new(cri::ListPodSandboxMetricsResponse {
            pod_metrics: podmetrics::list(&self.node).await?,
        }))
    }

    // ---------------------------------------------------------------- updates

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let deadline = deadline(&request);
        container::update(&self.node, request.into_inner(), deadline).await?;
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let deadline = deadline(&request);
        sandbox::update(&self.node, request.into_inner(), deadline).await?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.unwrap_or_default();
        let network = config.network_config.unwrap_or_default();
        self.node.set_pod_cidr(&network.pod_cidr)?;
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    // ------------------------------------------------------------ not supported

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        Err(unimplemented("checkpoints of containers are"))
    }

    async fn checkpoint_pod(
        &self,
        _: Request<cri::CheckpointPodRequest>,
    ) -> Answer<cri::CheckpointPodResponse> {
        Err(unimplemented("checkpoints of pods are"))
    }

    async fn restore_pod(
        &self,
        _: Request<cri::RestorePodRequest>,
    ) -> Answer<cri::RestorePodResponse> {
        Err(unimplemented("restoring pods is"))
    }

    type StreamPodSandboxesStream = Streamed<cri::StreamPodSandboxesResponse>;
    type StreamContainersStream = Streamed<cri::StreamContainersResponse>;
    type StreamContainerStatsStream = Streamed<cri::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Streamed<cri::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Streamed<cri::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Streamed<cri::ContainerEventResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let items = sandbox::list(&self.node, request.into_inner().filter.as_ref(), false);
        Ok(pieces(items, |pod_sandboxes| {
            cri::StreamPodSandboxesResponse { pod_sandboxes }
        }))
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let items = container::list(&self.node, request.into_inner().filter.as_ref(), false);
        Ok(pieces(items, |containers| cri::StreamContainersResponse {
            containers,
        }))
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let items = container::list_stats(&self.node, request.into_inner().filter).await?;
        Ok(pieces(items, |container_stats| {
            cri::StreamContainerStatsResponse { container_stats }
        }))
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let items = sandbox::list_stats(&self.node, request.into_inner().filter).await?;
        Ok(pieces(items, |pod_sandbox_stats| {
            cri::StreamPodSandboxStatsResponse { pod_sandbox_stats }
        }))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let items = podmetrics::list(&self.node).await?;
        Ok(pieces(items, |pod_sandbox_metrics| {
            cri::StreamPodSandboxMetricsResponse {
                pod_sandbox_metrics,
            }
        }))
    }

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = self.node.events.listen()?;
        let told = events.map(|event| event.map_err(Status::from));
        Ok(Response::new(Box::pin(told)))
    }
}

fn status_info(node: &Node) -> BTreeMap<String, String> {
    let config = serde_json::json!({
        "root": node.dirs.root,
        // The name under which conformance tests look for it.
        "stateDir": node.dirs.run,
        "cgroupMode": node.layout.mode().name(),
        "cgroupDriver": "cgroupfs",
        "shimSource": node.launcher.program().source().name(),
        "version": VERSION,
        // What a kubelet says that the node's pods have; the built-in network has its own.
        "podCIDR": node.pod_cidr(),
    });
    BTreeMap::from([
        ("config".to_owned(), config.to_string()),
        (
            "kernel".to_owned(),
            kernel::json(&node.facts.kernel).to_string(),
        ),
    ])
}
