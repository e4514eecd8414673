//! Certificates, made anew for each test.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

/// An authority in a directory: `ca.crt` and what it has signed.
pub struct Authority(PathBuf);

impl Authority {
    pub fn new(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        // Servers tell authorities by their names.
        let name = directory.file_name().unwrap().display();
        let own = Self(directory.to_owned());
        own.openssl(&format!(
            "req -x509 {KEY} -days 2 -subj /CN={name} -keyout ca.key -out ca.crt"
        ));
        own
    }

    pub fn certificate(&self) -> PathBuf {
        self.0.join("ca.crt")
    }

    /// A certificate for `names` (subjectAltName) as `NAME.crt` with `NAME.key`.
    pub fn sign(&self, name: &str, names: &str) -> (PathBuf, PathBuf) {
        std::fs::write(
            self.0.join("extensions"),
            format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n"),
        )
        .unwrap();
        self.openssl(&format!(
            "req -new {KEY} -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
             -extfile extensions -out {name}.crt"
        ));
        let file = |end: &str| self.0.join(format!("{name}.{end}"));
        (file("crt"), file("key"))
    }

    /// A server with a certificate for `names`, which wants one of `clients` if that is given.
    pub fn server(&self, names: &str, clients: Option<&Authority>) -> ServerConfig {
        let (certificate, key) = self.sign("server", names);
        let chain = CertificateDer::pem_file_iter(certificate).unwrap();
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                let certificate = CertificateDer::from_pem_file(clients.certificate()).unwrap();
                roots.add(certificate).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        builder.with_single_cert(chain, key).unwrap()
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
