//! Log lines as OpenTelemetry log records.

use std::fmt::Debug;

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger, Severity};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer};

/// Hands every event to a logger, which adds the ids of the span that is active.
#[derive(Debug)]
pub(super) struct Records<L>(pub(super) L);

impl<S, L> Layer<S> for Records<L>
where
    S: Subscriber,
    L: Logger + Send + Sync + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = self.0.create_log_record();
        record.set_severity_number(severity(*metadata.level()));
        record.set_severity_text(metadata.level().as_str());
        record.set_target(metadata.target());
        event.record(&mut Fields(&mut record));
        self.0.emit(record);
    }
}

fn severity(level: Level) -> Severity {
    match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG => Severity::Debug,
        Level::TRACE => Severity::Trace,
    }
}

struct Fields<'a, R>(&'a mut R);

impl<R: opentelemetry::logs::LogRecord> Fields<'_, R> {
    fn add(&mut self, field: &Field, value: AnyValue) {
        if field.name() == "message" {
            self.0.set_body(value);
        } else {
            self.0.add_attribute(field.name(), value);
        }
    }
}

impl<R: opentelemetry::logs::LogRecord> Visit for Fields<'_, R> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned().into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.add(field, value.into()),
            // The protocol has no unsigned integers.
            Err(_) => self.add(field, value.to_string().into()),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::logs::LoggerProvider as _;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        logs::{LogBatch, LogExporter, SdkLoggerProvider},
    };
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl LogExporter for Kept {
        async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
            for (record, _) in batch.iter() {
                let attributes: Vec<_> = record.attributes_iter().collect();
                let line = format!(
                    "{:?} {:?} {attributes:?}",
                    record.severity_text(),
                    record.body()
                );
                self.0.lock().unwrap().push(line);
            }
            Ok(())
        }
    }

    #[test]
    fn a_line_becomes_a_record_with_body_level_and_attributes() {
        let kept = Kept::default();
        let provider = SdkLoggerProvider::builder()
            .with_simple_exporter(kept.clone())
            .build();
        let subscriber = tracing_subscriber::registry().with(Records(provider.logger("t")));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(code = "NOT_FOUND", n = 3u64, "call {}", "failed");
        });
        let lines = kept.0.lock().unwrap().clone();
        assert_eq!(lines.len(), 1);
        for part in ["WARN", "call failed", "NOT_FOUND", "Int(3)"] {
            assert!(lines[0].contains(part), "{part}: {}", lines[0]);
        }
    }
}
