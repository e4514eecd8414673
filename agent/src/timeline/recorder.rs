//! The phases of one operation, as its tracker tells them.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use berth_phase::{Observer, Phase};

use super::{Entry, Span};
use crate::node::now;

/// Phases that are kept of one operation. A pull has some for each of its layers,
/// an image at most 127 of them.
const MOST: usize = 1024;
/// A wait shorter than this before the first phase is not worth a line.
const UNSEEN: Duration = Duration::from_micros(20);

/// Passes phases on to the agent's observer and keeps them.
pub(crate) struct Recorder {
    next: Option<Arc<dyn Observer>>,
    began: Instant,
    at: i64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    step: &'static str,
    spans: Vec<(Phase, &'static str, Duration, Duration)>,
    omitted: u32,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Recorder {
    /// Of an operation that begins now.
    pub(crate) fn new(next: Option<Arc<dyn Observer>>) -> Self {
        Self {
            next,
            began: Instant::now(),
            at: now(),
            seen: Mutex::default(),
        }
    }

    /// What has been seen until now, with the phase that lasts yet. What it was and
    /// whom it was about is filled in by the caller.
    pub(crate) fn entry(&self, current: Option<(Phase, Duration)>) -> Entry {
        let took = self.began.elapsed();
        let seen = self.lock();
        let mut phases = Vec::with_capacity(seen.spans.len() + 1);
        if let Some((_, _, first, _)) = seen.spans.first()
            && *first > UNSEEN
        {
            // Such as for another operation on the same object.
            phases.push(span(Phase::Wait.name(), "turn", Duration::ZERO, *first));
        }
        for (phase, step, after, took) in &seen.spans {
            phases.push(span(phase.name(), step, *after, *took));
        }
        if let Some((phase, lasts)) = current {
            let after = took.saturating_sub(lasts);
            phases.push(span(phase.name(), seen.step, after, lasts));
        }
        Entry {
            at: self.at,
            took: nanoseconds(took),
            phases,
            omitted: seen.omitted,
            ..Entry::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // A span is added whole, so a panic elsewhere cannot have torn one.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Recorder {
    fn began(&self, operation: &'static str, phase: Phase, step: &'static str) {
        self.lock().step = step;
        if let Some(next) = &self.next {
            next.began(operation, phase, step);
        }
    }

    fn ended(&self, operation: &'static str, phase: Phase, took: Duration) {
        let until = self.began.elapsed();
        let mut seen = self.lock();
        let step = seen.step;
        if seen.spans.len() < MOST {
            seen.spans
                .push((phase, step, until.saturating_sub(took), took));
        } else {
            seen.omitted += 1;
        }
        drop(seen);
        if let Some(next) = &self.next {
            next.ended(operation, phase, took);
        }
    }
}

fn span(phase: &str, step: &str, after: Duration, took: Duration) -> Span {
    Span {
        phase: phase.to_owned(),
        step: step.to_owned(),
        after: nanoseconds(after),
        took: nanoseconds(took),
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use berth_phase::Tracker;

    use super::*;

    #[test]
    fn phases_cover_the_time_that_the_operation_took() {
        let recorder = Arc::new(Recorder::new(None));
        std::thread::sleep(Duration::from_millis(2));
        let tracker = Tracker::new("test", recorder.clone());
        tracker.enter(Phase::Reserve, "name").unwrap();
        std::thread::sleep(Duration::from_millis(3));
        tracker.enter(Phase::Netns, "").unwrap();
        std::thread::sleep(Duration::from_millis(1));
        tracker.finish().unwrap();
        let entry = recorder.entry(None);
        let names: Vec<_> = entry
            .phases
            .iter()
            .map(|span| (span.phase.as_str(), span.step.as_str()))
            .collect();
        assert_eq!(
            names,
            [("wait", "turn"), ("reserve", "name"), ("netns", "")]
        );
        let sum: i64 = entry.phases.iter().map(|span| span.took).sum();
        assert!(
            entry.took - sum < 200_000,
            "{sum} of {} nanoseconds",
            entry.took
        );
        for pair in entry.phases.windows(2) {
            let gap = pair[1].after - (pair[0].after + pair[0].took);
            assert!(gap.abs() < 100_000, "{gap} between {pair:?}");
        }
    }

    #[test]
    fn an_operation_without_end_is_bounded() {
        let recorder = Arc::new(Recorder::new(None));
        let tracker = Tracker::new("test", recorder.clone());
        for _ in 0..MOST + 5 {
            tracker.enter(Phase::Fetch, "").unwrap();
        }
        tracker.end();
        let entry = recorder.entry(None);
        assert_eq!((entry.phases.len(), entry.omitted), (MOST, 5));
    }
}
