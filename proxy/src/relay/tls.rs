//! TLS towards next hops.
//!
//! Invariant: `require` and `verify` never fall back to clear; only `verify` proves who answers,
//! and only the identity that was learned tells whether it is the same server as before.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Deserialize;

/// How much TLS a member needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsDemand {
    /// Clear text.
    None,
    /// TLS when STARTTLS is offered.
    May,
    /// TLS always; any certificate.
    Require,
    /// TLS always; the certificate is checked against CAs and name.
    Verify,
}

/// TLS towards one next hop.
#[derive(Clone)]
pub struct Tls {
    /// How much is needed.
    pub demand: TlsDemand,
    /// The name in the certificate.
    pub name: ServerName<'static>,
    /// What rustls needs; none for [`TlsDemand::None`].
    pub config: Option<Arc<ClientConfig>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("demand", &self.demand).field("name", &self.name).finish()
    }
}

/// Why TLS towards a member cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The name cannot stand in a certificate.
    #[error("{0:?} is not a host name or address; set `tls_name`")]
    Name(String),
    /// The CA file cannot be used.
    #[error("CA file {path}: {message}")]
    Authorities {
        /// The file.
        path: String,
        /// Why.
        message: String,
    },
    /// rustls refuses.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

impl Tls {
    /// No TLS.
    #[must_use]
    pub fn none() -> Self {
        let name = ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into());
        Self { demand: TlsDemand::None, name, config: None }
    }

    /// TLS as demanded. Reads the CA file or the system's roots for `verify`.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn new(demand: TlsDemand, name: &str, ca_file: Option<&Path>) -> Result<Self, TlsError> {
        if demand == TlsDemand::None {
            return Ok(Self::none());
        }
        let server =
            ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let config = if demand == TlsDemand::Verify {
            builder.with_root_certificates(roots(ca_file)?).with_no_client_auth()
        } else {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth()
        };
        Ok(Self { demand, name: server, config: Some(Arc::new(config)) })
    }
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        for certificate in rustls_native_certs::load_native_certs().certs {
            // A root that rustls cannot read is one it would never trust.
            roots.add(certificate).ok();
        }
        return Ok(roots);
    };
    let fault =
        |message: String| TlsError::Authorities { path: path.display().to_string(), message };
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| fault(error.to_string()))?;
        roots.add(certificate).map_err(|error| fault(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(fault("holds no certificate".into()));
    }
    Ok(roots)
}

/// Takes any certificate: `may` and `require` protect against listening only.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
