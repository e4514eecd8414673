//! The span of a call, as a child of the caller's.

use http::HeaderMap;
use opentelemetry::{Context, propagation::Extractor, trace::TraceContextExt as _};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{super::propagation, methods::OTHER};

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The trace that the caller's headers name, and its baggage; what is invalid is as
/// none.
pub(super) fn caller(headers: &HeaderMap) -> Context {
    propagation::extract(&Headers(headers))
}

/// A span for one call to `method`; none for what is not the agent's own work.
/// What the call is about is recorded by those who find it out: `pod_id`,
/// `container_id`, `image`.
pub(super) fn span(method: &'static str, headers: &HeaderMap) -> Span {
    if method == OTHER {
        return Span::none();
    }
    // The level only decides at which log levels the ids are on the lines of a
    // call: at all of them.
    let span = tracing::error_span!(
        "rpc",
        otel.name = method,
        otel.kind = "server",
        method,
        pod_id = Empty,
        container_id = Empty,
        image = Empty,
        trace_id = Empty,
        span_id = Empty,
    );
    let caller = caller(headers);
    let from_caller = caller.span().span_context().clone();
    propagation::carry(&span, caller.clone());
    // Fails where nothing is exported; the caller's trace is on the log lines all the same.
    let exported = span.set_parent(caller).is_ok();
    if exported {
        span.set_attribute("rpc.system.name", "grpc");
        span.set_attribute("rpc.method", method);
    }
    let own = span.context().span().span_context().clone();
    let shown = if exported && own.is_valid() {
        own
    } else {
        from_caller
    };
    if shown.is_valid() {
        span.record("trace_id", tracing::field::display(shown.trace_id()));
        span.record("span_id", tracing::field::display(shown.span_id()));
    }
    span
}
