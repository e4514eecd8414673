//! A caller's way through the table: starting, joining, waiting, leaving.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use berth_phase::{Phase, Tracker};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Fingerprint, Request, Value,
    admission::{Abandoned, Admission, Present, admit},
    operations::{Inner, Work},
    table::{Key, Operation, Slot, Stage, State},
    task,
};
use crate::{
    error::{Error, Kind, Result},
    timeline::Recorder,
};

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
    pub(super) async fn run(self: &Arc<Self>, request: Request, work: Work) -> Result<Value> {
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
        if table.closed && !task::is_part() {
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
        let recorder = Arc::new(Recorder::new(self.observer.clone()));
        let tracker = Tracker::new(key.verb.name(), recorder.clone());
        Arc::new(Operation {
            key,
            fingerprint,
            tracker,
            recorder,
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
