//! The agent's instruments and what they are told.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use berth_phase::Phase;
use opentelemetry::{metrics::Meter, trace::SpanContext};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text},
    metrics::{
        counter::Counter,
        exemplar::HistogramWithExemplars,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::{Registry, Unit},
};

use super::{exposition::text_format, instruments::Instruments, process::Process};
use crate::listen::http::MetricsFormat;

/// Upper bounds in seconds: those of the kubelet's histograms of runtime
/// operations, so that both sides of a call line up on one panel.
pub(super) fn buckets() -> impl Iterator<Item = f64> {
    prometheus_client::metrics::histogram::exponential_buckets(0.005, 2.5, 14)
}

/// OpenTelemetry names; the rendered ones have `_` for `.` and the unit's suffix.
pub(super) mod name {
    pub(crate) const RPC: &str = "berth.cri.operation.duration";
    pub(crate) const PHASE: &str = "berth.phase.duration";
    pub(crate) const IN_FLIGHT: &str = "berth.operations.in_flight";
    pub(crate) const PULLS: &str = "berth.image.pulls";
    pub(crate) const PULLED: &str = "berth.image.pulled";
    pub(crate) const SHIMS_LOST: &str = "berth.shims.lost";
    pub(crate) const LEDGER: &str = "berth.ledger.findings";
    pub(crate) const PODS: &str = "berth.pod_sandboxes";
    pub(crate) const CONTAINERS: &str = "berth.containers";
}

/// What each instrument tells, in one sentence without a full stop.
pub(super) mod help {
    pub(crate) const RPC: &str = "Time from the arrival of a gRPC call to the end of its answer";
    pub(crate) const PHASE: &str = "Time that one phase of an operation took";
    pub(crate) const IN_FLIGHT: &str = "Operations that are under way";
    pub(crate) const PULLS: &str = "Image pulls that ended";
    pub(crate) const PULLED: &str = "Bytes received from registries";
    pub(crate) const SHIMS_LOST: &str = "Shims that ended without leaving an exit record";
    pub(crate) const LEDGER: &str = "Effects found without an owner, by what they are";
    pub(crate) const PODS: &str = "Pod sandboxes by state";
    pub(crate) const CONTAINERS: &str = "Containers by state";
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabels {
    rpc: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    operation: &'static str,
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// The ids of a trace, on an exemplar.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TraceLabels {
    trace_id: String,
    span_id: String,
}

impl TraceLabels {
    /// Only a trace that somebody keeps is worth pointing at.
    pub(super) fn of(context: &SpanContext) -> Option<Self> {
        context.is_sampled().then(|| Self {
            trace_id: context.trace_id().to_string(),
            span_id: context.span_id().to_string(),
        })
    }
}

type Histograms<L> =
    Family<L, HistogramWithExemplars<TraceLabels>, fn() -> HistogramWithExemplars<TraceLabels>>;

fn histogram() -> HistogramWithExemplars<TraceLabels> {
    HistogramWithExemplars::new(buckets())
}

/// How many things there are now. Every key is one of few fixed names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeState {
    /// Operations under way, by verb.
    pub(crate) operations: BTreeMap<&'static str, u64>,
    /// Pod sandboxes, by state.
    pub(crate) pod_sandboxes: BTreeMap<&'static str, u64>,
    /// Containers, by state.
    pub(crate) containers: BTreeMap<&'static str, u64>,
}

type Source = Box<dyn Fn() -> NodeState + Send + Sync>;

