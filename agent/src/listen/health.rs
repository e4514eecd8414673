//! `grpc.health.v1`, told by the agent's readiness.

use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::health_reporter,
};

/// What a client may ask after; the empty name is the whole server.
const SERVICES: [&str; 3] = ["", "runtime.v1.RuntimeService", "runtime.v1.ImageService"];

/// The health service. It says NOT_SERVING until `ready` becomes true, and
/// again when it becomes false or its sender is gone.
pub(crate) async fn health(mut ready: watch::Receiver<bool>) -> HealthServer<impl Health> {
    let (reporter, server) = health_reporter();
    let mut now = *ready.borrow_and_update();
    for service in SERVICES {
        reporter.set_service_status(service, status(now)).await;
    }
    tokio::spawn(async move {
        loop {
            let sender_gone = ready.changed().await.is_err();
            let next = !sender_gone && *ready.borrow_and_update();
            if next != now {
                now = next;
                for service in SERVICES {
                    reporter.set_service_status(service, status(now)).await;
                }
            }
            if sender_gone {
                return;
            }
        }
    });
    server
}

fn status(ready: bool) -> ServingStatus {
    if ready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}
