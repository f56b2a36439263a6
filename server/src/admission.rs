//! Who may open one more connection: caps by user and by address, the same for every transport (LC-SEC-011).
//!
//! Promises: a slot is held for as long as its guard lives, and a refusal is counted. The tables have an entry only for
//! who holds a slot, so the caps on connections bound them.
//! Refuses: a cap by address for a hop that may stand for many: a trusted proxy, and everything on this machine. Each
//! node counts its own connections only.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use lanecast_protocol::codes::Code;
use lanecast_protocol::session::Refusal;
use parking_lot::Mutex;

use crate::config::Config;
use crate::telemetry::Metrics;
use crate::telemetry::labels::Cap;

/// When a client that is one too many may try again, ms. Nobody knows when a slot comes free; connections live for
/// minutes, so seconds are soon.
const RETRY_AFTER_MS: u32 = 5_000;

/// The caps of a node.
#[derive(Debug)]
pub struct Admission {
    addresses: Arc<Slots<Block>>,
    users: Arc<Slots<Arc<str>>>,
    proxies: Vec<IpNet>,
    metrics: Arc<Metrics>,
}

impl Admission {
    /// As the configuration says.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        let limits = &config.limits;
        Self {
            addresses: Arc::new(Slots::new(limits.connections_per_address)),
            users: Arc::new(Slots::new(limits.connections_per_user)),
            proxies: config.listen.trusted_proxies.clone(),
            metrics,
        }
    }

    /// Whether what this hop says of other addresses is believed.
    pub fn is_proxy(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.proxies.iter().any(|network| network.contains(&ip))
    }

    /// A slot for one more connection from an address; `None`: it has as many as it may.
    pub fn address(&self, ip: IpAddr) -> Option<AddressSlot> {
        let ip = ip.to_canonical();
        if !self.addresses.has_cap() || ip.is_loopback() || self.is_proxy(ip) {
            return Some(AddressSlot(None));
        }
        let slot = self.addresses.take(Block::of(ip));
        self.count(slot, Cap::Address).map(|slot| AddressSlot(Some(slot)))
    }

    /// A slot for one more connection of a user; `None`: the user has as many as allowed. Services, which have no user,
    /// are not capped.
    pub fn user(&self, user: &Arc<str>) -> Option<UserSlot> {
        if !self.users.has_cap() || user.is_empty() {
            return Some(UserSlot(None));
        }
        let slot = self.users.take(Arc::clone(user));
        self.count(slot, Cap::User).map(|slot| UserSlot(Some(slot)))
    }

    fn count<T>(&self, slot: Option<T>, cap: Cap) -> Option<T> {
        if slot.is_none() {
            self.metrics.connections_refused.of(cap).inc();
        }
        slot
    }
}

/// What a connection that is one too many is told.
pub fn too_many(who: &str) -> Refusal {
    Refusal::new(Code::TooManyConnections, format!("this {who} has too many connections")).retry_after(RETRY_AFTER_MS)
}

/// A place among the connections of an address, free again when it is dropped.
#[derive(Debug)]
pub struct AddressSlot(#[expect(dead_code, reason = "a guard")] Option<Slot<Block>>);

/// A place among the connections of a user, free again when it is dropped.
#[derive(Debug)]
pub struct UserSlot(#[expect(dead_code, reason = "a guard")] Option<Slot<Arc<str>>>);

/// What counts as one address: providers give every customer at least a /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Block {
    V4(u32),
    V6(u64),
}

impl Block {
    fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// How many slots each key holds.
#[derive(Debug)]
struct Slots<K> {
    /// 0: no cap, and nothing is counted.
    max: u32,
    held: Mutex<HashMap<K, u32>>,
}

impl<K: Clone + Eq + Hash> Slots<K> {
    fn new(max: u32) -> Self {
        Self { max, held: Mutex::default() }
    }

    fn has_cap(&self) -> bool {
        self.max > 0
    }

    /// A slot; `None`: the key holds as many as it may.
    fn take(self: &Arc<Self>, key: K) -> Option<Slot<K>> {
        let mut held = self.held.lock();
        let count = held.entry(key.clone()).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Slot { slots: Arc::clone(self), key })
    }
}

#[derive(Debug)]
struct Slot<K: Eq + Hash> {
    slots: Arc<Slots<K>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut held = self.slots.held.lock();
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(per_address: u32, per_user: u32) -> Admission {
        let mut config = Config::default();
        config.limits.connections_per_address = per_address;
        config.limits.connections_per_user = per_user;
        config.listen.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        Admission::new(&config, Arc::new(Metrics::new()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_slots_and_gets_them_back() {
        // LC-SEC-011
        let admission = admission(2, 0);
        let first = admission.address(ip("192.0.2.1")).unwrap();
        let _second = admission.address(ip("::ffff:192.0.2.1")).unwrap();
        assert!(admission.address(ip("192.0.2.1")).is_none(), "the mapped form is the same address");
        assert!(admission.address(ip("192.0.2.2")).is_some());
        assert_eq!(admission.metrics.connections_refused.of(Cap::Address).get(), 1);
        drop(first);
        assert!(admission.address(ip("192.0.2.1")).is_some());
        assert_eq!(admission.addresses.held.lock().len(), 1, "who holds nothing is forgotten");
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let admission = admission(1, 0);
        let _slot = admission.address(ip("2001:db8::1")).unwrap();
        assert!(admission.address(ip("2001:db8::ffff:1")).is_none());
        assert!(admission.address(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn proxies_and_this_machine_are_not_capped_by_address() {
        let admission = admission(1, 0);
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "127.0.0.1", "127.9.9.9", "::1"] {
            let slots: Vec<_> = (0..3).map(|_| admission.address(ip(address))).collect();
            assert!(slots.iter().all(Option::is_some), "{address}");
        }
        assert!(admission.addresses.held.lock().is_empty());
    }

    #[test]
    fn a_user_has_slots_and_a_service_needs_none() {
        let admission = admission(0, 1);
        let (ann, ben, service): (Arc<str>, Arc<str>, Arc<str>) = ("ann".into(), "ben".into(), "".into());
        let slot = admission.user(&ann).unwrap();
        assert!(admission.user(&ann).is_none() && admission.user(&ben).is_some());
        drop(slot);
        assert!(admission.user(&ann).is_some());
        let services: Vec<_> = (0..3).map(|_| admission.user(&service)).collect();
        assert!(services.iter().all(Option::is_some));
        assert_eq!(admission.metrics.connections_refused.of(Cap::User).get(), 1);
    }

    #[test]
    fn without_a_cap_nothing_is_counted() {
        let admission = admission(0, 0);
        let _slots: Vec<_> = (0..3).map(|_| admission.address(ip("192.0.2.1")).unwrap()).collect();
        assert!(admission.addresses.held.lock().is_empty());
    }
}
