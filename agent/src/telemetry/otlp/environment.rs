//! The variables that decide what is exported where.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::limits::AttributeLimits;

/// The specification's default for `OTEL_EXPORTER_OTLP_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How OTLP travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// `grpc`, by custom on port 4317.
    Grpc,
    /// `http/protobuf`, by custom on port 4318.
    Http,
}

/// Files with PEM in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// Authorities to trust instead of the system's.
    pub(super) authorities: Option<PathBuf>,
    /// Who the agent is, and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

/// Where one signal goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// With the signal's path, where the protocol has one.
    pub(super) endpoint: String,
    pub(super) protocol: Protocol,
    /// Of one request.
    pub(super) timeout: Duration,
    pub(super) files: Files,
}

impl Target {
    pub(super) fn is_tls(&self) -> bool {
        self.endpoint
            .get(..6)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
    }
}

/// What one signal goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExporterList {
    pub(super) otlp: bool,
    /// Standard output.
    pub(super) console: bool,
}

/// A variable that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?}: {why}")]
pub(super) struct VariableError {
    variable: String,
    value: String,
    why: &'static str,
}

/// The variables of OpenTelemetry.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(in super::super) fn of_this_process() -> Self {
        let ours = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Self(ours.filter(|(key, _)| key.starts_with("OTEL_")).collect())
    }

    #[cfg(test)]
    pub(super) fn of(pairs: &[(&str, &str)]) -> Self {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Self(pairs.iter().map(own).collect())
    }

    /// The specification has empty mean unset.
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// The variable of one signal, or else the one for all, with its name.
    fn of_signal(&self, signal: &str, what: &str) -> Option<(String, &str)> {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_{what}");
        let common = format!("OTEL_EXPORTER_OTLP_{what}");
        [own, common].into_iter().find_map(|name| {
            let value = self.get(&name)?;
            Some((name, value))
        })
    }

    pub(super) fn service_name(&self) -> Option<&str> {
        self.get("OTEL_SERVICE_NAME")
    }

    pub(in super::super) fn propagators(&self) -> Option<&str> {
        self.get("OTEL_PROPAGATORS")
    }

    /// What `signal` goes to by `OTEL_TRACES_EXPORTER` and its like, a list.
    ///
    /// # Errors
    /// If the list has a name that is not known.
    pub(super) fn exporters(&self, signal: &str) -> Result<ExporterList, VariableError> {
        let mut list = ExporterList::default();
        let disabled = self.get("OTEL_SDK_DISABLED");
        if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(list);
        }
        let variable = format!("OTEL_{signal}_EXPORTER");
        for name in self.get(&variable).unwrap_or("otlp").split(',') {
            match name.trim() {
                "otlp" => list.otlp = true,
                // Log lines are on standard error in any case.
                "console" => list.console = signal != "LOGS",
                "none" | "" => {}
                // Metrics are there to be scraped in any case.
                "prometheus" if signal == "METRICS" => {}
                other => {
                    return Err(VariableError {
                        value: other.to_owned(),
                        variable,
                        why: "allowed: otlp, console, none; prometheus for metrics",
                    });
                }
            }
        }
        Ok(list)
    }

    /// What is cut off of attributes; a value that is no number is as none.
    pub(super) fn attribute_limits(&self) -> AttributeLimits {
        fn first<T: std::str::FromStr>(environment: &Environment, names: [&str; 2]) -> Option<T> {
            names
                .iter()
                .find_map(|name| environment.get(name)?.parse().ok())
        }
        let count = |own| first(self, [own, "OTEL_ATTRIBUTE_COUNT_LIMIT"]);
        AttributeLimits {
            value: first(
                self,
                [
                    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
                    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
                ],
            ),
            of_span: count("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
            of_event: count("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT"),
            of_link: count("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"),
        }
    }

    /// Whether histograms are exported with exponential buckets instead of the fixed
    /// ones that line up with a kubelet's.
    pub(super) fn exponential_histograms(&self) -> bool {
        self.get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION")
            .is_some_and(|value| value.eq_ignore_ascii_case("base2_exponential_bucket_histogram"))
    }

    /// Where `signal` (`TRACES`, `METRICS`, `LOGS`) goes; none if it is not exported.
    ///
    /// # Errors
    /// The variable that cannot be followed.
    pub(super) fn target(&self, signal: &str) -> Result<Option<Target>, VariableError> {
        if !self.exporters(signal)?.otlp {
            return Ok(None);
        }
        let Some((variable, endpoint)) = self.of_signal(signal, "ENDPOINT") else {
            return Ok(None);
        };
        let given = endpoint.parse::<http::Uri>().ok();
        let is_url = |uri: &http::Uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
        };
        let Some(uri) = given.filter(is_url) else {
            return Err(VariableError {
                // May hold a password.
                value: "...".to_owned(),
                variable,
                why: "expected http://HOST:PORT or https://HOST:PORT",
            });
        };
        let protocol = match self.of_signal(signal, "PROTOCOL") {
            Some((_, "grpc")) => Protocol::Grpc,
            Some((_, "http/protobuf")) => Protocol::Http,
            // By the port that the protocol has by custom.
            None if uri.port_u16() == Some(4318) => Protocol::Http,
            None => Protocol::Grpc,
            Some((variable, other)) => {
                return Err(VariableError {
                    variable,
                    value: other.to_owned(),
                    why: "allowed: grpc, http/protobuf",
                });
            }
        };
        // The endpoint for all signals is a base, that of one is used as it is.
        let is_base = variable == "OTEL_EXPORTER_OTLP_ENDPOINT";
        let endpoint = if protocol == Protocol::Http && is_base {
            let base = endpoint.trim_end_matches('/');
            format!("{base}/v1/{}", signal.to_ascii_lowercase())
        } else {
            endpoint.to_owned()
        };
        Ok(Some(Target {
            endpoint,
            protocol,
            timeout: self.timeout(signal)?,
            files: self.files(signal)?,
        }))
    }

    fn timeout(&self, signal: &str) -> Result<Duration, VariableError> {
        let Some((variable, value)) = self.of_signal(signal, "TIMEOUT") else {
            return Ok(TIMEOUT);
        };
        value
            .parse()
            .map(Duration::from_millis)
            .map_err(|_not_a_number| VariableError {
                variable,
                value: value.to_owned(),
                why: "expected milliseconds",
            })
    }

    fn files(&self, signal: &str) -> Result<Files, VariableError> {
        let path = |what| self.of_signal(signal, what);
        let certificate = path("CLIENT_CERTIFICATE");
        let identity = match (certificate, path("CLIENT_KEY")) {
            (Some((_, certificate)), Some((_, key))) => {
                Some((PathBuf::from(certificate), PathBuf::from(key)))
            }
            (None, None) => None,
            (Some((variable, value)), None) | (None, Some((variable, value))) => {
                return Err(VariableError {
                    variable,
                    value: value.to_owned(),
                    why: "a certificate and its key are of use only together",
                });
            }
        };
        Ok(Files {
            authorities: path("CERTIFICATE").map(|(_, file)| PathBuf::from(file)),
            identity,
        })
    }
}
