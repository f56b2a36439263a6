//! Three nodes, three clients, one log, and a seed that decides what happens next.
//!
//! Each step moves one thing: a frame arrives, a node reads for a subscriber, a client publishes or takes, or
//! something breaks. After the steps everything heals, what is left arrives, and the laws are checked once more on the
//! whole.

use std::collections::BTreeMap;

use bytes::Bytes;
use lanecast_protocol::codes::Code;
use lanecast_protocol::log::{
    Append, Origin, Outcome, Publisher as PublisherId, Resumed, Retention, RolledBack, Start,
};
use lanecast_protocol::place::{Batch, Place, Step, Stored};
use lanecast_protocol::position::{DurableLane, Position};
use lanecast_protocol::publisher::{Settled, Ticket};
use lanecast_protocol::v1;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::client::Client;
use crate::store::Store;
use crate::wire::{Down, Link, Up};

const NODES: usize = 3;
const CLIENTS: usize = 3;
const STEPS: usize = 700;
/// Steps of healing after which a run counts as stuck.
const HEALING_MAX: usize = 20_000;
/// Frames of a lane in flight beyond which a node reads no more.
const LANE_FRAMES_MAX: usize = 24;
/// Former epochs that a node remembers having seen.
const SEEN_MAX: usize = 4;
const ROOM: &str = "room";

/// Mistakes that the model must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A node does not tell what was trimmed.
    TrimmedInSilence,
    /// A node forgets what a fork revoked.
    ForkInSilence,
    /// A node goes on in the old epoch.
    EpochUnnoticed,
    /// `recovered` is always said.
    FalseComfort,
    /// The log does not look at publish numbers.
    NoWatermark,
    /// The log does not look at `after`.
    NoAfter,
    /// A node answers before it stores, and sometimes does not store.
    AckUnstored,
    /// A client delivers duplicates.
    DuplicatesPass,
    /// A client delivers what a fork revoked.
    RevokedPass,
    /// A client subscribes again without its position.
    PositionForgotten,
    /// A client takes a Subscribed that comes while its own Subscribe is not answered.
    AnyAnswerCounts,
}

impl Planted {
    pub const ALL: [Self; 11] = [
        Self::TrimmedInSilence,
        Self::ForkInSilence,
        Self::EpochUnnoticed,
        Self::FalseComfort,
        Self::NoWatermark,
        Self::NoAfter,
        Self::AckUnstored,
        Self::DuplicatesPass,
        Self::RevokedPass,
        Self::PositionForgotten,
        Self::AnyAnswerCounts,
    ];
}

/// What happened, over many seeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    stored: u64,
    duplicates: u64,
    out_of_order: u64,
    acknowledged: u64,
    given_up: u64,
    rollbacks: u64,
    lost: u64,
    epochs: u64,
    unknown_epochs: u64,
    resumed: u64,
    recovered: u64,
    cuts: u64,
    node_restarts: u64,
    crashes: u64,
    trimmed_gaps: u64,
    expired_gaps: u64,
    filtered_gaps: u64,
    revoked_in_flight: u64,
    holes: u64,
    skipped_answers: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        for ((_, mine), (_, theirs)) in self.rows_mut().into_iter().zip(other.rows()) {
            *mine += theirs;
        }
        self.holes += other.holes;
        self.skipped_answers += other.skipped_answers;
    }

    pub fn rows(mut self) -> Vec<(&'static str, u64)> {
        self.rows_mut().into_iter().map(|(name, count)| (name, *count)).collect()
    }

    /// What must happen often enough.
    fn rows_mut(&mut self) -> [(&'static str, &mut u64); 18] {
        [
            ("stored", &mut self.stored),
            ("duplicates", &mut self.duplicates),
            ("out of order", &mut self.out_of_order),
            ("acknowledged", &mut self.acknowledged),
            ("given up", &mut self.given_up),
            ("rollbacks", &mut self.rollbacks),
            ("lost", &mut self.lost),
            ("epochs", &mut self.epochs),
            ("unknown epochs", &mut self.unknown_epochs),
            ("resumed", &mut self.resumed),
            ("recovered", &mut self.recovered),
            ("cuts", &mut self.cuts),
            ("node restarts", &mut self.node_restarts),
            ("crashes", &mut self.crashes),
            ("trimmed gaps", &mut self.trimmed_gaps),
            ("expired gaps", &mut self.expired_gaps),
            ("filtered gaps", &mut self.filtered_gaps),
            ("revoked in flight", &mut self.revoked_in_flight),
        ]
    }
}

