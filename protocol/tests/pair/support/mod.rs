//! Two peers, or more, on a virtual clock: clients of the protocol against a node in miniature, over simulated links.
//!
//! Nothing here sleeps and nothing is drawn but from the seed, which a failing test prints: the same seed runs the same
//! way. The vocabulary: [`Pair::client`], [`Pair::subscribe`] and [`Pair::publish`] act; [`Pair::advance`],
//! [`Pair::drive_until`] and [`Pair::settle`] let time pass; [`Pair::cut`], [`Pair::restart_node`] and
//! [`Pair::roll_back`] break things; [`Pair::check`] and [`Pair::assert_closed`] say what must hold.

pub mod app;
pub mod link;
pub mod node;

use std::collections::BTreeMap;

use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::credit::{Gate, UNCOUNTED_BYTES};
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::log::RoomLog;
use lanecast_protocol::outbox::Output;
use lanecast_protocol::position::{DurableLane, Position};
use lanecast_protocol::publisher::{Bounds, Settled, Ticket};
use lanecast_protocol::session::Now;
use lanecast_protocol::session::client::{
    Action, Client, ClientState, Event, Options, Outgoing, RECORD_BYTES_MAX, RoomState, SubscribeOptions,
};
use lanecast_protocol::v1;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub use self::app::{Ledger, Seen, envelope};
pub use self::link::{Kind, Net, Packet, Way};
pub use self::node::Node;

/// Longest that a scenario may drive towards something, virtual ms.
const PATIENCE_MS: u64 = 600_000;
/// Steps without the clock moving that a scenario may take: more is a timer that never ends.
const STEPS_MAX: u32 = 10_000;

/// A connection between a client and the node.
pub struct Link {
    pub conn: u64,
    pub up: Way,
    pub down: Way,
    /// The node closed it: the client learns of it then, with that code.
    closes: Option<(u64, Code)>,
}

/// A client with its application.
pub struct Peer {
    pub client: Client,
    pub link: Option<Link>,
    connects_at: Option<u64>,
    pub token: String,
    /// For each time that a connection was asked for: whether a new token was.
    pub connects: Vec<(u64, u32)>,
    /// Tokens that the application gives when a new one is asked for.
    pub new_tokens: Vec<String>,
    /// The codes with which the client closed transports.
    pub disconnects: Vec<Code>,
    /// Whether the application reads.
    pub reading: bool,
    /// Items that it takes at a time.
    pub batch: usize,
    pub rooms: BTreeMap<String, Ledger>,
    pub settled: BTreeMap<Ticket, Settled>,
    /// What its transport was handed, and when; `None`: nobody looks.
    pub handed_over: Option<Vec<(u64, Output)>>,
    pub signals: Vec<(String, v1::Signal)>,
    pub pages: BTreeMap<Ticket, Result<v1::HistoryPage, v1::Error>>,
    pub states: Vec<(u64, ClientState)>,
    pub room_states: Vec<(String, RoomState)>,
}

impl Peer {
    pub fn ledger(&self, room: &str) -> &Ledger {
        self.rooms.get(room).unwrap_or_else(|| panic!("nothing was subscribed in {room}"))
    }

    pub fn is_connected(&self) -> bool {
        self.client.state() == ClientState::Connected
    }

    pub fn is_live(&self, room: &str) -> bool {
        matches!(self.client.room_state(room), Some(RoomState::Live { .. }))
    }
}

/// The simulated world.
pub struct Pair {
    seed: u64,
    pub now: Now,
    pub rng: SmallRng,
    pub net: Net,
    pub node: Node,
    /// Whether the node takes connections.
    pub reachable: bool,
    pub peers: Vec<Peer>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, {:?}, at {} ms", self.seed, self.net.kind, self.now.monotonic_ms);
            for peer in &self.peers {
                let (client, states) = (&peer.client, &peer.states[peer.states.len().saturating_sub(4)..]);
                eprintln!("{:?}, {} unsettled, lately {states:?}", client.state(), client.unsettled());
                for room in peer.rooms.keys() {
                    let head = self.node.rooms.get(room).map(|room| room.log.head().position.to_string());
                    let position = client.position(room).map(|position| position.to_string());
                    eprintln!("  {room}: {:?}, at {position:?} of {head:?}", client.room_state(room));
                }
            }
        }
    }
}

fn under_way(gate: &Gate) -> [u64; 2] {
    [Lane::Normal, Lane::Bulk].map(|lane| gate.under_way(lane))
}

