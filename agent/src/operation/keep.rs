//! What becomes of an operation that has ended: kept, handed out, taken back.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::Instant;

use super::{
    Unclaimed, Value,
    operations::Inner,
    table::{Key, Operation, Slot, Stage, State},
};
use crate::{
    error::{Error, Result},
    timeline::Entry,
};

/// Of sandboxes, containers and images.
const ID_DIGITS: usize = 64;

impl Inner {
    /// To be called by the operation's task, once, when all is done or undone.
    pub(super) fn finished(&self, operation: &Arc<Operation>, result: Result<Value>) {
        let policy = operation.key.verb.policy();
        if let (Ok(Value::Id(id)), true) = (&result, policy.withdraw) {
            self.hide(operation, id);
        }
        let failure = result.as_ref().err().map(Error::sentence);
        self.write_down(operation, &result, failure.clone());
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

    /// Into the timeline.
    fn write_down(&self, operation: &Operation, result: &Result<Value>, failure: Option<String>) {
        let Some(timeline) = &self.timeline else {
            return;
        };
        let mut entry = self.entry(operation);
        if let Ok(Value::Id(ids)) = result {
            for id in ids.split(' ') {
                // What else a result may say is none.
                let is_id = id.trim_start_matches("sha256:").len() == ID_DIGITS;
                if is_id && !entry.ids.iter().any(|known| known == id) {
                    entry.ids.push(id.to_owned());
                }
            }
        }
        entry.error = failure.unwrap_or_default();
        timeline.add(entry);
    }

    /// What the timeline has of an operation until now.
    pub(super) fn entry(&self, operation: &Operation) -> Entry {
        let mut entry = operation.recorder.entry(operation.tracker.current());
        entry.what = operation.key.verb.name().to_owned();
        entry.object = operation.key.object.to_string();
        if let Some(slot) = self.lock().slots.get(&operation.key) {
            entry.ids.clone_from(&slot.made);
        }
        entry
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
    pub(super) fn withdraw(self: &Arc<Self>, slot: &mut Slot) {
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
                Some(withdraw) => tokio::spawn(super::task::part(withdraw(left))).await,
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

    pub(super) fn start_sweeping(self: &Arc<Self>) {
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
        if table.closed {
            // What is begun now would not end in time.
            return;
        }
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
}
