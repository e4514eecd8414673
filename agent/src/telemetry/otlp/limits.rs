//! Limits of attributes, of which the SDK knows only some.

use std::time::Duration;

use opentelemetry::{KeyValue, StringValue, Value};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

/// `OTEL_ATTRIBUTE_*_LIMIT` and their forms for spans, events and links; none is
/// the specification's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AttributeLimits {
    /// Characters of a value.
    pub(super) value: Option<usize>,
    /// Attributes of a span; the SDK's own default is 128.
    pub(super) of_span: Option<u32>,
    /// Attributes of an event of a span.
    pub(super) of_event: Option<u32>,
    /// Attributes of a link of a span.
    pub(super) of_link: Option<u32>,
}

/// Cuts values off before they reach `inner`.
#[derive(Debug)]
pub(super) struct Cut<E> {
    pub(super) inner: E,
    pub(super) limit: Option<usize>,
}

impl<E: SpanExporter> SpanExporter for Cut<E> {
    fn export(
        &self,
        mut batch: Vec<SpanData>,
    ) -> impl std::future::Future<Output = OTelSdkResult> + Send {
        if let Some(limit) = self.limit {
            for span in &mut batch {
                cut_all(&mut span.attributes, limit);
                for event in &mut span.events.events {
                    cut_all(&mut event.attributes, limit);
                }
                for link in &mut span.links.links {
                    cut_all(&mut link.attributes, limit);
                }
            }
        }
        self.inner.export(batch)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

fn cut_all(attributes: &mut [KeyValue], limit: usize) {
    for attribute in attributes {
        // Lists of texts are not among ours.
        if let Value::String(text) = &mut attribute.value
            && let Some(short) = cut(text.as_str(), limit)
        {
            *text = StringValue::from(short.to_owned());
        }
    }
}

/// The first `limit` characters; none if there are no more.
fn cut(text: &str, limit: usize) -> Option<&str> {
    let (end, _) = text.char_indices().nth(limit)?;
    text.get(..end)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[test]
    fn long_values_are_cut_at_characters_and_numbers_are_left() {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(Cut {
                inner: kept.clone(),
                limit: Some(3),
            })
            .build();
        let mut span = provider.tracer("t").start("s");
        span.set_attribute(KeyValue::new("long", "äöüß"));
        span.set_attribute(KeyValue::new("fits", "abc"));
        span.set_attribute(KeyValue::new("number", 12345));
        span.add_event("e", vec![KeyValue::new("long", "abcd")]);
        span.end();
        let span = &kept.0.lock().unwrap()[0];
        let values: Vec<String> = span
            .attributes
            .iter()
            .map(|a| a.value.to_string())
            .collect();
        assert_eq!(values, ["äöü", "abc", "12345"]);
        assert_eq!(span.events.events[0].attributes[0].value.to_string(), "abc");
    }
}
