//! Log lines for systemd's journal, with their fields as the journal's own.
//!
//! `journalctl CONTAINER_ID=...` then finds every line about a container. The
//! protocol is described in "Native Journal Protocol" of systemd's documentation:
//! a datagram of `KEY=value` lines, or a sealed memory for what is too long.

use std::{
    fmt::{self, Debug, Write as _},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, net::UnixDatagram},
    },
    path::Path,
    time::Duration,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    fmt::{FormatFields as _, format::Writer},
    layer::Context,
    registry::LookupSpan,
};

use super::lines::Fields;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a line may hold up the agent when the journal does not read.
const PATIENCE: Duration = Duration::from_millis(500);

/// The journal's limit for the name of a field.
const NAME_MAX: usize = 64;

/// Whether standard error goes to the journal (systemd.exec(5), `JOURNAL_STREAM`).
pub(super) fn is_standard_error() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else {
        return false;
    };
    // A file of the same number says more than the variable, which is inherited by
    // whatever the unit starts, wherever that writes to.
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
}

/// The layer.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// Connects to the journal of this machine.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn connect() -> io::Result<Self> {
        Self::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(path)?;
        Ok(Self { socket })
    }

    fn send(&self, entry: &[u8]) -> io::Result<()> {
        match self.socket.send(entry) {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(nix::libc::EMSGSIZE | nix::libc::ENOBUFS)
                ) =>
            {
                let memory = berth_sys::memfd::sealed_message(entry)?;
                berth_sys::message::send(&self.socket, &[], &[memory.as_raw_fd()])
            }
            Err(error) => Err(error),
        }
    }
}

/// What a span has said of itself, ready to be sent.
struct Said(Entry);

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut said = Entry::default();
        attributes.record(&mut said);
        span.extensions_mut().insert(Said(said));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(said) = span.extensions_mut().get_mut::<Said>() {
            values.record(&mut said.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut entry = Entry::default();
        // The line as people read it; what can be searched for follows.
        let mut line = String::new();
        if Fields.format_fields(Writer::new(&mut line), event).is_err() {
            line.push_str("(a line that cannot be shown)");
        }
        entry.put("MESSAGE", &line);
        let metadata = event.metadata();
        entry.put("PRIORITY", priority(*metadata.level()));
        entry.put("SYSLOG_IDENTIFIER", "berth-agent");
        entry.put("TARGET", metadata.target());
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(said) = span.extensions().get::<Said>() {
                entry.0.extend_from_slice(&said.0.0);
            }
        }
        event.record(&mut entry);
        if let Err(error) = self.send(&entry.0) {
            // The other way to the journal, or to nobody.
            let line = format!("{line} (the journal did not take it: {error})\n");
            io::Write::write_all(&mut io::stderr(), line.as_bytes()).ok();
        }
    }
}

/// syslog(3)'s numbers, as the journal shows them.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// An entry in the making.
#[derive(Default)]
struct Entry(Vec<u8>);

impl Entry {
    /// `name` is valid; any bytes are as a value.
    fn put(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            // With its length: a line feed in it begins no other field.
            let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
            self.0.push(b'\n');
            self.0.extend_from_slice(&length.to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }

    fn field(&mut self, field: &Field, value: &str) {
        // What only concerns the exported span, and what MESSAGE has already.
        if field.name() == "message" || field.name().starts_with("otel.") {
            return;
        }
        self.put(&name(field.name()), value);
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        if write!(text, "{value:?}").is_ok() {
            self.field(field, &text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value);
    }
}

/// The journal's name of a field: capitals, digits and `_`, a letter first (an
/// underscore there is for what the journal itself vouches for).
fn name(field: &str) -> String {
    match field {
        "pod" | "pod_id" => return "POD".to_owned(),
        "container" | "container_id" => return "CONTAINER_ID".to_owned(),
        _ => {}
    }
    let mut name = String::with_capacity(field.len());
    for c in field.chars().take(NAME_MAX) {
        name.push(match c.to_ascii_uppercase() {
            c if c.is_ascii_alphanumeric() => c,
            _ => '_',
        });
    }
    if name.starts_with(|c: char| c.is_ascii_uppercase()) {
        name
    } else {
        format!("F{name}").chars().take(NAME_MAX).collect()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn told(log: impl FnOnce()) -> (Vec<u8>, Vec<std::os::fd::OwnedFd>) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let layer = Journal::at(&path).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        journal.set_nonblocking(true).unwrap();
        let got = berth_sys::message::receive(&journal).unwrap().unwrap();
        (got.bytes, got.fds)
    }

    #[test]
    fn a_line_has_its_fields_and_those_of_its_spans() {
        let (entry, _) = told(|| {
            let span = tracing::error_span!("rpc", otel.name = "x", pod_id = tracing::field::Empty);
            span.record("pod_id", "p1");
            span.in_scope(|| tracing::warn!(container = "c1", n = 3, "call failed"));
        });
        assert_eq!(
            String::from_utf8(entry).unwrap(),
            "MESSAGE=call failed container=c1 n=3\nPRIORITY=4\nSYSLOG_IDENTIFIER=berth-agent\n\
             TARGET=berth_agent::telemetry::journal::tests\nPOD=p1\nCONTAINER_ID=c1\nN=3\n"
        );
    }

    #[test]
    fn a_line_feed_in_a_value_begins_no_field() {
        let (entry, _) = told(|| tracing::info!(image = "a\nPRIORITY=0", "pull"));
        let text = String::from_utf8_lossy(&entry).into_owned();
        assert!(
            text.contains("IMAGE\n\u{c}\0\0\0\0\0\0\0a\nPRIORITY=0\n"),
            "{text:?}"
        );
        assert!(text.starts_with("MESSAGE=pull image="), "{text:?}");
        assert!(!text.lines().next().unwrap().contains('\n'));
    }

    #[test]
    fn what_is_too_long_for_a_datagram_travels_as_a_sealed_memory() {
        let long = "x".repeat(1 << 20);
        let (entry, fds) = told(|| tracing::info!(long, "big"));
        assert!(entry.is_empty());
        let entry = berth_sys::memfd::read_sealed_message(&fds[0], 4 << 20).unwrap();
        assert!(entry.ends_with(format!("\nLONG={long}\n").as_bytes()));
    }

    #[test]
    fn names_are_the_journals() {
        for (field, expected) in [
            ("pod", "POD"),
            ("container_id", "CONTAINER_ID"),
            ("rpc.method", "RPC_METHOD"),
            ("_pid", "F_PID"),
            ("1st", "F1ST"),
        ] {
            assert_eq!(name(field), expected);
        }
        assert_eq!(name(&"a".repeat(100)).len(), NAME_MAX);
    }
}
