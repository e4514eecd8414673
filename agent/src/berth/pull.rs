//! Pull with progress.

use std::sync::Arc;

use berth_image::{LayerState, Platform, PullProgress as Seen};
use berth_proto::berth::v1::{BlobProgress, PullProgress, PullRequest, blob_progress::State};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, Instant, MissedTickBehavior},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

use crate::{
    error::{Error, Result},
    image,
    node::Node,
};

/// Often enough for a smooth bar.
const EVERY: Duration = Duration::from_millis(100);
/// A client that does not read loses messages, not the pull.
const QUEUE: usize = 16;

pub(super) fn pull(
    node: Arc<Node>,
    request: PullRequest,
    deadline: Option<Instant>,
) -> impl Stream<Item = std::result::Result<PullProgress, Status>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let progress = watch::Sender::new(Seen::default());
        let seen = progress.subscribe();
        let machines = match machines(&request) {
            Ok(machines) => machines,
            Err(error) => {
                // Nobody to be told is nobody who pulls.
                sender.send(Err(error.into())).await.ok();
                return;
            }
        };
        let work = image::pull(
            &node,
            &request.reference,
            machines,
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
                        digest: pulled.digest,
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

fn machines(request: &PullRequest) -> Result<image::Machines> {
    Ok(image::Machines {
        platform: platform(&request.platform)?,
        all: request.all_platforms,
    })
}

/// `OS/ARCHITECTURE[/VARIANT]`; empty for the node's own.
///
/// # Errors
/// InvalidArgument for anything else.
pub(super) fn platform(text: &str) -> Result<Option<Platform>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse::<crate::config::Platform>();
    let platform = parsed.map_err(|()| {
        Error::invalid(format!("{text:?} is no platform"))
            .with_remedy("give OS/ARCHITECTURE[/VARIANT], such as linux/arm64")
    })?;
    Ok(Some(platform.into()))
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
