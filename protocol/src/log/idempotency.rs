//! Idempotency keys: the HTTP API's way to publish once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Numbers;

/// How long a key is remembered (law 3).
pub const IDEMPOTENCY_MS: u64 = 24 * 60 * 60 * 1000;
/// Keys remembered per room. When full, further ones are refused: forgetting one early would store a retry twice.
pub const IDEMPOTENCY_KEYS_MAX: usize = 10_000;

/// (API key, idempotency key).
type Key = (Arc<str>, Arc<str>);

#[derive(Clone, Debug)]
struct Entry {
    body: [u8; 32],
    first: Numbers,
    age: (u64, u64),
}

pub(super) enum Claim {
    New,
    Replayed(Numbers),
    Conflict,
    Full { retry_after_ms: u64 },
}

#[derive(Clone, Debug, Default)]
pub(super) struct IdempotencyKeys {
    keys: BTreeMap<Key, Entry>,
    /// Keys by the time of their first use; the serial tells apart those of one millisecond.
    by_age: BTreeMap<(u64, u64), Key>,
    serial: u64,
    cost: usize,
}

impl IdempotencyKeys {
    pub(super) fn claim(&mut self, now_ms: u64, api_key: &Arc<str>, key: &Arc<str>, body: &[u8; 32]) -> Claim {
        self.expire(now_ms);
        match self.keys.get(&(api_key.clone(), key.clone())) {
            Some(entry) if entry.body == *body => Claim::Replayed(entry.first),
            Some(_) => Claim::Conflict,
            None if self.keys.len() < IDEMPOTENCY_KEYS_MAX => Claim::New,
            None => {
                let oldest = self.by_age.first_key_value().map_or(now_ms, |((first_ms, _), _)| *first_ms);
                Claim::Full { retry_after_ms: (oldest + IDEMPOTENCY_MS).saturating_sub(now_ms) }
            }
        }
    }

    pub(super) fn store(&mut self, now_ms: u64, key: Key, body: [u8; 32], first: Numbers) {
        self.serial += 1;
        let age = (now_ms, self.serial);
        self.cost += cost(&key);
        self.by_age.insert(age, key.clone());
        self.keys.insert(key, Entry { body, first, age });
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some((age, _)) = self.by_age.first_key_value()
            && age.0.saturating_add(IDEMPOTENCY_MS) <= now_ms
        {
            let Some((age, key)) = self.by_age.pop_first() else { return };
            let removed = self.keys.remove(&key);
            debug_assert!(removed.is_some_and(|entry| entry.age == age), "both maps hold the same keys");
            self.cost -= cost(&key);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn cost(&self) -> usize {
        self.cost
    }
}

fn cost((api_key, key): &Key) -> usize {
    api_key.len() + key.len() + 256
}
