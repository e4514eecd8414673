//! Pull with progress.

use std::sync::Arc;

use berth_image::{LayerState, PullProgress as Seen};
use berth_proto::berth::v1::{BlobProgress, PullProgress, PullRequest, blob_progress::State};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, Instant, MissedTickBehavior},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

use crate::{image, node::Node};

/// Often enough for a smooth bar.
const EVERY: Duration = Duration::from_millis(100);
/// A client that does not read loses messages, not the pull.
const QUEUE: usize = 16;

pub(super) fn pull(
    node: Arc<Node>,
    request: PullRequest,
    deadline: Option<Instant>,
) -> impl Stream<Item = Result<PullProgress, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let progress = watch::Sender::new(Seen::default());
        let seen = progress.subscribe();
        let work = image::pull(
            &node,
            &request.reference,
            request.auth,
            Some(progress),
            deadline,
        );
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => {
                    let last = done.map(|pulled| PullProgress {
                        phase: "done".to_owned(),
                        blobs: blobs(&seen.borrow()),
                        digest: digest(&node, &pulled.id),
                        image_id: pulled.id,
                        reference: pulled.reference,
                    });
                    // Nobody reads any more: the pull is done all the same.
                    sender.send(last.map_err(Status::from)).await.ok();
                    return;
                }
                // Its reader has gone: the pull ends with its last waiter.
                () = sender.closed() => return,
                _ = ticks.tick() => {
                    let message = {
                        let seen = seen.borrow();
                        PullProgress {
                            phase: seen.phase.map_or(String::new(), |phase| phase.name().to_owned()),
                            blobs: blobs(&seen),
                            ..PullProgress::default()
                        }
                    };
                    sender.try_send(Ok(message)).ok();
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

fn digest(node: &Node, id: &str) -> String {
    let image = node.images.all().into_iter().find(|image| image.id == id);
    image
        .and_then(|image| {
            let name = image.names.iter().rev().find(|name| name.contains('@'))?;
            name.split_once('@').map(|(_, digest)| digest.to_owned())
        })
        .unwrap_or_default()
}

fn blobs(seen: &Seen) -> Vec<BlobProgress> {
    seen.layers
        .iter()
        .map(|blob| BlobProgress {
            digest: blob.digest.to_string(),
            state: match blob.state {
                LayerState::Waiting => State::Waiting,
                LayerState::Fetching => State::Fetching,
                LayerState::Unpacking => State::Unpacking,
                LayerState::Done => State::Done,
                LayerState::Exists => State::Exists,
            }
            .into(),
            fetched: blob.fetched,
            total: blob.total,
        })
        .collect()
}
