//! What clients hear before the agent can serve.
//!
//! The socket is there from the first moment, so that nobody takes a recovering
//! agent for one that is gone. Until the gate opens a call is held for a moment,
//! since whoever has just woken the agent by its socket should not be told to try
//! again, and then answered `Unavailable` with what the agent is doing. `Version`
//! is held for longer: a kubelet exits if its first one fails, and repeats
//! everything else.
//!
//! When another agent takes this one's place the gate closes: what is being answered
//! is cut off with `Unavailable`, so that clients ask the other one. Only commands
//! (`ExecSync`), which need nothing but their shim, are answered to their end.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body, service::Routes};
use tower::Service;

/// How long a call is held: what recovery is allowed to take.
const HELD: Duration = Duration::from_secs(1);
/// How long `Version` is: several times that, and less than the patience of any client.
const VERSION_HELD: Duration = Duration::from_secs(10);

const VERSION: &str = "/runtime.v1.RuntimeService/Version";
const EXEC_SYNC: &str = "/runtime.v1.RuntimeService/ExecSync";

/// What the agent is doing instead of serving.
#[derive(Debug)]
pub(crate) struct Progress {
    since: Instant,
    doing: watch::Sender<String>,
    open: watch::Sender<Option<Routes>>,
    closed: CancellationToken,
}

impl Progress {
    /// Nothing has been done yet.
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            doing: watch::Sender::new("starting".to_owned()),
            open: watch::Sender::new(None),
            closed: CancellationToken::new(),
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

    /// From now on another agent answers.
    pub(crate) fn close(&self) {
        self.closed.cancel();
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
            closed: self.closed.clone(),
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
    closed: CancellationToken,
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
        let lasting = request.uri().path() == EXEC_SYNC;
        let answer = self.answer(request);
        if lasting {
            return answer;
        }
        let closed = self.closed.clone();
        Box::pin(async move {
            match closed.run_until_cancelled(answer).await {
                Some(answer) => answer.map(|answer| answer.map(|body| cut_off(body, closed))),
                None => Ok(replaced().into_http()),
            }
        })
    }
}

impl Gate {
    fn answer(&mut self, request: Request<Body>) -> <Self as Service<Request<Body>>>::Future {
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

fn replaced() -> Status {
    Status::unavailable("this agent was replaced by another one; ask again")
}

/// `body` until `closed`; streams that have no end of their own end then.
fn cut_off(body: Body, closed: CancellationToken) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::new(CutOff {
        body,
        closed: Some(Box::pin(closed.cancelled_owned())),
    })
}

struct CutOff {
    body: Body,
    /// None once it was told.
    closed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl hyper::body::Body for CutOff {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // What is there already is sent first: a whole answer stays one.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let Some(closed) = &mut self.closed else {
            return Poll::Ready(None);
        };
        if closed.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.closed = None;
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        Poll::Ready(match replaced().add_header(&mut trailers) {
            Ok(()) => Some(Ok(Frame::trailers(trailers))),
            Err(status) => Some(Err(status)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
