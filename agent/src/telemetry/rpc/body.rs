//! An answer that knows when it has been sent.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Response};
use hyper::body::{Body, Frame, SizeHint};
use tonic::{Code, Status};

use super::{Place, call::Call};

/// The body of an answer, with the call that it ends.
///
/// The status of a call is in the headers of an answer without a body, and in
/// the trailers of any other.
#[derive(Debug)]
pub(crate) struct Measured<B> {
    // Boxed, so that it can be polled without a projection.
    inner: Option<Pin<Box<B>>>,
    call: Option<(Call, Place)>,
}

impl<B> Measured<B> {
    /// No body, and nothing left to measure.
    pub(super) fn none() -> Self {
        Self {
            inner: None,
            call: None,
        }
    }

    pub(super) fn wrap(response: Response<B>, call: Call, place: Place) -> Response<Self> {
        let call = match Status::from_header_map(response.headers()) {
            Some(status) => {
                call.end(&status);
                None
            }
            None => Some((call, place)),
        };
        response.map(|body| Self {
            inner: Some(Box::pin(body)),
            call,
        })
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        if let Some((call, _place)) = self.call.take() {
            match trailers.and_then(Status::from_header_map) {
                Some(status) => call.end(&status),
                None => call.end(&Status::new(
                    Code::Unknown,
                    "the answer ended without a status",
                )),
            }
        }
    }
}

impl<B: Body> Body for Measured<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let polled = inner.as_mut().poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.end(Some(trailers));
                }
            }
            Poll::Ready(None) => self.end(None),
            // The connection is gone; dropping the body counts as cancelled.
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner
            .as_ref()
            .is_none_or(|inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
