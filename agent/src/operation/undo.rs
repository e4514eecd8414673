//! Undo steps that run in reverse.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use berth_phase::{Phase, Tracker};

use crate::error::Error;

/// A step that takes longer is reported and left to itself: unmounting from a
/// network that is gone must not keep the following steps from running.
const STEP_LIMIT: Duration = Duration::from_secs(20);

type Run = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>> + Send>;

struct Step {
    name: &'static str,
    only_if_clean: bool,
    run: Run,
}

/// What must be undone if the operation does not succeed; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Undo(Arc<Mutex<Vec<Step>>>);

impl Undo {
    /// Adds a step; to be called *before* the effect is made, so `run` must
    /// bear that there is nothing to undo. The name is also that of the
    /// failpoint `operation.rollback.name`.
    pub(crate) fn push<F, Fut>(&self, name: &'static str, run: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.add(name, false, run);
    }

    /// Adds a step that is skipped if a step pushed after it could not be
    /// undone. For the record: while something is left behind it must stay, so
    /// that a removal can be repeated.
    pub(crate) fn push_if_clean<F, Fut>(&self, name: &'static str, run: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.add(name, true, run);
    }

    fn add<F, Fut>(&self, name: &'static str, only_if_clean: bool, run: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.lock().push(Step {
            name,
            only_if_clean,
            run: Box::new(move || Box::pin(run())),
        });
    }

    /// Forgets all steps: what was made stays.
    pub(super) fn disarm(&self) {
        self.lock().clear();
    }

    /// Carries all steps out, last first, and returns what failed.
    pub(super) async fn unwind(&self, tracker: &Tracker) -> Vec<Error> {
        let mut failures = Vec::new();
        while let Some(step) = self.pop() {
            if step.only_if_clean && !failures.is_empty() {
                continue;
            }
            let outcome = match tracker.enter(Phase::Rollback, step.name) {
                Ok(()) => carry_out(step.run).await,
                Err(injected) => Err(injected.into()),
            };
            if let Err(error) = outcome {
                let failure = Error::new(error.kind(), format!("undo {}", step.name));
                failures.push(failure.with_source(error).in_phase(Some(Phase::Rollback)));
            }
        }
        failures
    }

    fn pop(&self) -> Option<Step> {
        self.lock().pop()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In a task of its own: a panic ends only this step.
async fn carry_out(run: Run) -> Result<(), Error> {
    let task = tokio::spawn(super::task::part(async move { run().await }));
    match tokio::time::timeout(STEP_LIMIT, task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(join)) => Err(Error::internal("the step panicked").with_source(join)),
        Err(elapsed) => Err(Error::deadline(format!(
            "not done after {} s, it goes on",
            STEP_LIMIT.as_secs()
        ))
        .with_source(elapsed)),
    }
}

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<_> = self.lock().iter().map(|step| step.name).collect();
        f.debug_tuple("Undo").field(&steps).finish()
    }
}
