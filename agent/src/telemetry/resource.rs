//! Who is speaking, in OpenTelemetry's words.

use std::fs;

use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
};

/// The resource of everything that is exported. The configuration's attributes win over
/// what is found on the node, `OTEL_RESOURCE_ATTRIBUTES` over these, and `service_name`
/// over all.
pub(super) fn resource(service_name: Option<&str>, configured: &[(String, String)]) -> Resource {
    let configured = configured
        .iter()
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let builder = Resource::builder_empty()
        .with_service_name("berth-agent")
        .with_attributes(of_this_node())
        .with_attributes(configured)
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match service_name {
        Some(name) => builder.with_service_name(name.to_owned()).build(),
        None => builder.build(),
    }
}

fn of_this_node() -> Vec<KeyValue> {
    let version = env!("CARGO_PKG_VERSION");
    let mut found = vec![
        KeyValue::new(
            opentelemetry_semantic_conventions::attribute::SERVICE_VERSION,
            version,
        ),
        KeyValue::new("container.runtime.name", "berth"),
        KeyValue::new("container.runtime.version", version),
        KeyValue::new("process.pid", i64::from(std::process::id())),
        KeyValue::new("os.type", "linux"),
        KeyValue::new("host.arch", host_arch()),
    ];
    let mut add = |key: &'static str, value: Option<String>| {
        found.extend(value.map(|value| KeyValue::new(key, value)));
    };
    add("service.instance.id", instance_id());
    add("host.id", line("/etc/machine-id"));
    add("host.name", line("/proc/sys/kernel/hostname"));
    add("os.version", line("/proc/sys/kernel/osrelease"));
    add("os.description", os_name());
    found
}

fn line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// One per start, so that two agents on one node, or before and after a
/// restart, can be told apart.
fn instance_id() -> Option<String> {
    line("/proc/sys/kernel/random/uuid")
}

fn os_name() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

/// The convention's names, where they differ from Rust's.
fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::*;

    fn value(resource: &Resource, key: &'static str) -> String {
        resource
            .get(&Key::from_static_str(key))
            .map(|value| value.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn a_resource_says_which_service_on_which_host() {
        let ours = resource(None, &[]);
        assert_eq!(value(&ours, "service.name"), "berth-agent");
        assert_eq!(value(&ours, "container.runtime.name"), "berth");
        for key in [
            "service.version",
            "service.instance.id",
            "host.name",
            "host.arch",
        ] {
            assert!(!value(&ours, key).is_empty(), "{key}");
        }
        let labels = [("k8s.cluster.name", "prod"), ("host.name", "n1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mine = resource(Some("mine"), &labels);
        assert_eq!(value(&mine, "service.name"), "mine");
        assert_eq!(value(&mine, "k8s.cluster.name"), "prod");
        assert_eq!(value(&mine, "host.name"), "n1");
    }
}
