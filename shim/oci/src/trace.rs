//! The caller's trace, handed on to hooks.

use std::env;

/// OpenTelemetry's specification of environment variables as carriers.
const NAMES: [&str; 3] = ["TRACEPARENT", "TRACESTATE", "BAGGAGE"];

/// Longest value that is handed on: W3C Baggage, 3.3.2.
const MAX: usize = 8192;

/// What the caller of this program has set of them.
pub(crate) fn given() -> impl Iterator<Item = (&'static str, String)> {
    NAMES.into_iter().filter_map(|name| {
        let value = env::var(name).ok()?;
        (!value.is_empty() && value.len() <= MAX).then_some((name, value))
    })
}

/// The same as `NAME=value`.
pub(crate) fn pairs() -> Vec<String> {
    given()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}
