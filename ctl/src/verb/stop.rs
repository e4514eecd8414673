//! `stop`: the stop signal, a grace period, then the end.

use std::time::Duration;

use berth_proto::cri::{self, ContainerState};

use super::{Context, bulk};
use crate::{
    connect::Connection,
    failure::{Failure, Outcome},
    listing, lookup,
};

/// What people are used to wait for a container to end by itself.
pub(super) const GRACE_SECONDS: u32 = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Containers
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// All that run
    #[arg(short, long)]
    all: bool,
    /// Seconds before it is killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = GRACE_SECONDS)]
    timeout: u32,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let all = if args.all {
        let containers = listing::containers(&connection, None).await?;
        Some(
            containers
                .into_iter()
                .filter(|container| container.state() == ContainerState::ContainerRunning)
                .map(|container| container.id)
                .collect(),
        )
    } else {
        None
    };
    let names = bulk::chosen(&args.containers, all)?;
    bulk::each(&names, async |name| {
        let container = lookup::container(&connection, name).await?;
        stop(&connection, &container.id, name, args.timeout).await
    })
    .await
}

/// Stops the container with this whole id; `name` is what the user called it.
pub(super) async fn stop(
    connection: &Connection,
    id: &str,
    name: &str,
    grace_seconds: u32,
) -> Outcome<()> {
    let request = cri::StopContainerRequest {
        container_id: id.to_owned(),
        timeout: grace_seconds.into(),
    };
    let grace = Duration::from_secs(grace_seconds.into());
    connection
        .runtime()
        .stop_container(connection.change_after(request, grace))
        .await
        .map_err(|status| Failure::refused(format!("cannot stop container {name}"), &status))?;
    Ok(())
}
