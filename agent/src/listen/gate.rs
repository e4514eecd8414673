//! What clients hear before the agent can serve.
//!
//! The socket is there from the first moment, so that nobody takes a recovering
//! agent for one that is gone. Until the gate opens a call is held for a moment,
//! since whoever has just woken the agent by its socket should not be told to try
//! again, and then answered `Unavailable` with what the agent is doing. `Version`
//! is held for longer: a kubelet exits if its first one fails, and repeats
//! everything else.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response};
use tokio::sync::watch;
use tonic::{Status, body::Body, service::Routes};
use tower::Service;

/// How long a call is held: what recovery is allowed to take.
const HELD: Duration = Duration::from_secs(1);
/// How long `Version` is: several times that, and less than the patience of any client.
const VERSION_HELD: Duration = Duration::from_secs(10);

const VERSION: &str = "/runtime.v1.RuntimeService/Version";

/// What the agent is doing instead of serving.
#[derive(Debug)]
pub(crate) struct Progress {
    since: Instant,
    doing: watch::Sender<String>,
    open: watch::Sender<Option<Routes>>,
}

impl Progress {
    /// Nothing has been done yet.
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            doing: watch::Sender::new("starting".to_owned()),
            open: watch::Sender::new(None),
        }
    }

    /// From now on it is doing `what` (a phrase such as "reading the records").
    pub(crate) fn doing(&self, what: impl Into<String>) {
        let what = what.into();
        tracing::debug!(what, "recovering");
        self.doing.send_replace(what);
    }

    /// From now on calls are answered by `routes`.
    pub(crate) fn open(&self, routes: Routes) {
        self.open.send_replace(Some(routes));
    }

    /// How long it has taken so far.
    pub(crate) fn took(&self) -> Duration {
        self.since.elapsed()
    }

    /// The service to listen with; `always` is served from the beginning.
    pub(crate) fn gate(&self, always: Routes) -> Gate {
        Gate {
            since: self.since,
            doing: self.doing.subscribe(),
            open: self.open.subscribe(),
            always: always.prepare(),
        }
    }
}

/// Everything that is served, as soon as it is.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    since: Instant,
    doing: watch::Receiver<String>,
    open: watch::Receiver<Option<Routes>>,
    always: Routes,
}

impl Gate {
    fn refusal(&self) -> Response<Body> {
        let doing = self.doing.borrow();
        Status::unavailable(format!(
            "the agent does not serve yet: it is {}, {:.1} s after its start; containers keep \
             running meanwhile; try again in a moment",
            *doing,
            self.since.elapsed().as_secs_f64()
        ))
        .into_http()
    }
}

impl Service<Request<Body>> for Gate {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with("/grpc.") {
            return Box::pin(self.always.call(request));
        }
        let opened = self.open.borrow().clone();
        if let Some(mut routes) = opened {
            return Box::pin(routes.call(request));
        }
        let held = if path == VERSION { VERSION_HELD } else { HELD };
        let mut gate = self.clone();
        Box::pin(async move {
            let opened = tokio::time::timeout(held, gate.open.wait_for(Option::is_some));
            let opened = match opened.await {
                Ok(Ok(routes)) => routes.clone(),
                Ok(Err(_)) | Err(_) => None,
            };
            match opened {
                Some(mut routes) => routes.call(request).await,
                None => Ok(gate.refusal()),
            }
        })
    }
}
