//! Raw QUIC and WebTransport.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::Either;
use lanecast_protocol::binding::{Piece, Purpose, StreamReader};
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::session::client::RECORD_BYTES_MAX;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, VarInt};
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use wtransport::endpoint::ConnectOptions;

use super::reach::is_udp_closed;
use super::report::{Check, Report};
use super::session::{Greeting, greeting, hello, judge};
use super::web::Known;
use super::{Patient, STEP, since};
use crate::cli::dial::{Address, Pinned, client_config};

const QUIC: &str = "QUIC";
const WEBTRANSPORT: &str = "WebTransport";
/// The application code with which the connection ends.
const NORMAL: u32 = Code::Normal.number() as u32;

/// Tries both. `port` is where QUIC is thought to be served; `None` where the node says that it is not.
pub(super) async fn examine(
    patient: &Patient,
    reached: SocketAddr,
    port: Option<u16>,
    known: Option<&Known>,
    report: &mut Report,
) {
    let Some(port) = port else {
        report.add(Check::skipped(QUIC, "the node serves none").advise(
            "With a certificate ([tls]) it does, and clients on bad links lose less: urgent events then pass lost packets.",
        ));
        return;
    };
    let to = SocketAddr::new(reached.ip(), port);
    let mut of_webtransport = Report::default();
    tokio::join!(raw(patient, to, known, report), async {
        match known.map(|known| known.webtransport.as_ref()) {
            Some(Some((port, path))) => webtransport(patient, *port, path, known, &mut of_webtransport).await,
            Some(None) => of_webtransport.add(Check::skipped(WEBTRANSPORT, "the node serves none")),
            None => of_webtransport.add(Check::skipped(WEBTRANSPORT, "nothing says where it is served")),
        }
    });
    report.take(of_webtransport);
}

/// What a client trusts: on the own machine the hashes that a node for development tells, else what this machine does.
fn config(patient: &Patient, known: Option<&Known>, alpn: &[u8]) -> ClientConfig {
    let hashes = known.map(|known| known.hashes.clone()).unwrap_or_default();
    let verifier: Arc<dyn ServerCertVerifier> = if patient.address.is_loopback() && !hashes.is_empty() {
        Arc::new(Pinned::new(hashes))
    } else {
        Arc::clone(&patient.trust)
    };
    client_config(verifier, &[alpn])
}

async fn raw(patient: &Patient, to: SocketAddr, known: Option<&Known>, report: &mut Report) {
    let began = patient.clock.elapsed();
    let connected = timeout(STEP, connect(patient, to, known)).await;
    let (_endpoint, connection) = match connected {
        Ok(Ok(connected)) => connected,
        Ok(Err(Either::Left(error))) => return report.add(explain(QUIC, to, &error).await),
        Ok(Err(Either::Right(error))) => return report.add(Check::warning(QUIC, error)),
        Err(_) => return report.add(silent(QUIC, to).await),
    };
    let token = patient.token(known);
    let greeted = async {
        let (send, receive) = connection.open_bi().await.ok()?;
        greet(send, receive, token.unwrap_or_default()).await
    };
    match timeout(STEP, greeted).await {
        Ok(Some(greeting)) => drop(judge(QUIC, greeting, token.is_some(), since(&patient.clock, began), report)),
        _ => report.add(
            Check::warning(QUIC, "the handshake is done, but the node does not answer")
                .advise("What answers there speaks QUIC, but perhaps is no node, or one of another version."),
        ),
    }
    connection.close(VarInt::from_u32(NORMAL), b"");
}

async fn connect(
    patient: &Patient,
    to: SocketAddr,
    known: Option<&Known>,
) -> Result<(quinn::Endpoint, quinn::Connection), Either<ConnectionError, String>> {
    let cannot = |error: &dyn std::fmt::Display| Either::Right(format!("cannot be tried from here: {error}"));
    let any: SocketAddr = if to.is_ipv6() { ([0; 8], 0).into() } else { ([0; 4], 0).into() };
    let crypto = QuicClientConfig::try_from(config(patient, known, b"lanecast/1")).map_err(|error| cannot(&error))?;
    let endpoint = quinn::Endpoint::client(any).map_err(|error| cannot(&error))?;
    let connecting = endpoint
        .connect_with(quinn::ClientConfig::new(Arc::new(crypto)), to, &patient.address.host)
        .map_err(|error| cannot(&error))?;
    let connection = connecting.await.map_err(Either::Left)?;
    Ok((endpoint, connection))
}

