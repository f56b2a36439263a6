//! The node's certificate, for HTTPS and for QUIC.
//!
//! Promises: whatever uses a [`Tls::server_config`] presents the newest good certificate at each handshake, and no
//! connection notices that it changed; a pair of files that is half written or does not fit together is never used;
//! session tickets end with the certificate under which they were given.
//! Refuses: several certificates by server name, and asking an authority for one: that is the business of what writes
//! the files.

mod development;
mod pair;
#[cfg(test)]
pub(crate) mod testing;
mod tickets;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

pub use pair::{File, Files, Pair, Wrong};

use crate::clock::Clock;
use crate::telemetry::Metrics;
use crate::telemetry::labels::Reload;
use development::Own;
use pair::Stamp;
use tickets::Tickets;

/// How often the files are looked at. Two calls of the system each time; a certificate is renewed weeks before it ends.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Session tickets that a client gets at each handshake: it opens one connection at a time.
const TICKETS_EACH: usize = 1;

/// The certificate of a node, and where newer ones come from.
#[derive(Debug)]
pub struct Tls {
    presented: Arc<Presented>,
    tickets: Arc<Tickets>,
    source: Source,
    clock: Clock,
}

/// What handshakes present.
#[derive(Debug)]
struct Presented(RwLock<Arc<Pair>>);

#[derive(Debug)]
enum Source {
    Files(Files),
    /// Boxed: it holds keys, and a node with files has none.
    Development(Box<RwLock<Own>>),
}

/// What the watcher remembers between two looks.
#[derive(Debug)]
struct Seen {
    /// How the files were when they were read last, with success or without.
    read: Option<Stamp>,
    /// How they were at the last look: they are read when they stayed the same for one.
    last: Option<Stamp>,
}

impl Tls {
    /// The certificate of files that were read already.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn of_files(files: Files, pair: Arc<Pair>, clock: Clock) -> Result<Self, String> {
        warn_of_validity(&pair, clock.now_ms());
        Self::new(Source::Files(files), pair, clock)
    }

    /// A certificate for development, signed by itself, in memory only: for this machine's loopback addresses, and for
    /// `lan` if given.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn development(lan: Option<IpAddr>, clock: Clock) -> Result<Self, String> {
        let own = Own::new(lan, clock.now_ms())?;
        let pair = own.current();
        Self::new(Source::Development(Box::new(RwLock::new(own))), pair, clock)
    }

    fn new(source: Source, pair: Arc<Pair>, clock: Clock) -> Result<Self, String> {
        let tickets = Arc::new(Tickets::new()?);
        Ok(Self { presented: Arc::new(Presented(RwLock::new(pair))), tickets, source, clock })
    }

    /// A configuration for a server that takes these application protocols, the preferred one first. It follows the
    /// certificate by itself.
    pub fn server_config(&self, alpn: &[&[u8]]) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.presented) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        // Tickets hold all that is needed to go on with a session, so that the node keeps nothing for it.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.ticketer = Arc::clone(&self.tickets) as Arc<dyn rustls::server::ProducesTickets>;
        config.send_tls13_tickets = TICKETS_EACH;
        config
    }

    /// The certificate of the node itself, as it is presented now, in DER.
    pub fn certificate(&self) -> Vec<u8> {
        self.presented.0.read().certificate().to_vec()
    }

    /// SHA-256 of the certificates that a page may take without an authority: the one for development and, some days
    /// before it takes over, its successor, so that a page opened before the change connects after it. Empty for
    /// certificates from files.
    pub fn hashes(&self) -> Vec<[u8; 32]> {
        match &self.source {
            Source::Files(_) => Vec::new(),
            Source::Development(own) => {
                own.read().pairs().map(|pair| Sha256::digest(pair.certificate()).into()).collect()
            }
        }
    }

    /// When the certificate ends, in milliseconds since the Unix epoch.
    pub fn expires_at_ms(&self) -> u64 {
        self.presented.0.read().expires_at_ms()
    }

    /// Follows the source for as long as the node lives.
    pub async fn watch(&self, metrics: &Metrics) {
        self.measure(metrics);
        let mut seen = Seen { read: None, last: None };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match &self.source {
                Source::Files(files) => self.look(files, &mut seen, metrics).await,
                Source::Development(own) => self.renew(own, metrics),
            }
        }
    }

    /// Looks at the files, and reads them if they changed and have come to rest: whoever writes two files, one after
    /// the other, would otherwise be told of a mistake between them.
    async fn look(&self, files: &Files, seen: &mut Seen, metrics: &Metrics) {
        let (of_stamp, of_pair) = (files.clone(), files.clone());
        // The files may be on a volume that hangs.
        let Ok(stamp) = tokio::task::spawn_blocking(move || of_stamp.stamp()).await else { return };
        let settled = seen.last.as_ref() == Some(&stamp);
        seen.last = Some(stamp.clone());
        if !settled || seen.read.as_ref() == Some(&stamp) {
            return;
        }
        // The stamp is older than what is read now, so a change while reading shows at the next look.
        seen.read = Some(stamp);
        let Ok(read) = tokio::task::spawn_blocking(move || of_pair.read()).await else { return };
        match read {
            Ok(pair) if pair.chain() == self.presented.0.read().chain() => {}
            Ok(pair) => {
                warn_of_validity(&pair, self.clock.now_ms());
                self.present(Arc::new(pair), metrics);
            }
            Err(wrong) => {
                metrics.certificate_reloads.of(Reload::Failed).inc();
                for wrong in wrong {
                    tracing::error!(file = %files.path(wrong.file).display(), why = wrong.why,
                        "the new certificate cannot be used; the former one stays in use until the files are mended");
                }
            }
        }
    }

    fn renew(&self, own: &RwLock<Own>, metrics: &Metrics) {
        let renewed = own.write().renew(self.clock.now_ms());
        match renewed {
            Ok(None) => {}
            Ok(Some(pair)) => self.present(pair, metrics),
            Err(error) => tracing::error!(error, "cannot renew the certificate for development"),
        }
    }

    fn present(&self, pair: Arc<Pair>, metrics: &Metrics) {
        tracing::info!(certificate = %pair.describe(), "new handshakes get a new certificate");
        *self.presented.0.write() = pair;
        if let Err(error) = self.tickets.renew() {
            tracing::error!(error, "sessions of the former certificate can still be resumed");
        }
        metrics.certificate_reloads.of(Reload::Done).inc();
        self.measure(metrics);
    }

    fn measure(&self, metrics: &Metrics) {
        metrics.certificate_expires.set(i64::try_from(self.expires_at_ms() / 1_000).unwrap_or(i64::MAX));
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().certified_key())
    }
}

fn warn_of_validity(pair: &Pair, now_ms: u64) {
    if pair.expires_at_ms() <= now_ms {
        tracing::warn!(certificate = %pair.describe(), "the certificate has expired: clients will refuse it");
    } else if pair.begins_at_ms() > now_ms {
        tracing::warn!(certificate = %pair.describe(), "the certificate is not valid yet: clients will refuse it");
    }
}

#[cfg(test)]
mod tests;
