//! One span, one measurement and at most one log line per gRPC call.
//!
//! The layer sits outside of all services. A call ends when its answer has been
//! sent whole, when the client goes away, or when the server drops it,
//! whichever comes first.

mod body;
mod call;
mod methods;
mod parent;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::Status;
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::Metrics;
use crate::listen::Peer;
use body::Measured;
use call::Call;

/// Makes [`RpcService`]s.
#[derive(Clone, Debug)]
pub(crate) struct RpcLayer {
    metrics: Arc<Metrics>,
    in_flight: Arc<AtomicUsize>,
    limit: usize,
}

impl RpcLayer {
    pub(super) fn new(metrics: Arc<Metrics>, limit: usize) -> Self {
        Self {
            metrics,
            in_flight: Arc::default(),
            limit,
        }
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = RpcService<S>;

    fn layer(&self, inner: S) -> RpcService<S> {
        RpcService {
            inner,
            layer: self.clone(),
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct RpcService<S> {
    inner: S,
    layer: RpcLayer,
}

/// A call's place among those in flight.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    /// None if `limit` are taken.
    fn take(in_flight: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let before = in_flight.fetch_add(1, Ordering::Relaxed);
        let place = Self(in_flight.clone());
        (before < limit).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S, B, R> Service<Request<B>> for RpcService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<Measured<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = methods::method(request.uri().path());
        let span = parent::span(method, request.headers());
        let place = Place::take(&self.layer.in_flight, self.layer.limit);
        let limit = call::limit(request.headers());
        let peer = request.extensions().get::<Peer>().copied();
        let call = Call::new(
            method,
            span.clone(),
            limit,
            peer,
            self.layer.metrics.clone(),
        );
        let Some(place) = place else {
            let limit = self.layer.limit;
            return Box::pin(async move {
                let status = Status::resource_exhausted(format!(
                    "{limit} calls are in flight already; try again later, \
                     or raise `limits.max_concurrent_calls`"
                ));
                call.end(&status);
                Ok(status.into_http::<()>().map(|()| Measured::none()))
            });
        };
        // The service that was made ready must be the one that is called.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        Box::pin(async move {
            // If this future is dropped, so is `call`, which then counts as cancelled.
            let response = inner.call(request).instrument(span).await?;
            Ok(Measured::wrap(response, call, place))
        })
    }
}
