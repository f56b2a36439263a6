//! A certificate with its chain and key, and the files where one is.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Largest file that is read, bytes: a chain of ten certificates has 20 KB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate of the node, then those by which it was issued, as PEM.
    pub certificate: PathBuf,
    /// Its key, as PEM: PKCS#8, SEC1 or PKCS#1. May be the same file.
    pub key: PathBuf,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// The certificate.
    Certificate,
    /// The key.
    Key,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// With which.
    pub file: File,
    /// What, and what would be right.
    pub why: String,
}

/// How both files are at a moment: that of the certificate, that of the key. One that cannot be seen is `None`.
pub(super) type Stamp = [Option<Look>; 2];

/// By what a change of a file is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    bytes: u64,
    /// Device and inode: who replaces a symbolic link, as Kubernetes does, need not change anything else.
    identity: (u64, u64),
}

impl Files {
    /// The path of one of them.
    pub fn path(&self, file: File) -> &Path {
        match file {
            File::Certificate => &self.certificate,
            File::Key => &self.key,
        }
    }

    pub(super) fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key].map(|path| {
            // Follows links.
            let of = std::fs::metadata(path).ok()?;
            Some(Look { modified: (of.mtime(), of.mtime_nsec()), bytes: of.size(), identity: (of.dev(), of.ino()) })
        })
    }

    /// Reads both files.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn read(&self) -> Result<Pair, Vec<Wrong>> {
        let chain = read(&self.certificate).and_then(|bytes| chain_of(&bytes));
        let key = read(&self.key).and_then(|bytes| key_of(&bytes));
        let wrong = |file, why: &String| Wrong { file, why: why.clone() };
        match (chain, key) {
            (Ok(chain), Ok(key)) => Pair::new(chain, key).map_err(|wrong| vec![wrong]),
            (chain, key) => {
                let of_chain = chain.as_ref().err().map(|why| wrong(File::Certificate, why));
                let of_key = key.as_ref().err().map(|why| wrong(File::Key, why));
                Err(of_chain.into_iter().chain(of_key).collect())
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    let done = file.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match done {
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
        Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => {
            Err(format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display()))
        }
        Ok(_) => Ok(bytes),
    }
}

fn chain_of(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    match chain {
        Err(error) => Err(format!("is no PEM: {error}")),
        Ok(chain) if chain.is_empty() => {
            Err("holds no certificate: expected PEM with -----BEGIN CERTIFICATE-----".to_owned())
        }
        Ok(chain) => Ok(chain),
    }
}

fn key_of(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if holds(bytes, b"BEGIN ENCRYPTED PRIVATE KEY") => {
            Err("holds a key that is encrypted with a password: the node needs it without one".to_owned())
        }
        Err(pem::Error::NoItemsFound) => {
            Err("holds no private key: expected PEM with -----BEGIN PRIVATE KEY----- or the like".to_owned())
        }
        Err(error) => Err(format!("is no PEM: {error}")),
    }
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// A certificate with its chain and key, which fit together.
pub struct Pair {
    certified: Arc<CertifiedKey>,
    begins_at_ms: u64,
    expires_at_ms: u64,
}

impl Pair {
    /// Puts a chain, the node's own certificate first, and a key together.
    ///
    /// # Errors
    /// If one of them cannot be used, or they do not fit.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, Wrong> {
        let of_certificate = |why: String| Wrong { file: File::Certificate, why };
        let of_key = |why: String| Wrong { file: File::Key, why };
        let first = chain.first().ok_or_else(|| of_certificate("holds no certificate".to_owned()))?;
        let (begins_at_ms, expires_at_ms) = validity(first).map_err(of_certificate)?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                of_key("is not the key of the certificate".to_owned())
            }
            Error::InvalidCertificate(why) => of_certificate(format!("holds a certificate that cannot be used: {why}")),
            error => of_key(format!("holds a key that cannot be used: {error}")),
        })?;
        Ok(Self { certified: Arc::new(certified), begins_at_ms, expires_at_ms })
    }

    /// The certificate of the node itself, in DER.
    pub fn certificate(&self) -> &[u8] {
        self.certified.cert.first().map_or(&[], |certificate| certificate)
    }

    /// That and those behind it.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// From when on it is valid, ms since the Unix epoch.
    pub fn begins_at_ms(&self) -> u64 {
        self.begins_at_ms
    }

    /// Until when it is valid, ms since the Unix epoch.
    pub fn expires_at_ms(&self) -> u64 {
        self.expires_at_ms
    }

    /// The names and the end of it, for a line of the log.
    pub fn describe(&self) -> impl fmt::Display {
        let read = X509Certificate::from_der(self.certificate())
            .map(|(_, certificate)| format!("{}, until {}", certificate.subject(), certificate.validity().not_after));
        read.unwrap_or_default()
    }

    pub(super) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({})", self.describe())
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Result<(u64, u64), String> {
    let (_, read) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("holds a certificate that cannot be read: {error}"))?;
    let ms = |at: x509_parser::time::ASN1Time| u64::try_from(at.timestamp()).unwrap_or(0).saturating_mul(1_000);
    Ok((ms(read.validity().not_before), ms(read.validity().not_after)))
}
