//! `stopp`: stops pods with all their containers.

use std::time::Duration;

use berth_proto::cri;

use super::{Context, bulk};
use crate::{
    connect::Connection,
    failure::{Failure, Outcome},
    lookup,
};

/// A pod's containers get their grace period within the call.
const GRACE: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pods
    #[arg(required = true, value_name = "POD")]
    pods: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    bulk::each(&args.pods, async |name| {
        let pod = lookup::pod(&connection, name).await?;
        stop(&connection, &pod.id, name).await
    })
    .await
}

/// Stops the pod with this whole id; `name` is what the user called it.
pub(super) async fn stop(connection: &Connection, id: &str, name: &str) -> Outcome<()> {
    let request = cri::StopPodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    connection
        .runtime()
        .stop_pod_sandbox(connection.change_after(request, GRACE))
        .await
        .map_err(|status| Failure::refused(format!("cannot stop pod {name}"), &status))?;
    Ok(())
}
