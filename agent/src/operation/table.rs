//! The table of operations.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use berth_phase::{Observer, Phase, Tracker};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Context, Fingerprint, Request, Value, Verb,
    admission::{Abandoned, Admission, Present, admit},
    task,
};
use crate::error::{Error, Kind, Result};

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

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub(super) type Work = Box<dyn FnOnce(Context) -> Boxed<Result<Value>> + Send>;
type OnUnclaimed = Box<dyn Fn(Unclaimed) -> Boxed<Result<()>> + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) verb: Verb,
    pub(super) object: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    Withdrawing,
    /// Over: whoever waits for the end looks at the table again.
    Over,
}

/// One operation, as its task and its callers share it.
pub(super) struct Operation {
    pub(super) key: Key,
    fingerprint: Fingerprint,
    pub(super) tracker: Tracker,
    pub(super) cancel: CancellationToken,
    since: SystemTime,
    stage: watch::Sender<Stage>,
    result: OnceLock<Result<Value>>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key.verb, self.key.object)
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("key", &self.key)
            .field("stage", &*self.stage.borrow())
            .finish_non_exhaustive()
    }
}

enum State {
    Running,
    Finished {
        value: Value,
        at: Instant,
        claimed_at: Option<Instant>,
    },
    Withdrawing,
}

struct Slot {
    operation: Arc<Operation>,
    waiters: u32,
    state: State,
    made: Vec<String>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<Key, Slot>,
    /// The objects of `Slot::made`, with the key of their slot and whether they are hidden.
    made: HashMap<String, (Key, bool)>,
    closed: bool,
}

/// The table of operations; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Operations(Arc<Inner>);

pub(super) struct Inner {
    table: Mutex<Table>,
    limits: Limits,
    observer: Option<Arc<dyn Observer>>,
    on_unclaimed: OnceLock<OnUnclaimed>,
    sweeping: AtomicBool,
    /// How many tasks are under way.
    running: watch::Sender<usize>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operations")
            .field("running", &*self.running.borrow())
            .finish_non_exhaustive()
    }
}

impl Operations {
    /// An empty table. `observer` is told of every phase of every operation.
    pub(crate) fn new(observer: Option<Arc<dyn Observer>>) -> Self {
        Self::with_limits(observer, Limits::default())
    }

