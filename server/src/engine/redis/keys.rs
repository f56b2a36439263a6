//! The names of keys and channels: the only place that makes them.
//!
//! Rooms are spread over partitions by a hash of their name. All keys and channels of a partition bear the same hash tag,
//! so that one script touches one slot. The tags are chosen by search so that the partitions are spread evenly over the
//! slots of a cluster: plain `p0` … `p127` are not.
//!
//! | key | kind | holds |
//! | --- | --- | --- |
//! | `lanecast` | hash | the stores that live here: prefix → format and partitions |
//! | `lc:{p17}:meta:<room>` | hash | the room's record, see `lua/common.lua` |
//! | `lc:{p17}:log:<room>:<lane>` | stream | the lane's events |
//! | `lc:{p17}:forks:<room>` | list | how epochs began |
//! | `lc:{p17}:keys:<room>`, `…:keyages:<room>` | hash, zset | idempotency keys |
//! | `lc:{p17}:live:<room>` | hash | live signals |
//! | `lc:{nodes}:leases`, `…:lease` | zset, hash | the nodes |
//! | `lc:{nodes}:revocations`, `…:revserials`, `…:revends` | hash, zset, zset | what was revoked, see `lua/revoke.lua` |
//! | `lc:{nodes}:witnesses:<replication id>` | set | the nodes that said what they saw before a restart |
//!
//! Channels: `lc:{p17}:events:<room>`, `lc:{p17}:signals:<room>`, `lc:{nodes}:all`, `lc:{nodes}:node:<id>`,
//! `lc:{nodes}:probe:<id>:<kind>`.

use std::sync::Arc;

use crc::{CRC_16_XMODEM, CRC_32_ISO_HDLC, Crc};
use lanecast_protocol::position::DurableLane;

/// Slots of a cluster.
const SLOTS: u32 = 16_384;
const SLOT: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
const ROOM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// The key under which stores are registered, whatever their prefix.
pub(super) const STORES: &str = "lanecast";

/// Which of the two connections a channel belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Events and messages between nodes.
    Events,
    /// Signals: a flood of cursors must not delay events.
    Signals,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Events, Self::Signals];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Signals => "signals",
        }
    }
}

/// What a channel carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Channel<'a> {
    /// What happens in a room.
    Room(&'a str),
    /// Messages between nodes.
    Nodes,
    /// The node's own probe.
    Probe,
}

/// The names of one store.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Arc<str>,
    tags: Arc<[String]>,
}

/// A lane as keys and scripts call it.
pub(super) const fn letter(lane: DurableLane) -> &'static str {
    match lane {
        DurableLane::Urgent => "u",
        DurableLane::Normal => "n",
        DurableLane::Bulk => "b",
    }
}

impl Keys {
    pub(super) fn new(prefix: &str, partitions: u32) -> Self {
        let tags = (0..partitions).map(|partition| tag(partition, partitions)).collect();
        Self { prefix: prefix.into(), tags }
    }

    pub(super) fn partition(&self, room: &str) -> usize {
        ROOM.checksum(room.as_bytes()) as usize % self.tags.len()
    }

    fn of_room(&self, what: &str, room: &str) -> String {
        format!("{}:{{{}}}:{what}:{room}", self.prefix, self.tags[self.partition(room)])
    }

    pub(super) fn meta(&self, room: &str) -> String {
        self.of_room("meta", room)
    }

    pub(super) fn forks(&self, room: &str) -> String {
        self.of_room("forks", room)
    }

    pub(super) fn log(&self, room: &str, lane: DurableLane) -> String {
        format!("{}:{}", self.of_room("log", room), lane.name())
    }

    pub(super) fn idempotency(&self, room: &str) -> [String; 2] {
        [self.of_room("keys", room), self.of_room("keyages", room)]
    }

    pub(super) fn live(&self, room: &str) -> String {
        self.of_room("live", room)
    }

    /// The leases of the nodes: when they run out, and what they say.
    pub(super) fn leases(&self) -> [String; 2] {
        [format!("{}:{{nodes}}:leases", self.prefix), format!("{}:{{nodes}}:lease", self.prefix)]
    }

