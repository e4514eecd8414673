//! Phases of operations as measurements and as spans.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use berth_phase::{Observer, Phase};
use opentelemetry::{
    KeyValue,
    trace::{Span as _, TraceContextExt as _, Tracer as _},
};
use opentelemetry_sdk::trace::SdkTracer;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{Metrics, metrics::TraceLabels};

/// Told of every phase by the operation's tracker.
///
/// The span is made when the phase is over, since only then the tracker says
/// how long it took. Its parent is the span of whoever called the tracker, so
/// work that is handed to another thread must take its span along.
pub(super) struct PhaseMetrics {
    metrics: Arc<Metrics>,
    tracer: Option<SdkTracer>,
}

impl fmt::Debug for PhaseMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PhaseMetrics")
            .field("traced", &self.tracer.is_some())
            .finish_non_exhaustive()
    }
}

impl PhaseMetrics {
    pub(super) fn new(metrics: Arc<Metrics>, tracer: Option<SdkTracer>) -> Self {
        Self { metrics, tracer }
    }

    fn span(&self, operation: &'static str, phase: Phase, took: Duration) -> Option<TraceLabels> {
        let tracer = self.tracer.as_ref()?;
        let parent = tracing::Span::current().context();
        // Without a parent nobody could find it again.
        if !parent.span().span_context().is_sampled() {
            return None;
        }
        let now = SystemTime::now();
        let mut span = tracer
            .span_builder(phase.name())
            .with_start_time(now.checked_sub(took).unwrap_or(now))
            .with_attributes([KeyValue::new("berth.operation", operation)])
            .start_with_context(tracer, &parent);
        span.end_with_timestamp(now);
        TraceLabels::of(span.span_context())
    }
}

impl Observer for PhaseMetrics {
    fn ended(&self, operation: &'static str, phase: Phase, took: Duration) {
        let trace = self.span(operation, phase, took);
        self.metrics.phase_ended(operation, phase, took, trace);
        tracing::trace!(operation, phase = phase.name(), ?took, "phase ended");
    }
}
