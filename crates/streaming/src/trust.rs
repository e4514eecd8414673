//! Whom a client believes to be the server of an https URL.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};

/// Authorities, and a certificate of one's own. The default is for plain http alone and
/// believes nobody.
#[derive(Clone, Debug, Default)]
pub struct Trust(Option<Arc<ClientConfig>>);

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It cannot be read, or holds something else.
    #[error("{path}: {why}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The pieces do not fit together.
    #[error("the certificate and key cannot be used")]
    Own(#[source] rustls::Error),
    /// Nobody could be believed.
    #[error("this machine knows no authorities")]
    NoAuthorities,
    /// The authorities cannot be used.
    #[error("the authorities cannot be used")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    /// What TLS needs is missing.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// Where certificates are to be read from.
#[derive(Clone, Debug, Default)]
pub struct TrustFiles {
    /// PEM file of authorities beside the system's, or of the server's own certificate.
    pub authorities: Option<PathBuf>,
    /// PEM files of the client's certificate chain and its key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// Believe everybody.
    pub insecure: bool,
}

impl Trust {
    /// Reads what `files` names; without authorities the system's are believed.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn read(files: &TrustFiles) -> Result<Self, TrustError> {
        // Passed by value: a process-wide default could be set twice and would panic.
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Setup)?;
        let verifier = if files.insecure {
            Verifier {
                believes: Believes::Everybody,
                provider,
            }
        } else {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let given = files.authorities.as_deref().map(chain).transpose()?;
            let given = given.unwrap_or_default();
            // What is no authority may be the server's own.
            roots.add_parsable_certificates(given.iter().cloned());
            if roots.is_empty() {
                return Err(TrustError::NoAuthorities);
            }
            let provider_of_authorities = Arc::clone(&provider);
            let authorities = WebPkiServerVerifier::builder_with_provider(
                Arc::new(roots),
                provider_of_authorities,
            )
            .build()
            .map_err(TrustError::Verifier)?;
            Verifier {
                believes: Believes::Known { authorities, given },
                provider,
            }
        };
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &files.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let secret =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| unread(key, error))?;
                builder
                    .with_client_auth_cert(chain(certificate)?, secret)
                    .map_err(TrustError::Own)?
            }
        };
        Ok(Self(Some(Arc::new(config))))
    }

    pub(crate) fn config(&self) -> Option<Arc<ClientConfig>> {
        self.0.clone()
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(chain) if chain.is_empty() => Err(TrustError::File {
            path: path.to_owned(),
            why: "there is no certificate in it".to_owned(),
        }),
        Ok(chain) => Ok(chain),
        Err(error) => Err(unread(path, error)),
    }
}

fn unread(path: &Path, error: impl std::fmt::Display) -> TrustError {
    TrustError::File {
        path: path.to_owned(),
        why: error.to_string(),
    }
}

/// Who is believed.
#[derive(Debug)]
enum Believes {
    /// Any certificate will do; that the server has its key is still checked.
    Everybody,
    /// What authorities have signed, and what the user has named: certificates that
    /// people sign with their own key are often marked as authorities, which may be no
    /// servers.
    Known {
        authorities: Arc<WebPkiServerVerifier>,
        given: Vec<CertificateDer<'static>>,
    },
}

#[derive(Debug)]
struct Verifier {
    believes: Believes,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.believes {
            Believes::Everybody => Ok(ServerCertVerified::assertion()),
            Believes::Known { given, .. } if given.iter().any(|one| one == certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            Believes::Known { authorities, .. } => {
                authorities.verify_server_cert(certificate, between, name, ocsp, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
