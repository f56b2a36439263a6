//! Credit, on both sides of a connection of the reference server: what its client lets come, and what it tells it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use v1::frame::Body;

use super::mutant::Mutant;
use super::outbox::{BULK, NORMAL, Outbox};
use super::session::{Fatal, PROTOCOL, error_record};
use super::state::answer;
use super::{NO_PROGRESS, Shared};
use crate::client::{CREDIT_LANES, Lane, Meter, UNCOUNTED};
use crate::schema::v1;

/// What may be under way before the first Credit.
const FIRST: u64 = 64 * 1024;
/// What a client may have under way.
pub(super) const WINDOW: u64 = 256 * 1024;
/// Between two looks at what is due.
const LOOK: Duration = Duration::from_millis(5);
/// Outbox lanes under credit, in the order of [`CREDIT_LANES`].
const LANES: [usize; 2] = [NORMAL, BULK];

struct Account {
    sent: u64,
    consumed: u64,
    window: u64,
    /// Since when a record waits for credit.
    held: Option<Instant>,
}

/// What was sent and what of it is consumed, where the client gives credit.
pub(super) struct Gate {
    accounts: [Account; LANES.len()],
    mutant: Option<Mutant>,
}

impl Gate {
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        let account = || Account { sent: 0, consumed: 0, window: FIRST, held: None };
        Self { accounts: [account(), account()], mutant }
    }

    /// Whether a record of that length may begin on an outbox lane.
    pub(super) fn lets(&mut self, lane: usize, bytes: usize) -> bool {
        let Some(place) = LANES.iter().position(|known| *known == lane) else { return true };
        let account = &mut self.accounts[place];
        let under_way = account.sent - account.consumed;
        let lets = under_way <= UNCOUNTED || under_way + bytes as u64 <= account.window;
        let lets = lets || self.mutant == Some(Mutant::CreditIgnored);
        account.held = if lets { None } else { account.held.or_else(|| Some(Instant::now())) };
        lets
    }

    /// A record of that length left on an outbox lane.
    pub(super) fn sent(&mut self, lane: usize, bytes: usize) {
        if let Some(place) = LANES.iter().position(|known| *known == lane) {
            self.accounts[place].sent += bytes as u64;
        }
    }

    /// The client consumed, and says what more it takes.
    pub(super) fn credit(&mut self, credit: &v1::Credit) -> Result<(), Fatal> {
        let lane = Lane::from_wire(credit.lane);
        let Some(place) = CREDIT_LANES.iter().position(|known| Some(*known) == lane) else { return Ok(()) };
        let account = &mut self.accounts[place];
        let fits = (account.consumed..=account.sent).contains(&credit.consumed);
        if !fits && self.mutant != Some(Mutant::CreditUnchecked) {
            return Err(PROTOCOL);
        }
        account.consumed = credit.consumed.min(account.sent);
        account.window = credit.window;
        account.held = None;
        Ok(())
    }

    /// Whether a lane waited for credit for too long (LC-FLOW-005).
    fn is_stalled(&self) -> bool {
        let held = self.accounts.iter().filter_map(|account| account.held);
        held.into_iter().any(|since| since.elapsed() >= NO_PROGRESS)
    }
}

/// What the client sent, where it is told.
#[derive(Clone)]
pub(super) struct Told(Arc<std::sync::Mutex<Meter>>);

impl Told {
    /// Tells the client what came as long as the connection lives, and ends one that gives no credit.
    pub(super) fn start(outbox: &Arc<Outbox>, shared: &Shared) -> Self {
        let told = Self(Arc::new(std::sync::Mutex::new(Meter::new(WINDOW))));
        tokio::spawn(told.clone().tell(Arc::downgrade(outbox), shared.mutant));
        told
    }

    /// A record of that length came.
    pub(super) fn came(&self, lane: Lane, bytes: usize) {
        self.lock().consumed(lane, bytes, Instant::now());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Meter> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn tell(self, outbox: Weak<Outbox>, mutant: Option<Mutant>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(outbox) = outbox.upgrade() else { return };
            for mut credit in self.lock().credits(Instant::now()) {
                match mutant {
                    Some(Mutant::CreditNeverGiven) => continue,
                    Some(Mutant::CreditOverstated) => credit.consumed += WINDOW,
                    _ => {}
                }
                answer(&outbox, 0, Body::Credit(credit));
            }
            if outbox.with_gate(|gate| gate.is_stalled()) == Some(true) && mutant != Some(Mutant::CreditAwaited) {
                outbox.close(error_record(4202), 4202);
            }
        }
    }
}
