//! What the clients of a round share with each other and with whoever runs the round.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::faults::history::{Lane, Position};
use crate::target::{Endpoint, Target};

/// What the clients should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::faults) enum Phase {
    /// Publish and subscribe.
    Publish,
    /// Publish nothing new, bring what waits to its end.
    Drain,
    /// Leave.
    End,
}

/// What every client is told, by a watch channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::faults) struct Orders {
    /// What to do.
    pub phase: Phase,
    /// Clients that are made for it stop reading, or leave.
    pub paused: bool,
    /// How often every client was told to lose its connection.
    pub cuts: u32,
}

/// How a client pauses when it is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::faults) enum Pause {
    /// Not at all.
    Never,
    /// It stays connected and does not read.
    Unread,
    /// It leaves, and comes back with its positions.
    Away,
}

/// What one client does.
#[derive(Clone, Debug)]
pub(in crate::faults) struct Plan {
    /// Its number.
    pub number: usize,
    /// The node that it begins with.
    pub home: usize,
    /// Rooms to publish to.
    pub publishes: Vec<u16>,
    /// Durable events per second, over all its rooms.
    pub durable_per_s: f64,
    /// Transient events per second, over all its rooms.
    pub transient_per_s: f64,
    /// Rooms to subscribe to.
    pub subscribes: Vec<u16>,
    /// How it pauses.
    pub pause: Pause,
    /// Publishes that wait at most; behind that the application is refused.
    pub outbox_max: usize,
}

/// How far a subscriber is in a room.
#[derive(Default)]
pub(in crate::faults) struct RoomSeat {
    /// When the newest event that it has was published, µs since the round began.
    pub newest_us: AtomicU64,
    epoch: AtomicU64,
    seqs: [AtomicU64; 3],
}

impl RoomSeat {
    /// Says where the client is. Readers may see it half written; they ask until it fits.
    pub(in crate::faults) fn set(&self, position: Position) {
        self.epoch.store(position.epoch, Ordering::Relaxed);
        for lane in Lane::ALL {
            self.seqs[lane.index()].store(position.seqs[lane.index()], Ordering::Relaxed);
        }
    }

    /// Where the client is.
    pub(in crate::faults) fn position(&self) -> Position {
        let seqs = Lane::ALL.map(|lane| self.seqs[lane.index()].load(Ordering::Relaxed));
        Position { epoch: self.epoch.load(Ordering::Relaxed), seqs }
    }
}

/// How far a client is.
#[derive(Default)]
pub(in crate::faults) struct Seat {
    /// Durable publishes that wait for their answer.
    pub waiting: AtomicU64,
    /// Publishes that the full outbox refused.
    pub refused: AtomicU64,
    /// The node that it is connected to, plus one; 0: none.
    pub node: AtomicU64,
    /// Connections that it made.
    pub connections: AtomicU64,
    /// By room.
    pub rooms: BTreeMap<u16, RoomSeat>,
}

/// What the clients of a round share.
pub(in crate::faults) struct Shared {
    /// When the round began.
    pub started: Instant,
    /// Names of the rooms.
    pub rooms: Vec<String>,
    /// The nodes.
    pub nodes: Vec<Endpoint>,
    /// Where tokens come from.
    pub target: Target,
    /// Bytes of a body.
    pub body_bytes: usize,
    /// By client.
    pub seats: Vec<Seat>,
}

impl Shared {
    /// µs since the round began.
    pub(in crate::faults) fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}
