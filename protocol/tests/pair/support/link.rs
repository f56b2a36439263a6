//! A simulated connection: one direction is a [`Way`], of either kind.
//!
//! A pipe is what a WebSocket is: records coalesced into packets, one order for all. Streams are what QUIC is: an
//! ordered stream for control and for each lane, a stream for each urgent message, and datagrams that may be lost,
//! doubled and overtaken. Latency is drawn per packet, and inside a stream nothing overtakes.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use lanecast_protocol::outbox::{Output, Route};
use lanecast_protocol::tracker::URGENT_WINDOW;
use rand::Rng;
use rand::rngs::SmallRng;

/// Bytes that a pipe folds into one packet.
const PACKET_BYTES: usize = 4096;

/// What a connection is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One ordered pipe.
    Pipe,
    /// Streams and datagrams.
    Streams,
}

/// How a network behaves.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    pub kind: Kind,
    /// Latency of a packet, drawn evenly, ms.
    pub latency_ms: (u64, u64),
    /// Bytes under way at most; beyond it the transport takes nothing.
    pub capacity: usize,
    /// Bytes per ms that a direction carries.
    pub rate: u64,
    /// Of 100 datagrams so many are lost, and so many doubled.
    pub datagrams_lost: u32,
    pub datagrams_doubled: u32,
}

impl Net {
    pub fn new(kind: Kind) -> Self {
        let latency_ms = match kind {
            Kind::Pipe => (5, 30),
            Kind::Streams => (5, 200),
        };
        Self { kind, latency_ms, capacity: 64 * 1024, rate: 10_000, datagrams_lost: 10, datagrams_doubled: 10 }
    }
}

struct InFlight {
    stream: u64,
    packet: Bytes,
}

/// One direction of a connection.
pub struct Way {
    net: Net,
    /// By time of arrival and serial number.
    in_flight: BTreeMap<(u64, u64), InFlight>,
    serial: u64,
    /// When the last packet of each stream arrives.
    streams: BTreeMap<u64, u64>,
    bytes: usize,
    busy_until_ms: u64,
    /// When the newest 64 urgent messages arrive, and the latest of those before them: none starts more than 64 above
    /// one that is still under way (LC-QUIC-004).
    urgent: VecDeque<u64>,
    urgent_floor_ms: u64,
    /// The transport takes nothing.
    pub stalled: bool,
    /// Bytes that were written in all.
    pub written: u64,
}

const CONTROL: u64 = 0;
/// Message streams and datagrams are numbered from here.
const SINGLE: u64 = 100;

impl Way {
    pub fn new(net: Net) -> Self {
        Self {
            net,
            in_flight: BTreeMap::new(),
            serial: 0,
            streams: BTreeMap::new(),
            bytes: 0,
            busy_until_ms: 0,
            urgent: VecDeque::new(),
            urgent_floor_ms: 0,
            stalled: false,
            written: 0,
        }
    }

    /// Writes what `next` gives while the transport takes it. Returns the bytes that were written.
    pub fn write(&mut self, now_ms: u64, rng: &mut SmallRng, mut next: impl FnMut() -> Option<Output>) -> usize {
        let before = self.written;
        let mut packet = BytesMut::new();
        while !self.stalled && self.bytes + packet.len() < self.net.capacity {
            let Some(output) = next() else { break };
            match self.net.kind {
                Kind::Pipe => {
                    packet.extend_from_slice(&output.record);
                    if packet.len() >= PACKET_BYTES {
                        self.put(now_ms, rng, CONTROL, packet.split().freeze());
                    }
                }
                Kind::Streams => self.put_output(now_ms, rng, output),
            }
        }
        if !packet.is_empty() {
            self.put(now_ms, rng, CONTROL, packet.freeze());
        }
        (self.written - before) as usize
    }

    fn put_output(&mut self, now_ms: u64, rng: &mut SmallRng, Output { route, lane, record, .. }: Output) {
        let stream = match route {
            Route::Control => CONTROL,
            Route::Stream(_) => 1 + lane.index() as u64,
            Route::Message | Route::Datagram => SINGLE + self.serial,
        };
        if route == Route::Datagram {
            if rng.random_ratio(self.net.datagrams_lost, 100) {
                return;
            }
            if rng.random_ratio(self.net.datagrams_doubled, 100) {
                self.put(now_ms, rng, stream, record.clone());
                return self.put(now_ms, rng, SINGLE + self.serial, record);
            }
        }
        if route != Route::Message {
            return self.put(now_ms, rng, stream, record);
        }
        if self.urgent.len() == URGENT_WINDOW as usize {
            self.urgent_floor_ms = self.urgent_floor_ms.max(self.urgent.pop_front().unwrap_or(0));
        }
        let begins = self.busy_until_ms.max(now_ms);
        let waits = self.urgent_floor_ms.saturating_sub(begins);
        let latency = rng.random_range(self.net.latency_ms.0..=self.net.latency_ms.1);
        self.urgent.push_back(begins + waits + latency);
        self.insert(begins + waits + latency, stream, record);
    }

    fn put(&mut self, now_ms: u64, rng: &mut SmallRng, stream: u64, packet: Bytes) {
        let begin = self.busy_until_ms.max(now_ms);
        self.busy_until_ms = begin + packet.len() as u64 / self.net.rate;
        let latency = rng.random_range(self.net.latency_ms.0..=self.net.latency_ms.1);
        let last = self.streams.get(&stream).copied().unwrap_or(0);
        let arrival = (self.busy_until_ms + latency).max(last);
        if stream < SINGLE {
            self.streams.insert(stream, arrival);
        }
        self.insert(arrival, stream, packet);
    }

    fn insert(&mut self, arrival: u64, stream: u64, packet: Bytes) {
        self.serial += 1;
        self.bytes += packet.len();
        self.written += packet.len() as u64;
        self.in_flight.insert((arrival, self.serial), InFlight { stream, packet });
    }

    /// When the next packet arrives.
    pub fn next_at(&self) -> Option<u64> {
        self.in_flight.keys().next().map(|(at, _)| *at)
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// The next packet that has arrived.
    pub fn arrived(&mut self, now_ms: u64) -> Option<Bytes> {
        let entry = self.in_flight.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
        let packet = entry.remove().packet;
        self.bytes -= packet.len();
        Some(packet)
    }

    /// When everything that is under way on control, or on a pipe, has arrived.
    pub fn control_done_at(&self) -> u64 {
        self.streams.get(&CONTROL).copied().unwrap_or(0)
    }

    /// Cuts each stream at a random byte: what lies wholly before it arrives now, the rest never does.
    pub fn cut(&mut self, rng: &mut SmallRng) -> Vec<Bytes> {
        let mut streams: BTreeMap<u64, usize> = BTreeMap::new();
        for in_flight in self.in_flight.values() {
            *streams.entry(in_flight.stream).or_default() += in_flight.packet.len();
        }
        for budget in streams.values_mut() {
            *budget = rng.random_range(0..=*budget);
        }
        self.bytes = 0;
        let mut arrived = Vec::new();
        for (_, InFlight { stream, packet }) in std::mem::take(&mut self.in_flight) {
            let budget = streams.get_mut(&stream).expect("each stream has a budget");
            if packet.len() <= *budget {
                *budget -= packet.len();
                arrived.push(packet);
            } else {
                *budget = 0;
            }
        }
        arrived
    }
}
