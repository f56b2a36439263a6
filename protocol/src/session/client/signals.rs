//! Signals on their way out: conflated by key, paced, forgotten when they expire. And on their way in: the newest wins.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message;

use crate::session::Now;
use crate::v1;

/// Different keys that may wait; beyond it the oldest is dropped, since a newer signal is worth more.
const WAITING_MAX: usize = 256;
/// Tokens that the bucket holds, in seconds of the node's rate: a burst of that many may leave at once.
const BURST_SECONDS: u64 = 1;

/// A signal as the application gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outgoing {
    /// The room.
    pub room: String,
    /// Type and key, by which it replaces an older one.
    pub kind: (String, String),
    /// The envelope, encoded.
    pub envelope: Bytes,
    /// How long it lives, ms; 0: the policy's default.
    pub ttl_ms: u32,
    /// Whether it takes the value back.
    pub clear: bool,
}

/// The queue of outgoing signals.
#[derive(Debug, Default)]
pub(super) struct Signals {
    waiting: VecDeque<(u64, Outgoing)>,
    /// How often the outbox was opened; 0: it is in memory (LC-SIG-012).
    start: u64,
    counter: u64,
    /// Thousandths of a signal that may leave.
    tokens: u64,
    filled_at_ms: u64,
    per_second: u64,
}

impl Signals {
    /// Says how often the outbox was opened.
    pub(super) fn set_start(&mut self, start: u64) {
        self.start = start;
    }

    /// Queues a signal, in the place of an older one of the same room, type and key.
    pub(super) fn push(&mut self, now: Now, signal: Outgoing) {
        let entry = (now.monotonic_ms, signal);
        let same = |older: &Outgoing| older.room == entry.1.room && older.kind == entry.1.kind;
        if let Some(older) = self.waiting.iter_mut().find(|(_, older)| same(older)) {
            *older = entry;
            return;
        }
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(entry);
    }

    /// Takes over the node's rate.
    pub(super) fn limit(&mut self, now: Now, per_second: u32) {
        self.per_second = u64::from(per_second.max(1));
        self.tokens = self.per_second * BURST_SECONDS * 1000;
        self.filled_at_ms = now.monotonic_ms;
    }

    fn fill(&mut self, now: Now) {
        let passed = now.monotonic_ms.saturating_sub(self.filled_at_ms);
        let full = self.per_second * BURST_SECONDS * 1000;
        self.tokens = (self.tokens + passed * self.per_second).min(full);
        self.filled_at_ms = now.monotonic_ms;
    }

    /// The next signal to send.
    pub(super) fn poll(&mut self, now: Now) -> Option<v1::Signal> {
        self.fill(now);
        while let Some((at_ms, signal)) = self.waiting.front() {
            let age = now.monotonic_ms.saturating_sub(*at_ms);
            if signal.ttl_ms != 0 && age >= u64::from(signal.ttl_ms) {
                self.waiting.pop_front();
                continue;
            }
            if self.tokens < 1000 {
                return None;
            }
            self.tokens -= 1000;
            let (_, signal) = self.waiting.pop_front()?;
            self.counter += 1;
            return Some(v1::Signal {
                room: signal.room,
                start: self.start,
                counter: self.counter,
                // What it waited is taken off: the receiver should not see it longer than the sender meant.
                ttl_ms: if signal.ttl_ms == 0 { 0 } else { signal.ttl_ms - age as u32 },
                clear: signal.clear,
                envelope: signal.envelope,
                ..Default::default()
            });
        }
        None
    }

    /// When the next one may leave.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        if self.waiting.is_empty() || self.per_second == 0 {
            return None;
        }
        let missing = 1000u64.saturating_sub(self.tokens);
        Some(self.filled_at_ms + missing.div_ceil(self.per_second))
    }
}

/// Keys of a room whose newest signal is remembered; beyond it the one that expires first is forgotten.
const HEARD_MAX: usize = 1024;

/// Which signal of each sender, type and key was the newest, since datagrams overtake and double (LC-SIG-011).
#[derive(Debug, Default)]
pub(super) struct Heard {
    newest: BTreeMap<(String, String, String, String), Newest>,
}

#[derive(Debug)]
struct Newest {
    age: (u64, u64),
    /// When no older one can be alive any more, node's clock.
    forget_at_ms: u64,
}

impl Heard {
    /// Whether the signal is alive and newer than all of its kind before it.
    pub(super) fn is_news(&mut self, node_ms: u64, signal: &v1::Signal) -> bool {
        if signal.expires_at_ms != 0 && signal.expires_at_ms <= node_ms {
            return false;
        }
        let Ok(envelope) = v1::Envelope::decode(signal.envelope.clone()) else { return false };
        let from = signal.from.clone().unwrap_or_default();
        // A service has no user and no instance, so its name cannot be taken for theirs.
        let key = (from.user + &from.service, from.instance, envelope.r#type, envelope.key);
        let age = (signal.start, signal.counter);
        if let Some(newest) = self.newest.get_mut(&key) {
            if newest.age >= age {
                return false;
            }
            *newest = Newest { age, forget_at_ms: newest.forget_at_ms.max(signal.expires_at_ms) };
            return true;
        }
        self.make_room(node_ms);
        self.newest.insert(key, Newest { age, forget_at_ms: signal.expires_at_ms });
        true
    }

    fn make_room(&mut self, node_ms: u64) {
        if self.newest.len() < HEARD_MAX {
            return;
        }
        self.newest.retain(|_, newest| newest.forget_at_ms > node_ms);
        if self.newest.len() >= HEARD_MAX
            && let Some(first) =
                self.newest.iter().min_by_key(|(_, newest)| newest.forget_at_ms).map(|(key, _)| key.clone())
        {
            self.newest.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(key: &str, text: &'static str) -> Outgoing {
        let kind = ("cursor".to_owned(), key.to_owned());
        Outgoing { room: "r".into(), kind, envelope: Bytes::from(text), ttl_ms: 500, clear: false }
    }

    fn at(ms: u64) -> Now {
        Now { monotonic_ms: ms, wall_ms: 0 }
    }

    #[test]
    fn the_newest_per_key_leaves_at_the_nodes_rate() {
        let mut signals = Signals::default();
        signals.limit(at(0), 2);
        for text in ["1", "2", "3"] {
            signals.push(at(0), signal("a", text));
        }
        signals.push(at(0), signal("b", "4"));
        signals.push(at(0), signal("c", "5"));
        let first = signals.poll(at(0)).unwrap();
        assert_eq!((&first.envelope[..], first.counter, first.ttl_ms), (&b"3"[..], 1, 500));
        assert_eq!(signals.poll(at(0)).unwrap().envelope, "4");
        assert_eq!(signals.poll(at(0)), None);
        assert_eq!(signals.poll_timeout(), Some(500));
        signals.push(at(100), signal("d", "6"));
        // "5" is as old as its time to live by now; "6" is not, and lost what it waited.
        let last = signals.poll(at(500)).unwrap();
        assert_eq!((&last.envelope[..], last.ttl_ms), (&b"6"[..], 100));
    }
}
