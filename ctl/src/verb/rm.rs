//! `rm`: removes containers.

use berth_proto::cri::{self, ContainerState};

use super::{Context, bulk, run::MADE_BY_RUN};
use crate::{
    connect::Connection,
    failure::{Failure, Outcome},
    listing, lookup,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Containers
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// All; without --force, all that do not run
    #[arg(short, long)]
    all: bool,
    /// Those that run, too: they are killed
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let all = if args.all {
        let containers = listing::containers(&connection, None).await?;
        Some(
            containers
                .into_iter()
                .filter(|container| {
                    args.force || container.state() != ContainerState::ContainerRunning
                })
                .map(|container| container.id)
                .collect(),
        )
    } else {
        None
    };
    let names = bulk::chosen(&args.containers, all)?;
    bulk::each(&names, async |name| {
        let container = lookup::container(&connection, name).await?;
        remove(&connection, &container, name, args.force).await
    })
    .await
}

async fn remove(
    connection: &Connection,
    container: &cri::Container,
    name: &str,
    force: bool,
) -> Outcome<()> {
    let what = format!("cannot remove container {name}");
    if !force && container.state() == ContainerState::ContainerRunning {
        return Err(Failure::new(what, "it runs").next(format!(
            "`berthctl stop {name}` first, or `berthctl rm --force {name}`"
        )));
    }
    let request = cri::RemoveContainerRequest {
        container_id: container.id.clone(),
    };
    connection
        .runtime()
        .remove_container(connection.change(request))
        .await
        .map_err(|status| Failure::refused(what, &status))?;
    // A pod made by `run` is there for its one container.
    if container.annotations.contains_key(MADE_BY_RUN) {
        let rest = listing::containers(connection, None).await?;
        let pod = &container.pod_sandbox_id;
        if !rest.iter().any(|other| other.pod_sandbox_id == *pod) {
            super::rmp::remove(connection, pod, name).await?;
        }
    }
    Ok(())
}
