//! Requests of the exporters over HTTP.

use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use reqwest::Client;
use tokio::runtime::Handle;

/// Bytes of an answer. A collector answers with a few; it is not trusted with more.
const ANSWER_MAX: usize = 64 << 10;

/// Posts on the runtime that it was made on: the exporters call from threads of
/// their own, which have none. (A blocking client would bring one more thread and
/// runtime for each signal.)
#[derive(Debug)]
pub(super) struct Post {
    client: Client,
    runtime: Handle,
}

impl Post {
    /// A client whose requests take `timeout` at most. `tls` is always given: with
    /// none the client would load all the system's authorities, for http too.
    ///
    /// # Errors
    /// If the settings do not fit together.
    pub(super) fn new(
        timeout: Duration,
        tls: rustls::ClientConfig,
    ) -> Result<Self, reqwest::Error> {
        let builder = Client::builder()
            .timeout(timeout)
            // An export has its credentials in its headers.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .tls_backend_preconfigured(tls);
        Ok(Self {
            client: builder.build()?,
            runtime: Handle::current(),
        })
    }
}

#[tonic::async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let sending = self
            .client
            .request(parts.method, parts.uri.to_string())
            .headers(parts.headers)
            .body(body);
        self.runtime
            .spawn(async move {
                // The URL may hold a password.
                let mut answer = sending.send().await.map_err(reqwest::Error::without_url)?;
                let mut response = Response::builder().status(answer.status());
                if let Some(headers) = response.headers_mut() {
                    headers.extend(answer.headers_mut().drain());
                }
                let mut body = Vec::new();
                while let Some(chunk) = answer.chunk().await? {
                    if body.len() + chunk.len() > ANSWER_MAX {
                        return Err("the collector's answer is too long".into());
                    }
                    body.extend_from_slice(&chunk);
                }
                Ok(response.body(Bytes::from(body))?)
            })
            .await?
    }
}
