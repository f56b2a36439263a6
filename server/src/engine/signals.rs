//! The live signals of one room.

use std::collections::HashMap;

use lanecast_protocol::lossy::SignalKey;

use super::{Signal, Signalled};

/// How long a key is remembered beyond its signal's life, so that an older signal that was overtaken on its way does
/// not appear in its place (law 6).
const REMEMBERED_MS: u64 = 30_000;
/// What a key costs beyond its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 128;

#[derive(Debug)]
struct Entry {
    /// Its tail is emptied when it is not live any more.
    signal: Signal,
    /// When it came, as a serial number: newcomers get the signals in this order.
    serial: u64,
}

/// The table of signals; bounded by `keys_max` of [`SignalTable::put`].
#[derive(Debug, Default)]
pub(super) struct SignalTable {
    entries: HashMap<SignalKey, Entry>,
    serial: u64,
    cost: usize,
}

/// The table is full of signals that are alive or must be remembered.
#[derive(Debug)]
pub(super) struct TableFull;

impl SignalTable {
    /// Judges a signal and keeps it if it is the newest.
    pub(super) fn put(&mut self, now_ms: u64, signal: &Signal, keys_max: usize) -> Result<Signalled, TableFull> {
        if signal.expires_at_ms <= now_ms {
            return Ok(Signalled::Stale);
        }
        match self.entries.get(&signal.key) {
            Some(known) if known.signal.age() >= signal.age() => return Ok(Signalled::Stale),
            None if self.entries.len() >= keys_max => {
                self.sweep(now_ms);
                if self.entries.len() >= keys_max {
                    return Err(TableFull);
                }
            }
            _ => {}
        }
        self.serial += 1;
        self.cost += cost(signal);
        let entry = Entry { signal: signal.clone(), serial: self.serial };
        if let Some(older) = self.entries.insert(signal.key.clone(), entry) {
            self.cost -= cost(&older.signal);
        }
        Ok(Signalled::Newest)
    }

    /// The live ones, in the order in which they came.
    pub(super) fn live(&self, now_ms: u64) -> Vec<Signal> {
        let is_live = |entry: &&Entry| !entry.signal.clear && entry.signal.expires_at_ms > now_ms;
        let mut live: Vec<&Entry> = self.entries.values().filter(is_live).collect();
        live.sort_unstable_by_key(|entry| entry.serial);
        live.into_iter().map(|entry| entry.signal.clone()).collect()
    }

    /// Forgets what died long enough ago, and the bytes of what died.
    pub(super) fn sweep(&mut self, now_ms: u64) {
        let mut cost_now = 0;
        self.entries.retain(|_, entry| {
            if entry.signal.expires_at_ms <= now_ms {
                entry.signal.tail.clear();
            }
            let keep = entry.signal.expires_at_ms + REMEMBERED_MS > now_ms;
            cost_now += if keep { cost(&entry.signal) } else { 0 };
            keep
        });
        self.cost = cost_now;
        if self.entries.capacity() > 64 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to_fit();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn cost(&self) -> usize {
        self.cost
    }
}

fn cost(signal: &Signal) -> usize {
    let SignalKey { sender, kind, key } = &signal.key;
    sender.len() + kind.len() + key.len() + signal.tail.len() + ENTRY_OVERHEAD_BYTES
}
