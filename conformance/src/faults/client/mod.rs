//! The clients: ordinary ones by the rules of the protocol, but that they write everything down.
//!
//! A client owns its rooms' positions and its unanswered publishes, connects to another node when one fails, resumes,
//! and sends again. It judges nothing; what it may not do by the protocol it records as `broken`.

mod link;
mod outbox;
mod pages;
mod rooms;
mod serve;
mod shared;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

pub(super) use link::{Link, Why};
pub(super) use pages::{heads, read_logs};
pub(super) use serve::{FILLER, envelope};
pub(super) use shared::{Orders, Pause, Phase, Plan, RoomSeat, Seat, Shared};

use super::history::{Entry, Line};
use outbox::Outbox;
use rooms::Room;

/// Bytes that the kernel holds for a client that is made to stop reading: few, so that the node feels it.
const SMALL_RECEIVE_BUFFER: u32 = 16 * 1024;

/// One client.
pub(super) struct Client {
    plan: Plan,
    shared: Arc<Shared>,
    orders: watch::Receiver<Orders>,
    lines: Vec<Line>,
    rooms: BTreeMap<u16, Room>,
    outbox: Outbox,
    connections: u32,
    /// Cuts that it was told of.
    cuts: u32,
    rng: StdRng,
    /// Publishing began.
    began: Option<Instant>,
    durables: u64,
    transients: u64,
}

impl Client {
    /// A client that is not connected yet.
    pub(super) fn new(plan: Plan, shared: Arc<Shared>, orders: watch::Receiver<Orders>, seed: u64) -> Self {
        let number = u16::try_from(plan.number).unwrap_or(u16::MAX);
        Self {
            outbox: Outbox::new(number, &plan.publishes, plan.outbox_max),
            rooms: plan.subscribes.iter().map(|room| (*room, Room::new(*room))).collect(),
            rng: StdRng::seed_from_u64(seed ^ plan.number as u64),
            plan,
            shared,
            orders,
            lines: Vec::new(),
            connections: 0,
            cuts: 0,
            began: None,
            durables: 0,
            transients: 0,
        }
    }

    /// Lives until it is told to leave; returns what it wrote down.
    pub(super) async fn run(mut self) -> Vec<Line> {
        let (mut node, mut attempt) = (self.plan.home, 0);
        let mut window = (200, 2_000);
        while !self.is_over() {
            if self.orders.borrow().paused && self.plan.pause == Pause::Away {
                // An error says that nobody gives orders any more, which ends the loop.
                let _ = self.orders.changed().await;
                continue;
            }
            let since = Instant::now();
            let why = match self.join(node).await {
                Ok(link) => {
                    window = link.window;
                    self.seat().node.store(node as u64 + 1, Ordering::Relaxed);
                    let why = self.serve(link).await;
                    self.seat().node.store(0, Ordering::Relaxed);
                    why
                }
                Err(why) => why,
            };
            self.disconnected();
            if self.is_over() {
                break;
            }
            self.record(Entry::Cut { node, why });
            node = (node + 1) % self.shared.nodes.len().max(1);
            // Full jitter, from the beginning again once a connection lived (LC-LIFE-023).
            attempt = if since.elapsed() > Duration::from_millis(window.1) { 0 } else { attempt + 1 };
            self.wait(window, attempt).await;
        }
        self.lines
    }

    fn is_over(&self) -> bool {
        self.orders.borrow().phase == Phase::End || self.orders.has_changed().is_err()
    }

    fn seat(&self) -> &Seat {
        &self.shared.seats[self.plan.number]
    }

    fn record(&mut self, entry: Entry) {
        self.lines.push(Line { us: self.shared.now_us(), entry });
    }

    async fn wait(&mut self, (min_ms, max_ms): (u64, u64), attempt: u32) {
        let most = max_ms.min(min_ms.saturating_mul(1 << attempt.min(16))).max(1);
        let wait = Duration::from_millis(self.rng.random_range(0..=most));
        let over = self.orders.wait_for(|orders| orders.phase == Phase::End);
        let _ = tokio::time::timeout(wait, over).await;
    }

    async fn join(&mut self, node: usize) -> Result<Link, Why> {
        let name = format!("faults-{}", self.plan.number);
        let asks = self.rooms.values_mut().filter_map(|room| {
            let name = self.shared.rooms.get(usize::from(room.room))?;
            Some(room.ask(name))
        });
        let asks = asks.collect();
        let buffer = (self.plan.pause == Pause::Unread).then_some(SMALL_RECEIVE_BUFFER);
        let link = Link::join(&self.shared, node, &name, buffer, asks).await?;
        self.connections += 1;
        self.seat().connections.store(self.connections.into(), Ordering::Relaxed);
        self.record(Entry::Connected { node, connection: self.connections });
        Ok(link)
    }

    fn disconnected(&mut self) {
        self.outbox.disconnected();
        self.rooms.values_mut().for_each(Room::disconnected);
    }
}
