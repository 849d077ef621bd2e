//! TLS: from the files of a certificate to connections that are shaken hands with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::failure::{Failure, Result};

/// PEM files. They are read once, at the start.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate, then those that lead to one that clients trust.
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl TlsFiles {
    /// TLS 1.2 and 1.3, without client certificates.
    pub fn acceptor(&self) -> Result<TlsAcceptor> {
        let certs: Vec<_> = CertificateDer::pem_file_iter(&self.cert)
            .and_then(Iterator::collect)
            .map_err(|err| unreadable(&self.cert, &err))?;
        if certs.is_empty() {
            return Err(Failure::usage(format!("{}: there is no certificate in it", self.cert.display())));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|err| unreadable(&self.key, &err))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certs, key))
            .map_err(|err| Failure::usage(format!("{} and {}: {err}", self.cert.display(), self.key.display())))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn unreadable(path: &Path, err: &pem::Error) -> Failure {
    Failure::usage(format!("{}: {err}", path.display()))
}
