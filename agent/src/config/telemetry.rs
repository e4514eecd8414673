//! Section `[telemetry]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Metrics, health and logs. What leaves the node by OTLP is configured by the
/// standard `OTEL_*` variables alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TelemetryConfig {
    /// TCP address of metrics and health; none is off. The unix socket is
    /// always there.
    pub(crate) listen: Option<SocketAddr>,
    /// How log lines look.
    pub(crate) log_format: LogFormat,
    /// Which log lines there are: a level, or directives such as
    /// `info,berth_agent=debug`.
    pub(crate) log_level: String,
    /// Attributes of this node, beside those that are found: `k8s.cluster.name` and such.
    pub(crate) resource: Vec<(String, String)>,
    /// Whether containers get the `TRACEPARENT` of the call that creates them.
    pub(crate) trace_containers: bool,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9640)),
            log_format: LogFormat::Auto,
            log_level: "info".to_owned(),
            resource: Vec::new(),
            trace_containers: false,
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For the journal if standard error goes there, else for people.
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
    /// To systemd's journal, with fields.
    Journald,
}
