//! `logout`: forgets the credentials of a registry.

use super::login::server;
use crate::{credentials, failure::Outcome, output};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// HOST[:PORT] of the registry [default: docker.io]
    server: Option<String>,
}

pub(crate) async fn run(args: &Args) -> Outcome<u8> {
    let registry = server(args.server.as_deref())?;
    let (from, still) = credentials::forget(&registry).await?;
    match from {
        Some(path) => output::line(&format!(
            "Removed the credentials for {} from {}",
            registry.name(),
            path.display()
        ))?,
        None => output::line(&format!("Not logged in to {}", registry.name()))?,
    }
    if let Some(path) = still {
        output::note(&format!(
            "warning: {} has credentials for {} too, which another program has put there",
            path.display(),
            registry.name()
        ));
    }
    Ok(0)
}
