//! One transfer per layer on the node, however many pulls want it.
//!
//! ```text
//! nobody ──take──▶ running (n waiters) ──▶ over, its outcome with all of them
//!                       │ the last leaves
//!                       └──▶ cancelled; not to be joined any more, stops soon
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::LayerState;
use crate::{Error, name::Digest, store::Inner};

/// What a transfer brings. Equal archives may be compressed differently, and a false
/// configuration may say that a blob is another archive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(super) blob: Digest,
    /// None if it is not unpacked.
    pub(super) diff_id: Option<Digest>,
}

/// How far a transfer is.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) state: LayerState,
    /// Compressed bytes that are here.
    pub(super) fetched: u64,
    outcome: Option<Result<(), Arc<Error>>>,
}

impl Step {
    pub(super) fn new(state: LayerState, fetched: u64) -> Self {
        Self {
            state,
            fetched,
            outcome: None,
        }
    }
}

/// A layer on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    step: watch::Sender<Step>,
    pub(super) cancel: CancellationToken,
}

impl Transfer {
    pub(super) fn state(&self, state: LayerState) {
        self.step.send_modify(|step| step.state = state);
    }

    pub(super) fn fetched(&self, bytes: u64) {
        self.step.send_modify(|step| step.fetched = bytes);
    }
}

/// All transfers of a store.
#[derive(Debug, Default)]
pub(crate) struct Transfers(Mutex<HashMap<Key, Running>>);

#[derive(Debug)]
struct Running {
    transfer: Arc<Transfer>,
    waiters: usize,
}

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Running>> {
        // Each change is one step; a panic leaves a transfer that ends by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, key: &Key, transfer: &Arc<Transfer>) {
        let mut running = self.lock();
        if running
            .get(key)
            .is_some_and(|running| Arc::ptr_eq(&running.transfer, transfer))
        {
            running.remove(key);
        }
    }
}

/// A wish for a transfer's outcome; dropping it takes the wish back.
pub(super) struct Ticket {
    store: Arc<Inner>,
    key: Key,
    transfer: Arc<Transfer>,
    joined: bool,
}

impl Ticket {
    /// Joins the transfer of `key`, or starts `work` as one.
    pub(super) fn take<F>(
        store: &Arc<Inner>,
        key: &Key,
        work: impl FnOnce(Arc<Transfer>) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let mut running = store.transfers.lock();
        if let Some(running) = running.get_mut(key) {
            running.waiters += 1;
            return Self {
                store: Arc::clone(store),
                key: key.clone(),
                transfer: Arc::clone(&running.transfer),
                joined: true,
            };
        }
        let transfer = Arc::new(Transfer {
            step: watch::Sender::new(Step::new(LayerState::Waiting, 0)),
            cancel: CancellationToken::new(),
        });
        let started = Running {
            transfer: Arc::clone(&transfer),
            waiters: 1,
        };
        running.insert(key.clone(), started);
        drop(running);
        let ticket = Self {
            store: Arc::clone(store),
            key: key.clone(),
            transfer: Arc::clone(&transfer),
            joined: false,
        };
        let (store, key) = (Arc::clone(store), key.clone());
        // In the span of who asked first.
        let work = tokio::spawn(work(Arc::clone(&transfer)).in_current_span());
        tokio::spawn(async move {
            let outcome = work.await.map_err(Error::Worker).flatten();
            // First, so that who comes now looks at what is there.
            store.transfers.remove(&key, &transfer);
            transfer
                .step
                .send_modify(|step| step.outcome = Some(outcome.map_err(Arc::new)));
        });
        ticket
    }

    /// Whether another pull had started it.
    pub(super) fn joined(&self) -> bool {
        self.joined
    }

    /// Waits for the end; `show` sees every step.
    pub(super) async fn outcome(&self, show: impl Fn(&Step)) -> Result<(), Arc<Error>> {
        let mut steps = self.transfer.step.subscribe();
        loop {
            let outcome = {
                let step = steps.borrow_and_update();
                show(&step);
                step.outcome.clone()
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
            if steps.changed().await.is_err() {
                // The sender is held by this ticket.
                return Err(Arc::new(Error::Cancelled));
            }
        }
    }

    /// Takes the wish back; if it was the last one, waits for the transfer to stop.
    pub(super) async fn leave(self, limit: Duration) {
        let transfer = Arc::clone(&self.transfer);
        drop(self);
        if !transfer.cancel.is_cancelled() {
            return;
        }
        let mut steps = transfer.step.subscribe();
        let over = steps.wait_for(|step| step.outcome.is_some());
        if tokio::time::timeout(limit, over).await.is_err() {
            tracing::warn!("an unpacking thread has not stopped yet");
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut all = self.store.transfers.lock();
        let Some(running) = all.get_mut(&self.key) else {
            return;
        };
        if !Arc::ptr_eq(&running.transfer, &self.transfer) {
            return;
        }
        running.waiters -= 1;
        if running.waiters == 0 {
            all.remove(&self.key);
            self.transfer.cancel.cancel();
        }
    }
}
