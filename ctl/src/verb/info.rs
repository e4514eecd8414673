//! `info`: what this node is and how it does.

use std::collections::BTreeMap;

use berth_proto::{berth::v1 as berth, cri};
use serde_json::{Map, Value, json};

use super::Context;
use crate::{
    cri_json,
    failure::{Failure, Outcome},
    listing::is_missing,
    output::{self, Format, text::binary_bytes},
    time,
};

pub(crate) async fn run(context: &Context) -> Outcome<u8> {
    let connection = context.connect().await?;
    let node = match connection
        .node()
        .info(connection.read(berth::InfoRequest {}))
        .await
    {
        Ok(answer) => Some(answer.into_inner()),
        Err(status) if is_missing(&status) => None,
        Err(status) => return Err(Failure::refused("cannot ask the node what it is", &status)),
    };
    let status = connection
        .runtime()
        .status(connection.read(cri::StatusRequest {
            verbose: context.format != Format::Table,
        }))
        .await
        .map_err(|status| Failure::refused("cannot ask the runtime how it does", &status))?
        .into_inner();
    if context.format != Format::Table {
        let mut value = cri_json::to_value("runtime.v1.StatusResponse", &status);
        expand_info(&mut value);
        let node = node.map_or(Value::Null, |node| {
            cri_json::to_value("berth.v1.InfoResponse", &node)
        });
        output::value(context.format, &json!({"node": node, "runtime": value}))?;
        return Ok(0);
    }
    if let Some(node) = &node {
        show_node(node)?;
    }
    for condition in status.status.iter().flat_map(|status| &status.conditions) {
        let why = if condition.status {
            String::new()
        } else {
            format!(" ({}: {})", condition.reason, condition.message)
        };
        field(&condition.r#type, &format!("{}{why}", condition.status))?;
    }
    let handlers: Vec<&str> = status
        .runtime_handlers
        .iter()
        .map(|handler| match handler.name.as_str() {
            "" => "(default)",
            name => name,
        })
        .collect();
    if !handlers.is_empty() {
        field("Runtime handlers", &handlers.join(", "))?;
    }
    for warning in node.iter().flat_map(|node| &node.warnings) {
        field("Warning", warning)?;
    }
    Ok(0)
}

fn show_node(node: &berth::InfoResponse) -> Outcome<()> {
    field("Node", &node.hostname)?;
    field("Agent", &node.version)?;
    let up = time::spoken(time::now_nanos().saturating_sub(node.started_at));
    field("Up", &up)?;
    field(
        "Kernel",
        &format!("{} ({})", node.kernel, node.architecture),
    )?;
    field(
        "Cgroups",
        &format!("{}, {} driver", node.cgroup_mode, node.cgroup_driver),
    )?;
    field("CPUs", &node.cpus.to_string())?;
    field("Memory", &binary_bytes(node.memory_bytes))?;
    field(
        "Pods",
        &format!("{} ({} ready)", node.pods, node.pods_ready),
    )?;
    field(
        "Containers",
        &format!("{} ({} running)", node.containers, node.containers_running),
    )?;
    field("Images", &node.images.to_string())?;
    field("Root directory", &node.root_dir)?;
    field("Run directory", &node.run_dir)?;
    field("Shims start from", &node.shim_source)?;
    if !node.labels.is_empty() {
        let labels = node
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        field("Labels", &labels.collect::<Vec<_>>().join(", "))?;
    }
    if !node.proxies.is_empty() {
        field("Proxies", &node.proxies.join(", "))?;
    }
    let lacking: Vec<_> = node
        .kernel_features
        .iter()
        .filter(|feature| !feature.present)
        .collect();
    if !node.kernel_features.is_empty() {
        let count = node.kernel_features.len();
        let there = count - lacking.len();
        field(
            "Kernel features",
            &format!("{there} of {count} that Berth makes use of"),
        )?;
    }
    for feature in lacking {
        let since = format!("{} (Linux {})", feature.name, feature.since);
        field("  without", &format!("{since}: {}", feature.instead))?;
    }
    if node.ledger_undone > 0 {
        field(
            "Undone at start",
            &format!(
                "{} things that a crash had left{}",
                node.ledger_undone,
                by_kind(&node.ledger_undone_by_kind)
            ),
        )?;
    }
    Ok(())
}

/// `: 2 shim_dir, 1 veth`; nothing from an agent that does not tell.
fn by_kind(counts: &BTreeMap<String, u64>) -> String {
    let kinds: Vec<String> = counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    if kinds.is_empty() {
        String::new()
    } else {
        format!(": {}", kinds.join(", "))
    }
}

fn field(name: &str, value: &str) -> Outcome<()> {
    output::line(&format!("{:<18}{value}", format!("{name}:")))
}

/// The members of a verbose `info` are often JSON in a string: shows them as JSON.
pub(super) fn expand_info(value: &mut Value) {
    let Some(Value::Object(info)) = value.get_mut("info") else {
        return;
    };
    let expanded: Map<String, Value> = std::mem::take(info)
        .into_iter()
        .map(|(key, member)| {
            let parsed = member
                .as_str()
                .and_then(|text| serde_json::from_str(text).ok());
            (key, parsed.unwrap_or(member))
        })
        .collect();
    *info = expanded;
}
