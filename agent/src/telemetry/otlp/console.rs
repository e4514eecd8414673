//! The `console` exporters: one line of JSON on standard output per span and per
//! measurement, for who looks at a single agent without a collector. Log lines need
//! none; they are on standard error.

use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::{
        Temporality,
        data::{AggregatedMetrics, MetricData, ResourceMetrics},
        exporter::PushMetricExporter,
    },
    trace::{SpanData, SpanExporter},
};
use serde_json::{Map, Value, json};

/// Writes to standard output.
#[derive(Debug)]
pub(super) struct Console;

fn write(lines: impl Iterator<Item = Value>) -> OTelSdkResult {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    // At once, so that lines of other threads do not get in between.
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(|error| OTelSdkError::InternalFailure(format!("standard output: {error}")))
}

impl SpanExporter for Console {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        write(batch.iter().map(span))
    }
}

impl PushMetricExporter for Console {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        write(measurements(metrics).into_iter())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

fn attributes<'a>(of: impl IntoIterator<Item = &'a KeyValue>) -> Map<String, Value> {
    of.into_iter()
        .map(|pair| {
            let value = Value::from(pair.value.to_string());
            (pair.key.to_string(), value)
        })
        .collect()
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn span(span: &SpanData) -> Value {
    let took = span.end_time.duration_since(span.start_time);
    json!({
        "span": span.name,
        "trace_id": span.span_context.trace_id().to_string(),
        "span_id": span.span_context.span_id().to_string(),
        "parent_span_id": span.parent_span_id.to_string(),
        "start": seconds(span.start_time),
        "seconds": took.unwrap_or_default().as_secs_f64(),
        "status": format!("{:?}", span.status),
        "attributes": attributes(&span.attributes),
    })
}

fn measurements(metrics: &ResourceMetrics) -> Vec<Value> {
    let mut lines = Vec::new();
    for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
        let mut add = |labels: Map<String, Value>, value: Value| {
            let mut line = json!({
                "metric": metric.name(),
                "unit": metric.unit(),
                "attributes": labels,
            });
            if let (Some(line), Value::Object(value)) = (line.as_object_mut(), value) {
                line.extend(value);
            }
            lines.push(line);
        };
        match metric.data() {
            AggregatedMetrics::F64(data) => points(data, &mut add),
            AggregatedMetrics::U64(data) => points(data, &mut add),
            AggregatedMetrics::I64(data) => points(data, &mut add),
        }
    }
    lines
}

fn points<T: Copy + Into<Value>>(
    data: &MetricData<T>,
    add: &mut dyn FnMut(Map<String, Value>, Value),
) {
    let value = |value: T| json!({"value": value.into()});
    match data {
        MetricData::Gauge(gauge) => {
            for point in gauge.data_points() {
                add(attributes(point.attributes()), value(point.value()));
            }
        }
        MetricData::Sum(sum) => {
            for point in sum.data_points() {
                add(attributes(point.attributes()), value(point.value()));
            }
        }
        MetricData::Histogram(histogram) => {
            for point in histogram.data_points() {
                let buckets: Vec<u64> = point.bucket_counts().collect();
                let told = json!({
                    "count": point.count(),
                    "sum": point.sum().into(),
                    "bounds": point.bounds().collect::<Vec<f64>>(),
                    "buckets": buckets,
                });
                add(attributes(point.attributes()), told);
            }
        }
        MetricData::ExponentialHistogram(histogram) => {
            for point in histogram.data_points() {
                let told = json!({
                    "count": point.count(),
                    "sum": point.sum().into(),
                    "scale": point.scale(),
                });
                add(attributes(point.attributes()), told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::{
        metrics::MeterProvider as _,
        trace::{Span as _, Tracer as _, TracerProvider as _},
    };
    use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what [`Console`] would write.
    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<Value>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch.iter().map(span));
            Ok(())
        }
    }

    impl PushMetricExporter for Kept {
        async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
            self.0.lock().unwrap().extend(measurements(metrics));
            Ok(())
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }

        fn temporality(&self) -> Temporality {
            Temporality::Cumulative
        }
    }

    #[test]
    fn a_span_is_told_with_its_ids_time_and_attributes() {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(kept.clone())
            .build();
        let mut one = provider.tracer("t").start("reserve");
        one.set_attribute(KeyValue::new("pod", "p\n1"));
        one.end();
        let line = kept.0.lock().unwrap()[0].clone();
        assert_eq!(line["span"], "reserve");
        assert_eq!(line["attributes"]["pod"], "p\n1");
        assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
        assert!(!line.to_string().contains('\n'));
    }

    #[test]
    fn counters_and_histograms_are_told_by_their_labels() {
        let kept = Kept::default();
        let provider = SdkMeterProvider::builder()
            .with_periodic_exporter(kept.clone())
            .build();
        let meter = provider.meter("t");
        meter
            .u64_counter("pulls")
            .build()
            .add(3, &[KeyValue::new("outcome", "ok")]);
        meter
            .f64_histogram("time")
            .with_unit("s")
            .build()
            .record(0.5, &[]);
        provider.force_flush().unwrap();
        let mut lines = kept.0.lock().unwrap().clone();
        lines.sort_by_key(|line| line["metric"].to_string());
        assert_eq!(lines[0]["value"], 3);
        assert_eq!(lines[0]["attributes"]["outcome"], "ok");
        assert_eq!(
            (&lines[1]["count"], &lines[1]["sum"]),
            (&json!(1), &json!(0.5))
        );
        assert_eq!(lines[1]["unit"], "s");
    }
}
