//! The calls that most tests make, one line each.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use berth_proto::{berth::v1 as berth, cri};
use tonic::Status;

use super::Node;
use crate::{log, wait};

/// Until a program that ends has been seen to end.
const EXITS: Duration = Duration::from_secs(20);

impl Node {
    /// `Version`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn version(&self) -> Result<cri::VersionResponse> {
        let request = cri::VersionRequest {
            version: "v1".into(),
        };
        Ok(self.runtime()?.version(request).await?.into_inner())
    }

    /// `PullImage` without credentials; the image's id.
    ///
    /// # Errors
    /// The agent's.
    pub async fn pull(&self, reference: &str) -> Result<String, Status> {
        self.pull_as(reference, None).await
    }

    /// As [`Node::pull`], with credentials. A registry that does not answer, which
    /// kubelets know by a word instead of a code, is given as the code here.
    ///
    /// # Errors
    /// The agent's.
    pub async fn pull_as(
        &self,
        reference: &str,
        auth: Option<cri::AuthConfig>,
    ) -> Result<String, Status> {
        let request = cri::PullImageRequest {
            image: Some(image_spec(reference)),
            auth,
            ..Default::default()
        };
        let mut images = self.images().map_err(internal)?;
        let pulled = images.pull_image(request).await.map_err(|status| {
            let known = status.code() == tonic::Code::Unknown;
            match status.message().strip_prefix("RegistryUnavailable: ") {
                Some(why) if known => Status::unavailable(why),
                _ => status,
            }
        })?;
        Ok(pulled.into_inner().image_ref)
    }

    /// `ListImages`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn list_images(&self) -> Result<Vec<cri::Image>> {
        let request = cri::ListImagesRequest::default();
        Ok(self
            .images()?
            .list_images(request)
            .await?
            .into_inner()
            .images)
    }

    /// `ImageStatus`; nothing if the image is unknown.
    ///
    /// # Errors
    /// The agent's.
    pub async fn image_status(&self, image: &str) -> Result<Option<cri::Image>, Status> {
        let request = cri::ImageStatusRequest {
            image: Some(image_spec(image)),
            verbose: false,
        };
        let mut images = self.images().map_err(internal)?;
        Ok(images.image_status(request).await?.into_inner().image)
    }

    /// `RemoveImage`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn remove_image(&self, image: &str) -> Result<(), Status> {
        let request = cri::RemoveImageRequest {
            image: Some(image_spec(image)),
        };
        let mut images = self.images().map_err(internal)?;
        images.remove_image(request).await?;
        Ok(())
    }

    /// `RunPodSandbox`; the sandbox's id.
    ///
    /// # Errors
    /// The agent's.
    pub async fn run_pod(&self, config: &cri::PodSandboxConfig) -> Result<String, Status> {
        self.run_pod_with(config, "").await
    }

    /// As [`Node::run_pod`], with a runtime handler.
    ///
    /// # Errors
    /// The agent's.
    pub async fn run_pod_with(
        &self,
        config: &cri::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, Status> {
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.into(),
        };
        let mut runtime = self.runtime().map_err(internal)?;
        let response = runtime.run_pod_sandbox(request).await?.into_inner();
        self.mark(&response.pod_sandbox_id);
        Ok(response.pod_sandbox_id)
    }

    /// `StopPodSandbox`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn stop_pod(&self, pod: &str) -> Result<(), Status> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod.into(),
        };
        let mut runtime = self.runtime().map_err(internal)?;
        runtime.stop_pod_sandbox(request).await?;
        Ok(())
    }

    /// `RemovePodSandbox`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn remove_pod(&self, pod: &str) -> Result<(), Status> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod.into(),
        };
        let mut runtime = self.runtime().map_err(internal)?;
        runtime.remove_pod_sandbox(request).await?;
        Ok(())
    }

    /// `PodSandboxStatus`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn pod_status(&self, pod: &str) -> Result<cri::PodSandboxStatus, Status> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: pod.into(),
            verbose: false,
        };
        let mut runtime = self.runtime().map_err(internal)?;
        let response = runtime.pod_sandbox_status(request).await?.into_inner();
        response
            .status
            .ok_or_else(|| Status::internal("PodSandboxStatus without a status"))
    }

    /// `ListPodSandbox` of the CRI.
    ///
    /// # Errors
    /// The agent's.
    pub async fn list_pods(&self) -> Result<Vec<cri::PodSandbox>> {
        let request = cri::ListPodSandboxRequest::default();
        let response = self.runtime()?.list_pod_sandbox(request).await?;
        Ok(response.into_inner().items)
    }

    /// `CreateContainer`; the container's id.
    ///
    /// # Errors
    /// The agent's.
    pub async fn create(
        &self,
        pod: &str,
        config: &cri::ContainerConfig,
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<String, Status> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config.clone()),
            sandbox_config: Some(sandbox.clone()),
        };
        let mut runtime = self.runtime().map_err(internal)?;
        let response = runtime.create_container(request).await?.into_inner();
        self.mark(&response.container_id);
        Ok(response.container_id)
    }

    /// `CreateContainer` and `StartContainer`; the container's id.
    ///
    /// # Errors
    /// The agent's.
    pub async fn run(
        &self,
        pod: &str,
        config: &cri::ContainerConfig,
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<String, Status> {
        let container = self.create(pod, config, sandbox).await?;
        self.start_container(&container).await?;
        Ok(container)
    }

    /// `StartContainer`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn start_container(&self, container: &str) -> Result<(), Status> {
        let request = cri::StartContainerRequest {
            container_id: container.into(),
        };
        let mut runtime = self.runtime().map_err(internal)?;
        runtime.start_container(request).await?;
        Ok(())
    }

    /// `StopContainer`; `grace` in seconds.
    ///
    /// # Errors
    /// The agent's.
    pub async fn stop_container(&self, container: &str, grace: i64) -> Result<(), Status> {
        let request = cri::StopContainerRequest {
            container_id: container.into(),
            timeout: grace,
        };
        let mut runtime = self.runtime().map_err(internal)?;
        runtime.stop_container(request).await?;
        Ok(())
    }

    /// `RemoveContainer`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn remove_container(&self, container: &str) -> Result<(), Status> {
        let request = cri::RemoveContainerRequest {
            container_id: container.into(),
        };
        let mut runtime = self.runtime().map_err(internal)?;
        runtime.remove_container(request).await?;
        Ok(())
    }

    /// `ReopenContainerLog`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn reopen_log(&self, container: &str) -> Result<(), Status> {
        let request = cri::ReopenContainerLogRequest {
            container_id: container.into(),
        };
        let mut runtime = self.runtime().map_err(internal)?;
        runtime.reopen_container_log(request).await?;
        Ok(())
    }

    /// `ContainerStatus`.
    ///
    /// # Errors
    /// The agent's.
    pub async fn status(&self, container: &str) -> Result<cri::ContainerStatus, Status> {
        let request = cri::ContainerStatusRequest {
            container_id: container.into(),
            verbose: false,
        };
        let mut runtime = self.runtime().map_err(internal)?;
        let response = runtime.container_status(request).await?.into_inner();
        response
            .status
            .ok_or_else(|| Status::internal("ContainerStatus without a status"))
    }

    /// The process id of a container's init, from the verbose status.
    ///
    /// # Errors
    /// The agent's, or if the status names none.
    pub async fn pid(&self, container: &str) -> Result<u32> {
        let request = cri::ContainerStatusRequest {
            container_id: container.into(),
            verbose: true,
        };
        let response = self.runtime()?.container_status(request).await?;
        let info = response.into_inner().info;
        let info = info.get("info").context("no verbose info")?;
        let info: serde_json::Value = serde_json::from_str(info)?;
        let pid = info["pid"].as_u64().context("no pid in the verbose info")?;
        Ok(u32::try_from(pid)?)
    }

    /// `ListContainers` of the CRI.
    ///
    /// # Errors
    /// The agent's.
    pub async fn list_containers(&self) -> Result<Vec<cri::Container>> {
        let request = cri::ListContainersRequest::default();
        let response = self.runtime()?.list_containers(request).await?;
        Ok(response.into_inner().containers)
    }

    /// The status once the container has exited.
    ///
    /// # Errors
    /// The agent's, or that it did not exit in time.
    pub async fn exited(&self, container: &str) -> Result<cri::ContainerStatus> {
        wait::until("the container exits", EXITS, || async {
            let status = self.status(container).await?;
            let exited = status.state() == cri::ContainerState::ContainerExited;
            Ok(exited.then_some(status))
        })
        .await
    }

    /// `ExecSync`; `timeout` in seconds.
    ///
    /// # Errors
    /// The agent's.
    pub async fn exec_sync(
        &self,
        container: &str,
        command: &[&str],
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let request = cri::ExecSyncRequest {
            container_id: container.into(),
            cmd: command.iter().map(ToString::to_string).collect(),
            timeout,
        };
        let mut runtime = self.runtime().map_err(internal)?;
        Ok(runtime.exec_sync(request).await?.into_inner())
    }

    /// The standard output of `sh -c SCRIPT` in the container.
    ///
    /// # Errors
    /// The agent's, or that the script failed.
    pub async fn sh(&self, container: &str, script: &str) -> Result<String> {
        let done = self
            .exec_sync(container, &["sh", "-c", script], 20)
            .await
            .with_context(|| format!("exec {script:?}"))?;
        anyhow::ensure!(
            done.exit_code == 0,
            "{script:?} exited with {}: {}{}",
            done.exit_code,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Where the container's log is.
    ///
    /// # Errors
    /// The agent's.
    pub async fn log_path(&self, container: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(self.status(container).await?.log_path))
    }

    /// The container's log so far, whole lines only.
    ///
    /// # Errors
    /// The agent's, or if the log is not in the CRI format.
    pub async fn logged(&self, container: &str) -> Result<Vec<log::Entry>> {
        let mut bytes = std::fs::read(self.log_path(container).await?)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(whole.map_or(0, |at| at + 1));
        log::parse(&bytes)
    }

    /// Removes all pods and images, those made through `berth.v1` included.
    ///
    /// # Errors
    /// The agent's.
    pub async fn remove_everything(&self) -> Result<()> {
        let pods = self
            .berth()?
            .list_pods(cri::ListPodSandboxRequest::default())
            .await?
            .into_inner();
        let containers = self
            .berth()?
            .list_containers(cri::ListContainersRequest::default())
            .await?
            .into_inner();
        for container in containers.containers {
            self.mark(&container.id);
        }
        for pod in pods.items {
            self.mark(&pod.id);
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        for image in self.list_images().await? {
            self.remove_image(&image.id).await?;
        }
        let left = self
            .berth()?
            .list_containers(cri::ListContainersRequest::default())
            .await?
            .into_inner();
        anyhow::ensure!(
            left.containers.is_empty(),
            "containers without a pod: {:?}",
            left.containers
        );
        let operations = self
            .berth()?
            .list_operations(berth::ListOperationsRequest {})
            .await?
            .into_inner();
        anyhow::ensure!(
            operations.operations.is_empty(),
            "operations still in flight: {:?}",
            operations.operations
        );
        Ok(())
    }
}

fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.into(),
        ..Default::default()
    }
}

// Only a socket path that is no URL gets here.
#[allow(
    clippy::needless_pass_by_value,
    reason = "the signature that map_err wants"
)]
fn internal(error: anyhow::Error) -> Status {
    Status::internal(format!("{error:#}"))
}
