//! Export by OTLP, switched on by the standard variables alone.
//!
//! What the exporters read themselves: headers, timeout and
//! compression (`OTEL_EXPORTER_OTLP_*`), the sampler (`OTEL_TRACES_SAMPLER`),
//! the batches (`OTEL_BSP_*`, `OTEL_BLRP_*`) and the interval (`OTEL_METRIC_EXPORT_INTERVAL`).
//! What is decided here: whether there is anything to export, and where to.

use std::{collections::BTreeMap, time::Duration};

use opentelemetry::{
    logs::LoggerProvider as _,
    metrics::{Meter, MeterProvider as _},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{LogExporter, MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    logs::{SdkLogger, SdkLoggerProvider},
    metrics::SdkMeterProvider,
    trace::{SdkTracer, SdkTracerProvider},
};

use super::resource::resource;

/// The instrumentation scope.
const SCOPE: &str = "berth-agent";

/// The variables that matter.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(super) fn of_this_process() -> Self {
        let ours = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(key, _)| key.starts_with("OTEL_"));
        Self(ours.collect())
    }

    /// The specification has empty mean unset.
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key)?.trim();
        (!value.is_empty()).then_some(value)
    }

    fn of_signal(&self, signal: &str, what: &str) -> Option<&str> {
        self.get(&format!("OTEL_EXPORTER_OTLP_{signal}_{what}"))
            .or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    /// Whether `signal` (`TRACES`, `METRICS`, `LOGS`) is exported, or why it cannot be.
    fn wants(&self, signal: &str) -> Result<bool, String> {
        let disabled = self.get("OTEL_SDK_DISABLED");
        if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(false);
        }
        let variable = format!("OTEL_{signal}_EXPORTER");
        match self.get(&variable) {
            None | Some("otlp") => {}
            Some("none") => return Ok(false),
            // Metrics are always there to be scraped.
            Some("prometheus") if signal == "METRICS" => return Ok(false),
            Some(other) => {
                return Err(format!("{variable}={other:?}: allowed: otlp, none"));
            }
        }
        if self.of_signal(signal, "ENDPOINT").is_none() {
            return Ok(false);
        }
        match self.of_signal(signal, "PROTOCOL") {
            None | Some("grpc") => Ok(true),
            Some(other) => Err(format!(
                "OTEL_EXPORTER_OTLP_PROTOCOL={other:?}: only grpc (port 4317) is supported"
            )),
        }
    }
}

/// The exporters that run.
#[derive(Debug, Default)]
pub(super) struct Exporters {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    logs: Option<SdkLoggerProvider>,
}

impl Exporters {
    /// Starts what `environment` asks for; also says what it asks for in vain.
    pub(super) fn start(environment: &Environment) -> (Self, Vec<String>) {
        let mut trouble = Vec::new();
        let mut exporters = Self::default();
        let mut wanted = |signal| {
            environment.wants(signal).unwrap_or_else(|what| {
                trouble.push(what);
                false
            })
        };
        let (traces, metrics, logs) = (wanted("TRACES"), wanted("METRICS"), wanted("LOGS"));
        if !(traces || metrics || logs) {
            return (exporters, trouble);
        }
        let resource = resource(environment.get("OTEL_SERVICE_NAME"));
        if traces {
            let mut builder = SpanExporter::builder().with_tonic();
            if let Some(endpoint) = environment.of_signal("TRACES", "ENDPOINT") {
                builder = builder.with_endpoint(endpoint);
            }
            match builder.build() {
                Ok(exporter) => {
                    exporters.traces = Some(
                        SdkTracerProvider::builder()
                            .with_resource(resource.clone())
                            .with_batch_exporter(exporter)
                            .build(),
                    );
                }
                Err(error) => trouble.push(format!("traces: {error}")),
            }
        }
        if metrics {
            let mut builder = MetricExporter::builder().with_tonic();
            if let Some(endpoint) = environment.of_signal("METRICS", "ENDPOINT") {
                builder = builder.with_endpoint(endpoint);
            }
            match builder.build() {
                Ok(exporter) => {
                    exporters.metrics = Some(
                        SdkMeterProvider::builder()
                            .with_resource(resource.clone())
                            .with_periodic_exporter(exporter)
                            .build(),
                    );
                }
                Err(error) => trouble.push(format!("metrics: {error}")),
            }
        }
        if logs {
            let mut builder = LogExporter::builder().with_tonic();
            if let Some(endpoint) = environment.of_signal("LOGS", "ENDPOINT") {
                builder = builder.with_endpoint(endpoint);
            }
            match builder.build() {
                Ok(exporter) => {
                    exporters.logs = Some(
                        SdkLoggerProvider::builder()
                            .with_resource(resource)
                            .with_batch_exporter(exporter)
                            .build(),
                    );
                }
                Err(error) => trouble.push(format!("logs: {error}")),
            }
        }
        (exporters, trouble)
    }

