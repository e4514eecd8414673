//! Whom the exporters trust, and who they say they are.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::environment::Files;

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    /// A file is no PEM, or without what it should have.
    #[error("{path}: {why}")]
    Pem { path: String, why: String },
    /// The pieces do not fit together.
    #[error("set up TLS")]
    Setup(#[from] rustls::Error),
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.display().to_string(),
        source,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let wrong = |why: String| TlsError::Pem {
        path: path.display().to_string(),
        why,
    };
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if all.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    Ok(all)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    // Not the parser's own words: they could quote what the file holds.
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_unusable| TlsError::Pem {
        path: path.display().to_string(),
        why: "there is no private key in it".to_owned(),
    })
}

/// For the client that speaks gRPC.
///
/// # Errors
/// [`TlsError`], by file.
pub(super) fn for_grpc(files: &Files) -> Result<ClientTlsConfig, TlsError> {
    let mut config = ClientTlsConfig::new();
    config = match &files.authorities {
        Some(path) => {
            // Read by tonic when it connects, where nobody would hear of a mistake.
            certificates(path)?;
            config.ca_certificate(Certificate::from_pem(read(path)?))
        }
        None => config.with_native_roots(),
    };
    if let Some((certificate, secret)) = &files.identity {
        certificates(certificate)?;
        key(secret)?;
        config = config.identity(Identity::from_pem(read(certificate)?, read(secret)?));
    }
    Ok(config)
}

/// For the client that speaks HTTP.
///
/// # Errors
/// [`TlsError`], by file.
pub(super) fn for_http(files: &Files) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    match &files.authorities {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
        }
        None => {
            let native = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(native.certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match &files.identity {
        Some((certificate, secret)) => {
            builder.with_client_auth_cert(certificates(certificate)?, key(secret)?)?
        }
        None => builder.with_no_client_auth(),
    })
}

/// For a client that will not speak TLS.
///
/// # Errors
/// None in practice: only if the provider supports no version.
pub(super) fn for_nobody() -> Result<ClientConfig, TlsError> {
    Ok(
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    )
}
