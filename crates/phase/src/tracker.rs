//! What an operation is doing right now.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{Injected, Phase, failpoint};

/// Told of every finished phase; the agent's makes spans and metrics of it.
pub trait Observer: Send + Sync {
    /// `step` of `phase` of `operation` began.
    fn began(&self, operation: &'static str, phase: Phase, step: &'static str) {
        let _ = (operation, phase, step);
    }
    /// `phase` of `operation` took `took`.
    fn ended(&self, operation: &'static str, phase: Phase, took: Duration);
}

/// The phase of one operation; clones share it.
#[derive(Clone)]
pub struct Tracker(Arc<Inner>);

struct Inner {
    operation: &'static str,
    observer: Option<Arc<dyn Observer>>,
    current: Mutex<Option<(Phase, Instant)>>,
}

impl Tracker {
    /// A tracker for `operation`, a stable name such as `create-container`.
    #[must_use]
    pub fn new(operation: &'static str, observer: Arc<dyn Observer>) -> Self {
        Self::build(operation, Some(observer))
    }

    /// A tracker that nobody observes; failpoints work all the same.
    #[must_use]
    pub fn unobserved(operation: &'static str) -> Self {
        Self::build(operation, None)
    }

    fn build(operation: &'static str, observer: Option<Arc<dyn Observer>>) -> Self {
        Self(Arc::new(Inner {
            operation,
            observer,
            current: Mutex::new(None),
        }))
    }

    /// The operation's name.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Ends the present phase and begins `phase`. `step` tells several
    /// boundaries of one phase apart and may be empty.
    ///
    /// The failpoint `operation.phase` or `operation.phase.step` is hit here,
    /// that is, before anything of the step is done.
    ///
    /// # Errors
    /// [`Injected`] when a failpoint asks for it; never otherwise.
    pub fn enter(&self, phase: Phase, step: &'static str) -> Result<(), Injected> {
        let now = Instant::now();
        let before = self.lock().replace((phase, now));
        if let Some(observer) = &self.0.observer {
            if let Some((old, since)) = before {
                observer.ended(self.0.operation, old, now.duration_since(since));
            }
            observer.began(self.0.operation, phase, step);
        }
        failpoint::hit(self.0.operation, phase, step)
    }

    /// Ends the last phase; also hits the failpoint `operation.done`.
    ///
    /// # Errors
    /// As [`Tracker::enter`].
    pub fn finish(&self) -> Result<(), Injected> {
        self.end();
        failpoint::hit_named(self.0.operation, "done")
    }

    /// Ends the last phase without a failpoint, for an operation that failed.
    pub fn end(&self) {
        let before = self.lock().take();
        if let (Some(observer), Some((old, since))) = (&self.0.observer, before) {
            observer.ended(self.0.operation, old, since.elapsed());
        }
    }

    /// The present phase and how long it has lasted.
    #[must_use]
    pub fn current(&self) -> Option<(Phase, Duration)> {
        self.lock().map(|(phase, since)| (phase, since.elapsed()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Phase, Instant)>> {
        // The value is replaced whole, so a panic elsewhere cannot have torn it.
        self.0
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker")
            .field("operation", &self.0.operation)
            .field("current", &self.current())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<Phase>>);
    impl Observer for Seen {
        fn ended(&self, _: &'static str, phase: Phase, _: Duration) {
            self.0.lock().unwrap().push(phase);
        }
    }

    #[test]
    fn each_phase_is_reported_once_and_in_order() {
        let seen = Arc::new(Seen::default());
        let tracker = Tracker::new("test", seen.clone());
        tracker.enter(Phase::Reserve, "").unwrap();
        tracker.enter(Phase::Netns, "").unwrap();
        assert_eq!(tracker.current().unwrap().0, Phase::Netns);
        tracker.finish().unwrap();
        tracker.end();
        assert_eq!(*seen.0.lock().unwrap(), [Phase::Reserve, Phase::Netns]);
        assert!(tracker.current().is_none());
    }
}