    /// An empty table with limits of its own.
    pub(crate) fn with_limits(observer: Option<Arc<dyn Observer>>, limits: Limits) -> Self {
        Self(Arc::new(Inner {
            table: Mutex::default(),
            limits,
            observer,
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

/// One caller that waits; leaving is dropping it.
struct Waiter {
    inner: Arc<Inner>,
    operation: Arc<Operation>,
    stage: watch::Receiver<Stage>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut table = self.inner.lock();
        let Some(slot) = table.slot_of(&self.operation) else {
            return;
        };
        slot.waiters -= 1;
        let last = slot.waiters == 0 && matches!(slot.state, State::Running);
        if last && self.operation.key.verb.policy().abandoned == Abandoned::Cancel {
            self.operation.cancel.cancel();
        }
    }
}

/// What a look at the table came to.
enum Next {
    Deliver(Waiter),
    Given(Value),
    /// Until the operation is over, or not longer than the limit.
    Wait(Arc<Operation>, watch::Receiver<Stage>, Option<Duration>),
}

impl Inner {
    async fn run(self: &Arc<Self>, request: Request, work: Work) -> Result<Value> {
        let began = Instant::now();
        if request.deadline.is_some_and(|at| at <= began) {
            return Err(Error::deadline(format!(
                "{} {} was not begun: the deadline had passed",
                request.verb, request.object
            )));
        }
        let mut work = Some(work);
        loop {
            match self.look(&request, &mut work)? {
                Next::Given(value) => return Ok(value),
                Next::Deliver(mut waiter) => {
                    let operation = Arc::clone(&waiter.operation);
                    let over = waiter.stage.wait_for(|stage| *stage != Stage::Running);
                    within(request.deadline, over)
                        .await
                        .map_err(|Passed| past_deadline(&operation, began))?;
                    return self.claim(&operation);
                }
                Next::Wait(operation, mut stage, limit) => {
                    let until = limit.map(|limit| Instant::now() + limit);
                    let until = [until, request.deadline].into_iter().flatten().min();
                    let over = stage.wait_for(|stage| *stage == Stage::Over);
                    within(until, over).await.map_err(|Passed| {
                        if request.deadline.is_some_and(|at| at <= Instant::now()) {
                            past_deadline(&operation, began)
                        } else {
                            not_undone(&operation)
                        }
                    })?;
                }
            }
        }
    }

    /// Decides under the lock what becomes of `request`; takes `work` if it starts.
    fn look(self: &Arc<Self>, request: &Request, work: &mut Option<Work>) -> Result<Next> {
        let key = Key {
            verb: request.verb,
            object: request.object.as_str().into(),
        };
        let mut guard = self.lock();
        let table = &mut *guard;
        if table.closed {
            return Err(Error::unavailable("the agent is ending")
                .with_remedy("repeat the request when it is back"));
        }
        table.drop_if_over(&key, &self.limits);
        let (present, same) = match table.slots.get(&key) {
            None => (Present::Nothing, false),
            Some(slot) => (
                slot.present(),
                slot.operation.fingerprint == request.fingerprint,
            ),
        };
        let admission = admit(key.verb.policy(), present, same);
        if admission == Admission::Start {
            let Some(work) = work.take() else {
                // Not reachable: a request that has started returns with its result.
                return Err(Error::internal("an operation was started twice"));
            };
            table.drop_slot(&key);
            let operation = self.operation(key, request.fingerprint);
            table.slots.insert(
                operation.key.clone(),
                Slot {
                    operation: Arc::clone(&operation),
                    waiters: 1,
                    state: State::Running,
                    made: Vec::new(),
                },
            );
            let stage = operation.stage.subscribe();
            drop(guard);
            self.start_sweeping();
            self.running.send_modify(|count| *count += 1);
            task::spawn(Arc::clone(self), Arc::clone(&operation), work);
            return Ok(Next::Deliver(Waiter {
                inner: Arc::clone(self),
                operation,
                stage,
            }));
        }
        let Some(slot) = table.slots.get_mut(&key) else {
            return Err(Error::internal("an operation is not in its table"));
        };
        let operation = Arc::clone(&slot.operation);
        let stage = operation.stage.subscribe();
        Ok(match admission {
            Admission::Start | Admission::Join => {
                slot.waiters += 1;
                Next::Deliver(Waiter {
                    inner: Arc::clone(self),
                    operation,
                    stage,
                })
            }
            Admission::Take => match &mut slot.state {
                State::Finished {
                    value, claimed_at, ..
                } => {
                    let value = value.clone();
                    let again = claimed_at.is_some();
                    *claimed_at = Some(Instant::now());
                    table.show(&key);
                    if again {
                        table.drop_slot(&key);
                    }
                    Next::Given(value)
                }
                State::Running | State::Withdrawing => {
                    Next::Wait(operation, stage, Some(self.limits.supersede))
                }
            },
            Admission::Supersede => {
                operation.cancel.cancel();
                Next::Wait(operation, stage, Some(self.limits.supersede))
            }
            Admission::Wait => {
                // An operation that goes on ends by its own limits; one that is
                // being undone should not take long.
                let ending =
                    operation.cancel.is_cancelled() || matches!(slot.state, State::Withdrawing);
                Next::Wait(operation, stage, ending.then_some(self.limits.supersede))
            }
            Admission::Withdraw => {
                self.withdraw(slot);
                Next::Wait(operation, stage, Some(self.limits.supersede))
            }
        })
    }

    fn operation(&self, key: Key, fingerprint: Fingerprint) -> Arc<Operation> {
        let name = key.verb.name();
        let tracker = match &self.observer {
            Some(observer) => Tracker::new(name, Arc::clone(observer)),
            None => Tracker::unobserved(name),
        };
        Arc::new(Operation {
            key,
            fingerprint,
            tracker,
            cancel: CancellationToken::new(),
            since: SystemTime::now(),
            stage: watch::Sender::new(Stage::Running),
            result: OnceLock::new(),
        })
    }

    /// A caller that is there gets the result.
    fn claim(&self, operation: &Arc<Operation>) -> Result<Value> {
        let mut table = self.lock();
        if let Some(slot) = table.slot_of(operation) {
            match &mut slot.state {
                State::Finished { claimed_at, .. } => {
                    claimed_at.get_or_insert_with(Instant::now);
                    table.show(&operation.key);
                }
                State::Withdrawing => {
                    return Err(Error::new(
                        Kind::Aborted,
                        format!("{operation} was taken back before its caller got the result"),
                    ));
                }
                State::Running => {}
            }
        }
        drop(table);
        match operation.result.get() {
            Some(result) => result.clone(),
            None => Err(Error::internal(format!(
                "{operation} ended without a result"
            ))),
        }
    }

    /// To be called by the operation's task, once, when all is done or undone.
    pub(super) fn finished(&self, operation: &Arc<Operation>, result: Result<Value>) {
        let policy = operation.key.verb.policy();
        if let (Ok(Value::Id(id)), true) = (&result, policy.withdraw) {
            self.hide(operation, id);
        }
        let failure = result.as_ref().err().map(Error::sentence);
        let mut unheard = false;
        let mut table = self.lock();
        if let Some(slot) = table.slot_of(operation) {
            unheard = slot.waiters == 0;
            match &result {
                Ok(value) if policy.keep => {
                    slot.state = State::Finished {
                        value: value.clone(),
                        at: Instant::now(),
                        claimed_at: None,
                    };
                }
                Ok(_) | Err(_) => table.drop_slot(&operation.key),
            }
        }
        // Before the lock is free: who claims must find it.
        let first = operation.result.set(result).is_ok();
        drop(table);
        operation.stage.send_replace(Stage::Over);
        self.running.send_modify(|count| *count -= 1);
        let (verb, object) = (operation.key.verb, &operation.key.object);
        if let (true, Some(error)) = (unheard, failure) {
            // Nobody is left to return it to.
            tracing::warn!(%verb, %object, error, "an operation failed after its callers had left");
        }
        if !first {
            tracing::error!(%verb, %object, "an operation ended twice");
        }
    }

    pub(super) fn hide(&self, operation: &Arc<Operation>, id: &str) {
        let mut table = self.lock();
        let Some(slot) = table.slot_of(operation) else {
            return;
        };
        if slot.made.iter().any(|made| made == id) {
            return;
        }
        slot.made.push(id.to_owned());
        let key = operation.key.clone();
        table.made.insert(id.to_owned(), (key, true));
    }

    /// Takes an unclaimed result back, in a task of its own.
    fn withdraw(self: &Arc<Self>, slot: &mut Slot) {
        let State::Finished { value, .. } = std::mem::replace(&mut slot.state, State::Withdrawing)
        else {
            return;
        };
        let operation = Arc::clone(&slot.operation);
        operation.stage.send_replace(Stage::Withdrawing);
        let left = Unclaimed {
            verb: operation.key.verb,
            object: operation.key.object.to_string(),
            value,
            made: slot.made.clone(),
        };
        let inner = Arc::clone(self);
        self.running.send_modify(|count| *count += 1);
        tokio::spawn(async move {
            let undone = match inner.on_unclaimed.get() {
                Some(withdraw) => tokio::spawn(withdraw(left)).await,
                None => Ok(Ok(())),
            };
            let failed = match undone {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.sentence()),
                Err(panic) => Some(panic.to_string()),
            };
            if let Some(error) = failed {
                // It becomes visible, so that a caller can remove it.
                tracing::warn!(verb = %operation.key.verb, object = %operation.key.object, error, "what nobody has claimed could not be taken back");
            }
            inner.lock().drop_slot(&operation.key);
            operation.stage.send_replace(Stage::Over);
            inner.running.send_modify(|count| *count -= 1);
        });
    }

    fn start_sweeping(self: &Arc<Self>) {
        if self.sweeping.swap(true, Ordering::Relaxed) {
            return;
        }
        let inner = Arc::downgrade(self);
        let every = self.limits.sweep;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                let Some(inner) = inner.upgrade() else { return };
                inner.sweep();
            }
        });
    }

