//! What the agent tells about itself: logs, metrics and traces.
//!
//! - Logs go to standard error, as text or JSON, or with fields to the journal,
//!   with the trace's ids.
//! - [`Metrics`] is one set of instruments, scraped as Prometheus or OpenMetrics
//!   and, where OTLP is on, recorded into an OpenTelemetry meter as well.
//! - [`rpc`] makes a span and a measurement of every gRPC call, [`phases`] of
//!   every phase of every operation.
//! - [`otlp`] exports by the standard `OTEL_*` variables and is off without them.
//!
//! No instrument has a label that names an object: ids belong into spans and
//! log lines, where their number costs nothing. A test walks the registry.

mod exposition;
mod instruments;
mod journal;
mod lines;
mod logs;
mod metrics;
mod otlp;
mod phases;
mod process;
mod propagation;
mod records;
mod resource;
pub(crate) mod rpc;

use std::{sync::Arc, time::Duration};

use berth_phase::Observer;

use crate::config::{Limits, TelemetryConfig};

pub(crate) use logs::{Filter, FilterError};
pub(crate) use metrics::{Metrics, NodeState};
pub(crate) use propagation::{environment as trace_environment, headers as trace_headers};

/// How long the end of the agent waits for a collector to take what is left.
/// A collector that is down must not hold up a restart.
const FLUSH: Duration = Duration::from_secs(2);

/// Why telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    /// The log filter does not parse.
    #[error("log level")]
    Filter(#[from] FilterError),
    /// Something in this process logs already.
    #[error("take over logging")]
    Init(#[from] tracing_subscriber::util::TryInitError),
}

/// Everything that has been started. Keep it until the end and call
/// [`Telemetry::shutdown`] last.
#[derive(Debug)]
pub(crate) struct Telemetry {
    metrics: Arc<Metrics>,
    exporters: otlp::Exporters,
    logs: logs::Handle,
}

impl Telemetry {
    /// Starts logging and, if the environment asks for it, exporting. Needs a
    /// tokio runtime. Call it once per process.
    ///
    /// Exporters that cannot be had are logged and done without: telemetry must
    /// not keep containers from being managed.
    ///
    /// # Errors
    /// [`TelemetryError`], before anything is logged.
    pub(crate) fn start(config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        let metrics = Arc::new(Metrics::new());
        let environment = otlp::Environment::of_this_process();
        let (exporters, mut trouble) = otlp::Exporters::start(&environment, &config.resource);
        trouble.extend(propagation::choose(environment.propagators()));
        berth_engine::trace_by(propagation::environment);
        let logs = logs::start(config, exporters.tracer(), exporters.logger())?;
        for what in trouble {
            tracing::warn!("telemetry export: {what}");
        }
        if let Some(meter) = exporters.meter() {
            metrics.export_to(&meter);
        }
        Ok(Self {
            metrics,
            exporters,
            logs,
        })
    }

    /// The instruments.
    pub(crate) fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// What makes metrics and spans of phases.
    pub(crate) fn observer(&self) -> Arc<dyn Observer> {
        Arc::new(phases::PhaseMetrics::new(
            self.metrics.clone(),
            self.exporters.tracer(),
        ))
    }

    /// What makes metrics, spans and log lines of gRPC calls, and refuses calls
    /// beyond `limits`.
    pub(crate) fn rpc_layer(&self, limits: &Limits) -> rpc::RpcLayer {
        rpc::RpcLayer::new(self.metrics.clone(), limits.max_concurrent_calls)
    }

    /// Changes which log lines there are, from now on.
    ///
    /// # Errors
    /// If `filter` does not parse; then nothing changes.
    pub(crate) fn set_log_level(&self, filter: &str) -> Result<(), FilterError> {
        self.logs.set(filter)
    }

    /// Exports what is left, within two seconds.
    pub(crate) async fn shutdown(self) {
        self.exporters.shutdown(FLUSH).await;
    }
}
