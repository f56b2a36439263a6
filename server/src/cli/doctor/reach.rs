//! DNS, TCP and TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, InvalidMessage, SignatureScheme};
use tokio::net::TcpStream;
use tokio_util::either::Either;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::report::Check;
use super::token::span;
use super::{STEP, since};
use crate::cli::dial::Address;
use crate::clock::Clock;

/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 8;
/// A certificate that ends sooner is worth a word.
const SOON_SECONDS: f64 = 14.0 * 86_400.0;

/// The addresses of the host.
pub(super) async fn resolve(address: &Address) -> (Check, Vec<SocketAddr>) {
    const NAME: &str = "DNS";
    if let Ok(ip) = address.host.parse() {
        return (Check::ok(NAME, "an address, not a name"), vec![SocketAddr::new(ip, address.port)]);
    }
    let looked = tokio::time::timeout(STEP, tokio::net::lookup_host((address.host.as_str(), address.port))).await;
    let host = &address.host;
    match looked {
        Err(_) => {
            let check = Check::problem(NAME, format!("no answer about {host} within {STEP:?}"));
            (check.advise("The resolver of this machine cannot be reached: see /etc/resolv.conf."), Vec::new())
        }
        Ok(Err(error)) => {
            let check = Check::problem(NAME, format!("{host} has no address: {error}"));
            (check.advise("Check the spelling, and that the name has an A or AAAA record."), Vec::new())
        }
        Ok(Ok(found)) => {
            let mut found: Vec<SocketAddr> = found.collect();
            found.dedup();
            found.truncate(ADDRESSES_MAX);
            let list: Vec<String> = found.iter().map(|at| at.ip().to_string()).collect();
            (Check::ok(NAME, format!("{host} is {}", list.join(", "))), found)
        }
    }
}

/// Which of the addresses takes connections. All are tried at once, so that a bad one shows even where clients get by.
pub(super) async fn tcp(addresses: &[SocketAddr], clock: &Clock) -> (Check, Option<SocketAddr>) {
    const NAME: &str = "TCP";
    let began = clock.elapsed();
    let tried = join_all(addresses.iter().map(|address| async move {
        let connected = tokio::time::timeout(STEP, TcpStream::connect(address)).await;
        let failure = match connected {
            Err(_) => Some(format!("{address} does not answer within {STEP:?}")),
            Ok(Err(error)) => Some(format!("{address}: {error}")),
            Ok(Ok(_)) => None,
        };
        (*address, failure, since(clock, began))
    }))
    .await;
    let failures: Vec<String> = tried.iter().filter_map(|(_, failure, _)| failure.clone()).collect();
    let Some((reached, _, took)) = tried.iter().find(|(_, failure, _)| failure.is_none()) else {
        let check = Check::problem(NAME, failures.join("; ")).advise(
            "Refused: nothing listens there, or on a loopback address only (listen.address). No answer: a firewall, or \
             the machine is down.",
        );
        return (check, None);
    };
    let finding = format!("{reached} answers in {took} ms");
    let check = if failures.is_empty() {
        Check::ok(NAME, finding)
    } else {
        Check::warning(NAME, format!("{finding}; {}", failures.join("; ")))
            .advise("Clients that try the other address first wait for it: take it out of DNS, or make it answer.")
    };
    (check, Some(*reached))
}

/// The handshake, and the certificate that came with it.
pub(super) async fn tls(
    address: &Address,
    to: SocketAddr,
    trust: &Arc<dyn ServerCertVerifier>,
    now_ms: u64,
) -> (Check, bool) {
    const NAME: &str = "TLS";
    if !address.tls {
        return (if address.is_loopback() { local_clear_text() } else { clear_text() }, true);
    }
    let witness = Arc::new(Witness { inner: Arc::clone(trust), seen: Mutex::default() });
    let verifier = Arc::clone(&witness) as Arc<dyn ServerCertVerifier>;
    let connected = tokio::time::timeout(STEP, address.connect_to(to, &verifier)).await;
    let seen = std::mem::take(&mut *witness.seen.lock());
    match connected {
        Err(_) => {
            let check = Check::problem(NAME, format!("the handshake is not done within {STEP:?}"));
            (check.advise("Something takes connections and says nothing: is it the port of a node, or of TLS?"), false)
        }
        Ok(Err(error)) => (explain(address, &error, &seen), false),
        Ok(Ok(stream)) => {
            let version = match &stream {
                Either::Right(stream) => stream.get_ref().1.protocol_version(),
                Either::Left(_) => None,
            };
            let version = version.and_then(|version| version.as_str()).unwrap_or("TLS");
            (describe(version, &seen, now_ms), true)
        }
    }
}

fn local_clear_text() -> Check {
    Check::skipped("TLS", "not asked for (http)")
}

fn clear_text() -> Check {
    Check::warning("TLS", "not asked for (http): tokens and messages travel in clear text")
        .advise("Give the node a certificate ([tls]), or put a proxy with one before it, and use https.")
}

