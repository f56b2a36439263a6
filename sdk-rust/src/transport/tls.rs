//! Whom a client believes to be its node.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;
use sha2::{Digest, Sha256};

/// What the application says about certificates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    /// PEM texts with roots beside those of the system.
    pub(crate) extra_roots: Vec<Vec<u8>>,
    /// SHA-256 of the one certificate that is taken.
    pub(crate) certificate_hash: Option<[u8; 32]>,
}

/// Makes the configurations of TLS and QUIC, once: the sessions in them shorten later handshakes.
pub(crate) struct Tls {
    trust: Trust,
    verifier: OnceLock<Arc<dyn ServerCertVerifier>>,
    http: OnceLock<Arc<ClientConfig>>,
    #[cfg(feature = "quic")]
    quic: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    pub(crate) fn new(trust: Trust) -> Self {
        Self {
            trust,
            verifier: OnceLock::new(),
            http: OnceLock::new(),
            #[cfg(feature = "quic")]
            quic: OnceLock::new(),
        }
    }

    /// Reads the roots of the system, if that was not done yet.
    pub(crate) fn prepare(&self) -> Result<Arc<dyn ServerCertVerifier>, String> {
        if let Some(verifier) = self.verifier.get() {
            return Ok(verifier.clone());
        }
        let verifier = verifier(&self.trust)?;
        Ok(self.verifier.get_or_init(|| verifier).clone())
    }

    /// For WebSocket, which is spoken over HTTP/1.1 only.
    pub(super) fn http(&self) -> Result<Arc<ClientConfig>, String> {
        self.config(&self.http, b"http/1.1")
    }

    /// For QUIC.
    #[cfg(feature = "quic")]
    pub(super) fn quic(&self) -> Result<Arc<ClientConfig>, String> {
        self.config(&self.quic, b"lanecast/1")
    }

    fn config(&self, made: &OnceLock<Arc<ClientConfig>>, alpn: &[u8]) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = made.get() {
            return Ok(config.clone());
        }
        let verifier = self.prepare()?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        // What publishes never rides in 0-RTT data, which anybody could replay (LC-QUIC-011).
        config.enable_early_data = false;
        Ok(made.get_or_init(|| Arc::new(config)).clone())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// The name that a certificate must have.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned()).map_err(|error| format!("{host:?}: {error}"))
}

fn verifier(trust: &Trust) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let provider = Arc::new(ring::default_provider());
    if let Some(hash) = trust.certificate_hash {
        return Ok(Arc::new(Pinned { hash, provider }));
    }
    let mut roots = Vec::new();
    for pem in &trust.extra_roots {
        let before = roots.len();
        for root in CertificateDer::pem_slice_iter(pem) {
            roots.push(root.map_err(|error| format!("an extra root: {error}"))?);
        }
        if roots.len() == before {
            return Err("an extra root holds no certificate in PEM form".into());
        }
    }
    Ok(Arc::new(system(roots, provider).map_err(|error| error.to_string())?))
}

#[cfg(not(target_os = "android"))]
fn system(roots: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Verifier, rustls::Error> {
    Verifier::new_with_extra_roots(roots, provider)
}

/// Android decides by the application's network security configuration, which is where further roots belong.
#[cfg(target_os = "android")]
fn system(roots: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Verifier, rustls::Error> {
    if !roots.is_empty() {
        return Err(rustls::Error::General("on Android, extra roots belong into the network security config".into()));
    }
    Verifier::new(provider)
}

/// Takes one certificate and no other, whatever its name, issuer and dates. The handshake proves that the peer has its
/// key.
#[derive(Debug)]
struct Pinned {
    hash: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Sha256::digest(end_entity)[..] == self.hash {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extra_root_has_to_be_one() {
        let tls = |pem: &[u8]| Tls::new(Trust { extra_roots: vec![pem.to_vec()], certificate_hash: None });
        assert!(tls(b"nothing").prepare().unwrap_err().contains("no certificate"));
        let broken = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(tls(broken).prepare().is_err());
        let key = rcgen::generate_simple_self_signed(vec!["a".into()]).unwrap();
        assert!(tls(key.cert.pem().as_bytes()).prepare().is_ok());
    }
}
