//! TLS towards clients: STARTTLS, or TLS from the first octet.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

/// `[gate.tls]`: TLS towards the clients of a gate.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `none`, `may` (STARTTLS is offered), `require` (no mail without it) or `implicit`.
    pub mode: Mode,
    /// PEM file with the certificate and its chain.
    pub certificate: Option<PathBuf>,
    /// PEM file with the key.
    pub key: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self { mode: Mode::None, certificate: None, key: None }
    }
}

/// How a gate speaks TLS to its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Not at all.
    None,
    /// STARTTLS is offered.
    May,
    /// STARTTLS is offered, and MAIL refused without it.
    Require,
    /// From the first octet (RFC 8314).
    Implicit,
}

/// Why TLS towards clients cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// Certificate and key do not fit.
    #[error("certificate and key: {0}")]
    Rustls(#[from] rustls::Error),
}

impl Config {
    /// Checks what a type cannot.
    ///
    /// # Errors
    /// What is wrong, and the mend.
    pub fn check(&self) -> Result<(), String> {
        let files = self.certificate.is_some() && self.key.is_some();
        if self.mode != Mode::None && !files {
            return Err("[gate.tls] needs `certificate` and `key`".into());
        }
        Ok(())
    }

    /// Reads certificate and key; none when there is no TLS.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(&self, data: &Path) -> Result<Option<Arc<ServerConfig>>, TlsError> {
        let (Some(certificate), Some(key), true) =
            (&self.certificate, &self.key, self.mode != Mode::None)
        else {
            return Ok(None);
        };
        let (certificate, key) = (data.join(certificate), data.join(key));
        let fault = |path: &Path, error: rustls_pki_types::pem::Error| TlsError::File {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let chain = CertificateDer::pem_file_iter(&certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| fault(&certificate, error))?;
        let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| fault(&key, error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)?;
        Ok(Some(Arc::new(config)))
    }
}
