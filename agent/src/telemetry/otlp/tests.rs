use super::*;

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");

fn target(pairs: &[(&str, &str)], signal: &str) -> Option<Target> {
    Environment::of(pairs).target(signal).unwrap()
}

fn trouble(pairs: &[(&str, &str)]) -> String {
    Environment::of(pairs)
        .target("TRACES")
        .unwrap_err()
        .to_string()
}

#[test]
fn nothing_is_exported_without_an_endpoint() {
    assert_eq!(target(&[], "TRACES"), None);
    assert_eq!(
        target(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")], "TRACES"),
        None
    );
}

#[test]
fn an_endpoint_switches_on_its_signals() {
    assert!(target(&[ENDPOINT], "TRACES").is_some());
    assert!(target(&[ENDPOINT], "METRICS").is_some());
    let one = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4317");
    assert!(target(&[one], "TRACES").is_some());
    assert!(target(&[one], "METRICS").is_none());
}

#[test]
fn it_can_be_switched_off_as_a_whole_and_by_signal() {
    let off = [ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")];
    assert_eq!(target(&off, "TRACES"), None);
    let none = [ENDPOINT, ("OTEL_METRICS_EXPORTER", "none")];
    assert_eq!(target(&none, "METRICS"), None);
    assert!(target(&none, "TRACES").is_some());
}

#[test]
fn the_protocol_is_said_or_told_by_the_port_and_may_differ_by_signal() {
    let protocol = |pairs: &[(&str, &str)], signal| target(pairs, signal).unwrap().protocol;
    assert_eq!(protocol(&[ENDPOINT], "LOGS"), Protocol::Grpc);
    let custom = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")];
    assert_eq!(protocol(&custom, "LOGS"), Protocol::Http);
    let mixed = [
        ENDPOINT,
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
    ];
    assert_eq!(protocol(&mixed, "TRACES"), Protocol::Grpc);
    assert_eq!(protocol(&mixed, "LOGS"), Protocol::Http);
}

#[test]
fn over_http_the_common_endpoint_is_a_base_and_that_of_a_signal_is_not() {
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let endpoint = |pairs: &[(&str, &str)]| target(pairs, "TRACES").unwrap().endpoint;
    let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/in/");
    assert_eq!(endpoint(&[http, base]), "https://c/in/v1/traces");
    let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://c/mine");
    assert_eq!(endpoint(&[http, base, own]), "https://c/mine");
    assert!(target(&[base], "TRACES").unwrap().is_tls());
    assert_eq!(endpoint(&[ENDPOINT]), "http://c:4317");
}

#[test]
fn what_cannot_be_done_is_said() {
    let json = trouble(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
    assert!(json.contains("http/json") && json.contains("http/protobuf"));
    let zipkin = [ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")];
    assert!(trouble(&zipkin).contains("zipkin"));
    let half = [ENDPOINT, ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k")];
    assert!(trouble(&half).contains("together"));
    let time = [ENDPOINT, ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")];
    assert!(trouble(&time).contains("milliseconds"));
    let secret = [("OTEL_EXPORTER_OTLP_ENDPOINT", "user:secret@c")];
    assert!(!trouble(&secret).contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_cannot_be_exported_does_not_keep_the_others_from_it() {
    let environment = Environment::of(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/no/such/file"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
    ]);
    let (exporters, trouble) = Exporters::start(&environment, &[]);
    assert!(exporters.tracer().is_none());
    assert!(exporters.meter().is_some() && exporters.logger().is_some());
    assert_eq!(trouble.len(), 1);
    assert!(
        trouble[0].starts_with("traces: read /no/such/file"),
        "{trouble:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_does_not_hold_up_the_end() {
    for protocol in ["grpc", "http/protobuf"] {
        let environment = Environment::of(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ]);
        let (exporters, trouble) = Exporters::start(&environment, &[]);
        assert!(trouble.is_empty(), "{trouble:?}");
        let tracer = exporters.tracer().unwrap();
        drop(opentelemetry::trace::Tracer::start(&tracer, "lost"));
        let since = std::time::Instant::now();
        exporters.shutdown(Duration::from_secs(2)).await;
        assert!(since.elapsed() < Duration::from_secs(4), "{protocol}");
    }
}

#[test]
fn exporters_are_a_list_and_the_console_needs_no_endpoint() {
    let list = |value: &str, signal: &str| {
        let name = format!("OTEL_{signal}_EXPORTER");
        Environment::of(&[(&name, value)]).exporters(signal)
    };
    let both = list("otlp, console", "TRACES").unwrap();
    assert!(both.otlp && both.console);
    let console = list("console", "METRICS").unwrap();
    assert!(!console.otlp && console.console);
    assert_eq!(list("prometheus", "METRICS").unwrap(), Default::default());
    assert_eq!(list("console", "LOGS").unwrap(), Default::default());
    assert!(list("zipkin", "TRACES").is_err());
    assert!(list("prometheus", "TRACES").is_err());
    let off = [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "console"),
    ];
    assert_eq!(
        Environment::of(&off).exporters("TRACES").unwrap(),
        Default::default()
    );
}

#[tokio::test]
async fn the_console_alone_makes_a_tracer_and_a_meter() {
    let environment = Environment::of(&[
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_METRICS_EXPORTER", "console"),
    ]);
    let (exporters, trouble) = Exporters::start(&environment, &[]);
    assert_eq!(trouble, [""; 0]);
    assert!(exporters.tracer().is_some() && exporters.meter().is_some());
    assert!(exporters.logger().is_none());
}

#[test]
fn limits_of_attributes_are_general_or_of_their_own() {
    let limits = Environment::of(&[
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "64"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "10"),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "3"),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "many"),
    ])
    .attribute_limits();
    assert_eq!(limits.value, Some(64));
    assert_eq!(
        (limits.of_span, limits.of_event, limits.of_link),
        (Some(10), Some(3), Some(10))
    );
}