fn describe(version: &str, seen: &[CertificateDer<'static>], now_ms: u64) -> Check {
    let read = seen.first().and_then(|der| X509Certificate::from_der(der).ok());
    let Some((_, certificate)) = read else { return Check::ok("TLS", version) };
    let left = certificate.validity().not_after.timestamp() as f64 - now_ms as f64 / 1_000.0;
    let finding = format!("{version}, certificate for {}, ends in {}", names(&certificate).join(", "), span(left));
    if left < SOON_SECONDS {
        let advice = "Renew it; a node takes the new files while it runs, and drops no connection.";
        return Check::warning("TLS", finding).advise(advice);
    }
    Check::ok("TLS", finding)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| &names.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    });
    names.collect()
}

/// Why a handshake failed, and what to do.
pub(super) fn explain(address: &Address, error: &std::io::Error, seen: &[CertificateDer<'static>]) -> Check {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let problem = |finding: String| Check::problem("TLS", finding);
    match inner {
        Some(Error::InvalidCertificate(error)) => explain_certificate(address, error, seen),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            problem("what answers there speaks no TLS".to_owned())
                .advise("Use http:// if that is meant; else give the node a certificate ([tls]).")
        }
        Some(Error::AlertReceived(alert)) => problem(format!("the other side refused the handshake: {alert:?}"))
            .advise("A proxy may know no certificate for this name, or want a newer or older version of TLS."),
        _ => problem(format!("the handshake failed: {error}"))
            .advise("The port may belong to something else, or a firewall cuts TLS."),
    }
}

fn explain_certificate(address: &Address, error: &CertificateError, seen: &[CertificateDer<'static>]) -> Check {
    let read = seen.first().and_then(|der| X509Certificate::from_der(der).ok()).map(|(_, certificate)| certificate);
    let of = read.as_ref().map_or_else(String::new, |certificate| format!(" (for {})", names(certificate).join(", ")));
    let problem = |what: &str| Check::problem("TLS", format!("{what}{of}"));
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => problem("the certificate has expired")
            .advise("Renew it; a node takes the new files while it runs. If it is not expired, this machine's clock is ahead."),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            problem("the certificate is not valid yet").advise("The clock of this machine is behind.")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            problem(&format!("the certificate is not for {}", address.host))
                .advise("Use a name that it has, or get one for this name: clients judge by it.")
        }
        // Not in the enum: what `openssl req -x509` makes unless it is told otherwise.
        CertificateError::Other(error) if error.to_string().contains("CaUsedAsEndEntity") => {
            problem("the certificate is one of an authority, not of a server").advise(
                "Clients refuse it, trusted or not: have the authority issue one for the server, or make it with \
                 basicConstraints=critical,CA:FALSE.",
            )
        }
        CertificateError::UnknownIssuer => unknown_issuer(read.as_ref(), seen.len(), &of),
        other => problem(&format!("the certificate is refused: {other}"))
            .advise("Get one from an authority that this machine's system trusts."),
    }
}

fn unknown_issuer(certificate: Option<&X509Certificate<'_>>, sent: usize, of: &str) -> Check {
    let is_own = certificate.is_some_and(|certificate| certificate.issuer() == certificate.subject());
    let issuer = certificate.map(|certificate| certificate.issuer().to_string()).unwrap_or_default();
    if is_own {
        Check::problem("TLS", format!("the certificate is signed by itself{of}"))
            .advise("Clients cannot trust it: get one from an authority. For a private one set SSL_CERT_FILE to its certificate.")
    } else if sent == 1 {
        Check::problem("TLS", format!("no trusted authority vouches for the certificate{of}: it was sent alone, issued by {issuer}"))
            .advise("Most likely the chain is missing: put the certificates of the issuer behind the node's own in tls.certificate_file (often called fullchain.pem).")
    } else {
        Check::problem("TLS", format!("no trusted authority vouches for the certificate{of}, issued by {issuer}"))
            .advise("For a private authority set SSL_CERT_FILE to its certificate, here and on clients.")
    }
}

/// Remembers what was presented, and leaves the judgement to another.
#[derive(Debug)]
struct Witness {
    inner: Arc<dyn ServerCertVerifier>,
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = std::iter::once(end_entity).chain(intermediates);
        *self.seen.lock() = presented.map(|certificate| certificate.clone().into_owned()).collect();
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Whether a UDP port is closed for certain: the machine says so at once. `false` tells nothing.
pub(super) async fn is_udp_closed(to: SocketAddr) -> bool {
    let any: SocketAddr = if to.is_ipv6() { ([0; 8], 0).into() } else { ([0; 4], 0).into() };
    let probe = async {
        let socket = tokio::net::UdpSocket::bind(any).await?;
        socket.connect(to).await?;
        socket.send(&[0]).await?;
        socket.recv(&mut [0; 16]).await
    };
    let said = tokio::time::timeout(Duration::from_millis(300), probe).await;
    matches!(said, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}
