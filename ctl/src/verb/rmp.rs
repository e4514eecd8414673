//! `rmp`: removes pods with all their containers.

use berth_proto::cri::{self, PodSandboxState};

use super::{Context, bulk, stopp};
use crate::{
    connect::Connection,
    failure::{Failure, Outcome},
    listing, lookup,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pods
    #[arg(value_name = "POD")]
    pods: Vec<String>,
    /// All; without --force, all that are not ready
    #[arg(short, long)]
    all: bool,
    /// Those that are ready, too: they are stopped first
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let all = if args.all {
        let pods = listing::pods(&connection, None).await?;
        Some(
            pods.into_iter()
                .filter(|pod| args.force || pod.state() != PodSandboxState::SandboxReady)
                .map(|pod| pod.id)
                .collect(),
        )
    } else {
        None
    };
    let names = bulk::chosen(&args.pods, all)?;
    bulk::each(&names, async |name| {
        let pod = lookup::pod(&connection, name).await?;
        if !args.force && pod.state() == PodSandboxState::SandboxReady {
            return Err(
                Failure::new(format!("cannot remove pod {name}"), "it is ready").next(format!(
                    "`berthctl stopp {name}` first, or `berthctl rmp --force {name}`"
                )),
            );
        }
        remove(&connection, &pod.id, name).await
    })
    .await
}

/// Stops and removes the pod with this whole id; `name` is what the user called it.
pub(super) async fn remove(connection: &Connection, id: &str, name: &str) -> Outcome<()> {
    stopp::stop(connection, id, name).await?;
    let request = cri::RemovePodSandboxRequest {
        pod_sandbox_id: id.to_owned(),
    };
    connection
        .runtime()
        .remove_pod_sandbox(connection.change(request))
        .await
        .map_err(|status| Failure::refused(format!("cannot remove pod {name}"), &status))?;
    Ok(())
}
