//! Log lines for people.

use std::fmt::{self, Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// Writes the message and then `key=value`.
///
/// Two things differ from the usual: what only concerns the exported span
/// (`otel.*`) is left out, and control characters are escaped, since messages
/// carry names that come from images, registries and clients, and a line feed
/// or an escape sequence in one of them must not forge a line or steer a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line {
            writer,
            first: true,
            result: Ok(()),
        };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    first: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn field(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_err() || field.name().starts_with("otel.") {
            return;
        }
        self.result = self.write(field, value);
    }

    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) -> fmt::Result {
        if !std::mem::take(&mut self.first) {
            self.writer.write_char(' ')?;
        }
        if field.name() != "message" {
            write!(self.writer, "{}=", field.name())?;
        }
        write!(Escaped(&mut self.writer), "{value}")
    }
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // Quotes only where the end of the value could be mistaken.
        let plain = !value.is_empty() && !value.contains([' ', '"', '=']);
        if plain || field.name() == "message" {
            self.field(field, format_args!("{value}"));
        } else {
            self.field(field, format_args!("{value:?}"));
        }
    }
}

/// Escapes control characters on their way to the inner writer.
struct Escaped<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(char::is_control) {
            let (plain, odd) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut chars = odd.chars();
            if let Some(control) = chars.next() {
                write!(self.0, "{}", control.escape_default())?;
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Page {
        type Writer = Self;
        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn written(log: impl FnOnce()) -> String {
        let page = Page::default();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(Fields)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(page.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_has_its_message_and_fields_and_nothing_of_the_exporter() {
        let line = written(|| {
            let span = tracing::error_span!(
                "rpc",
                otel.name = "x",
                method = "a/B",
                pod_id = tracing::field::Empty
            );
            span.record("pod_id", "p1");
            span.in_scope(|| {
                tracing::warn!(code = "NOT_FOUND", why = "no such", n = 3, "call failed")
            });
        });
        assert_eq!(
            line,
            " WARN rpc{method=a/B pod_id=p1}: call failed code=NOT_FOUND why=\"no such\" n=3\n"
        );
    }

    #[test]
    fn nothing_that_comes_from_outside_forges_a_line_or_steers_a_terminal() {
        let evil = "x\n2026 ERROR forged\u{1b}]0;title\u{7}\u{9b}2J";
        let line = written(
            || tracing::info!(image = evil, debugged = ?evil, shown = %evil, "pull {evil}"),
        );
        assert_eq!(line.matches('\n').count(), 1, "{line:?}");
        assert!(
            !line.trim_end_matches('\n').contains(char::is_control),
            "{line:?}"
        );
    }
}
