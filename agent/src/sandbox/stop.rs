//! StopPodSandbox.

use std::{net::IpAddr, sync::Arc, time::Duration};

use berth_phase::Phase;

use super::{Sandbox, run::convert, state::Event};
use crate::{
    container,
    error::{Error, Kind, Result},
    node::{Node, now},
    operation::{Context, Request, Value, Verb},
    store::{AddressRecord, Change, Durability, Effect},
};

/// Stops a sandbox and everything in it. What is not there is stopped.
///
/// # Errors
/// Internal if something could not be undone; it can be repeated.
pub(crate) async fn stop(
    node: &Arc<Node>,
    id: &str,
    deadline: Option<tokio::time::Instant>,
) -> Result<()> {
    let sandbox = match node.sandbox(id) {
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let request = Request::new(Verb::StopPodSandbox, sandbox.id.to_string()).deadline(deadline);
    let node_in = node.clone();
    node.operations
        .run(request, move |context| async move {
            let _turn = sandbox.turn.lock().await;
            halt(&node_in, &sandbox, &context).await?;
            Ok(Value::Done)
        })
        .await
        .map(drop)
}

/// The work itself, for those who hold the sandbox's turn. Idempotent.
pub(super) async fn halt(node: &Arc<Node>, sandbox: &Sandbox, context: &Context) -> Result<()> {
    context.enter(Phase::Kill, "containers")?;
    // From now on nothing can be created or started in it.
    sandbox.apply(node, Event::Stopped { at: now() }).await?;
    kill_containers(node, sandbox).await?;
    context.enter(Phase::Unnetwork, "")?;
    release(node, sandbox).await?;
    context.enter(Phase::Record, "stopped")?;
    if sandbox.record().state.network().is_some() {
        sandbox.apply(node, Event::Unnetworked).await?;
    }
    // The same RunPodSandbox again must make a new one.
    node.operations.forget(sandbox.id.as_str());
    Ok(())
}

async fn kill_containers(node: &Arc<Node>, sandbox: &Sandbox) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for container in node.containers_of(&sandbox.id) {
        let node = node.clone();
        tasks.spawn(async move { container::stop_now(&node, &container, Duration::ZERO).await });
    }
    let mut first = Ok(());
    while let Some(outcome) = tasks.join_next().await {
        let outcome =
            outcome.unwrap_or_else(|error| Err(Error::internal("stop").with_source(error)));
        // All are tried; the first failure is told.
        first = first.and(outcome);
    }
    first
}

/// Unpins the namespaces, and with them the link, ends the pod's init, and frees the
/// address.
pub(super) async fn release(node: &Arc<Node>, sandbox: &Sandbox) -> Result<()> {
    let id = &sandbox.id;
    node.launcher
        .remove_pod(id.as_str())
        .await
        .map_err(convert)?;
    super::group::remove(node, id).await?;
    let effects = node.store.ledger_of(id.as_str()).await?;
    let mut changes = vec![Change::remove_effect(id.as_str(), &Effect::PodPin)];
    let mut freed: Vec<IpAddr> = Vec::new();
    for entry in effects {
        if let Effect::Address { ip } = entry.effect {
            changes.push(Change::put_address(&AddressRecord {
                ip,
                owner: id.to_string(),
                freed_at: Some(now()),
            })?);
            changes.push(Change::remove_effect(id.as_str(), &Effect::Address { ip }));
            freed.push(ip);
        }
    }
    node.store.write(changes, Durability::Soon).await?;
    for ip in freed {
        node.network.release(ip);
    }
    Ok(())
}
