//! Whose trace a piece of work belongs to, on its way in and out.
//!
//! What the caller says (W3C Trace Context and Baggage) comes with its request
//! ([`extract`]), is kept with the request's span ([`carry`]) and is handed on by
//! whatever is done inside that span: to registries ([`headers`]), to programs
//! ([`environment`]). Where traces are exported the agent's own span stands between;
//! where they are not, the caller's trace passes through as it came.

use std::sync::OnceLock;

use opentelemetry::{
    Context,
    baggage::BaggageExt as _,
    propagation::{Extractor, Injector, TextMapCompositePropagator, TextMapPropagator},
    trace::TraceContextExt as _,
};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Registry, registry::LookupSpan as _};

static CHOSEN: OnceLock<TextMapCompositePropagator> = OnceLock::new();

/// The specification's default for `OTEL_PROPAGATORS`.
const DEFAULT: &str = "tracecontext,baggage";

/// Chooses the formats by the value of `OTEL_PROPAGATORS`; the first call counts.
/// Returns what there is to complain about.
pub(super) fn choose(value: Option<&str>) -> Vec<String> {
    let (chosen, trouble) = propagators(value.unwrap_or(DEFAULT));
    // A second agent in one process is a test's, and has the default too.
    CHOSEN.get_or_init(|| chosen);
    trouble
}

fn propagators(value: &str) -> (TextMapCompositePropagator, Vec<String>) {
    let (mut chosen, mut trouble) = (Vec::new(), Vec::new());
    for name in value.split(',').map(str::trim) {
        let one: Box<dyn TextMapPropagator + Send + Sync> = match name {
            "tracecontext" => Box::new(TraceContextPropagator::new()),
            "baggage" => Box::new(BaggagePropagator::new()),
            "none" | "" => continue,
            other => {
                trouble.push(format!(
                    "OTEL_PROPAGATORS={other:?}: allowed: tracecontext, baggage, none"
                ));
                continue;
            }
        };
        chosen.push(one);
    }
    (TextMapCompositePropagator::new(chosen), trouble)
}

fn chosen() -> &'static TextMapCompositePropagator {
    CHOSEN.get_or_init(|| propagators(DEFAULT).0)
}

/// What the caller says; what is invalid is as if it were not there.
pub(super) fn extract(carrier: &dyn Extractor) -> Context {
    chosen().extract_with_context(&Context::new(), carrier)
}

/// On the extensions of a request's span.
struct Carried(Context);

/// Keeps `context` with `span` and all that happens inside.
pub(super) fn carry(span: &Span, context: Context) {
    span.with_subscriber(|(id, dispatch)| {
        if let Some(span) = dispatch
            .downcast_ref::<Registry>()
            .and_then(|registry| registry.span(id))
        {
            span.extensions_mut().insert(Carried(context));
        }
    });
}

fn carried() -> Option<Context> {
    Span::current()
        .with_subscriber(|(id, dispatch)| {
            let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
            span.scope()
                .find_map(|span| span.extensions().get::<Carried>().map(|c| c.0.clone()))
        })
        .flatten()
}

/// The agent's own span where there is one, else the caller's, with its baggage.
fn current() -> Context {
    let caller = carried().unwrap_or_default();
    let own = Span::current().context();
    if !own.span().span_context().is_valid() {
        return caller;
    }
    let baggage = caller
        .baggage()
        .iter()
        .map(|(key, (value, metadata))| {
            opentelemetry::baggage::KeyValueMetadata::new(
                key.clone(),
                value.clone(),
                metadata.clone(),
            )
        })
        .collect::<Vec<_>>();
    own.with_baggage(baggage)
}

#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl Injector for Pairs {
    fn set(&mut self, key: &str, value: String) {
        // An empty `tracestate` says as much as none.
        if !value.is_empty() {
            self.0.push((key.to_owned(), value));
        }
    }
}

fn pairs() -> Vec<(String, String)> {
    let mut pairs = Pairs::default();
    chosen().inject_context(&current(), &mut pairs);
    pairs.0
}

/// Headers for a request to another node. Baggage stays: it is the cluster's
/// own business, and a registry is somebody else.
pub(crate) fn headers() -> Vec<(String, String)> {
    let mut pairs = pairs();
    pairs.retain(|(name, _)| name != "baggage");
    pairs
}

/// `NAME=value` for a program of this node: `TRACEPARENT`, `TRACESTATE`, `BAGGAGE`
/// (OpenTelemetry's specification of environment variables as carriers).
pub(crate) fn environment() -> Vec<String> {
    pairs()
        .into_iter()
        .map(|(name, value)| format!("{}={value}", name.to_ascii_uppercase()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn caller() -> Context {
        let headers: HashMap<String, String> = [
            ("traceparent", PARENT),
            ("tracestate", "vendor=1"),
            ("baggage", "pod=p1,team=a"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        extract(&headers)
    }

    fn inside(work: impl FnOnce()) {
        let span = tracing::error_span!("rpc");
        let context = caller();
        carry(&span, context.clone());
        // As for every request; fails where nothing is exported.
        span.set_parent(context).ok();
        span.in_scope(|| tracing::error_span!("phase").in_scope(work));
    }

    #[test]
    fn without_an_exporter_the_callers_trace_passes_through_unchanged() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            inside(|| {
                let mut told = environment();
                told.sort();
                assert_eq!(
                    told[1..],
                    [
                        format!("TRACEPARENT={PARENT}"),
                        "TRACESTATE=vendor=1".to_owned()
                    ]
                );
                assert!(
                    told[0].starts_with("BAGGAGE=") && told[0].contains("team=a"),
                    "{told:?}"
                );
            });
            assert!(environment().is_empty());
        });
    }

    #[test]
    fn with_an_exporter_the_agents_own_span_is_the_parent_and_baggage_goes_on() {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("t"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            inside(|| {
                let told: HashMap<_, _> = pairs().into_iter().collect();
                let parent = &told["traceparent"];
                assert!(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
                assert!(!parent.contains("b7ad6b7169203331"), "{parent}");
                assert_eq!(told["tracestate"], "vendor=1");
                assert!(told["baggage"].contains("pod=p1"));
            });
        });
    }

    #[test]
    fn a_registry_is_not_told_the_baggage() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            inside(|| {
                let names: Vec<_> = headers().into_iter().map(|(name, _)| name).collect();
                assert_eq!(names, ["traceparent", "tracestate"]);
            });
        });
    }

    #[test]
    fn formats_are_chosen_by_name_and_unknown_ones_are_said() {
        let fields = |value| {
            let (chosen, trouble) = propagators(value);
            let fields: Vec<_> = chosen.fields().map(str::to_owned).collect();
            (fields.len(), trouble.len())
        };
        assert_eq!(fields(DEFAULT), (3, 0));
        assert_eq!(fields("baggage"), (1, 0));
        assert_eq!(fields("none"), (0, 0));
        assert_eq!(fields("tracecontext, b3"), (2, 1));
    }
}
