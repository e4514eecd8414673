//! The table of operations as the rest of the agent sees it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use berth_phase::{Observer, Phase};
use tokio::sync::watch;

use super::{
    Context, Request, Value, Verb,
    admission::Abandoned,
    table::{Key, State, Table},
};
use crate::{
    error::Result,
    timeline::{Entry, Timeline},
};

/// The limits of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long a result waits for somebody to get it. A kubelet repeats a
    /// request that timed out within seconds, or after its back-off of at most
    /// five minutes.
    pub(crate) claim: Duration,
    /// How long a result that somebody got is given once more, because the
    /// reply may have been lost on its way.
    pub(crate) redelivery: Duration,
    /// How long a request waits for a different one to be undone.
    pub(crate) supersede: Duration,
    /// How often what is over is looked for.
    pub(crate) sweep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            claim: Duration::from_secs(5 * 60),
            redelivery: Duration::from_secs(60),
            supersede: Duration::from_secs(30),
            sweep: Duration::from_secs(5),
        }
    }
}

/// An operation in flight, for `berthctl` and metrics.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    /// What it does.
    pub(crate) verb: Verb,
    /// To what.
    pub(crate) object: String,
    /// The phase it is in; none before the first.
    pub(crate) phase: Option<Phase>,
    /// How long it has been in that phase.
    pub(crate) in_phase: Duration,
    /// When it began.
    pub(crate) since: SystemTime,
    /// How many callers wait for it.
    pub(crate) waiters: u32,
}

/// A result that nobody has got.
#[derive(Clone, Debug)]
pub(crate) struct Unclaimed {
    /// What was done.
    pub(crate) verb: Verb,
    /// To what.
    pub(crate) object: String,
    /// What came of it.
    pub(crate) value: Value,
    /// The objects that it made, in order; see [`Context::makes`].
    pub(crate) made: Vec<String>,
}

pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub(super) type Work = Box<dyn FnOnce(Context) -> Boxed<Result<Value>> + Send>;
pub(super) type OnUnclaimed = Box<dyn Fn(Unclaimed) -> Boxed<Result<()>> + Send + Sync>;

/// The table of operations; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Operations(Arc<Inner>);

pub(super) struct Inner {
    pub(super) table: Mutex<Table>,
    pub(super) limits: Limits,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) timeline: Option<Timeline>,
    pub(super) on_unclaimed: OnceLock<OnUnclaimed>,
    pub(super) sweeping: AtomicBool,
    /// How many tasks are under way.
    pub(super) running: watch::Sender<usize>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operations")
            .field("running", &*self.running.borrow())
            .finish_non_exhaustive()
    }
}

impl Operations {
    /// An empty table. `observer` is told of every phase of every operation, and
    /// what has ended is written to `timeline`.
    pub(crate) fn new(observer: Arc<dyn Observer>, timeline: Timeline) -> Self {
        Self::build(Some(observer), Some(timeline), Limits::default())
    }

    /// An empty table with limits of its own, of which nothing is written down.
    #[cfg(test)]
    pub(crate) fn with_limits(observer: Option<Arc<dyn Observer>>, limits: Limits) -> Self {
        Self::build(observer, None, limits)
    }

