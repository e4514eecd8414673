//! A runtime that speaks CRI, over one kept connection.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use berth_proto::cri::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::transport::{Channel, Endpoint};

use crate::client::{CALL, GRACE, Life};

/// A thousand containers are listed in half a megabyte.
const LARGEST: usize = 64 << 20;

/// The client.
#[derive(Clone, Debug)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    /// Directory for the pods' logs.
    logs: PathBuf,
    /// The pods' `cgroup_parent`.
    parent: String,
    /// The containers' image.
    image: String,
}

impl Cri {
    pub(crate) fn new(socket: &Path, logs: PathBuf, parent: String, image: String) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("unix://{}", socket.display()))?
            .timeout(CALL)
            .connect_lazy();
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(LARGEST),
            images: ImageServiceClient::new(channel),
            logs,
            parent,
            image,
        })
    }

    pub(crate) async fn version(&mut self) -> Result<()> {
        self.runtime.version(cri::VersionRequest::default()).await?;
        // Answers before the network and the plugins are ready otherwise.
        let status = self.runtime.status(cri::StatusRequest::default()).await?;
        let conditions = status.into_inner().status.unwrap_or_default().conditions;
        for condition in conditions {
            ensure!(
                condition.status || !condition.r#type.ends_with("Ready"),
                "{}: {}",
                condition.r#type,
                condition.message
            );
        }
        Ok(())
    }

    fn pod_config(&self, name: &str) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: name.into(),
                namespace: "bench".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.logs.join(name).display().to_string(),
            dns_config: Some(cri::DnsConfig {
                servers: vec!["192.0.2.53".into()],
                ..Default::default()
            }),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.parent.clone(),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    seccomp: Some(cri::SecurityProfile::default()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub(crate) async fn run_pod(&mut self, name: &str) -> Result<String> {
        let request = cri::RunPodSandboxRequest {
            config: Some(self.pod_config(name)),
            ..Default::default()
        };
        let response = self.runtime.run_pod_sandbox(request).await?;
        Ok(response.into_inner().pod_sandbox_id)
    }

    pub(crate) async fn stop_pod(&mut self, pod: &str) -> Result<()> {
        let pod_sandbox_id = pod.into();
        let request = cri::StopPodSandboxRequest { pod_sandbox_id };
        self.runtime.stop_pod_sandbox(request).await?;
        Ok(())
    }

    pub(crate) async fn remove_pod(&mut self, pod: &str) -> Result<()> {
        let pod_sandbox_id = pod.into();
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id };
        self.runtime.remove_pod_sandbox(request).await?;
        Ok(())
    }

    pub(crate) async fn create(
        &mut self,
        pod: &str,
        pod_name: &str,
        name: &str,
        command: &[&str],
        data: Option<&Path>,
    ) -> Result<String> {
        let mounts = data.map(|source| cri::Mount {
            container_path: "/data".into(),
            host_path: source.display().to_string(),
            readonly: true,
            ..Default::default()
        });
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            image: Some(cri::ImageSpec {
                image: self.image.clone(),
                ..Default::default()
            }),
            command: command.iter().map(ToString::to_string).collect(),
            log_path: format!("{name}.log"),
            mounts: mounts.into_iter().collect(),
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces()),
                    // The value 0: the runtime's default profile.
                    seccomp: Some(cri::SecurityProfile::default()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            sandbox_config: Some(self.pod_config(pod_name)),
        };
        let response = self.runtime.create_container(request).await?;
        Ok(response.into_inner().container_id)
    }

    pub(crate) async fn start(&mut self, container: &str) -> Result<()> {
        let container_id = container.into();
        let request = cri::StartContainerRequest { container_id };
        self.runtime.start_container(request).await?;
        Ok(())
    }

    pub(crate) async fn stop(&mut self, container: &str, grace: i64) -> Result<()> {
        let request = cri::StopContainerRequest {
            container_id: container.into(),
            timeout: grace,
        };
        self.runtime.stop_container(request).await?;
        Ok(())
    }

    pub(crate) async fn remove(&mut self, container: &str) -> Result<()> {
        let container_id = container.into();
        let request = cri::RemoveContainerRequest { container_id };
        self.runtime.remove_container(request).await?;
        Ok(())
    }

    pub(crate) async fn exec(&mut self, container: &str) -> Result<i32> {
        let request = cri::ExecSyncRequest {
            container_id: container.into(),
            cmd: vec!["/bin/true".into()],
            timeout: GRACE,
        };
        let response = self.runtime.exec_sync(request).await?;
        Ok(response.into_inner().exit_code)
    }

    pub(crate) async fn life(&mut self, container: &str) -> Result<Life> {
        let request = cri::ContainerStatusRequest {
            container_id: container.into(),
            verbose: false,
        };
        let response = self.runtime.container_status(request).await?.into_inner();
        let status = response.status.context("no status")?;
        Ok(Life {
            exited: status.state == i32::from(cri::ContainerState::ContainerExited),
            nanoseconds: status.finished_at - status.started_at,
            log: status.log_path.into(),
        })
    }

    pub(crate) async fn list(&mut self) -> Result<usize> {
        let request = cri::ListContainersRequest::default();
        let response = self.runtime.list_containers(request).await?;
        Ok(response.into_inner().containers.len())
    }

    pub(crate) async fn pull(&mut self, image: &str) -> Result<()> {
        let request = cri::PullImageRequest {
            image: Some(image_spec(image)),
            ..Default::default()
        };
        self.images.pull_image(request).await?;
        Ok(())
    }

    pub(crate) async fn remove_image(&mut self, image: &str) -> Result<()> {
        let request = cri::RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        self.images.remove_image(request).await?;
        Ok(())
    }
}

fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.into(),
        ..Default::default()
    }
}

fn namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: cri::NamespaceMode::Pod.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}
