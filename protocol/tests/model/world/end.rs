//! The end of a run: everything heals, and the laws are checked on the whole.

use std::collections::BTreeSet;

use super::{CLIENTS, World};

/// Steps of healing after which a run counts as stuck.
const HEALING_MAX: usize = 20_000;

impl World {
    /// Lets everything arrive.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        tell!(self, "healing");
        self.healing = true;
        self.ghosts.clear();
        for step in 0..HEALING_MAX {
            self.now_ms += 5;
            let client = step % CLIENTS;
            self.act(client).map_err(|wrong| format!("healing {step}: {wrong}"))?;
            if step % 30 == 0 && (0..CLIENTS).all(|client| self.is_done(client)) {
                return Ok(());
            }
        }
        let stuck: Vec<usize> = (0..CLIENTS).filter(|client| !self.is_done(*client)).collect();
        let state = &self.clients[stuck[0]];
        Err(format!(
            "clients {stuck:?} never came to rest: received {:?}, taken {:?}, head {}, unsettled {}",
            state.tracker.position(),
            state.inbox.position(),
            self.store.log().head().position,
            state.publisher.unsettled(),
        ))
    }

    pub(super) fn is_done(&self, client: usize) -> bool {
        let state = &self.clients[client];
        let head = Some(self.store.log().head().position);
        let at_rest = self.connections[client].as_ref().is_some_and(|connection| connection.link.is_empty());
        at_rest
            && state.publisher.unsettled() == 0
            && state.has_taken_all()
            && state.tracker.position() == head
            && state.inbox.position() == head
    }

    pub(super) fn audit(&mut self) -> Result<(), String> {
        for (index, client) in self.clients.iter().enumerate() {
            let hidden = |payload: u64| client.filtered && self.publishes[&payload].secret;
            for (what, ledger) in [("received", &client.received), ("taken", &client.taken)] {
                let ledger = ledger.as_ref().ok_or("a client was never subscribed")?;
                ledger.audit(self.store.truth(), hidden).map_err(|wrong| format!("client {index}, {what}: {wrong}"))?;
            }
            self.tally.holes += client.holes;
            self.tally.revoked_in_flight += client.revoked;
        }
        let here: BTreeSet<u64> =
            self.store.truth().iter().flat_map(|(_, payloads)| payloads.iter().copied()).collect();
        for (payload, publish) in &self.publishes {
            if publish.acknowledged && !here.contains(payload) && !self.store.lost.contains(payload) {
                return Err(format!("publish {payload} was acknowledged and is not stored"));
            }
            if publish.too_large && here.contains(payload) {
                return Err(format!("publish {payload} was refused and is stored"));
            }
        }
        self.store.check_order_of_publishers(|payload| (self.publishes[&payload].instance, payload))?;
        self.tally.lost += self.store.lost.len() as u64;
        Ok(())
    }
}