    pub(super) fn tracer(&self) -> Option<SdkTracer> {
        self.traces.as_ref().map(|traces| traces.tracer(SCOPE))
    }

    pub(super) fn meter(&self) -> Option<Meter> {
        self.metrics.as_ref().map(|metrics| metrics.meter(SCOPE))
    }

    pub(super) fn logger(&self) -> Option<SdkLogger> {
        self.logs.as_ref().map(|logs| logs.logger(SCOPE))
    }

    pub(super) async fn shutdown(self, limit: Duration) {
        // The providers block while they flush, each up to the limit. A thread of
        // its own, unlike one of the runtime's, ends with the process.
        let (done, flushed) = tokio::sync::oneshot::channel();
        let flush = move || {
            let results = [
                self.traces.map(|all| all.shutdown_with_timeout(limit)),
                self.logs.map(|all| all.shutdown_with_timeout(limit)),
                self.metrics.map(|all| all.shutdown_with_timeout(limit)),
            ];
            let trouble: Vec<_> = results
                .into_iter()
                .flatten()
                .filter_map(Result::err)
                .collect();
            // Nobody listens once the limit has passed.
            done.send(trouble).ok();
        };
        let started = std::thread::Builder::new()
            .name("telemetry-flush".to_owned())
            .spawn(flush);
        if let Err(error) = started {
            tracing::warn!(%error, "some telemetry was not exported");
            return;
        }
        match tokio::time::timeout(limit, flushed).await {
            Ok(Ok(trouble)) => {
                for error in trouble {
                    tracing::warn!(%error, "some telemetry was not exported");
                }
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(?limit, "some telemetry was not exported in time");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Environment(pairs.iter().map(own).collect())
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint() {
        assert_eq!(environment(&[]).wants("TRACES"), Ok(false));
        let empty = environment(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]);
        assert_eq!(empty.wants("TRACES"), Ok(false));
    }

    #[test]
    fn an_endpoint_switches_on_its_signals() {
        let all = environment(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")]);
        assert_eq!(all.wants("TRACES"), Ok(true));
        assert_eq!(all.wants("METRICS"), Ok(true));
        let one = environment(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4317")]);
        assert_eq!(one.wants("TRACES"), Ok(true));
        assert_eq!(one.wants("METRICS"), Ok(false));
    }

    #[test]
    fn it_can_be_switched_off_as_a_whole_and_by_signal() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
        let off = environment(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]);
        assert_eq!(off.wants("TRACES"), Ok(false));
        let none = environment(&[endpoint, ("OTEL_METRICS_EXPORTER", "none")]);
        assert_eq!(none.wants("METRICS"), Ok(false));
        assert_eq!(none.wants("TRACES"), Ok(true));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        let http = environment(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
        assert!(http.wants("TRACES").unwrap_err().contains("http/json"));
        let zipkin = environment(&[
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4317"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
        ]);
        assert!(zipkin.wants("TRACES").unwrap_err().contains("zipkin"));
        let (exporters, trouble) = Exporters::start(&zipkin);
        assert!(exporters.tracer().is_none());
        assert_eq!(trouble.len(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_collector_that_is_not_there_does_not_hold_up_the_end() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
        let (exporters, trouble) = Exporters::start(&environment(&[endpoint]));
        assert!(trouble.is_empty(), "{trouble:?}");
        let tracer = exporters.tracer().unwrap();
        drop(opentelemetry::trace::Tracer::start(&tracer, "lost"));
        let since = std::time::Instant::now();
        exporters.shutdown(Duration::from_secs(2)).await;
        assert!(since.elapsed() < Duration::from_secs(4));
    }
}
