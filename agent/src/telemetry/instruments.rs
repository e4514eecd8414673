//! The same instruments once more, on an OpenTelemetry meter.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};

use super::{
    metrics::{NodeState, buckets, help, name},
    process::Usage,
};

/// What OTLP exports.
#[derive(Debug)]
pub(super) struct Instruments {
    rpc: Histogram<f64>,
    phases: Histogram<f64>,
    pulls: Counter<u64>,
    pulled: Counter<u64>,
    shims_lost: Counter<u64>,
    ledger: Counter<u64>,
}

impl Instruments {
    pub(super) fn new(
        meter: &Meter,
        state: impl Fn() -> NodeState + Send + Sync + 'static,
    ) -> Self {
        gauges(meter, Arc::new(state));
        let seconds = |name: &'static str, help: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(help)
                .with_boundaries(buckets().collect())
                .build()
        };
        let counter = |name: &'static str, help: &'static str, unit: &'static str| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(help)
                .build()
        };
        Self {
            rpc: seconds(name::RPC, help::RPC),
            phases: seconds(name::PHASE, help::PHASE),
            pulls: counter(name::PULLS, help::PULLS, "{pull}"),
            pulled: counter(name::PULLED, help::PULLED, "By"),
            shims_lost: counter(name::SHIMS_LOST, help::SHIMS_LOST, "{shim}"),
            ledger: counter(name::LEDGER, help::LEDGER, "{finding}"),
        }
    }

    pub(super) fn rpc_ended(&self, rpc: &'static str, outcome: &'static str, took: Duration) {
        let labels = [KeyValue::new("rpc", rpc), KeyValue::new("outcome", outcome)];
        self.rpc.record(took.as_secs_f64(), &labels);
    }

    pub(super) fn phase_ended(&self, operation: &'static str, phase: &'static str, took: Duration) {
        let labels = [
            KeyValue::new("operation", operation),
            KeyValue::new("phase", phase),
        ];
        self.phases.record(took.as_secs_f64(), &labels);
    }

    pub(super) fn pull_ended(&self, outcome: &'static str) {
        self.pulls.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    pub(super) fn pulled_bytes(&self, bytes: u64) {
        self.pulled.add(bytes, &[]);
    }

    pub(super) fn shim_lost(&self) {
        self.shims_lost.add(1, &[]);
    }

    pub(super) fn ledger_findings(&self, kind: &'static str, count: u64) {
        self.ledger.add(count, &[KeyValue::new("kind", kind)]);
    }
}

fn gauges(meter: &Meter, state: Arc<dyn Fn() -> NodeState + Send + Sync>) {
    type Pick = fn(NodeState) -> BTreeMap<&'static str, u64>;
    let all: [(&'static str, &'static str, &'static str, Pick); 3] = [
        (name::IN_FLIGHT, help::IN_FLIGHT, "operation", |s| {
            s.operations
        }),
        (name::PODS, help::PODS, "state", |s| s.pod_sandboxes),
        (name::CONTAINERS, help::CONTAINERS, "state", |s| {
            s.containers
        }),
    ];
    // The meter keeps the callbacks; the handles are of no further use.
    for (name, help, label, pick) in all {
        let state = state.clone();
        let _gauge = meter
            .u64_observable_gauge(name)
            .with_description(help)
            .with_callback(move |observer| {
                for (value, count) in pick(state()) {
                    observer.observe(count, &[KeyValue::new(label, value)]);
                }
            })
            .build();
    }
    let _gauge = meter
        .u64_observable_gauge("process.memory.usage")
        .with_unit("By")
        .with_description("Memory that is resident")
        .with_callback(|observer| {
            if let Some(usage) = Usage::now() {
                observer.observe(usage.resident_bytes, &[]);
            }
        })
        .build();
}