    /// The revocations: what they say, in which order they changed, and when they end.
    pub(super) fn revocations(&self) -> [String; 3] {
        ["revocations", "revserials", "revends"].map(|what| format!("{}:{{nodes}}:{what}", self.prefix))
    }

    /// The nodes that said what they saw of the data's former life.
    pub(super) fn witnesses(&self, replication_id: &str) -> String {
        format!("{}:{{nodes}}:witnesses:{replication_id}", self.prefix)
    }

    pub(super) fn channel(&self, kind: Kind, room: &str) -> String {
        self.of_room(kind.word(), room)
    }

    pub(super) fn all_nodes(&self) -> String {
        format!("{}:{{nodes}}:all", self.prefix)
    }

    pub(super) fn node(&self, id: &str) -> String {
        format!("{}:{{nodes}}:node:{id}", self.prefix)
    }

    pub(super) fn probe(&self, subscriber: &str, kind: Kind) -> String {
        format!("{}:{{nodes}}:probe:{subscriber}:{}", self.prefix, kind.word())
    }

    /// A key on which the connection is tried out.
    pub(super) fn trial(&self, what: &str) -> String {
        format!("{}:{{nodes}}:trial:{what}", self.prefix)
    }

    /// What a channel of this store carries.
    pub(super) fn parse<'a>(&self, kind: Kind, channel: &'a str) -> Option<Channel<'a>> {
        let (tag, rest) = channel.strip_prefix(&*self.prefix)?.strip_prefix(":{")?.split_once("}:")?;
        if tag == "nodes" {
            return Some(if rest.starts_with("probe:") { Channel::Probe } else { Channel::Nodes });
        }
        Some(Channel::Room(rest.strip_prefix(kind.word())?.strip_prefix(':')?))
    }
}

/// A tag whose slot lies in the partition's share of the slots.
fn tag(partition: u32, partitions: u32) -> String {
    let plain = format!("p{partition}");
    let fits = |tag: &str| {
        let slot = u32::from(SLOT.checksum(tag.as_bytes())) % SLOTS;
        slot * partitions / SLOTS == partition
    };
    // About as many tries as there are partitions; the bound is beyond any that can happen.
    let found = (0..partitions * 64).map(|serial| format!("p{partition}.{serial}")).find(|tag| fits(tag));
    if fits(&plain) { plain } else { found.unwrap_or(plain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_what_redis_says() {
        // CLUSTER KEYSLOT 123456789 → 12739
        assert_eq!(u32::from(SLOT.checksum(b"123456789")) % SLOTS, 12_739);
    }

    #[test]
    fn partitions_are_spread_evenly() {
        for partitions in [1, 3, 128, 512] {
            let keys = Keys::new("lc", partitions);
            let mut shares: Vec<u32> = keys
                .tags
                .iter()
                .map(|tag| u32::from(SLOT.checksum(tag.as_bytes())) % SLOTS * partitions / SLOTS)
                .collect();
            shares.dedup();
            assert_eq!(shares, (0..partitions).collect::<Vec<_>>());
        }
    }

    #[test]
    fn channels_are_told_apart_whatever_the_room_is_called() {
        let keys = Keys::new("lc", 128);
        for room in ["a", "chat:{x}:events:1", "probe:x", "}:"] {
            for kind in Kind::ALL {
                assert_eq!(keys.parse(kind, &keys.channel(kind, room)), Some(Channel::Room(room)));
            }
        }
        assert_eq!(keys.parse(Kind::Events, &keys.all_nodes()), Some(Channel::Nodes));
        assert_eq!(keys.parse(Kind::Signals, &keys.probe("n", Kind::Signals)), Some(Channel::Probe));
        assert_eq!(keys.parse(Kind::Events, "other:{p1}:events:a"), None);
        assert_eq!(keys.parse(Kind::Events, &keys.channel(Kind::Signals, "a")), None);
    }
}
