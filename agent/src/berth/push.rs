//! Push with progress.

use std::sync::Arc;

use berth_image::{BlobState, PushProgress as Seen};
use berth_proto::berth::v1::{PushProgress, PushRequest, PushedBlob, pushed_blob::State};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, Instant, MissedTickBehavior},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

use crate::{image, node::Node};

/// Often enough for a smooth bar.
const EVERY: Duration = Duration::from_millis(100);
/// A client that does not read loses messages, not the push.
const QUEUE: usize = 16;

pub(super) fn push(
    node: Arc<Node>,
    request: PushRequest,
    deadline: Option<Instant>,
) -> impl Stream<Item = Result<PushProgress, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let progress = watch::Sender::new(Seen::default());
        let seen = progress.subscribe();
        let work = image::push(&node, &request.reference, request.auth, progress, deadline);
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => {
                    let last = done.map(|sent| PushProgress {
                        phase: "done".to_owned(),
                        blobs: blobs(&seen.borrow()),
                        reference: sent.reference,
                        digest: sent.digest,
                        size: sent.size,
                        notes: sent.notes,
                    });
                    // Nobody reads any more: the push is done all the same.
                    sender.send(last.map_err(Status::from)).await.ok();
                    return;
                }
                // Its reader has gone: the push ends with its last waiter.
                () = sender.closed() => return,
                _ = ticks.tick() => {
                    let message = {
                        let seen = seen.borrow();
                        PushProgress {
                            phase: seen.phase.map_or(String::new(), |phase| phase.name().to_owned()),
                            blobs: blobs(&seen),
                            ..PushProgress::default()
                        }
                    };
                    // Before the image is found there is nothing to tell.
                    if !message.blobs.is_empty() {
                        sender.try_send(Ok(message)).ok();
                    }
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

fn blobs(seen: &Seen) -> Vec<PushedBlob> {
    seen.blobs
        .iter()
        .map(|blob| PushedBlob {
            digest: blob.digest.to_string(),
            state: match blob.state {
                BlobState::Waiting => State::Waiting,
                BlobState::Checking => State::Checking,
                BlobState::Sending => State::Sending,
                BlobState::Sent => State::Sent,
                BlobState::Exists => State::Exists,
                BlobState::Mounted(_) => State::Mounted,
            }
            .into(),
            sent: blob.sent,
            total: blob.total,
            from: match &blob.state {
                BlobState::Mounted(from) => from.clone(),
                _ => String::new(),
            },
        })
        .collect()
}