/// No more of lanes normal and bulk is under way than the receiver wants, but for one record when next to nothing is
/// (LC-FLOW-010).
fn check_credit(before: [u64; 2], gate: &Gate, output: Option<&Output>) {
    let Some(output) = output else { return };
    for (lane, before) in [Lane::Normal, Lane::Bulk].into_iter().zip(before).filter(|(lane, _)| *lane == output.lane) {
        let Some((window, own)) = gate.bounds(lane) else { continue };
        let after = gate.under_way(lane);
        assert_eq!(after, before + output.record.len() as u64);
        assert!(before <= UNCOUNTED_BYTES || after <= window, "{lane:?}: {before}, then {after} under way of {window}");
        assert!(before <= UNCOUNTED_BYTES || before < own, "{lane:?}: {before} under way, of our own {own}");
    }
}

/// Options of a client that nothing is special about.
pub fn options(seed: u64, instance: &str) -> Options {
    Options {
        instance: instance.into(),
        info: v1::ClientInfo { name: "sim".into(), ..Default::default() },
        device: String::new(),
        outbox: Bounds { items_max: 100_000, bytes_max: 1 << 30 },
        outbox_ttl_ms: 12 * 3600 * 1000,
        renews_tokens: true,
        seed,
    }
}

/// A room from its beginning.
pub fn beginning() -> SubscribeOptions {
    SubscribeOptions { start: Some(v1::start::At::Beginning(v1::StartBeginning {})), signals: false }
}

/// A room after a position.
pub fn after(position: Position) -> SubscribeOptions {
    SubscribeOptions { start: Some(v1::start::At::Position(position.into())), signals: false }
}

/// A room as it is now, with signals.
pub fn with_signals() -> SubscribeOptions {
    SubscribeOptions { start: None, signals: true }
}

impl Pair {
    pub fn new(seed: u64, kind: Kind) -> Self {
        Self {
            seed,
            now: Now { monotonic_ms: 1_000, wall_ms: 1_700_000_000_000 },
            rng: SmallRng::seed_from_u64(seed),
            net: Net::new(kind),
            node: Node::new(),
            reachable: true,
            peers: Vec::new(),
        }
    }

    // Acting.

    /// A client of that user, not yet connected.
    pub fn idle_client(&mut self, user: &str) -> usize {
        let options = options(self.rng.random(), &format!("i-{user}-{}", self.peers.len()));
        self.peers.push(Peer {
            client: Client::new(options),
            link: None,
            connects_at: None,
            token: user.to_owned(),
            connects: Vec::new(),
            new_tokens: Vec::new(),
            disconnects: Vec::new(),
            reading: true,
            batch: 16,
            rooms: BTreeMap::new(),
            settled: BTreeMap::new(),
            handed_over: None,
            signals: Vec::new(),
            pages: BTreeMap::new(),
            states: Vec::new(),
            room_states: Vec::new(),
        });
        self.peers.len() - 1
    }

    /// A client of that user that begins to connect.
    pub fn client(&mut self, user: &str) -> usize {
        let at = self.idle_client(user);
        self.peers[at].client.connect(self.now);
        at
    }

    /// A client that is connected and, at the beginning of a room, live in it.
    pub fn member(&mut self, user: &str, room: &str) -> usize {
        let at = self.client(user);
        self.subscribe(at, room, beginning());
        self.drive_until("the room is live", |pair| pair.peers[at].is_live(room));
        at
    }

    pub fn subscribe(&mut self, peer: usize, room: &str, options: SubscribeOptions) {
        let peer = &mut self.peers[peer];
        peer.rooms.insert(room.to_owned(), Ledger::default());
        peer.client.subscribe(room, options).expect("the client lives");
    }

    pub fn publish(&mut self, peer: usize, room: &str, lane: DurableLane, text: &str) -> Ticket {
        self.peers[peer].client.publish(self.now, room, lane, envelope(text), 0).expect("the outbox has room")
    }

    pub fn publish_all(&mut self, peer: usize, room: &str, lane: DurableLane, texts: &[String]) {
        for text in texts {
            self.publish(peer, room, lane, text);
        }
    }

    pub fn signal(&mut self, peer: usize, room: &str, key: &str, text: &str, ttl_ms: u32) {
        let kind = ("test".to_owned(), key.to_owned());
        let envelope = app::keyed(key, text);
        let signal = Outgoing { room: room.into(), kind, envelope, ttl_ms, clear: false };
        self.peers[peer].client.signal(self.now, signal);
    }

    // Breaking.

