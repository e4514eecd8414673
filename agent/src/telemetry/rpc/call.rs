//! One call from its arrival to its end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry::trace::{self, TraceContextExt as _};
use tonic::{Code, Status};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::super::{Metrics, metrics::TraceLabels};
use crate::listen::Peer;

/// Ends as cancelled, or at its deadline, if it is dropped before [`Call::end`].
#[derive(Debug)]
pub(super) struct Call {
    method: &'static str,
    span: Span,
    metrics: Arc<Metrics>,
    since: Instant,
    limit: Option<Duration>,
    /// The caller's process.
    peer: Option<i32>,
    ended: bool,
}

/// How much earlier than here the caller's clock may have started: the time its
/// request was on the way.
const ON_THE_WAY: Duration = Duration::from_millis(20);

impl Call {
    /// `limit` is how long the caller waits, if it says so.
    pub(super) fn new(
        method: &'static str,
        span: Span,
        limit: Option<Duration>,
        peer: Option<Peer>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            limit,
            peer: peer.and_then(|peer| peer.pid),
            method,
            span,
            metrics,
            since: Instant::now(),
            ended: false,
        }
    }

    /// The call ended with `status`.
    pub(super) fn end(mut self, status: &Status) {
        self.record(status.code(), status.message());
    }

    fn record(&mut self, code: Code, message: &str) {
        self.ended = true;
        let took = self.since.elapsed();
        let outcome = name(code);
        let trace = TraceLabels::of(self.span.context().span().span_context());
        self.metrics.rpc_ended(self.method, outcome, took, trace);
        self.span.set_attribute("rpc.status_code", outcome);
        if code != Code::Ok {
            self.span.set_attribute("error.type", outcome);
            if is_fault(code) {
                self.span.set_status(trace::Status::error(""));
            }
        }
        let peer = self.peer;
        self.span.in_scope(|| match level(code) {
            Level::Warn => tracing::warn!(code = outcome, ?took, peer, "call failed: {message}"),
            Level::Info => tracing::info!(code = outcome, ?took, peer, "call failed: {message}"),
            Level::Debug => tracing::debug!(code = outcome, ?took, peer, "call failed: {message}"),
            Level::Trace => tracing::trace!(?took, peer, "call ended"),
        });
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let waited = self.since.elapsed() + ON_THE_WAY;
        if self.limit.is_some_and(|limit| waited >= limit) {
            self.record(Code::DeadlineExceeded, "the caller's deadline passed");
        } else {
            self.record(Code::Cancelled, "the client went away");
        }
    }
}

enum Level {
    Warn,
    Info,
    Debug,
    Trace,
}

/// How loud the log line is. A kubelet asks after what is gone all day, and an
/// old or new one for calls that are not there; both are no news.
fn level(code: Code) -> Level {
    match code {
        Code::Internal | Code::DataLoss | Code::Unknown | Code::ResourceExhausted => Level::Warn,
        Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Unauthenticated => Level::Info,
        Code::NotFound | Code::Unimplemented | Code::Cancelled => Level::Debug,
        Code::Ok => Level::Trace,
    }
}

/// The codes that OpenTelemetry's convention counts as errors of a server.
fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// How long the caller waits, by its `grpc-timeout` header: up to eight digits
/// and a unit (the gRPC protocol over HTTP/2).
pub(super) fn limit(headers: &http::HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The canonical name.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
