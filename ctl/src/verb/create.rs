//! `create`: a container in a pod, from configuration files, as crictl has it.

use std::path::PathBuf;

use berth_proto::cri;

use super::{Context, pull, runp};
use crate::{
    failure::{Failure, Outcome},
    lookup, output,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pull the image first
    #[arg(long)]
    with_pull: bool,
    /// The pod
    pod: String,
    /// The container's configuration (JSON or YAML), or - for standard input
    #[arg(value_name = "CONTAINER-CONFIG")]
    container_config: PathBuf,
    /// The pod's configuration, the same as for runp
    #[arg(value_name = "POD-CONFIG")]
    pod_config: PathBuf,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let config: cri::ContainerConfig =
        runp::read("runtime.v1.ContainerConfig", &args.container_config)?;
    let pod_config: cri::PodSandboxConfig =
        runp::read("runtime.v1.PodSandboxConfig", &args.pod_config)?;
    let connection = context.connect().await?;
    runp::warn_of_kubelet();
    let pod = lookup::pod(&connection, &args.pod).await?;
    if args.with_pull {
        let image = config.image.clone().unwrap_or_default().image;
        pull::pull(&connection, &image, false).await?;
    }
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.id,
        config: Some(config),
        sandbox_config: Some(pod_config),
    };
    let answer = connection
        .runtime()
        .create_container(connection.change(request))
        .await
        .map_err(|status| {
            Failure::refused(
                format!("cannot create a container in pod {}", args.pod),
                &status,
            )
        })?
        .into_inner();
    output::line(&answer.container_id)?;
    Ok(0)
}