async fn webtransport(patient: &Patient, port: u16, path: &str, known: Option<&Known>, report: &mut Report) {
    let began = patient.clock.elapsed();
    let at = Address { tls: true, port, ..patient.address.clone() };
    let url = format!("https://{}{path}", at.authority());
    let mut options = ConnectOptions::builder(url);
    if let Some(origin) = &patient.origin {
        options = options.add_header("origin", origin);
    }
    let client =
        wtransport::ClientConfig::builder().with_bind_default().with_custom_tls(config(patient, known, b"h3")).build();
    let endpoint = match wtransport::Endpoint::client(client) {
        Ok(endpoint) => endpoint,
        Err(error) => return report.add(Check::warning(WEBTRANSPORT, format!("cannot be tried from here: {error}"))),
    };
    let connection = match timeout(STEP, endpoint.connect(options.build())).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(wtransport::error::ConnectingError::SessionRejected)) => {
            return report.add(refused_session(patient));
        }
        Ok(Err(error)) => {
            return report.add(
                Check::warning(WEBTRANSPORT, format!("no session: {error}"))
                    .advise("Browsers fall back to WebSocket. See QUIC above, which it runs on."),
            );
        }
        Err(_) => {
            return report.add(
                Check::warning(WEBTRANSPORT, format!("no answer on UDP port {port} within {STEP:?}"))
                    .advise("Browsers fall back to WebSocket. See QUIC above, which it runs on."),
            );
        }
    };
    let token = patient.token(known);
    let greeted = async {
        let (send, receive) = connection.open_bi().await.ok()?.await.ok()?;
        greet(send, receive, token.unwrap_or_default()).await
    };
    match timeout(STEP, greeted).await {
        Ok(Some(greeting)) => {
            drop(judge(WEBTRANSPORT, greeting, token.is_some(), since(&patient.clock, began), report))
        }
        _ => report.add(Check::warning(WEBTRANSPORT, "there is a session, but the node does not answer in it")),
    }
    connection.close(wtransport::VarInt::from_u32(NORMAL), b"");
}

fn refused_session(patient: &Patient) -> Check {
    match &patient.origin {
        Some(origin) => {
            Check::problem(WEBTRANSPORT, format!("the session is refused, perhaps for the origin {origin}"))
                .advise(format!("If its pages should connect, add it to the node: [origins] allow = [{origin:?}]."))
        }
        None => Check::warning(WEBTRANSPORT, "the session is refused").advise(
            "The node may be draining, or have as many connections as it may. Browsers fall back to WebSocket.",
        ),
    }
}

/// Greets the node on the control stream, and reads until it answers.
async fn greet(
    mut send: impl AsyncWrite + Unpin,
    mut receive: impl AsyncRead + Unpin,
    token: &str,
) -> Option<Greeting> {
    send.write_all(&[Purpose::Control.header(), hello(token)].concat()).await.ok()?;
    let mut reader = StreamReader::control(RECORD_BYTES_MAX);
    let mut buffer = vec![0; 4_096];
    loop {
        let read = receive.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        let Piece::Records(_, packet) = reader.feed(Bytes::copy_from_slice(&buffer[..read])).ok()? else { continue };
        let records = codec::records(packet, RECORD_BYTES_MAX).filter_map(Result::ok);
        let mut bodies = records.filter_map(|record| codec::decode(record).ok()?.body);
        if let Some(greeting) = bodies.find_map(greeting) {
            return Some(greeting);
        }
    }
}

async fn silent(name: &'static str, to: SocketAddr) -> Check {
    let port = to.port();
    if is_udp_closed(to).await {
        return Check::warning(name, format!("nothing listens on UDP port {port}"))
            .advise("Clients use WebSocket instead. A node serves QUIC where listen.quic says, if it has a certificate ([tls]).");
    }
    Check::warning(name, format!("no answer on UDP port {port} within {STEP:?}")).advise(format!(
        "UDP is blocked on the way, or the node serves none. Clients fall back to WebSocket and get along; to have QUIC \
         open UDP port {port} in firewalls, and have the balancer pass UDP."
    ))
}

async fn explain(name: &'static str, to: SocketAddr, error: &ConnectionError) -> Check {
    match error {
        ConnectionError::TimedOut => silent(name, to).await,
        // The codes of TLS alerts begin at 0x100 (RFC 9001, 4.8).
        ConnectionError::TransportError(error) if (0x100..0x200).contains(&u64::from(error.code)) => {
            Check::warning(name, format!("the certificate or TLS is refused: {}", error.reason))
                .advise("Clients fall back to WebSocket. QUIC presents the certificate of [tls]: see TLS above.")
        }
        error => Check::warning(name, format!("no connection: {error}"))
            .advise("Clients fall back to WebSocket. Something else may answer on that port."),
    }
}
