//! Session tickets that end with the certificate.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::ring::Ticketer;
use rustls::server::ProducesTickets;

/// Seals session tickets. Their keys change by themselves every six hours, and at once with [`renew`](Self::renew): a
/// resumed session presents no certificate, so a client would not learn of the new one for as long as its ticket holds.
#[derive(Debug)]
pub(super) struct Tickets(RwLock<Arc<dyn ProducesTickets>>);

impl Tickets {
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self(RwLock::new(keys()?)))
    }

    /// Makes all tickets given so far worthless.
    pub(super) fn renew(&self) -> Result<(), String> {
        *self.0.write() = keys()?;
        Ok(())
    }

    fn now(&self) -> Arc<dyn ProducesTickets> {
        Arc::clone(&self.0.read())
    }
}

fn keys() -> Result<Arc<dyn ProducesTickets>, String> {
    Ticketer::new().map_err(|error| format!("no keys for session tickets: {error}"))
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.now().lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.now().encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.now().decrypt(cipher)
    }
}