    /// Cuts the connection of a peer at a random byte in each direction.
    pub fn cut(&mut self, peer: usize) {
        let Some(mut link) = self.peers[peer].link.take() else { return };
        for packet in link.up.cut(&mut self.rng) {
            self.node_takes(link.conn, packet);
        }
        for packet in link.down.cut(&mut self.rng) {
            self.client_takes(peer, packet);
        }
        self.node.closed(link.conn);
        self.peers[peer].client.handle_closed(self.now, None);
    }

    /// The node loses everything and begins another life.
    pub fn restart_node(&mut self) {
        for peer in 0..self.peers.len() {
            self.cut(peer);
        }
        self.node.restart();
    }

    /// What a log is now, to roll it back to later.
    pub fn snapshot(&mut self, room: &str) -> RoomLog {
        self.node.room(room).log.clone()
    }

    /// The room's log loses what came after the snapshot; the node knows what it had seen.
    pub fn roll_back(&mut self, room: &str, snapshot: RoomLog) {
        let seen = self.node.head(room);
        self.node.roll_back(self.now, room, snapshot, &[seen]);
    }

    // Time.

    /// Lets time pass.
    pub fn advance(&mut self, ms: u64) {
        let until = self.now.monotonic_ms + ms;
        let mut guard = (self.now.monotonic_ms, 0);
        while self.step(until) {
            guard = self.guarded(guard);
        }
    }

