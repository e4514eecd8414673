//! What the table holds, under one lock.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use berth_phase::Tracker;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Fingerprint, Limits, Value, Verb, admission::Present};
use crate::{error::Result, timeline::Recorder};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) verb: Verb,
    pub(super) object: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Running,
    Withdrawing,
    /// Over: whoever waits for the end looks at the table again.
    Over,
}

/// One operation, as its task and its callers share it.
pub(super) struct Operation {
    pub(super) key: Key,
    pub(super) fingerprint: Fingerprint,
    pub(super) tracker: Tracker,
    pub(super) recorder: Arc<Recorder>,
    pub(super) cancel: CancellationToken,
    pub(super) since: SystemTime,
    pub(super) stage: watch::Sender<Stage>,
    pub(super) result: OnceLock<Result<Value>>,
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

pub(super) enum State {
    Running,
    Finished {
        value: Value,
        at: Instant,
        claimed_at: Option<Instant>,
    },
    Withdrawing,
}

pub(super) struct Slot {
    pub(super) operation: Arc<Operation>,
    pub(super) waiters: u32,
    pub(super) state: State,
    pub(super) made: Vec<String>,
}

#[derive(Default)]
pub(super) struct Table {
    pub(super) slots: HashMap<Key, Slot>,
    /// The objects of `Slot::made`, with the key of their slot and whether they are hidden.
    pub(super) made: HashMap<String, (Key, bool)>,
    pub(super) closed: bool,
}

impl Slot {
    pub(super) fn present(&self) -> Present {
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
    pub(super) fn slot_of(&mut self, operation: &Arc<Operation>) -> Option<&mut Slot> {
        self.slots
            .get_mut(&operation.key)
            .filter(|slot| Arc::ptr_eq(&slot.operation, operation))
    }

    pub(super) fn drop_slot(&mut self, key: &Key) {
        if let Some(slot) = self.slots.remove(key) {
            for id in slot.made {
                self.made.remove(&id);
            }
        }
    }

    pub(super) fn drop_finished(&mut self, key: &Key) {
        let finished = self
            .slots
            .get(key)
            .is_some_and(|slot| matches!(slot.state, State::Finished { .. }));
        if finished {
            self.drop_slot(key);
        }
    }

    /// Drops a kept result whose time is over, unless it must be taken back.
    pub(super) fn drop_if_over(&mut self, key: &Key, limits: &Limits) {
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
    pub(super) fn show(&mut self, key: &Key) {
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
