//! Section `[streaming]`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// Where the streams of exec, attach and port-forward are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamingConfig {
    /// Port 0 takes any.
    pub(crate) listen: SocketAddr,
    /// `HOST:PORT` in URLs instead of the address that is listened on.
    pub(crate) advertise: Option<String>,
    /// PEM files of certificate chain and key; none is plain HTTP.
    pub(crate) certificate: Option<PathBuf>,
    /// See `certificate`; both or none.
    pub(crate) key: Option<PathBuf>,
}

impl Default for StreamingConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            advertise: None,
            certificate: None,
            key: None,
        }
    }
}

impl StreamingConfig {
    /// What TLS needs, if there is to be any.
    ///
    /// # Errors
    /// If one of the files cannot be used.
    pub(crate) fn tls(&self) -> Result<Option<ServerConfig>> {
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else {
            return Ok(None);
        };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .with_context(|| format!("certificate {}", certificate.display()))?;
        let secret = PrivateKeyDer::from_pem_file(key)
            .with_context(|| format!("private key {}", key.display()))?;
        // Passed by value: a process-wide default could be set twice and would panic.
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, secret)
            .with_context(|| {
                format!(
                    "certificate {} with key {}",
                    certificate.display(),
                    key.display()
                )
            })?;
        Ok(Some(config))
    }
}
