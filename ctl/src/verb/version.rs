//! `version`: who speaks, on both sides.

use berth_proto::cri;
use serde_json::json;

use super::Context;
use crate::{
    cli::VERSION,
    cri_json,
    failure::{Failure, Outcome},
    output::{self, Format},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only berthctl's own; asks no agent
    #[arg(short, long)]
    client: bool,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let client = json!({"name": "berthctl", "version": VERSION, "apiVersion": "v1", "berthApiVersion": "v1"});
    if context.format == Format::Table {
        output::print(&format!(
            "Client:\n  Name:          berthctl\n  Version:       {VERSION}\n  CRI version:   v1\n  Platform:      {}/{}\n",
            std::env::consts::OS,
            std::env::consts::ARCH,
        ))?;
    }
    if args.client {
        if context.format != Format::Table {
            output::value(context.format, &json!({"client": client}))?;
        }
        return Ok(0);
    }
    let connection = context.connect().await?;
    let server = connection
        .runtime()
        .version(connection.read(cri::VersionRequest {
            version: "v1".to_owned(),
        }))
        .await
        .map_err(|status| Failure::refused("cannot ask the runtime for its version", &status))?
        .into_inner();
    if context.format == Format::Table {
        output::print("Server:\n")?;
        output::line(&format!("  Name:          {}", server.runtime_name))?;
        output::line(&format!("  Version:       {}", server.runtime_version))?;
        output::line(&format!("  CRI version:   {}", server.runtime_api_version))?;
    } else {
        let server = cri_json::to_value("runtime.v1.VersionResponse", &server);
        output::value(context.format, &json!({"client": client, "server": server}))?;
    }
    Ok(0)
}
