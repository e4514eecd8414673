//! Pushing to a registry, by the OCI distribution specification.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use super::Image;
use crate::NetNs;

/// Uploads `image` as `repository:tag` to the plain HTTP registry at `address`
/// in `netns`; blobs that are there already are left out.
///
/// # Errors
/// If the registry cannot be reached, or refuses a request.
pub async fn push(
    image: &Image,
    netns: &NetNs,
    address: SocketAddr,
    repository: &str,
    tag: &str,
) -> Result<()> {
    let mut registry = Connection::open(netns, address).await?;
    for (digest, bytes) in &image.blobs {
        registry.blob(repository, digest, bytes).await?;
    }
    for (digest, bytes) in &image.manifests {
        registry
            .manifest(repository, digest, super::MANIFEST, bytes)
            .await?;
    }
    registry
        .manifest(repository, tag, image.media_type, &image.manifest)
        .await
}

struct Connection {
    host: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    async fn open(netns: &NetNs, address: SocketAddr) -> Result<Self> {
        let stream = netns.enter(|| {
            let stream = std::net::TcpStream::connect(address)
                .with_context(|| format!("connect to the registry at {address}"))?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        })?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends when `sender` is dropped; what goes wrong is seen by the requests.
        tokio::spawn(connection);
        Ok(Self {
            host: address.to_string(),
            sender,
        })
    }

    async fn send(
        &mut self,
        method: Method,
        uri: &str,
        media_type: &str,
        body: &[u8],
    ) -> Result<(StatusCode, http::HeaderMap)> {
        let request = Request::builder()
            .method(method.clone())
            .uri(uri)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, media_type)
            .body(Full::new(Bytes::copy_from_slice(body)))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        if parts.status.is_server_error() {
            let text = String::from_utf8_lossy(&body).into_owned();
            bail!("{method} {uri}: {} {text}", parts.status);
        }
        Ok((parts.status, parts.headers))
    }

    async fn blob(&mut self, repository: &str, digest: &str, bytes: &[u8]) -> Result<()> {
        const OCTETS: &str = "application/octet-stream";
        let there = format!("/v2/{repository}/blobs/{digest}");
        let (status, _) = self.send(Method::HEAD, &there, OCTETS, b"").await?;
        if status == StatusCode::OK {
            return Ok(());
        }
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let (status, headers) = self.send(Method::POST, &uploads, OCTETS, b"").await?;
        ensure!(status == StatusCode::ACCEPTED, "POST {uploads}: {status}");
        let location = headers
            .get(header::LOCATION)
            .context("the registry names no upload location")?
            .to_str()?;
        let separator = if location.contains('?') { '&' } else { '?' };
        // Registries answer with an absolute or a relative location.
        let path = location
            .strip_prefix("http://")
            .and_then(|rest| rest.find('/').map(|at| &rest[at..]))
            .unwrap_or(location);
        let target = format!("{path}{separator}digest={digest}");
        let (status, _) = self.send(Method::PUT, &target, OCTETS, bytes).await?;
        ensure!(status == StatusCode::CREATED, "PUT {target}: {status}");
        Ok(())
    }

    async fn manifest(
        &mut self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<()> {
        let target = format!("/v2/{repository}/manifests/{reference}");
        let (status, _) = self.send(Method::PUT, &target, media_type, bytes).await?;
        ensure!(status == StatusCode::CREATED, "PUT {target}: {status}");
        Ok(())
    }
}
