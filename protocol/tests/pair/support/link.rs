//! A simulated connection: one direction is a [`Way`], of either kind.
//!
//! A pipe is what a WebSocket is: records coalesced into packets, one order for all. Streams are what QUIC is: an
//! ordered stream for control and for each lane, a stream for each urgent message, and datagrams that may be lost,
//! doubled and overtaken; the protocol's [`Sender`] says what goes where. Latency is drawn per packet, and inside a
//! stream nothing overtakes.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use lanecast_protocol::binding::{Sender, StreamId, Target};
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::outbox::Output;
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
    /// What the transport says that the path carries.
    pub window: Option<u64>,
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
        Self {
            kind,
            latency_ms,
            capacity: 64 * 1024,
            rate: 10_000,
            window: None,
            datagrams_lost: 10,
            datagrams_doubled: 10,
        }
    }
}

struct InFlight {
    stream: u64,
    packet: Packet,
}

/// What arrived: the lane of its stream, `None` on a pipe, and whole records.
pub type Packet = (Option<Lane>, Bytes);

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
    sender: Sender,
    /// Streams that end, whose end is acknowledged when all of it has arrived.
    ending: Vec<StreamId>,
    /// Packets under way by stream.
    under_way: BTreeMap<u64, u32>,
    /// The transport takes nothing.
    pub stalled: bool,
    /// Bytes that were written in all.
    pub written: u64,
}

const CONTROL: u64 = 0;
/// Streams that the sender numbers begin here.
const NUMBERED: u64 = 100;
/// Datagrams are numbered from here: each is a stream of its own.
const DATAGRAM: u64 = 1 << 32;
/// Bytes of a datagram.
const DATAGRAM_BYTES: usize = 1_200;

impl Way {
    pub fn new(net: Net) -> Self {
        Self {
            net,
            in_flight: BTreeMap::new(),
            serial: 0,
            streams: BTreeMap::new(),
            bytes: 0,
            busy_until_ms: 0,
            sender: Sender::default(),
            ending: Vec::new(),
            under_way: BTreeMap::new(),
            stalled: false,
            written: 0,
        }
    }

    /// Writes what `next` gives while the transport takes it. Returns the bytes that were written.
    pub fn write(&mut self, now_ms: u64, rng: &mut SmallRng, mut next: impl FnMut(Lanes) -> Option<Output>) -> usize {
        let before = self.written;
        let mut packet = BytesMut::new();
        self.acknowledge(now_ms, rng);
        while !self.stalled && self.bytes + packet.len() < self.net.capacity {
            let lanes = self.sender.lanes();
            let Some(output) = next(lanes) else {
                if lanes.contains(Lane::Urgent) {
                    self.ending.extend(self.sender.drained());
                }
                break;
            };
            match self.net.kind {
                Kind::Pipe => {
                    packet.extend_from_slice(&output.record);
                    if packet.len() >= PACKET_BYTES {
                        self.put(now_ms, rng, CONTROL, (None, packet.split().freeze()));
                    }
                }
                Kind::Streams => {
                    if let Some((output, target)) = self.sender.offer(output, DATAGRAM_BYTES) {
                        self.carry(now_ms, rng, output, target);
                    }
                }
            }
        }
        if !packet.is_empty() {
            self.put(now_ms, rng, CONTROL, (None, packet.freeze()));
        }
        (self.written - before) as usize
    }

    /// Takes the ends of streams of which everything has arrived.
    fn acknowledge(&mut self, now_ms: u64, rng: &mut SmallRng) {
        let (under_way, mut arrived) = (&self.under_way, Vec::new());
        self.ending.retain(|id| {
            let ended = !under_way.contains_key(&(NUMBERED + id));
            if ended {
                arrived.push(*id);
            }
            !ended
        });
        for id in arrived {
            self.sender.acknowledged(id);
            while let Some((output, target)) = self.sender.release() {
                self.carry(now_ms, rng, output, target);
            }
        }
    }

    fn carry(&mut self, now_ms: u64, rng: &mut SmallRng, output: Output, target: Target) {
        let packet = (Some(output.lane), output.record);
        match target {
            Target::Control => self.put(now_ms, rng, CONTROL, packet),
            Target::Lane(lane) => self.put(now_ms, rng, 1 + lane.index() as u64, packet),
            Target::Message(id) | Target::Signal { stream: id, .. } => {
                self.put(now_ms, rng, NUMBERED + id, packet);
                self.ending.push(id);
            }
            Target::Ordered(id) => self.put(now_ms, rng, NUMBERED + id, packet),
            Target::Datagram if rng.random_ratio(self.net.datagrams_lost, 100) => {}
            Target::Datagram => {
                if rng.random_ratio(self.net.datagrams_doubled, 100) {
                    self.put(now_ms, rng, DATAGRAM + self.serial, packet.clone());
                }
                self.put(now_ms, rng, DATAGRAM + self.serial, packet);
            }
        }
    }

    fn put(&mut self, now_ms: u64, rng: &mut SmallRng, stream: u64, packet: Packet) {
        let begin = self.busy_until_ms.max(now_ms);
        self.busy_until_ms = begin + packet.1.len() as u64 / self.net.rate;
        let latency = rng.random_range(self.net.latency_ms.0..=self.net.latency_ms.1);
        let last = self.streams.get(&stream).copied().unwrap_or(0);
        let arrival = (self.busy_until_ms + latency).max(last);
        if stream < DATAGRAM {
            self.streams.insert(stream, arrival);
        }
        self.serial += 1;
        self.bytes += packet.1.len();
        self.written += packet.1.len() as u64;
        *self.under_way.entry(stream).or_default() += 1;
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
    pub fn arrived(&mut self, now_ms: u64) -> Option<Packet> {
        let entry = self.in_flight.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
        let InFlight { stream, packet } = entry.remove();
        if let Some(left) = self.under_way.get_mut(&stream) {
            *left -= 1;
            if *left == 0 {
                self.under_way.remove(&stream);
            }
        }
        self.bytes -= packet.1.len();
        Some(packet)
    }

    /// When everything that is under way on control, or on a pipe, has arrived.
    pub fn control_done_at(&self) -> u64 {
        self.streams.get(&CONTROL).copied().unwrap_or(0)
    }

    /// Cuts each stream at a random byte: what lies wholly before it arrives now, the rest never does.
    pub fn cut(&mut self, rng: &mut SmallRng) -> Vec<Packet> {
        let mut streams: BTreeMap<u64, usize> = BTreeMap::new();
        for in_flight in self.in_flight.values() {
            *streams.entry(in_flight.stream).or_default() += in_flight.packet.1.len();
        }
        for budget in streams.values_mut() {
            *budget = rng.random_range(0..=*budget);
        }
        self.bytes = 0;
        let mut arrived = Vec::new();
        for (_, InFlight { stream, packet }) in std::mem::take(&mut self.in_flight) {
            let budget = streams.get_mut(&stream).expect("each stream has a budget");
            if packet.1.len() <= *budget {
                *budget -= packet.1.len();
                arrived.push(packet);
            } else {
                *budget = 0;
            }
        }
        arrived
    }
}
