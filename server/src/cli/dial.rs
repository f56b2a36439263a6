//! How commands reach a node: TCP, and TLS where the address says so, by the trust of this machine.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::Uri;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_platform_verifier::Verifier;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::Failure;

/// A connection, with TLS or without.
pub(super) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Whether it is reached by TLS.
    pub(super) tls: bool,
    /// Name or IP address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// What stands behind, "/" if nothing.
    pub(super) path: String,
}

impl Address {
    /// Reads an address of one of the schemes http, https, ws and wss; http where none is written.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = if text.contains("://") { text.parse() } else { format!("http://{text}").parse() }.ok()?;
        let tls = match uri.scheme_str()? {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { tls, host: host.to_owned(), port, path: uri.path().to_owned() })
    }

    /// Host and port as they stand in a URL and in the header Host, where the usual port is left out.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }

    /// Whether it is this machine, by a name that nobody else can give it.
    pub(super) fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Connects, by the trust of this machine.
    pub(super) async fn connect(&self) -> Result<Stream, Failure> {
        let verifier = if self.tls { Some(trust()?) } else { None };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        match verifier {
            None => Ok(Either::Left(stream)),
            Some(verifier) => Ok(self.secure(stream, client_config(verifier, &[b"http/1.1"])).await?),
        }
    }

    /// Connects to one of the addresses of the host, with a verifier of one's own.
    pub(super) async fn connect_to(
        &self,
        to: SocketAddr,
        verifier: &Arc<dyn ServerCertVerifier>,
    ) -> std::io::Result<Stream> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        if !self.tls {
            return Ok(Either::Left(stream));
        }
        self.secure(stream, client_config(Arc::clone(verifier), &[b"http/1.1"])).await
    }

    async fn secure(&self, stream: TcpStream, config: ClientConfig) -> std::io::Result<Stream> {
        let name = ServerName::try_from(self.host.clone()).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Either::Right(Box::new(stream)))
    }
}

/// What this machine trusts; the variable `SSL_CERT_FILE` names another set of authorities.
pub(super) fn trust() -> Result<Arc<dyn ServerCertVerifier>, Failure> {
    Ok(Arc::new(Verifier::new(Arc::new(ring::default_provider()))?))
}

/// How a client speaks TLS, with these application protocols.
pub(super) fn client_config(verifier: Arc<dyn ServerCertVerifier>, alpn: &[&[u8]]) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// Trusts certificates by the SHA-256 of their DER: for nodes for development on the own machine. With no hash it trusts
/// nothing.
#[derive(Debug)]
pub(super) struct Pinned {
    hashes: Vec<[u8; 32]>,
    provider: CryptoProvider,
}

impl Pinned {
    pub(super) fn new(hashes: Vec<[u8; 32]>) -> Self {
        Self { hashes, provider: ring::default_provider() }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let hash: [u8; 32] = Sha256::digest(end_entity).into();
        if self.hashes.contains(&hash) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let address = |text| Address::parse(text).map(|at| (at.tls, at.authority(), at.port, at.path));
        let plain = |authority: &str, port, path: &str| Some((false, authority.to_owned(), port, path.to_owned()));
        let tls = |authority: &str, port, path: &str| Some((true, authority.to_owned(), port, path.to_owned()));
        assert_eq!(address("http://127.0.0.1:8080"), plain("127.0.0.1:8080", 8080, "/"));
        assert_eq!(address("node:9"), plain("node:9", 9, "/"));
        assert_eq!(address("ws://[::1]:8080/v1/connect"), plain("[::1]:8080", 8080, "/v1/connect"));
        assert_eq!(address("https://chat.example"), tls("chat.example", 443, "/"));
        assert_eq!(address("wss://chat.example:443/v1/connect"), tls("chat.example", 443, "/v1/connect"));
        assert_eq!(address("https://chat.example:80"), tls("chat.example:80", 80, "/"));
        for bad in ["", "http://", "ftp://node", "http://no de"] {
            assert_eq!(address(bad), None, "{bad}");
        }
        assert!(Address::parse("http://[::1]:8080").unwrap().is_loopback());
        assert!(!Address::parse("http://localhost.example").unwrap().is_loopback());
    }
}
