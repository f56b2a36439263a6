//! Whom the suite trusts, for TLS and QUIC alike.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;
use sha2::{Digest as _, Sha256};

/// SHA-256 hashes of certificates, which may be replaced when the server has another one.
#[derive(Clone, Debug, Default)]
pub struct Pins(Arc<RwLock<Vec<[u8; 32]>>>);

impl Pins {
    /// Puts these hashes in place of the former ones.
    pub fn set(&self, hashes: Vec<[u8; 32]>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = hashes;
    }

    fn hold(&self, hash: &[u8; 32]) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(hash)
    }
}

/// Which servers are believed to be who they say.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// Those that the system trusts.
    #[default]
    System,
    /// Those with a certificate of one of these authorities.
    Authorities(Vec<CertificateDer<'static>>),
    /// Those whose certificate has one of these SHA-256 hashes.
    Hashes(Pins),
    /// Everyone.
    Everyone,
}

impl Trust {
    /// Trust in the authorities of a PEM file.
    pub fn file(path: &Path) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
            .map_err(|error| told(&error))?
            .collect::<Result<_, _>>()
            .map_err(|error| told(&error))?;
        if certificates.is_empty() { Err(told(&"no certificate")) } else { Ok(Self::Authorities(certificates)) }
    }

    /// A client configuration for these protocols. It sends nothing as early data (LC-QUIC-011).
    pub(crate) fn client_config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let told = |error: &dyn std::fmt::Display| format!("TLS: {error}");
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::System => Arc::new(Verifier::new(provider.clone()).map_err(|error| told(&error))?),
            Self::Authorities(certificates) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates {
                    roots.add(certificate.clone()).map_err(|error| told(&error))?;
                }
                WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
                    .build()
                    .map_err(|error| told(&error))?
            }
            Self::Hashes(pins) => Arc::new(Pinned { pins: Some(pins.clone()), provider: provider.clone() }),
            Self::Everyone => Arc::new(Pinned { pins: None, provider: provider.clone() }),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| told(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}

/// Takes certificates by their hash, or all.
#[derive(Debug)]
struct Pinned {
    pins: Option<Pins>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let hash: [u8; 32] = Sha256::digest(end_entity).into();
        match &self.pins {
            Some(pins) if !pins.hold(&hash) => {
                Err(rustls::Error::General("the certificate has another hash than the server names".into()))
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
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
