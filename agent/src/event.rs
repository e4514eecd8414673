//! What GetContainerEvents tells: every step in the life of containers and pods, to
//! everybody who listens.
//!
//! Each listener has a queue of its own, bounded in events and in bytes. Who does not
//! keep up is cut off and told so: a kubelet then lists everything anew, which an event
//! that is missing in silence would not make it do. Without listeners nothing is made.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use berth_proto::cri::{ContainerEventResponse, ContainerEventType};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::Stream;

use crate::{
    container,
    error::{Error, Kind, Result},
    ids::SandboxId,
    node::{Node, now},
    sandbox,
};

/// Events that a listener may be behind; as many as a kubelet holds itself.
const MOST_EVENTS: usize = 1000;
/// Bytes that a listener may be behind: each event holds the whole pod.
const MOST_BYTES: usize = 16 << 20;
/// Listeners at a time. A node has one kubelet.
const MOST_LISTENERS: usize = 64;

/// Everybody who listens.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<Listeners>);

#[derive(Debug, Default)]
struct Listeners {
    all: Vec<Listener>,
    /// Of the last event: times never go back, nor stand still.
    last: i64,
}

#[derive(Debug)]
struct Listener {
    queue: mpsc::Sender<Arc<ContainerEventResponse>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// In the queue.
    bytes: AtomicUsize,
    /// It did not keep up.
    cut_off: AtomicBool,
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, Listeners> {
        // A panic elsewhere leaves at most an event untold.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// ResourceExhausted if too many do.
    pub(crate) fn listen(&self) -> Result<Listening> {
        let mut listeners = self.lock();
        listeners.all.retain(|one| !one.queue.is_closed());
        if listeners.all.len() >= MOST_LISTENERS {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!("{MOST_LISTENERS} callers listen to events already"),
            ));
        }
        let (queue, events) = mpsc::channel(MOST_EVENTS);
        let shared = Arc::new(Shared::default());
        listeners.all.push(Listener {
            queue,
            shared: shared.clone(),
        });
        Ok(Listening {
            events,
            shared,
            ended: false,
        })
    }

    /// A time for a status that is comparable with those of events.
    pub(crate) fn time(&self) -> i64 {
        self.lock().time()
    }

    /// Tells of the container or pod `id` in the pod `sandbox`, as both are now.
    pub(crate) fn tell(
        &self,
        node: &Node,
        sandbox: &SandboxId,
        id: &str,
        kind: ContainerEventType,
    ) {
        let mut listeners = self.lock();
        if listeners.all.is_empty() {
            return;
        }
        let Some(event) = event(node, sandbox, id, kind) else {
            return;
        };
        listeners.send(event);
    }
}

impl Listeners {
    fn time(&mut self) -> i64 {
        self.last = now().max(self.last + 1);
        self.last
    }

    fn send(&mut self, mut event: ContainerEventResponse) {
        event.created_at = self.time();
        let size = event.encoded_len();
        let event = Arc::new(event);
        self.all.retain(|listener| {
            let behind = listener.shared.bytes.fetch_add(size, Ordering::Relaxed);
            // One event may be larger than all that may wait.
            let fits = behind == 0 || behind + size <= MOST_BYTES;
            if fits && listener.queue.try_send(event.clone()).is_ok() {
                return true;
            }
            listener.shared.cut_off.store(true, Ordering::Relaxed);
            false
        });
    }
}

/// None of a pod that is not known any more, or that people made.
fn event(
    node: &Node,
    sandbox: &SandboxId,
    id: &str,
    kind: ContainerEventType,
) -> Option<ContainerEventResponse> {
    let pod = sandbox::snapshot(node, sandbox)?;
    Some(ContainerEventResponse {
        container_id: id.to_owned(),
        container_event_type: kind.into(),
        created_at: 0,
        pod_sandbox_status: Some(pod),
        containers_statuses: container::statuses(node, sandbox),
    })
}

/// The events from now on, until the listener is cut off.
#[derive(Debug)]
pub(crate) struct Listening {
    events: mpsc::Receiver<Arc<ContainerEventResponse>>,
    shared: Arc<Shared>,
    ended: bool,
}

impl Stream for Listening {
    type Item = Result<ContainerEventResponse>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.events.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(event)) => {
                let size = event.encoded_len();
                self.shared.bytes.fetch_sub(size, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Arc::unwrap_or_clone(event))))
            }
            Poll::Ready(None) if !self.ended && self.shared.cut_off.load(Ordering::Relaxed) => {
                self.ended = true;
                let error = Error::new(
                    Kind::ResourceExhausted,
                    "events were not taken as fast as they came, and some are lost",
                );
                Poll::Ready(Some(Err(
                    error.with_remedy("list everything, and listen again")
                )))
            }
            Poll::Ready(None) => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;

    fn sized(bytes: usize) -> ContainerEventResponse {
        ContainerEventResponse {
            container_id: "x".repeat(bytes),
            ..ContainerEventResponse::default()
        }
    }

    async fn all(mut listening: Listening) -> (usize, Option<Kind>) {
        let mut count = 0;
        while let Some(next) = listening.next().await {
            match next {
                Ok(_) => count += 1,
                Err(error) => return (count, Some(error.kind())),
            }
        }
        (count, None)
    }

    #[tokio::test]
    async fn who_is_slow_gets_what_is_queued_and_then_an_error_and_others_go_on() {
        let events = Events::default();
        let slow = events.listen().unwrap();
        let mut quick = events.listen().unwrap();
        let mut last = 0;
        for _ in 0..=MOST_EVENTS {
            events.lock().send(sized(1));
            let event = quick.next().await.unwrap().unwrap();
            assert!(event.created_at > last);
            last = event.created_at;
        }
        assert_eq!(
            all(slow).await,
            (MOST_EVENTS, Some(Kind::ResourceExhausted))
        );
        drop(events);
        assert_eq!(all(quick).await, (0, None));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_but_one_event_always_fits() {
        let events = Events::default();
        let slow = events.listen().unwrap();
        for _ in 0..3 {
            events.lock().send(sized(MOST_BYTES - 100));
        }
        assert_eq!(all(slow).await, (1, Some(Kind::ResourceExhausted)));
        let one = events.listen().unwrap();
        events.lock().send(sized(2 * MOST_BYTES));
        drop(events);
        assert_eq!(all(one).await, (1, None));
    }

    #[test]
    fn listeners_are_bounded_and_those_who_left_do_not_count() {
        let events = Events::default();
        let many: Vec<_> = (0..MOST_LISTENERS)
            .map(|_| events.listen().unwrap())
            .collect();
        assert_eq!(events.listen().unwrap_err().kind(), Kind::ResourceExhausted);
        drop(many);
        assert!(events.listen().is_ok());
    }
}