/// A publish as the model knows it.
#[derive(Clone, Copy, Debug)]
struct Published {
    instance: u64,
    expires_at_ms: u64,
    /// Hidden from filtered clients.
    secret: bool,
    /// Refused for good.
    too_large: bool,
    acknowledged: bool,
    settled: bool,
}

/// What a node remembers until it restarts.
#[derive(Default)]
struct Node {
    handles: BTreeMap<u64, u64>,
    /// The highest seqs that it saw, by epoch, newest last.
    seen: Vec<Position>,
}

/// A connection as its node knows it.
struct Connection {
    node: usize,
    link: Link,
    place: Option<(Place, u64)>,
}

pub struct World {
    rng: SmallRng,
    now_ms: u64,
    store: Store,
    nodes: Vec<Node>,
    next_handle: u64,
    clients: Vec<Client>,
    connections: Vec<Option<Connection>>,
    /// Publishes of connections that the client gave up and a node may still read.
    ghosts: Vec<(usize, Vec<Up>)>,
    publishes: BTreeMap<u64, Published>,
    next_payload: u64,
    next_instance: u64,
    healing: bool,
    planted: Option<Planted>,
    tally: Tally,
    verbose: bool,
}

macro_rules! tell {
    ($world:expr, $($arg:tt)*) => {
        if $world.verbose {
            println!("{:>7} {}", $world.now_ms, format!($($arg)*));
        }
    };
}

impl World {
    pub fn run(seed: u64, planted: Option<Planted>, verbose: bool) -> Result<Tally, String> {
        let mut world = Self::new(seed, planted, verbose);
        for step in 0..STEPS {
            world.step().map_err(|wrong| format!("step {step}: {wrong}"))?;
        }
        world.heal()?;
        world.audit()?;
        Ok(world.tally)
    }

    fn new(seed: u64, planted: Option<Planted>, verbose: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let retention = Retention { events_max: rng.random_range(3..60), age_ms_max: rng.random_range(1_000..20_000) };
        let now_ms = 1_000_000;
        let mut clients = Vec::new();
        for index in 0..CLIENTS {
            let start = match rng.random_range(0..5) {
                0 => v1::start::At::Beginning(v1::StartBeginning {}),
                1 => v1::start::At::Count(rng.random_range(1..10)),
                2 => v1::start::At::DurationMs(rng.random_range(1..3_000)),
                _ => v1::start::At::Live(v1::StartLive {}),
            };
            clients.push(Client::new(start, index == 0, rng.random_bool(0.5), index as u64));
        }
        Self {
            rng,
            now_ms,
            store: Store::new(now_ms, retention),
            nodes: (0..NODES).map(|_| Node::default()).collect(),
            next_handle: 0,
            clients,
            connections: (0..CLIENTS).map(|_| None).collect(),
            ghosts: Vec::new(),
            publishes: BTreeMap::new(),
            next_payload: 0,
            next_instance: CLIENTS as u64,
            healing: false,
            planted,
            tally: Tally::default(),
            verbose,
        }
    }

    fn chance(&mut self, of_1000: u32) -> bool {
        !self.healing && self.rng.random_range(0..1000) < of_1000
    }

    fn lane(&mut self) -> DurableLane {
        DurableLane::ALL[self.rng.random_range(0..DurableLane::COUNT)]
    }

