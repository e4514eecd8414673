//! `pods`: the list of pods.

use std::{collections::HashMap, sync::Arc};

use berth_proto::cri;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use super::Context;
use crate::{
    connect::Connection,
    cri_json,
    failure::Outcome,
    listing,
    output::{self, Format, table::Table, text::shown_id},
    time,
};

/// Statuses asked for at the same time: enough to hide the round trip.
pub(super) const AT_ONCE: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Pods whose name contains this
    #[arg(long)]
    name: Option<String>,
    /// Pods of this Kubernetes namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Pods in this state
    #[arg(short, long, value_parser = ["ready", "notready"])]
    state: Option<String>,
    /// Pods with this label; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Only the newest
    #[arg(short, long)]
    latest: bool,
}

/// `key=value`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let state = args
        .state
        .as_deref()
        .map(|state| cri::PodSandboxStateValue {
            state: match state {
                "ready" => cri::PodSandboxState::SandboxReady,
                _ => cri::PodSandboxState::SandboxNotready,
            }
            .into(),
        });
    let filter = cri::PodSandboxFilter {
        id: String::new(),
        state,
        label_selector: args.label.iter().cloned().collect(),
    };
    let mut pods = listing::pods(&connection, Some(filter)).await?;
    pods.retain(|pod| {
        let data = pod.metadata.as_ref();
        let name = data.map_or("", |data| data.name.as_str());
        let namespace = data.map_or("", |data| data.namespace.as_str());
        args.name
            .as_deref()
            .is_none_or(|wanted| name.contains(wanted))
            && args
                .namespace
                .as_deref()
                .is_none_or(|wanted| namespace == wanted)
    });
    if args.latest {
        pods.truncate(1);
    }
    if args.quiet {
        for pod in &pods {
            output::line(&pod.id)?;
        }
        return Ok(0);
    }
    if context.format != Format::Table {
        let list = cri::ListPodSandboxResponse { items: pods };
        let value = cri_json::to_value("runtime.v1.ListPodSandboxResponse", &list);
        output::value(context.format, &json!({"items": value["items"]}))?;
        return Ok(0);
    }
    let addresses = addresses(&connection, &pods).await;
    output::print(&table(context, &pods, &addresses, time::now_nanos()))?;
    Ok(0)
}

fn table(
    context: &Context,
    pods: &[cri::PodSandbox],
    addresses: &HashMap<String, String>,
    now: i64,
) -> String {
    let mut table = Table::new(&[
        "POD ID",
        "CREATED",
        "STATUS",
        "NAME",
        "NAMESPACE",
        "ATTEMPT",
        "IP",
        "RUNTIME",
    ]);
    for pod in pods {
        let data = pod.metadata.clone().unwrap_or_default();
        let runtime = match pod.runtime_handler.as_str() {
            "" => "(default)",
            handler => handler,
        };
        table.row([
            shown_id(&pod.id, context.no_trunc),
            &time::ago(now, pod.created_at),
            match pod.state() {
                cri::PodSandboxState::SandboxReady => "Ready",
                cri::PodSandboxState::SandboxNotready => "NotReady",
            },
            &data.name,
            &data.namespace,
            &data.attempt.to_string(),
            addresses.get(&pod.id).map_or("-", String::as_str),
            runtime,
        ]);
    }
    table.render()
}

/// The address of each ready pod. A pod that vanishes meanwhile has none.
async fn addresses(connection: &Connection, pods: &[cri::PodSandbox]) -> HashMap<String, String> {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for pod in pods {
        if pod.state() != cri::PodSandboxState::SandboxReady {
            continue;
        }
        let (connection, gate, id) = (connection.clone(), Arc::clone(&gate), pod.id.clone());
        asked.spawn(async move {
            let _permit = gate.acquire_owned().await.ok()?;
            let request = cri::PodSandboxStatusRequest {
                pod_sandbox_id: id.clone(),
                verbose: false,
            };
            let answer = connection
                .runtime()
                .pod_sandbox_status(connection.read(request))
                .await
                .ok()?;
            let network = answer.into_inner().status?.network?;
            (!network.ip.is_empty()).then_some((id, network.ip))
        });
    }
    let mut addresses = HashMap::new();
    while let Some(answer) = asked.join_next().await {
        if let Ok(Some((id, ip))) = answer {
            addresses.insert(id, ip);
        }
    }
    addresses
}
