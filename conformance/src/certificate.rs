//! A self-signed certificate for loopback, made for one run.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};

/// Browsers take a certificate by its hash for at most 14 days.
const LIFETIME: Duration = Duration::from_secs(13 * 24 * 3600);
/// Clocks of peers may be behind.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A certificate (ECDSA, P-256) and its key.
pub struct Pair {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Pair {
    /// Makes one.
    pub fn new() -> Result<Self, String> {
        let told = |error: rcgen::Error| format!("a certificate: {error}");
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).map_err(told)?;
        let now = SystemTime::now();
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + LIFETIME).into();
        let key = KeyPair::generate().map_err(told)?;
        let certificate = params.self_signed(&key).map_err(told)?;
        Ok(Self { certificate, key })
    }

    /// The SHA-256 hash of the certificate.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.certificate.der()).into()
    }

    /// The certificate and its key for a TLS configuration.
    pub(crate) fn der(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        (self.certificate.der().clone(), PrivatePkcs8KeyDer::from(self.key.serialize_der()).into())
    }

    /// Writes both as PEM files into a new directory.
    pub fn write(&self, directory: &Path) -> Result<(PathBuf, PathBuf), String> {
        let told = |error: std::io::Error| format!("{}: {error}", directory.display());
        std::fs::create_dir_all(directory).map_err(told)?;
        let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
        std::fs::write(&certificate, self.certificate.pem()).map_err(told)?;
        std::fs::write(&key, self.key.serialize_pem()).map_err(told)?;
        Ok((certificate, key))
    }
}