    fn sweep(self: &Arc<Self>) {
        let mut table = self.lock();
        let keys: Vec<Key> = table.slots.keys().cloned().collect();
        for key in keys {
            table.drop_if_over(&key, &self.limits);
            let Some(slot) = table.slots.get_mut(&key) else {
                continue;
            };
            let unclaimed = key.verb.policy().withdraw
                && slot.waiters == 0
                && matches!(&slot.state, State::Finished { claimed_at: None, at, .. }
                    if at.elapsed() > self.limits.claim);
            if unclaimed {
                self.withdraw(slot);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing below can panic between two related changes.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn present(&self) -> Present {
        match &self.state {
            State::Running => Present::Running {
                cancelled: self.operation.cancel.is_cancelled(),
            },
            State::Finished { claimed_at, .. } => Present::Finished {
                // Callers that wait and have not been woken yet will get it.
                claimed: claimed_at.is_some() || self.waiters > 0,
            },
            State::Withdrawing => Present::Withdrawing,
        }
    }
}

impl Table {
    fn slot_of(&mut self, operation: &Arc<Operation>) -> Option<&mut Slot> {
        self.slots
            .get_mut(&operation.key)
            .filter(|slot| Arc::ptr_eq(&slot.operation, operation))
    }

    fn drop_slot(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            for id in slot.made {
                self.made.remove(&id);
            }
        }
    }

    fn drop_finished(&mut self, key: &Key) {
        let finished = self
            .slots
            .get(key)
            .is_some_and(|slot| matches!(slot.state, State::Finished { .. }));
        if finished {
            self.drop_slot(key);
        }
    }

    /// Drops a kept result whose time is over, unless it must be taken back.
    fn drop_if_over(&mut self, key: &Key, limits: &Limits) {
        let over = self.slots.get(key).is_some_and(|slot| match &slot.state {
            State::Finished {
                claimed_at: Some(at),
                ..
            } => at.elapsed() > limits.redelivery,
            State::Finished {
                claimed_at: None,
                at,
                ..
            } => {
                !key.verb.policy().withdraw && slot.waiters == 0 && at.elapsed() > limits.redelivery
            }
            State::Running | State::Withdrawing => false,
        });
        if over {
            self.drop_slot(key);
        }
    }

    /// Somebody has got the answer of `key`: what it made is hidden no more.
    fn show(&mut self, key: &Key) {
        let Some(slot) = self.slots.get(key) else {
            return;
        };
        for id in &slot.made {
            if let Some((_, hidden)) = self.made.get_mut(id) {
                *hidden = false;
            }
        }
    }
}

/// The limit has passed.
struct Passed;

async fn within<T>(
    until: Option<Instant>,
    over: impl Future<Output = T>,
) -> std::result::Result<(), Passed> {
    match until {
        None => {
            over.await;
            Ok(())
        }
        // A result that is there wins over a deadline that has passed.
        Some(at) => match tokio::time::timeout_at(at, over).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Passed),
        },
    }
}

fn where_it_is(operation: &Operation) -> (Option<Phase>, String) {
    match operation.tracker.current() {
        Some((phase, time)) => (
            Some(phase),
            format!("in phase {phase} for {:.1} s", time.as_secs_f64()),
        ),
        None => (None, "before its first phase".to_owned()),
    }
}

fn past_deadline(operation: &Operation, began: Instant) -> Error {
    let (phase, place) = where_it_is(operation);
    let error = Error::deadline(format!(
        "{operation} is not done after {:.1} s: {place}",
        began.elapsed().as_secs_f64()
    ))
    .in_phase(phase);
    match operation.key.verb.policy().abandoned {
        Abandoned::Finish => error.with_remedy("it goes on; the same request joins it"),
        Abandoned::Cancel => error.with_remedy("the same request continues with what has arrived"),
    }
}

fn not_undone(operation: &Operation) -> Error {
    let (phase, place) = where_it_is(operation);
    Error::new(
        Kind::Aborted,
        format!("a different {operation} is still being undone: {place}"),
    )
    .in_phase(phase)
    .with_remedy("repeat the request")
}
