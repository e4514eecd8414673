//! The variables that decide what is exported where.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

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

    /// Where `signal` (`TRACES`, `METRICS`, `LOGS`) goes; none if it is not exported.
    ///
    /// # Errors
    /// The variable that cannot be followed.
    pub(super) fn target(&self, signal: &str) -> Result<Option<Target>, VariableError> {
        let disabled = self.get("OTEL_SDK_DISABLED");
        if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let exporter = format!("OTEL_{signal}_EXPORTER");
        match self.get(&exporter) {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            // Metrics are always there to be scraped, lines always on standard error.
            Some("prometheus") if signal == "METRICS" => return Ok(None),
            Some("console") if signal == "LOGS" => return Ok(None),
            Some(other) => {
                return Err(VariableError {
                    value: other.to_owned(),
                    variable: exporter,
                    why: "allowed: otlp, none; prometheus for metrics, console for logs",
                });
            }
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