    fn is_planted(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    fn step(&mut self) -> Result<(), String> {
        self.now_ms += self.rng.random_range(1..15);
        if self.chance(15) {
            let at = self.rng.random_range(0..1_000_000);
            self.store.snapshot(at);
        }
        if self.chance(6) {
            self.break_store();
        }
        if self.chance(6) {
            self.restart_node();
        }
        if self.chance(40) {
            self.ghost()?;
        }
        let client = self.rng.random_range(0..CLIENTS);
        if self.chance(15) {
            self.cut(client);
        }
        if self.chance(3) {
            self.cut(client);
            tell!(self, "client {client} crashes");
            self.next_instance += 1;
            self.clients[client].crash(self.next_instance)?;
            self.tally.crashes += 1;
        }
        if self.chance(150) {
            self.publish(client);
        }
        self.act(client)
    }

    /// What happens without anything breaking.
    fn act(&mut self, client: usize) -> Result<(), String> {
        self.clients[client].publisher.handle_timeout(self.now_ms);
        if self.connections[client].is_none() {
            if self.healing || self.chance(300) {
                self.connect(client);
            }
        } else {
            match self.rng.random_range(0..14) {
                0 | 1 => self.send(client),
                2 => self.node_reads_control(client)?,
                3..=5 => self.node_reads_lane(client)?,
                6 | 7 => self.pump(client)?,
                8 | 9 => self.control_arrives(client)?,
                _ => self.lane_arrives(client)?,
            }
        }
        if self.rng.random_bool(0.3) {
            let max = self.rng.random_range(1..8);
            self.clients[client].take(max).map_err(|wrong| format!("client {client}, taken: {wrong}"))?;
        }
        self.settle(client)
    }

    // Breaking things.

    fn break_store(&mut self) {
        self.tally.rollbacks += 1;
        if self.rng.random_range(0..12) == 0 {
            tell!(self, "the store loses everything");
            self.store.wipe(self.now_ms);
        } else {
            let at = self.rng.random_range(0..1_000_000);
            self.store.roll_back(at);
            tell!(self, "the store goes back to {}", self.store.log().head().position);
        }
    }

    fn restart_node(&mut self) {
        let node = self.rng.random_range(0..NODES);
        tell!(self, "node {node} restarts");
        self.tally.node_restarts += 1;
        self.nodes[node] = Node::default();
        for client in 0..CLIENTS {
            if self.connections[client].as_ref().is_some_and(|connection| connection.node == node) {
                self.connections[client] = None;
                self.clients[client].disconnected();
            }
        }
        self.ghosts.retain(|(of, _)| *of != node);
    }

    fn cut(&mut self, client: usize) {
        let Some(connection) = self.connections[client].take() else { return };
        tell!(self, "client {client} is cut off");
        self.tally.cuts += 1;
        self.clients[client].disconnected();
        for lane in DurableLane::ALL {
            let left: Vec<Up> = connection.link.lanes_up[lane].iter().cloned().collect();
            if !left.is_empty() && self.ghosts.len() < 10 {
                self.ghosts.push((connection.node, left));
            }
        }
    }

    /// A node reads what a client sent before its connection broke.
    fn ghost(&mut self) -> Result<(), String> {
        if self.ghosts.is_empty() {
            return Ok(());
        }
        let at = self.rng.random_range(0..self.ghosts.len());
        let (node, frames) = &mut self.ghosts[at];
        let node = *node;
        let frame = frames.remove(0);
        if frames.is_empty() || self.rng.random_bool(0.1) {
            self.ghosts.remove(at);
        }
        if let Up::Publish { publish, instance, .. } = frame {
            tell!(self, "node {node} reads a late publish");
            self.judge(node, &publish, instance)?;
        }
        Ok(())
    }

    // The client's side.

    fn connect(&mut self, client: usize) {
        let node = self.rng.random_range(0..NODES);
        // A client stays with one kind of transport for a run, which says what order its application may expect.
        let mut link = Link::new(self.clients[client].ordered);
        let subscribe = self.clients[client].subscribe(self.planted);
        tell!(self, "client {client} connects to node {node}: {subscribe:?}");
        link.control_up.push_back(subscribe);
        self.connections[client] = Some(Connection { node, link, place: None });
    }

    fn publish(&mut self, client: usize) {
        self.next_payload += 1;
        let lane = self.lane();
        let payload = self.next_payload * 10 + lane.index() as u64;
        let expires_at_ms = if self.chance(200) { self.now_ms + self.rng.random_range(1..600) } else { 0 };
        let published = Published {
            instance: self.clients[client].instance,
            expires_at_ms,
            secret: self.chance(100),
            too_large: self.chance(30),
            acknowledged: false,
            settled: false,
        };
        self.publishes.insert(payload, published);
        let give_up_at_ms = self.now_ms + self.rng.random_range(100..4_000);
        let envelope = Bytes::copy_from_slice(&payload.to_be_bytes());
        let ticket = Ticket(payload);
        self.clients[client].publisher.push(ticket, ROOM, lane, envelope, 0, give_up_at_ms).unwrap();
    }

    /// Sends what is due: a Subscribe after a hole, and a publish.
    fn send(&mut self, client: usize) {
        let again = self.chance(30) || std::mem::take(&mut self.clients[client].again);
        let Some(connection) = &mut self.connections[client] else { return };
        let state = &mut self.clients[client];
        if again {
            connection.link.control_up.push_back(state.subscribe(self.planted));
        }
        let (next_id, instance) = (&mut state.next_id, state.instance);
        let polled = state.publisher.poll(self.now_ms, 8, || {
            *next_id += 1;
            *next_id
        });
        if let Some((id, publish)) = polled {
            let lane = DurableLane::from_wire(publish.lane).unwrap();
            connection.link.lanes_up[lane].push_back(Up::Publish { id, publish, instance });
        }
    }

    fn control_arrives(&mut self, client: usize) -> Result<(), String> {
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let Some(frame) = connection.link.control_down.pop_front() else { return Ok(()) };
        tell!(self, "client {client} gets {frame:?}");
        let state = &mut self.clients[client];
        match frame {
            Down::Subscribed(id, frame) => {
                let subscribed = state.subscribed(&connection.link, id, &frame, self.planted);
                if !subscribed.map_err(|wrong| format!("client {client}, subscribed: {wrong}"))? {
                    self.tally.skipped_answers += 1;
                    self.cut(client);
                }
            }
            Down::Published { id, published } => drop(state.publisher.published(id, published)),
            Down::Refused { id, error } => drop(state.publisher.refused(self.now_ms, id, &error)),
            other => return Err(format!("{other:?} on control")),
        }
        Ok(())
    }

    fn lane_arrives(&mut self, client: usize) -> Result<(), String> {
        let lane = self.lane();
        let pick = self.rng.random_range(0..64);
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let Some(frame) = connection.link.arrive(lane, pick) else { return Ok(()) };
        tell!(self, "client {client} gets {lane} {frame:?}");
        self.clients[client]
            .durable(&connection.link, lane, frame, self.planted)
            .map_err(|wrong| format!("client {client}, received: {wrong}"))
    }

    /// Looks at publishes that ended.
    fn settle(&mut self, client: usize) -> Result<(), String> {
        while let Some((Ticket(payload), settled)) = self.clients[client].publisher.poll_settled() {
            let publish = self.publishes.get_mut(&payload).ok_or("a publish that was never made ended")?;
            if std::mem::replace(&mut publish.settled, true) {
                return Err(format!("publish {payload} ended twice"));
            }
            match settled {
                Settled::Stored(published) => {
                    self.tally.acknowledged += 1;
                    publish.acknowledged = true;
                    let lane = DurableLane::from_wire(published.lane).ok_or("no lane in Published")?;
                    let name = (published.epoch, lane, published.seq);
                    // With seq 0 it proves only that the number was used.
                    if published.seq != 0 && self.store.names.get(&name) != Some(&payload) {
                        return Err(format!("publish {payload} was acknowledged as {name:?}, which is another event"));
                    }
                }
                Settled::Refused { code, .. } => {
                    if !publish.too_large {
                        return Err(format!("publish {payload} was refused for good with {code}"));
                    }
                }
                Settled::GivenUp => self.tally.given_up += 1,
            }
        }
        Ok(())
    }

    // The node's side.

    /// What every call of the log begins with.
    fn contact(&mut self, node: usize) {
        let seen = self.nodes[node].seen.clone();
        if self.store.contact(self.now_ms, &seen) {
            self.tally.epochs += 1;
            tell!(self, "node {node} opens epoch {}", self.store.log().epoch());
        }
        let head = self.store.log().head().position;
        let seen = &mut self.nodes[node].seen;
        match seen.iter_mut().find(|position| position.epoch == head.epoch) {
            Some(position) => *position = head,
            None => seen.push(head),
        }
        if seen.len() > SEEN_MAX {
            seen.remove(0);
        }
    }

    fn handle(&mut self, node: usize, epoch: u64) -> u64 {
        let next = &mut self.next_handle;
        *self.nodes[node].handles.entry(epoch).or_insert_with(|| {
            *next += 1;
            *next
        })
    }

    fn node_reads_control(&mut self, client: usize) -> Result<(), String> {
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let node = connection.node;
        let Some(Up::Subscribe(id, at)) = connection.link.control_up.pop_front() else { return Ok(()) };
        self.contact(node);
        let start = match &at {
            v1::start::At::Live(_) => Start::Live,
            v1::start::At::Beginning(_) => Start::Beginning,
            v1::start::At::Position(position) => Start::Position(Position::try_from(position).unwrap()),
            v1::start::At::Count(count) => Start::Count((*count).into()),
            v1::start::At::DurationMs(ms) => Start::Duration(*ms),
            v1::start::At::Marker(_) => return Err("markers are not modelled".into()),
        };
        let mut opened = self.store.log().open(self.now_ms, start);
        if let Start::Position(asked) = start {
            self.tally.resumed += 1;
            self.tally.recovered += u64::from(opened.recovered);
            self.tally.unknown_epochs += u64::from(opened.rolled_back.iter().any(|gap| gap.to.is_none()));
            opened.recovered |= self.is_planted(Planted::FalseComfort);
            if self.store.log().is_beyond_head(asked) {
                return Err(format!("{asked} is beyond the head of an epoch in which nothing was rolled back"));
            }
            self.check_resume(client, node, asked, &opened.rolled_back, opened.position, opened.recovered)?;
        }
        let resumed =
            Resumed { position: opened.position, rolled_back: opened.rolled_back, recovered: opened.recovered };
        self.begin(client, id, resumed, v1::SubscribedCause::Unspecified);
        Ok(())
    }

    /// Puts the subscriber's place where it begins and tells it.
    fn begin(&mut self, client: usize, id: u32, resumed: Resumed, cause: v1::SubscribedCause) {
        let head = self.store.log().head();
        let node = self.connections[client].as_ref().unwrap().node;
        let handle = self.handle(node, resumed.position.epoch);
        let mut rolled_back: Vec<v1::Gap> = resumed.rolled_back.iter().map(gap_of).collect();
        if self.is_planted(Planted::ForkInSilence) {
            rolled_back.clear();
        }
        let frame = v1::Subscribed {
            room: ROOM.into(),
            handle,
            position: Some(resumed.position.into()),
            head: Some(head.position.into()),
            head_order: head.order,
            recovered: resumed.recovered,
            rolled_back,
            cause: cause.into(),
            ..Default::default()
        };
        let connection = self.connections[client].as_mut().unwrap();
        connection.place = Some((Place::at(resumed.position), handle));
        connection.link.control_down.push_back(Down::Subscribed(id, Box::new(frame)));
    }

    /// Law 10, and the naming of what was lost.
    fn check_resume(
        &self,
        client: usize,
        node: usize,
        asked: Position,
        rolled_back: &[RolledBack],
        position: Position,
        recovered: bool,
    ) -> Result<(), String> {
        let log = self.store.log();
        let oldest = log.head().oldest;
        let trimmed = DurableLane::ALL.into_iter().any(|lane| position.seq(lane) < oldest.seq(lane));
        if recovered != (rolled_back.is_empty() && !trimmed) {
            return Err(format!(
                "client {client} at {asked}: recovered {recovered}, trimmed {trimmed}, {rolled_back:?}"
            ));
        }
        let state = &self.clients[client];
        if let Some(received) = &state.received
            && state.tracker.epoch() == asked.epoch
            && recovered
        {
            for (lane, cells) in received.cells.iter() {
                for (seq, cell) in cells.range(..=asked.seq(lane)) {
                    if let crate::ledger::Cell::Event(payload) = cell
                        && self.store.truth()[lane].get(*seq as usize - 1) != Some(payload)
                    {
                        return Err(format!("client {client} at {asked} is recovered, and its {lane} {seq} is lost"));
                    }
                }
            }
        }
        let mut forks = log.forks().skip_while(|fork| fork.epoch <= asked.epoch);
        let known = rolled_back.iter().all(|gap| gap.to.is_some());
        let seen = self.nodes[node].seen.iter().find(|seen| seen.epoch == asked.epoch);
        if let (Some(fork), Some(seen), true) = (forks.next(), seen, known) {
            for lane in DurableLane::ALL {
                let named = rolled_back.iter().any(|gap| {
                    gap.lane == lane && gap.epoch == asked.epoch && gap.to.is_some_and(|to| to >= seen.seq(lane))
                });
                if seen.seq(lane) >= fork.first[lane] && !named {
                    return Err(format!("{lane} {} of epoch {} is lost and not named", seen.seq(lane), asked.epoch));
                }
            }
        }
        Ok(())
    }

    fn node_reads_lane(&mut self, client: usize) -> Result<(), String> {
        let lane = self.lane();
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let node = connection.node;
        let Some(Up::Publish { id, publish, instance }) = connection.link.lanes_up[lane].pop_front() else {
            return Ok(());
        };
        let answer = if self.chance(30) {
            refusal(id, Code::Unavailable)
        } else {
            let outcome = self.judge(node, &publish, instance)?;
            let lost_answer = self.chance(30);
            match outcome {
                None => refusal(id, Code::MessageTooLarge),
                // What the store did is not known to the node.
                Some(_) if lost_answer => refusal(id, Code::Unavailable),
                Some(Outcome::Stored(numbers)) => published(id, lane, Some((numbers.epoch, numbers.seq)), false),
                Some(Outcome::Duplicate { first }) => {
                    let epoch = self.store.log().epoch();
                    let numbers = first.map_or((epoch, 0), |first| (first.epoch, first.seq));
                    published(id, lane, Some(numbers), true)
                }
                Some(Outcome::OutOfOrder) => refusal(id, Code::OutOfOrder),
                Some(other) => return Err(format!("{other:?} for a numbered publish")),
            }
        };
        tell!(self, "node {node} answers client {client}: {answer:?}");
        if let Some(connection) = &mut self.connections[client] {
            connection.link.control_down.push_back(answer);
        }
        Ok(())
    }

    /// Lets the log judge a publish; `None`: the node refuses it for good.
    fn judge(&mut self, node: usize, publish: &v1::Publish, instance: u64) -> Result<Option<Outcome>, String> {
        let payload = u64::from_be_bytes(publish.envelope[..].try_into().unwrap());
        let known = self.publishes[&payload];
        if known.too_large {
            return Ok(None);
        }
        self.contact(node);
        let lane = DurableLane::from_wire(publish.lane).unwrap();
        let publisher = PublisherId { user: "user".into(), instance: instance.to_string() };
        let after = if self.is_planted(Planted::NoAfter) { 0 } else { publish.after };
        let origin = match self.is_planted(Planted::NoWatermark) {
            true => Origin::Unmarked,
            false => Origin::Numbered { publisher, number: publish.number, after },
        };
        let append = Append {
            lane,
            origin,
            time_ms: self.now_ms,
            expires_at_ms: known.expires_at_ms,
            event_type: if known.secret { "secret".into() } else { "open".into() },
            tail: publish.envelope.clone(),
        };
        if self.is_planted(Planted::AckUnstored) && self.chance(20) {
            let seq = self.store.log().head().position.seq(lane) + 1;
            let epoch = self.store.log().epoch();
            let numbers = lanecast_protocol::log::Numbers { epoch, lane, seq, order: 0 };
            return Ok(Some(Outcome::Stored(numbers)));
        }
        let outcome = self.store.append(self.now_ms, append, payload)?;
        match outcome {
            Outcome::Stored(_) => self.tally.stored += 1,
            Outcome::Duplicate { .. } => self.tally.duplicates += 1,
            Outcome::OutOfOrder => self.tally.out_of_order += 1,
            _ => {}
        }
        tell!(self, "publish {payload} number {} after {after}: {outcome:?}", publish.number);
        Ok(Some(outcome))
    }

    /// A node reads a lane for a subscriber, as far as its queue has room.
    fn pump(&mut self, client: usize) -> Result<(), String> {
        let lane = self.lane();
        let records_max = self.rng.random_range(1..8);
        let Some(connection) = &self.connections[client] else { return Ok(()) };
        let node = connection.node;
        let Some((mut place, handle)) = connection.place else { return Ok(()) };
        if connection.link.lanes_down[lane].len() > LANE_FRAMES_MAX {
            return Ok(());
        }
        self.contact(node);
        let read = self.store.log().read(lane, place.sent(lane), records_max, usize::MAX);
        if read.epoch != place.epoch && !self.is_planted(Planted::EpochUnnoticed) {
            let asked = place.position();
            let resumed = self.store.log().resume(asked);
            tell!(self, "node {node} moves client {client} from {asked} to {resumed:?}");
            self.check_resume(client, node, asked, &resumed.rolled_back, resumed.position, resumed.recovered)?;
            let recovered = false;
            self.begin(client, 0, Resumed { recovered, ..resumed }, v1::SubscribedCause::Epoch);
            return Ok(());
        }
        let hides = self.clients[client].filtered;
        let events: Vec<Stored> = read
            .records
            .iter()
            .map(|record| Stored {
                seq: record.seq,
                expires_at_ms: record.expires_at_ms,
                event_type: record.event_type.clone(),
                record: record.tail.clone(),
            })
            .collect();
        let mut batch = Batch { first: read.first, events };
        if self.is_planted(Planted::TrimmedInSilence) && batch.first > place.sent(lane) + 1 {
            place = Place::at(place.position().with_seq(lane, batch.first - 1));
            batch.first = 1;
        }
        let steps = place.advance(lane, batch, self.now_ms, |event| !hides || &*event.event_type != "secret");
        let epoch = place.epoch;
        for step in steps {
            let frame = match step {
                Step::Event { seq, record, .. } => {
                    Down::Event { handle, seq, payload: u64::from_be_bytes(record[..].try_into().unwrap()) }
                }
                Step::Gap { from, to, cause } => {
                    self.check_gap(lane, from, to, cause)?;
                    let lane = v1::Lane::from(lane).into();
                    Down::Gap(v1::Gap { handle, lane, epoch, from, to, cause: cause.into(), ..Default::default() })
                }
            };
            let connection = self.connections[client].as_mut().unwrap();
            connection.link.lanes_down[lane].push_back(frame);
        }
        self.connections[client].as_mut().unwrap().place = Some((place, handle));
        Ok(())
    }

    /// A gap says why, and it is true.
    fn check_gap(&mut self, lane: DurableLane, from: u64, to: u64, cause: v1::GapCause) -> Result<(), String> {
        let payloads = self.store.truth()[lane].get(from as usize - 1..to as usize).ok_or("a gap beyond the log")?;
        let publishes = || payloads.iter().map(|payload| &self.publishes[payload]);
        let (is_true, count) = match cause {
            v1::GapCause::Trimmed => (to <= self.store.trimmed[lane], &mut self.tally.trimmed_gaps),
            v1::GapCause::Expired => {
                let now_ms = self.now_ms;
                let all = publishes().all(|publish| publish.expires_at_ms != 0 && publish.expires_at_ms <= now_ms);
                (all, &mut self.tally.expired_gaps)
            }
            v1::GapCause::Filtered => (publishes().all(|publish| publish.secret), &mut self.tally.filtered_gaps),
            other => return Err(format!("a gap with cause {other:?}")),
        };
        *count += 1;
        if is_true { Ok(()) } else { Err(format!("{lane} {from} to {to} is not {cause:?}")) }
    }

    // The end.

    /// Lets everything arrive.
    fn heal(&mut self) -> Result<(), String> {
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

    fn is_done(&self, client: usize) -> bool {
        let state = &self.clients[client];
        let head = Some(self.store.log().head().position);
        let at_rest = self.connections[client].as_ref().is_some_and(|connection| connection.link.is_empty());
        at_rest
            && state.publisher.unsettled() == 0
            && state.has_taken_all()
            && state.tracker.position() == head
            && state.inbox.position() == head
    }

    fn audit(&mut self) -> Result<(), String> {
        for (index, client) in self.clients.iter().enumerate() {
            let hidden = |payload: u64| client.filtered && self.publishes[&payload].secret;
            for (what, ledger) in [("received", &client.received), ("taken", &client.taken)] {
                let ledger = ledger.as_ref().ok_or("a client was never subscribed")?;
                ledger.audit(self.store.truth(), hidden).map_err(|wrong| format!("client {index}, {what}: {wrong}"))?;
            }
            self.tally.holes += client.holes;
            self.tally.revoked_in_flight += client.revoked;
        }
        let here: std::collections::BTreeSet<u64> =
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

fn gap_of(lost: &RolledBack) -> v1::Gap {
    v1::Gap {
        lane: v1::Lane::from(lost.lane).into(),
        epoch: lost.epoch,
        from: lost.from,
        to: lost.to.unwrap_or(0),
        cause: v1::GapCause::RolledBack.into(),
        ..Default::default()
    }
}

fn refusal(id: u32, code: Code) -> Down {
    Down::Refused { id, error: v1::Error { code: code.number().into(), ..Default::default() } }
}

fn published(id: u32, lane: DurableLane, numbers: Option<(u64, u64)>, duplicate: bool) -> Down {
    let (epoch, seq) = numbers.unwrap_or_default();
    let lane = v1::Lane::from(lane).into();
    Down::Published { id, published: v1::Published { epoch, lane, seq, duplicate, ..Default::default() } }
}