    fn build(
        observer: Option<Arc<dyn Observer>>,
        timeline: Option<Timeline>,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Inner {
            table: Mutex::default(),
            limits,
            observer,
            timeline,
            on_unclaimed: OnceLock::new(),
            sweeping: AtomicBool::new(false),
            running: watch::Sender::new(0),
        }))
    }

    /// Sets what takes an unclaimed object back; the first call counts. It must
    /// have limits of its own.
    pub(crate) fn on_unclaimed<F, Fut>(&self, withdraw: F)
    where
        F: Fn(Unclaimed) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let boxed: OnUnclaimed = Box::new(move |left| Box::pin(withdraw(left)));
        if self.0.on_unclaimed.set(boxed).is_err() {
            tracing::error!("what takes unclaimed objects back was set twice");
        }
    }

    /// Carries out what `request` asks for, or joins whoever does; see the module.
    ///
    /// # Errors
    /// That of the operation; DeadlineExceeded when this caller's deadline
    /// passes; Aborted if a different request cannot be undone in time or takes
    /// this one's place; Unavailable while the agent ends.
    pub(crate) async fn run<F, Fut>(&self, request: Request, make: F) -> Result<Value>
    where
        F: FnOnce(Context) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Value>> + Send + 'static,
    {
        self.0
            .run(request, Box::new(move |context| Box::pin(make(context))))
            .await
    }

    /// Whether `id` was made by an operation whose answer nobody has got yet.
    /// Such an object is not listed. When a pod stops, whoever stops it removes
    /// its unclaimed containers.
    pub(crate) fn is_unclaimed(&self, id: &str) -> bool {
        self.0
            .lock()
            .made
            .get(id)
            .is_some_and(|(_, hidden)| *hidden)
    }

    /// To be called when the object `id` is stopped or removed: no kept result
    /// names it any more, and it is hidden no more.
    pub(crate) fn forget(&self, id: &str) {
        let mut table = self.0.lock();
        if let Some((key, _)) = table.made.remove(id) {
            table.drop_finished(&key);
        }
        let started = Key {
            verb: Verb::StartContainer,
            object: id.into(),
        };
        table.drop_finished(&started);
    }

    /// The operations in flight, oldest first.
    pub(crate) fn list(&self) -> Vec<InFlight> {
        let table = self.0.lock();
        let mut list: Vec<_> = table
            .slots
            .values()
            .filter(|slot| !matches!(slot.state, State::Finished { .. }))
            .map(|slot| {
                let operation = &slot.operation;
                let current = operation.tracker.current();
                InFlight {
                    verb: operation.key.verb,
                    object: operation.key.object.to_string(),
                    phase: current.map(|(phase, _)| phase),
                    in_phase: current.map_or(Duration::ZERO, |(_, time)| time),
                    since: operation.since,
                    waiters: slot.waiters,
                }
            })
            .collect();
        drop(table);
        list.sort_by_key(|operation| operation.since);
        list
    }

    /// The operations in flight as the timeline will have them, oldest first.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let running: Vec<_> = self
            .0
            .lock()
            .slots
            .values()
            .filter(|slot| matches!(slot.state, State::Running))
            .map(|slot| Arc::clone(&slot.operation))
            .collect();
        let mut entries: Vec<_> = running
            .iter()
            .map(|operation| Entry {
                running: true,
                ..self.0.entry(operation)
            })
            .collect();
        entries.sort_by_key(|entry| entry.at);
        entries
    }

    /// Takes no more operations and waits until those in flight have ended: those that
    /// are only worth doing for a caller are called off at once, the others after
    /// `patience`. Returns what goes on after `limit`; [`Operations::resume`] then.
    pub(crate) async fn pause(&self, patience: Duration, limit: Duration) -> Vec<InFlight> {
        let end = tokio::time::Instant::now() + limit;
        self.0.lock().closed = true;
        self.call_off(|verb| verb.policy().abandoned == Abandoned::Cancel);
        let mut running = self.0.running.subscribe();
        let ended = running.wait_for(|count| *count == 0);
        if tokio::time::timeout(patience, ended).await.is_ok() {
            return Vec::new();
        }
        self.call_off(|_| true);
        let ended = running.wait_for(|count| *count == 0);
        match tokio::time::timeout_at(end, ended).await {
            Ok(_) => Vec::new(),
            Err(_elapsed) => self.list(),
        }
    }

    /// Takes operations again.
    pub(crate) fn resume(&self) {
        self.0.lock().closed = false;
    }

    fn call_off(&self, which: impl Fn(Verb) -> bool) {
        let table = self.0.lock();
        for slot in table.slots.values() {
            if matches!(slot.state, State::Running) && which(slot.operation.key.verb) {
                slot.operation.cancel.cancel();
            }
        }
    }

    /// Takes no more operations and waits for those in flight, at most for
    /// `limit`. Returns how many are left; recovery will find what they made.
    pub(crate) async fn drain(&self, limit: Duration) -> usize {
        self.0.lock().closed = true;
        let mut running = self.0.running.subscribe();
        match tokio::time::timeout(limit, running.wait_for(|count| *count == 0)).await {
            Ok(_) => 0,
            Err(_) => *self.0.running.borrow(),
        }
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing below can panic between two related changes.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
