//! `start`: starts created containers.

use berth_proto::cri;

use super::{Context, bulk};
use crate::{
    failure::{Failure, Outcome},
    lookup,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    bulk::each(&args.containers, async |name| {
        let container = lookup::container(&connection, name).await?;
        let request = cri::StartContainerRequest {
            container_id: container.id,
        };
        connection
            .runtime()
            .start_container(connection.change(request))
            .await
            .map_err(|status| {
                Failure::refused(format!("cannot start container {name}"), &status)
            })?;
        Ok(())
    })
    .await
}
