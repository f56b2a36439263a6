//! `lanecast doctor`: tries each transport from where it runs, and says what is wrong and what to do.
//!
//! Promises: every step has a deadline, and all of them together end within [`RUN_MAX`]; the token goes to the node only,
//! never into a line of the report; nothing is published.

mod quic;
mod reach;
mod report;
mod session;
mod token;
mod web;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustls::client::danger::ServerCertVerifier;
use tokio::time::timeout;

use super::Failure;
use super::dial::{self, Address, Pinned};
use crate::clock::Clock;
use report::{Check, Report};
use web::Known;

/// How long each step may take: a phone on a bad link is slower, but whoever asks a doctor is not on one.
const STEP: Duration = Duration::from_millis(2_500);
/// How long all may take. What stands side by side gets what the steps before it left.
const RUN_MAX: Duration = Duration::from_secs(15);
/// Where QUIC is served unless something else is known.
const QUIC_PORT: u16 = 8443;
const CONNECT_PATH: &str = "/v1/connect";

/// Try to reach a node by each transport, and say what is wrong and what to do.
///
/// Ends with 0 if clients like this one can use the node: by one transport at least, and neither the token nor the origin
/// was refused. Certificates are judged by what this machine trusts, or the file that SSL_CERT_FILE names.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// The node as clients reach it: https://chat.example, or wss://chat.example/v1/connect.
    url: String,
    /// A user token to connect with; without one the node is greeted only. A node with --dev takes "dev:<user>".
    #[arg(long, env = "LANECAST_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The origin of a page that is to connect, such as https://app.example.
    #[arg(long)]
    origin: Option<String>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Failure> {
        let address = Address::parse(&self.url).ok_or_else(|| {
            format!("{:?} is no address of a node: expected one such as https://chat.example", self.url)
        })?;
        let mut report = Report::default();
        let trust = dial::trust().unwrap_or_else(|Failure(error)| {
            report.add(
                Check::warning("trust", format!("this machine trusts no authority: {error}"))
                    .advise("Install the package ca-certificates, or set SSL_CERT_FILE."),
            );
            Arc::new(Pinned::new(Vec::new()))
        });
        let patient = Patient {
            address,
            token: self.token.filter(|token| !token.is_empty()),
            origin: self.origin,
            trust,
            clock: Clock::system(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(examine(&patient, &mut report));
        // Whoever reads only the first lines has closed the pipe by now.
        let _ = std::io::stdout().write_all(report.told(self.json).as_bytes());
        if report.is_usable() { Ok(()) } else { Err("clients like this one cannot use the node".into()) }
    }
}

/// The node that is looked at, and how.
struct Patient {
    address: Address,
    token: Option<String>,
    origin: Option<String>,
    trust: Arc<dyn ServerCertVerifier>,
    clock: Clock,
}

impl Patient {
    /// The token to greet the node with: the given one, or on the own machine one for development.
    fn token(&self, known: Option<&Known>) -> Option<&str> {
        let is_dev = self.address.is_loopback() && known.is_some_and(|known| known.development);
        self.token.as_deref().or(is_dev.then_some("dev:doctor"))
    }
}

/// All checks, into the report.
async fn examine(patient: &Patient, report: &mut Report) {
    if let Some(token) = &patient.token {
        report.add(token::claims(token, patient.clock.now_ms()));
    }
    let (check, addresses) = reach::resolve(&patient.address).await;
    report.add(check);
    let Some(first) = addresses.first() else { return };
    let (check, reached) = reach::tcp(&addresses, &patient.clock).await;
    report.add(check);
    let Some(to) = reached else {
        report.add(Check::skipped("WebSocket", "no TCP connection"));
        return quic::examine(patient, *first, Some(QUIC_PORT), None, report).await;
    };
    let (check, secure) = reach::tls(&patient.address, to, &patient.trust, patient.clock.now_ms()).await;
    report.add(check);
    if !secure {
        report.add(Check::skipped("WebSocket", "no TLS"));
        return quic::examine(patient, to, Some(QUIC_PORT), None, report).await;
    }
    let (check, known) = web::well_known(patient, to).await;
    report.add(check);
    let known = known.as_ref();
    // Side by side, since each may have to wait for its deadline.
    let (mut of_socket, mut of_quic) = (Report::default(), Report::default());
    let left = RUN_MAX.saturating_sub(patient.clock.elapsed());
    let quic_port = known.map_or(Some(QUIC_PORT), |known| known.quic_port);
    let (web, quic) = tokio::join!(
        timeout(left, examine_web(patient, to, known, &mut of_socket)),
        timeout(left, quic::examine(patient, to, quic_port, known, &mut of_quic)),
    );
    if web.is_err() || quic.is_err() {
        of_quic.add(Check::problem("time", format!("not done within {RUN_MAX:?}: the rest was not tried")));
    }
    report.take(of_socket);
    report.take(of_quic);
}

/// What goes over the HTTP port.
async fn examine_web(patient: &Patient, to: SocketAddr, known: Option<&Known>, report: &mut Report) {
    let session = async {
        let mut report = Report::default();
        let user = session::examine(patient, to, known, &mut report).await;
        if let (Some(user), Some(token)) = (user, patient.token(known)) {
            report.add(web::stream(patient, to, &user, token).await);
        }
        report
    };
    let ((), of_session) = tokio::join!(session::origin(patient, to, known, report), session);
    report.take(of_session);
}

/// Milliseconds since a time of the clock.
fn since(clock: &Clock, began: Duration) -> u128 {
    clock.elapsed().saturating_sub(began).as_millis()
}

#[cfg(test)]
mod tests;
