//! Export by OTLP or to the console, switched on by the standard variables alone.
//!
//! What the exporters read themselves: headers, time limit and compression
//! (`OTEL_EXPORTER_OTLP_*`), the sampler (`OTEL_TRACES_SAMPLER`), the batches
//! (`OTEL_BSP_*`, `OTEL_BLRP_*`), the interval (`OTEL_METRIC_EXPORT_INTERVAL`) and
//! whether sums are told as differences.
//! What is decided here: whether there is anything to export, where to, by which
//! protocol, and whom to trust ([`environment`], [`tls`]).

mod console;
mod environment;
mod limits;
mod post;
#[cfg(test)]
mod tests;
mod tls;

use std::time::Duration;

use opentelemetry::{
    logs::LoggerProvider as _,
    metrics::{Meter, MeterProvider as _},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithExportConfig,
    WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::{
    Resource,
    logs::{SdkLogger, SdkLoggerProvider},
    metrics::{Aggregation, Instrument, InstrumentKind, SdkMeterProvider, Stream},
    trace::{SdkTracer, SdkTracerProvider},
};

use super::resource::resource;
use console::Console;
pub(super) use environment::Environment;
use environment::{Protocol, Target};
use limits::{AttributeLimits, Cut};

/// The instrumentation scope.
const SCOPE: &str = "berth-agent";

/// Why one signal is not exported.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// A variable cannot be followed.
    #[error(transparent)]
    Variable(#[from] environment::VariableError),
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The exporter refused its settings.
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
    /// The HTTP client refused its settings.
    #[error("set up the HTTP client")]
    Client(#[from] reqwest::Error),
}

/// What is common to the builders of the three signals over gRPC.
fn over_grpc<B>(builder: B, target: &Target) -> Result<B, Trouble>
where
    B: WithExportConfig + WithTonicConfig,
{
    let builder = builder.with_endpoint(&target.endpoint);
    Ok(match target.is_tls() {
        true => builder.with_tls_config(tls::for_grpc(&target.files)?),
        false => builder,
    })
}

/// The same over HTTP.
fn over_http<B>(builder: B, target: &Target) -> Result<B, Trouble>
where
    B: WithExportConfig + WithHttpConfig,
{
    let tls = match target.is_tls() {
        true => tls::for_http(&target.files)?,
        false => tls::for_nobody()?,
    };
    let client = post::Post::new(target.timeout, tls)?;
    Ok(builder
        .with_endpoint(&target.endpoint)
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_http_client(client))
}

fn spans(target: &Target) -> Result<SpanExporter, Trouble> {
    let builder = SpanExporter::builder();
    Ok(match target.protocol {
        Protocol::Grpc => over_grpc(builder.with_tonic(), target)?.build()?,
        Protocol::Http => over_http(builder.with_http(), target)?.build()?,
    })
}

fn measurements(target: &Target) -> Result<MetricExporter, Trouble> {
    let builder = MetricExporter::builder();
    Ok(match target.protocol {
        Protocol::Grpc => over_grpc(builder.with_tonic(), target)?.build()?,
        Protocol::Http => over_http(builder.with_http(), target)?.build()?,
    })
}

fn records(target: &Target) -> Result<LogExporter, Trouble> {
    let builder = LogExporter::builder();
    Ok(match target.protocol {
        Protocol::Grpc => over_grpc(builder.with_tonic(), target)?.build()?,
        Protocol::Http => over_http(builder.with_http(), target)?.build()?,
    })
}

/// None if nothing is exported.
fn tracer_provider(
    exporter: Option<SpanExporter>,
    console: bool,
    limits: AttributeLimits,
    resource: &Resource,
) -> Option<SdkTracerProvider> {
    if exporter.is_none() && !console {
        return None;
    }
    let mut builder = SdkTracerProvider::builder().with_resource(resource.clone());
    let limit = limits.value;
    if let Some(inner) = exporter {
        builder = builder.with_batch_exporter(Cut { inner, limit });
    }
    if console {
        let inner = Console;
        builder = builder.with_batch_exporter(Cut { inner, limit });
    }
    if let Some(count) = limits.of_span {
        builder = builder.with_max_attributes_per_span(count);
    }
    if let Some(count) = limits.of_event {
        builder = builder.with_max_attributes_per_event(count);
    }
    if let Some(count) = limits.of_link {
        builder = builder.with_max_attributes_per_link(count);
    }
    Some(builder.build())
}

/// None if nothing is exported.
fn meter_provider(
    exporter: Option<MetricExporter>,
    console: bool,
    exponential: bool,
    resource: &Resource,
) -> Option<SdkMeterProvider> {
    if exporter.is_none() && !console {
        return None;
    }
    let mut builder = SdkMeterProvider::builder().with_resource(resource.clone());
    if let Some(exporter) = exporter {
        builder = builder.with_periodic_exporter(exporter);
    }
    if console {
        builder = builder.with_periodic_exporter(Console);
    }
    if exponential {
        builder = builder.with_view(|instrument: &Instrument| {
            let histogram = instrument.kind() == InstrumentKind::Histogram;
            let buckets = Aggregation::Base2ExponentialHistogram {
                // The specification's defaults.
                max_size: 160,
                max_scale: 20,
                record_min_max: true,
            };
            histogram
                .then(|| Stream::builder().with_aggregation(buckets).build().ok())
                .flatten()
        });
    }
    Some(builder.build())
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
    /// Needs a tokio runtime.
    /// `attributes` are what the configuration adds to who is speaking.
    pub(super) fn start(
        environment: &Environment,
        attributes: &[(String, String)],
    ) -> (Self, Vec<String>) {
        let mut trouble = Vec::new();
        let resource = resource(environment.service_name(), attributes);
        // A signal that cannot be exported does not keep the others from it.
        fn ready<E>(
            environment: &Environment,
            signal: &'static str,
            build: fn(&Target) -> Result<E, Trouble>,
            trouble: &mut Vec<String>,
        ) -> Option<E> {
            let built = match environment.target(signal) {
                Ok(None) => return None,
                Ok(Some(target)) => build(&target),
                Err(error) => Err(error.into()),
            };
            built
                .map_err(|error| trouble.push(sentence(signal, &error)))
                .ok()
        }
        // Trouble with the list is told by the attempt at OTLP.
        let console = |signal| environment.exporters(signal).is_ok_and(|list| list.console);
        let traces = ready(environment, "TRACES", spans, &mut trouble);
        let metrics = ready(environment, "METRICS", measurements, &mut trouble);
        let exporters = Self {
            traces: tracer_provider(
                traces,
                console("TRACES"),
                environment.attribute_limits(),
                &resource,
            ),
            metrics: meter_provider(
                metrics,
                console("METRICS"),
                environment.exponential_histograms(),
                &resource,
            ),
            logs: ready(environment, "LOGS", records, &mut trouble).map(|exporter| {
                SdkLoggerProvider::builder()
                    .with_resource(resource.clone())
                    .with_batch_exporter(exporter)
                    .build()
            }),
        };
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

/// The whole chain of an error; there is no caller to hand it to.
fn sentence(signal: &str, error: &Trouble) -> String {
    let mut text = format!("{}: {error}", signal.to_ascii_lowercase());
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