    /// Lets time pass until something holds.
    pub fn drive_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = self.now.monotonic_ms + PATIENCE_MS;
        let mut guard = (self.now.monotonic_ms, 0);
        self.drain();
        while !holds(self) {
            assert!(self.step(until), "{what}: not within {PATIENCE_MS} ms");
            guard = self.guarded(guard);
        }
    }

    fn guarded(&self, (since_ms, steps): (u64, u32)) -> (u64, u32) {
        if since_ms != self.now.monotonic_ms {
            return (self.now.monotonic_ms, 0);
        }
        assert!(steps < STEPS_MAX, "time does not pass: a deadline is in the past and stays there");
        (since_ms, steps + 1)
    }

    /// Lets time pass until every client is connected, every room is live and everything stored has been read.
    pub fn settle(&mut self) {
        self.drive_until("everything settles", |pair| pair.peers.iter().all(|peer| pair.is_settled(peer)));
    }

    fn is_settled(&self, peer: &Peer) -> bool {
        let quiet = peer.link.as_ref().is_none_or(|link| link.up.is_empty() && link.down.is_empty());
        let rooms = peer.rooms.keys().all(|name| {
            let position = peer.client.position(name);
            let head = self.node.rooms.get(name).map(|room| room.log.head().position);
            peer.is_live(name) && (head.is_none() || position == head)
        });
        peer.is_connected() && peer.client.unsettled() == 0 && quiet && rooms
    }

    /// Goes to the next thing that happens, or to `until`; false once that is reached.
    fn step(&mut self, until: u64) -> bool {
        self.drain();
        let next = self.next_at().unwrap_or(u64::MAX);
        let passed = next.min(until).saturating_sub(self.now.monotonic_ms);
        self.now.monotonic_ms += passed;
        self.now.wall_ms += passed;
        if next > until {
            return false;
        }
        self.fire();
        self.drain();
        true
    }

    fn next_at(&self) -> Option<u64> {
        let peers = self.peers.iter().flat_map(|peer| {
            let link = peer.link.iter().flat_map(|link| {
                [link.up.next_at(), link.down.next_at(), link.closes.map(|(at, _)| at)].into_iter().flatten()
            });
            link.chain(peer.connects_at).chain(peer.client.poll_timeout(self.now))
        });
        let conns = self.node.conns.values().filter_map(|conn| conn.session.poll_timeout());
        peers.chain(conns).min()
    }

    fn fire(&mut self) {
        let now_ms = self.now.monotonic_ms;
        for at in 0..self.peers.len() {
            if self.peers[at].connects_at.is_some_and(|due| due <= now_ms) {
                self.open(at);
            }
            while let Some(link) = &mut self.peers[at].link
                && let Some(packet) = link.up.arrived(now_ms)
            {
                let conn = link.conn;
                self.node_takes(conn, packet);
            }
            while let Some(link) = &mut self.peers[at].link
                && let Some(packet) = link.down.arrived(now_ms)
            {
                self.client_takes(at, packet);
            }
            if let Some((due, code)) = self.peers[at].link.as_ref().and_then(|link| link.closes)
                && due <= now_ms
            {
                self.peers[at].link = None;
                self.peers[at].client.handle_closed(self.now, Some(code.number()));
            }
            let peer = &mut self.peers[at];
            if peer.client.poll_timeout(self.now).is_some_and(|due| due <= now_ms) {
                peer.client.handle_timeout(self.now);
            }
        }
        for conn in self.node.conns.values_mut() {
            if conn.session.poll_timeout().is_some_and(|due| due <= now_ms) {
                conn.session.handle_timeout(self.now);
            }
        }
    }

    fn open(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        peer.connects_at = None;
        if !self.reachable {
            return peer.client.failed(self.now);
        }
        let conn = self.node.connect(self.now, self.net.kind == Kind::Pipe);
        let (up, down) = (Way::new(self.net), Way::new(self.net));
        peer.link = Some(Link { conn, up, down, closes: None });
        peer.client.opened(self.now, peer.token.clone(), self.net.kind == Kind::Pipe);
    }

    fn node_takes(&mut self, conn: u64, (lane, packet): Packet) {
        let limit = self.node.config.limits.record_bytes as usize;
        if let Some(conn) = self.node.conns.get_mut(&conn) {
            for record in codec::records(packet, limit) {
                match record {
                    Ok(record) => drop(conn.session.handle_record(self.now, lane, record)),
                    Err(fault) => conn.session.handle_fault(fault),
                }
            }
        }
        self.node.work(self.now, conn);
    }

    fn client_takes(&mut self, at: usize, (lane, packet): Packet) {
        for record in codec::records(packet, RECORD_BYTES_MAX) {
            self.peers[at].client.handle_record(self.now, lane, record.expect("the node sends whole records"));
        }
        self.drain_events(at);
    }

    // Outputs.

    /// Drains every output of every peer, until nothing is left.
    pub fn drain(&mut self) {
        loop {
            let mut busy = false;
            for at in 0..self.peers.len() {
                busy |= self.drain_actions(at);
                self.drain_events(at);
                busy |= self.write_up(at);
            }
            for conn in self.node.conns.keys().copied().collect::<Vec<_>>() {
                busy |= self.node.work(self.now, conn);
            }
            for at in 0..self.peers.len() {
                busy |= self.write_down(at);
            }
            if !busy {
                return;
            }
        }
    }

    fn drain_actions(&mut self, at: usize) -> bool {
        let mut busy = false;
        while let Some(action) = self.peers[at].client.poll_action() {
            busy = true;
            match action {
                Action::Connect { refused, address } => {
                    assert_eq!(address, "", "no scenario names another address");
                    let latency = self.rng.random_range(self.net.latency_ms.0..=self.net.latency_ms.1);
                    let peer = &mut self.peers[at];
                    peer.connects.push((self.now.monotonic_ms, refused));
                    if refused != 0 && !peer.new_tokens.is_empty() {
                        peer.token = peer.new_tokens.remove(0);
                    }
                    peer.connects_at = Some(self.now.monotonic_ms + latency);
                }
                Action::Disconnect(code) => {
                    self.peers[at].disconnects.push(code);
                    self.peers[at].connects_at = None;
                    if let Some(mut link) = self.peers[at].link.take() {
                        for packet in link.up.cut(&mut self.rng) {
                            self.node_takes(link.conn, packet);
                        }
                        self.node.closed(link.conn);
                    }
                }
                Action::RenewToken { .. } => self.peers[at].client.not_renewed(self.now),
            }
        }
        busy
    }

    fn drain_events(&mut self, at: usize) {
        let now_ms = self.now.monotonic_ms;
        let peer = &mut self.peers[at];
        while let Some(event) = peer.client.poll_event() {
            match event {
                Event::State(state) => peer.states.push((now_ms, state)),
                Event::Room(room, state) => {
                    if let (Some(ledger), Some(position)) = (peer.rooms.get_mut(&room), peer.client.position(&room)) {
                        ledger.begin(position);
                    }
                    peer.room_states.push((room, state));
                }
                Event::Ready(_) => {}
                Event::Signal(room, signal) => peer.signals.push((room, *signal)),
                Event::Settled(ticket, settled) => {
                    let before = peer.settled.insert(ticket, settled);
                    assert_eq!(before, None, "a publish settles once");
                }
                Event::TokenRefreshed(token) => peer.token = token,
                Event::Page(ticket, page) => {
                    peer.pages.insert(ticket, page.map(|page| *page));
                }
            }
        }
        if peer.reading {
            self.read(at);
        }
    }

    /// The application takes what waits for it.
    pub fn read(&mut self, at: usize) {
        let overtaking = self.net.kind == Kind::Streams;
        let peer = &mut self.peers[at];
        for (name, ledger) in &mut peer.rooms {
            loop {
                let items = peer.client.next_batch(name, peer.batch);
                if items.is_empty() {
                    break;
                }
                items.into_iter().for_each(|item| ledger.take(item, overtaking));
            }
        }
    }

    fn write_up(&mut self, at: usize) -> bool {
        let Peer { client, link: Some(link), handed_over, .. } = &mut self.peers[at] else { return false };
        let now = self.now;
        client.set_window(self.net.window);
        link.up.write(now.monotonic_ms, &mut self.rng, |lanes| {
            let before = under_way(client.gate());
            let output = client.poll_output(now, lanes);
            check_credit(before, client.gate(), output.as_ref());
            if let (Some(seen), Some(output)) = (&mut *handed_over, &output) {
                seen.push((now.monotonic_ms, output.clone()));
            }
            output
        }) > 0
    }

    fn write_down(&mut self, at: usize) -> bool {
        let Some(link) = &mut self.peers[at].link else { return false };
        let Some(conn) = self.node.conns.get_mut(&link.conn) else { return false };
        let now = self.now;
        conn.session.set_window(self.net.window);
        let written = link.down.write(now.monotonic_ms, &mut self.rng, |lanes| {
            let before = under_way(conn.session.gate());
            let output = conn.session.poll_output(now, lanes);
            check_credit(before, conn.session.gate(), output.as_ref());
            output
        });
        conn.session.progress(now, Lanes::NONE, false);
        let waiting = conn.session.has_output();
        if let Some(code) = conn.session.closing()
            && (!waiting || link.down.stalled)
        {
            link.closes = Some((link.down.control_done_at().max(now.monotonic_ms), code));
            let conn = link.conn;
            self.node.closed(conn);
        }
        written > 0
    }

    // Speaking raw, past the client's session.

    /// Sends frames to the node as if the peer's client had.
    pub fn send_raw(&mut self, peer: usize, frames: &[v1::Frame]) {
        let conn = self.peers[peer].link.as_ref().expect("there is a connection").conn;
        let packet: Vec<u8> = frames.iter().flat_map(codec::encode).collect();
        self.node_takes(conn, (None, packet.into()));
    }

    /// Hands frames to the peer's client as if its node had sent them.
    pub fn receive_raw(&mut self, peer: usize, frames: &[v1::Frame]) {
        for frame in frames {
            self.client_takes(peer, (None, codec::encode(frame)));
        }
    }

    // What must hold.

    /// Every seq of the room reached the peer once, as what was stored or inside a gap, and nothing else did.
    pub fn check(&self, peer: usize, room: &str) {
        let ledger = self.peers[peer].ledger(room);
        let head = self.node.rooms.get(room).expect("the room exists").log.head().position;
        for (lane, seen) in ledger.lanes.iter() {
            seen.check(head.seq(lane));
            let Some(stored) = self.node.stored.get(&(room.to_owned(), lane)) else { continue };
            for (seq, what) in &seen.seen {
                if let Seen::Event(text) = what {
                    assert_eq!(*text, stored[*seq as usize - 1], "{room} {lane} {seq}");
                }
            }
        }
        assert!(
            ledger.gaps().all(|gap| gap.cause != v1::GapCause::Unknown),
            "the log was always reachable, so nothing is unknown"
        );
    }

    /// Every text was stored exactly once, in this order.
    pub fn check_stored(&self, room: &str, lane: DurableLane, texts: &[String]) {
        let stored = self.node.stored.get(&(room.to_owned(), lane)).map_or(&[][..], Vec::as_slice);
        assert_eq!(stored, texts, "{room} {lane}");
    }

    /// The node closed the peer's connection with that code, and the client knows it.
    pub fn assert_closed(&mut self, peer: usize, code: Code) {
        self.drive_until(&format!("closed with {code}"), |pair| {
            pair.peers[peer].states.iter().any(|(_, state)| match state {
                ClientState::Suspended { code: with } | ClientState::Closed { code: with } => {
                    *with == u32::from(code.number())
                }
                _ => false,
            })
        });
    }

    /// Texts with a number, for publishes.
    pub fn texts(name: &str, count: usize) -> Vec<String> {
        (0..count).map(|at| format!("{name}-{at}")).collect()
    }
}

/// Runs a scenario over both kinds of link with several seeds, or with the one that the variable SEED names.
pub fn over_both(seeds: u64, scenario: impl Fn(Pair)) {
    let only: Option<u64> = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    for kind in [Kind::Pipe, Kind::Streams] {
        for seed in only.map_or(0..seeds, |seed| seed..seed + 1) {
            scenario(Pair::new(seed, kind));
        }
    }
}
