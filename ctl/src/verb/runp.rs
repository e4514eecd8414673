//! `runp`: a pod from a configuration file, as crictl has it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use berth_proto::cri;
use prost::Message;
use serde_json::Value;

use super::Context;
use crate::{
    cri_json,
    failure::{Failure, Outcome},
    output,
};

/// No configuration of a pod or container comes near to it.
const CONFIG_LIMIT: u64 = 4 << 20;
/// Where a kubelet listens while it runs.
const KUBELET_SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Runtime handler
    #[arg(short, long, default_value = "")]
    runtime: String,
    /// The pod's configuration (JSON or YAML), or - for standard input
    #[arg(value_name = "POD-CONFIG")]
    config: PathBuf,
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let config = read("runtime.v1.PodSandboxConfig", &args.config)?;
    let connection = context.connect().await?;
    warn_of_kubelet();
    let request = cri::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: args.runtime.clone(),
    };
    let answer = connection
        .runtime()
        .run_pod_sandbox(connection.change(request))
        .await
        .map_err(|status| {
            Failure::refused(
                format!("cannot run the pod of {}", args.config.display()),
                &status,
            )
        })?
        .into_inner();
    output::line(&answer.pod_sandbox_id)?;
    Ok(0)
}

/// Reads the message called `name` from a JSON or YAML file.
pub(super) fn read<T: Message + Default>(name: &str, path: &Path) -> Outcome<T> {
    let failed = |why: String| Failure::usage(format!("cannot use {}", path.display()), why);
    let text = text(path).map_err(|error| failed(error.to_string()))?;
    // JSON is YAML, and its parser tells mistakes in JSON better.
    let value: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?
    } else {
        serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))?
    };
    cri_json::from_value(name, &value).map_err(|mismatch| failed(mismatch.to_string()))
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(CONFIG_LIMIT + 1)
            .read_to_string(&mut text)
    } else {
        File::open(path)?
            .take(CONFIG_LIMIT + 1)
            .read_to_string(&mut text)
    };
    if read? as u64 > CONFIG_LIMIT {
        return Err(io::Error::other("no configuration is that large"));
    }
    Ok(text)
}

/// A kubelet removes pods that it does not know.
pub(super) fn warn_of_kubelet() {
    if Path::new(KUBELET_SOCKET).exists() {
        output::note(
            "warning: a kubelet runs on this node and will remove what it does not know; \
             `berthctl run` makes pods that it does not see",
        );
    }
}
