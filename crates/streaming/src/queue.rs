//! Bytes from a connection's reader to a stream's consumer, bounded in bytes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// Bytes that may wait for a consumer before its connection is no longer read.
const BUDGET: usize = 1024 * 1024;
/// How often a reader that waits for a consumer looks whether the client is still there.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(crate) struct Sender {
    data: mpsc::UnboundedSender<Bytes>,
    budget: Arc<Semaphore>,
}

/// Dropping it lets a sender that waits go on; its bytes are dropped then.
#[derive(Debug)]
pub(crate) struct Receiver {
    data: mpsc::UnboundedReceiver<Bytes>,
    budget: Arc<Semaphore>,
}

/// A queue; it ends for the receiver when the last sender is dropped.
pub(crate) fn queue() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let budget = Arc::new(Semaphore::new(BUDGET));
    (
        Sender {
            data: sender,
            budget: Arc::clone(&budget),
        },
        Receiver {
            data: receiver,
            budget,
        },
    )
}

fn cost(bytes: &Bytes) -> usize {
    bytes.len().min(BUDGET)
}

impl Sender {
    /// Waits a moment for room and hands `bytes` over; `false` if there was none. The
    /// caller then looks whether trying again still makes sense.
    pub(crate) async fn offer(&self, bytes: &Bytes) -> bool {
        let cost = u32::try_from(cost(bytes)).unwrap_or(u32::MAX);
        match timeout(LOOK, self.budget.acquire_many(cost)).await {
            Ok(Ok(permit)) => {
                permit.forget();
                drop(self.data.send(bytes.clone()));
                true
            }
            // Nobody reads it any more: dropped like all that follows.
            Ok(Err(_closed)) => true,
            Err(_elapsed) => false,
        }
    }
}

impl Receiver {
    /// The next bytes; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let bytes = self.data.recv().await?;
        self.budget.add_permits(cost(&bytes));
        Some(bytes)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.budget.close();
    }
}