/// The instruments of the agent.
pub(crate) struct Metrics {
    registry: Registry,
    rpc: Histograms<RpcLabels>,
    phases: Histograms<PhaseLabels>,
    pulls: Family<OutcomeLabels, Counter>,
    pulled: Counter,
    shims_lost: Counter,
    ledger: Family<KindLabels, Counter>,
    state: Arc<OnceLock<Source>>,
    exported: OnceLock<Instruments>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Instruments with nothing on them.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let rpc = Histograms::new_with_constructor(histogram as fn() -> _);
        let phases = Histograms::new_with_constructor(histogram as fn() -> _);
        let pulls = Family::<OutcomeLabels, Counter>::default();
        let (pulled, shims_lost) = (Counter::default(), Counter::default());
        let ledger = Family::<KindLabels, Counter>::default();
        let state = Arc::new(OnceLock::new());
        let build = Family::<BuildLabels, Gauge>::default();
        build
            .get_or_create(&BuildLabels {
                version: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        registry.register("berth_build_info", "What is running", build);
        registry.register_with_unit(&*flat(name::RPC), help::RPC, Unit::Seconds, rpc.clone());
        registry.register_with_unit(
            &*flat(name::PHASE),
            help::PHASE,
            Unit::Seconds,
            phases.clone(),
        );
        registry.register(&*flat(name::PULLS), help::PULLS, pulls.clone());
        registry.register_with_unit(
            &*flat(name::PULLED),
            help::PULLED,
            Unit::Bytes,
            pulled.clone(),
        );
        registry.register(
            &*flat(name::SHIMS_LOST),
            help::SHIMS_LOST,
            shims_lost.clone(),
        );
        registry.register(&*flat(name::LEDGER), help::LEDGER, ledger.clone());
        registry.register_collector(Box::new(StateGauges(state.clone())));
        registry.register_collector(Box::new(Process));
        Self {
            registry,
            rpc,
            phases,
            pulls,
            pulled,
            shims_lost,
            ledger,
            state,
            exported: OnceLock::new(),
        }
    }

    /// Records everything into instruments of `meter` as well; the first call counts.
    pub(super) fn export_to(&self, meter: &Meter) {
        let state = self.state.clone();
        let source = move || state.get().map(|source| source()).unwrap_or_default();
        self.exported
            .get_or_init(|| Instruments::new(meter, source));
    }

    /// Sets where the gauges come from; the first call counts. `source` is asked
    /// at each scrape and must not block.
    pub(crate) fn set_state(&self, source: impl Fn() -> NodeState + Send + Sync + 'static) {
        if self.state.set(Box::new(source)).is_err() {
            tracing::error!("the source of the gauges was set twice");
        }
    }

    /// A gRPC call ended. `rpc` is one of the names that [`super::rpc`] knows,
    /// `outcome` the name of a gRPC code.
    pub(super) fn rpc_ended(
        &self,
        rpc: &'static str,
        outcome: &'static str,
        took: Duration,
        trace: Option<TraceLabels>,
    ) {
        let time = trace.is_some().then(SystemTime::now);
        self.rpc.get_or_create(&RpcLabels { rpc, outcome }).observe(
            took.as_secs_f64(),
            trace,
            time,
        );
        if let Some(exported) = self.exported.get() {
            exported.rpc_ended(rpc, outcome, took);
        }
    }

    /// A phase of an operation ended.
    pub(super) fn phase_ended(
        &self,
        operation: &'static str,
        phase: Phase,
        took: Duration,
        trace: Option<TraceLabels>,
    ) {
        let phase = phase.name();
        let time = trace.is_some().then(SystemTime::now);
        self.phases
            .get_or_create(&PhaseLabels { operation, phase })
            .observe(took.as_secs_f64(), trace, time);
        if let Some(exported) = self.exported.get() {
            exported.phase_ended(operation, phase, took);
        }
    }

    /// A pull ended. `outcome` is `ok` or the stable name of a kind of failure.
    pub(crate) fn pull_ended(&self, outcome: &'static str) {
        self.pulls.get_or_create(&OutcomeLabels { outcome }).inc();
        if let Some(exported) = self.exported.get() {
            exported.pull_ended(outcome);
        }
    }

    /// So many bytes came from a registry.
    pub(crate) fn pulled_bytes(&self, bytes: u64) {
        self.pulled.inc_by(bytes);
        if let Some(exported) = self.exported.get() {
            exported.pulled_bytes(bytes);
        }
    }

    /// A shim ended without leaving an exit record.
    pub(crate) fn shim_lost(&self) {
        self.shims_lost.inc();
        if let Some(exported) = self.exported.get() {
            exported.shim_lost();
        }
    }

    /// So many effects of `kind` (the ledger's name for it) had no owner.
    pub(crate) fn ledger_findings(&self, kind: &'static str, count: u64) {
        self.ledger
            .get_or_create(&KindLabels { kind })
            .inc_by(count);
        if let Some(exported) = self.exported.get() {
            exported.ledger_findings(kind, count);
        }
    }

    /// Everything, as a scraper wants it.
    pub(crate) fn render(&self, format: MetricsFormat) -> String {
        let mut openmetrics = String::new();
        if let Err(error) = text::encode(&mut openmetrics, &self.registry) {
            // Writing to a string does not fail; an encoder that does must show.
            tracing::error!(%error, "metrics cannot be rendered");
        }
        match format {
            MetricsFormat::OpenMetrics => openmetrics,
            MetricsFormat::Text => text_format(&openmetrics),
        }
    }
}

fn flat(name: &str) -> String {
    name.replace('.', "_")
}

/// Gauges that are counted when somebody asks.
struct StateGauges(Arc<OnceLock<Source>>);

impl fmt::Debug for StateGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateGauges")
    }
}

impl Collector for StateGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let state = self.0.get().map(|source| source()).unwrap_or_default();
        for (name, help, label, counts) in [
            (
                name::IN_FLIGHT,
                help::IN_FLIGHT,
                "operation",
                &state.operations,
            ),
            (name::PODS, help::PODS, "state", &state.pod_sandboxes),
            (
                name::CONTAINERS,
                help::CONTAINERS,
                "state",
                &state.containers,
            ),
        ] {
            let zero = ConstGauge::new(0u64);
            let (name, help) = (flat(name), format!("{help}."));
            let mut family = encoder.encode_descriptor(&name, &help, None, zero.metric_type())?;
            for (value, count) in counts {
                let labels = [(label, *value)];
                ConstGauge::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
