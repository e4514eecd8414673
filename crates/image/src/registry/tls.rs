//! TLS as a host wants it: authorities, this client's certificates.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::{
    RegistryError,
    hosts::{ClientPair, Transport},
};

/// A bundle of all public authorities has a fifth of it.
const PEM_MAX: u64 = 4 << 20;

fn setup(why: String) -> RegistryError {
    RegistryError::Setup { why }
}

fn about(path: &Path, why: impl std::fmt::Display) -> RegistryError {
    setup(format!("{}: {why}", path.display()))
}

/// The authorities that the node trusts; read once, they take a megabyte.
#[derive(Debug, Default)]
pub(super) struct NodeRoots(OnceLock<Arc<RootCertStore>>);

impl NodeRoots {
    fn get(&self) -> Arc<RootCertStore> {
        let load = || {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Arc::new(roots)
        };
        Arc::clone(self.0.get_or_init(load))
    }
}

/// For clients that only speak plain HTTP.
pub(super) fn none() -> Result<ClientConfig, RegistryError> {
    configured(Arc::new(RootCertStore::empty()), &Transport::default())
}

/// The configuration for `transport`, which trusts `extra` too.
pub(super) fn config(
    node: &NodeRoots,
    extra: &[std::path::PathBuf],
    transport: &Transport,
) -> Result<ClientConfig, RegistryError> {
    let mut roots = node.get();
    for file in extra.iter().chain(&transport.ca) {
        let roots = Arc::make_mut(&mut roots);
        let pem = read(file)?;
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| about(file, error))?;
            roots.add(certificate).map_err(|error| about(file, error))?;
        }
        if roots.len() == before {
            return Err(about(file, "no certificate in it"));
        }
    }
    if roots.is_empty() && !transport.skip_verify {
        return Err(setup(
            "the node has no certificate authorities; install ca-certificates".to_owned(),
        ));
    }
    configured(roots, transport)
}

fn configured(
    roots: Arc<RootCertStore>,
    transport: &Transport,
) -> Result<ClientConfig, RegistryError> {
    // Passed by value: a process-wide default could be set twice and would panic.
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(error.to_string()))?;
    let builder = match transport.skip_verify {
        false => builder.with_root_certificates(roots),
        true => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(Arc::clone(&provider)))),
    };
    let mut config = match transport.client.as_slice() {
        [] => builder.with_no_client_auth(),
        pairs => builder.with_client_cert_resolver(Arc::new(Own::load(pairs, &provider)?)),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read(file: &Path) -> Result<Vec<u8>, RegistryError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|open| open.take(PEM_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| about(file, error))?;
    match bytes.len() as u64 > PEM_MAX {
        true => Err(about(file, "too large for certificates")),
        false => Ok(bytes),
    }
}

/// This client's certificates.
#[derive(Debug)]
struct Own(Vec<Arc<CertifiedKey>>);

impl Own {
    fn load(pairs: &[ClientPair], provider: &CryptoProvider) -> Result<Self, RegistryError> {
        let mut own = Vec::new();
        for pair in pairs {
            let pem = read(&pair.certificate)?;
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            let chain = chain.map_err(|error| about(&pair.certificate, error))?;
            if chain.is_empty() {
                return Err(about(&pair.certificate, "no certificate in it"));
            }
            let file = pair.key.as_ref().unwrap_or(&pair.certificate);
            let pem = read(file)?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| about(file, error))?;
            let key = CertifiedKey::from_der(chain, key, provider)
                .map_err(|error| about(file, format!("not the key of its certificate: {error}")))?;
            own.push(Arc::new(key));
        }
        Ok(Self(own))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let usable = |own: &&Arc<CertifiedKey>| own.key.choose_scheme(schemes).is_some();
        // An issuer's name stands in a certificate as it stands in the hint.
        let wanted = |own: &&Arc<CertifiedKey>| {
            let named = |name: &&[u8]| {
                let inside = |der: &CertificateDer<'_>| {
                    !name.is_empty() && der.windows(name.len()).any(|window| window == *name)
                };
                own.cert.iter().any(inside)
            };
            root_hint_subjects.iter().any(named)
        };
        let mut fit = self.0.iter().filter(usable);
        fit.clone().find(wanted).or_else(|| fit.next()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// `skip_verify`: whoever answers is believed; only that it holds the key of the
/// certificate that it shows is checked.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
