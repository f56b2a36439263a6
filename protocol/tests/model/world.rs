//! Three nodes, three clients, one log, and a seed that decides what happens next.
//!
//! Each step moves one thing: a frame arrives, a node reads for a subscriber, a client publishes or takes, or
//! something breaks. After the steps everything heals, what is left arrives, and the laws are checked once more on the
//! whole.

/// Says what happens, if anybody listens.
macro_rules! tell {
    ($world:expr, $($arg:tt)*) => {
        if $world.verbose {
            println!("{:>7} {}", $world.now_ms, format!($($arg)*));
        }
    };
}

mod clients;
mod end;
mod nodes;

use std::collections::BTreeMap;

use lanecast_protocol::log::Retention;
use lanecast_protocol::place::Place;
use lanecast_protocol::position::{DurableLane, Position};
use lanecast_protocol::v1;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::client::Client;
use crate::planted::Planted;
use crate::store::Store;
use crate::tally::Tally;
use crate::wire::{Link, Up};

const NODES: usize = 3;
const CLIENTS: usize = 3;
const STEPS: usize = 700;
const ROOM: &str = "room";

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
}
