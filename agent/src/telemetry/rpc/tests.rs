use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use opentelemetry::trace::TraceContextExt as _;
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::listen::http::MetricsFormat;

const VERSION: &str = "/runtime.v1.RuntimeService/Version";

fn request(path: &str) -> Request<()> {
    Request::builder().uri(path).body(()).unwrap()
}

fn count(metrics: &Metrics, rpc: &str, outcome: &str) -> u64 {
    let text = metrics.render(MetricsFormat::Text);
    let prefix = format!(
        "berth_cri_operation_duration_seconds_count{{rpc=\"{rpc}\",outcome=\"{outcome}\"}} "
    );
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.map_or(0, |value| value.parse().unwrap())
}

/// An answer whose status is in its trailers, as that of a call that went well.
fn answer(
    trailers: &[(&'static str, &'static str)],
) -> Response<http_body_util::combinators::BoxBody<Bytes, Infallible>> {
    let mut map = http::HeaderMap::new();
    for (key, value) in trailers {
        map.insert(*key, http::HeaderValue::from_static(value));
    }
    let body = Full::new(Bytes::from_static(b"x")).with_trailers(async move { Some(Ok(map)) });
    Response::new(body.boxed())
}

#[tokio::test]
async fn a_call_ends_with_the_status_of_its_trailers() {
    let metrics = Arc::new(Metrics::new());
    let layer = RpcLayer::new(metrics.clone(), 8);
    for (code, outcome) in [("0", "OK"), ("5", "NOT_FOUND")] {
        let service = layer.layer(service_fn(move |_: Request<()>| async move {
            Ok::<_, Infallible>(answer(&[("grpc-status", code)]))
        }));
        let response = service.oneshot(request(VERSION)).await.unwrap();
        assert_eq!(count(&metrics, &VERSION[1..], outcome), 0);
        response.into_body().collect().await.unwrap();
        assert_eq!(count(&metrics, &VERSION[1..], outcome), 1);
    }
}

#[tokio::test]
async fn a_failure_is_in_the_headers_and_strange_paths_share_one_name() {
    let metrics = Arc::new(Metrics::new());
    let layer = RpcLayer::new(metrics.clone(), 8);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        let status = Status::unimplemented("no such call");
        Ok::<_, Infallible>(status.into_http::<()>().map(|()| Full::new(Bytes::new())))
    }));
    for path in ["/a/b", "/runtime.v1.RuntimeService/deadbeef"] {
        service.clone().oneshot(request(path)).await.unwrap();
    }
    assert_eq!(count(&metrics, "other", "UNIMPLEMENTED"), 2);
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_was_cancelled() {
    let metrics = Arc::new(Metrics::new());
    let layer = RpcLayer::new(metrics.clone(), 8);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    }));
    let call = service.oneshot(request(VERSION));
    tokio::time::timeout(Duration::from_millis(5), call)
        .await
        .unwrap_err();
    assert_eq!(count(&metrics, &VERSION[1..], "CANCELLED"), 1);
}

#[tokio::test]
async fn an_answer_that_is_dropped_half_way_was_cancelled() {
    let metrics = Arc::new(Metrics::new());
    let layer = RpcLayer::new(metrics.clone(), 8);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(answer(&[("grpc-status", "0")]))
    }));
    drop(service.oneshot(request(VERSION)).await.unwrap());
    assert_eq!(count(&metrics, &VERSION[1..], "CANCELLED"), 1);
}

#[tokio::test]
async fn calls_beyond_the_limit_are_refused_until_one_ends() {
    let metrics = Arc::new(Metrics::new());
    let layer = RpcLayer::new(metrics.clone(), 1);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(answer(&[("grpc-status", "0")]))
    }));
    let first = service.clone().oneshot(request(VERSION)).await.unwrap();
    let refused = service.clone().oneshot(request(VERSION)).await.unwrap();
    let status = Status::from_header_map(refused.headers()).unwrap();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().contains("max_concurrent_calls"));
    drop(first);
    let third = service.oneshot(request(VERSION)).await.unwrap();
    assert!(Status::from_header_map(third.headers()).is_none());
}

#[test]
fn the_callers_trace_is_taken_and_nonsense_is_not() {
    let mut headers = http::HeaderMap::new();
    assert!(!parent::caller(&headers).span().span_context().is_valid());
    for (value, valid) in [
        (
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            true,
        ),
        (
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            false,
        ),
        ("zz", false),
        ("", false),
    ] {
        headers.insert("traceparent", value.parse().unwrap());
        let context = parent::caller(&headers);
        assert_eq!(context.span().span_context().is_valid(), valid, "{value}");
    }
}

#[tokio::test]
async fn a_call_whose_deadline_passed_is_told_apart_from_one_called_off() {
    let metrics = Arc::new(Metrics::new());
    let layer = RpcLayer::new(metrics.clone(), 8);
    let service = layer.layer(service_fn(|_: Request<()>| async {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    }));
    let mut late = request(VERSION);
    late.headers_mut()
        .insert("grpc-timeout", "10m".parse().unwrap());
    tokio::time::timeout(Duration::from_millis(10), service.oneshot(late))
        .await
        .unwrap_err();
    assert_eq!(count(&metrics, &VERSION[1..], "DEADLINE_EXCEEDED"), 1);
}

#[test]
fn a_callers_limit_is_read_in_every_unit_and_nonsense_is_none() {
    let limit = |value: &str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("grpc-timeout", value.parse().unwrap());
        call::limit(&headers)
    };
    assert_eq!(limit("2M"), Some(Duration::from_secs(120)));
    assert_eq!(limit("1500m"), Some(Duration::from_millis(1500)));
    assert_eq!(
        limit("99999999H"),
        Some(Duration::from_secs(99_999_999 * 3600))
    );
    for bad in ["", "S", "5", "999999999S", "-1S", "5x"] {
        assert_eq!(limit(bad), None, "{bad}");
    }
    assert_eq!(call::limit(&http::HeaderMap::new()), None);
}
