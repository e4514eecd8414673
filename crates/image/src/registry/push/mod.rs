//! Writing to a repository (distribution specification, "Pushing").
//!
//! ```text
//!           HEAD 200 ──────────────────────────────────────────────► there
//!           POST ?mount 201 ───────────────────────────────────────► mounted
//!           POST 202 ─► open ──PUT all of it────────────────► 201 ─► sent
//!                        │ ▲ └─PATCH a chunk─► open …─PUT─► 201 ──► sent
//!             broke, 416 ▼ │ GET 204 Range
//!                       unsure ──404──► POST again
//! ```

mod exchange;
mod piece;
mod place;
mod upload;

pub(crate) use upload::{Source, Told, Upload};

use reqwest::{
    Method, StatusCode,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};

use super::{RegistryError, Session, origin::same_origin, session::retry};
use crate::name::Digest;
use exchange::Sending;

impl Session<'_> {
    /// Whether the repository has a blob.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        retry(|| async {
            let answer = self.head(&url).await?;
            match answer.status() {
                StatusCode::OK => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                // Storage behind the registry may take addresses that were signed for GET only.
                _ if !same_origin(&url, answer.url()) => Ok(false),
                _ => Err(self.refusal(answer, "whether a blob is there").await),
            }
        })
        .await
    }

    /// Puts a manifest in its place; the registry must keep it byte for byte.
    pub(crate) async fn put_manifest(
        &self,
        tag: &str,
        media_type: &str,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let url = self.url(&format!("manifests/{tag}"))?;
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_str(media_type)
            .ok()
            .ok_or_else(|| self.odd("cannot be given a manifest of such a type".to_owned()))?;
        headers.insert(CONTENT_TYPE, media_type);
        retry(|| async {
            let sending = Sending::Bytes(bytes);
            let answer = self
                .exchange(Method::PUT, &url, &headers, &sending, "a manifest")
                .await?;
            if !answer.status().is_success() {
                return Err(self.refusal(answer, "a manifest").await);
            }
            let kept = answer.headers().get("docker-content-digest");
            let kept = kept.and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
            match kept {
                Some(kept) if kept.algorithm() == digest.algorithm() && kept != *digest => {
                    Err(self.odd(format!(
                        "has changed the manifest {digest}: it is {kept} there"
                    )))
                }
                _ => Ok(()),
            }
        })
        .await
    }
}
