//! What is behind each path.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::Full;
use tokio::sync::watch;

use super::profile;

/// The two formats that scrapers ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsFormat {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0, which has units and exemplars.
    OpenMetrics,
}

impl MetricsFormat {
    /// The media type to answer with.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What `Accept` asks for. Scrapers list OpenMetrics only if they can read it,
    /// so its weight is looked at only to see that it is not 0 (RFC 9110, 12.4.2).
    fn negotiate(headers: &HeaderMap) -> Self {
        let accepted = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        for range in accepted {
            let mut parts = range.split(';').map(str::trim);
            if parts.next() != Some("application/openmetrics-text") {
                continue;
            }
            let (mut version_known, mut wanted) = (true, true);
            for part in parts {
                match part.split_once('=') {
                    Some(("version", version)) => {
                        version_known = matches!(version, "1.0.0" | "0.0.1")
                    }
                    Some(("q", weight)) => wanted = weight.parse::<f32>().is_ok_and(|q| q > 0.0),
                    _ => {}
                }
            }
            if version_known && wanted {
                return Self::OpenMetrics;
            }
        }
        Self::Text
    }
}

/// The body of an answer.
pub(super) type Page = Full<Bytes>;

type Render = Box<dyn Fn(MetricsFormat) -> String + Send + Sync>;
type Tasks = Box<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What the pages show.
pub(crate) struct Pages {
    metrics: Render,
    tasks: Tasks,
    ready: watch::Receiver<bool>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("ready", &*self.ready.borrow())
            .finish_non_exhaustive()
    }
}

impl Pages {
    /// `metrics` renders the exposition, `tasks` lists what is in flight; both
    /// run on the server's own tasks and must not block. `ready` is whether the
    /// agent has recovered and serves.
    pub(crate) fn new(
        ready: watch::Receiver<bool>,
        metrics: impl Fn(MetricsFormat) -> String + Send + Sync + 'static,
        tasks: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) -> Self {
        Self {
            metrics: Box::new(metrics),
            tasks: Box::new(tasks),
            ready,
        }
    }

    /// Answers one request. `for_root` is whether only root can have sent it;
    /// names of objects are for root alone.
    pub(super) async fn answer<B>(
        &self,
        request: &http::Request<B>,
        for_root: bool,
    ) -> Response<Page> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response
                .headers_mut()
                .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let query = request.uri().query().unwrap_or_default();
        let verbose = query.split('&').any(|part| part.starts_with("verbose"));
        match request.uri().path() {
            "/metrics" => {
                let format = MetricsFormat::negotiate(request.headers());
                respond(
                    StatusCode::OK,
                    format.content_type(),
                    (self.metrics)(format),
                )
            }
            // Both mean that the process answers: a restart would not help one
            // that is recovering.
            "/healthz" | "/livez" if verbose => text(StatusCode::OK, "[+]serving ok\nok\n"),
            "/healthz" | "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match (*self.ready.borrow(), verbose) {
                (true, true) => text(StatusCode::OK, "[+]recovered ok\nok\n"),
                (true, false) => text(StatusCode::OK, "ok\n"),
                (false, _) => text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "[-]recovered not yet\nnot ready\n",
                ),
            },
            "/debug/tasks" if for_root => {
                let body = format!("{:#}\n", (self.tasks)());
                respond(StatusCode::OK, "application/json", body)
            }
            "/debug/pprof/profile" if for_root => profile::answer(query).await,
            "/debug/tasks" | "/debug/pprof/profile" => text(
                StatusCode::FORBIDDEN,
                "names objects or costs time; ask on the unix socket\n",
            ),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /healthz, /livez, /readyz, /debug/tasks \
                 and /debug/pprof/profile\n",
            ),
        }
    }
}

pub(super) fn text(status: StatusCode, body: &'static str) -> Response<Page> {
    respond(status, "text/plain; charset=utf-8", body)
}

pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Page> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    response
}
