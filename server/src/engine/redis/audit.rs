//! The audit: what the store has is compared with what was told, for every room within ten seconds.
//!
//! An audit reads the heads of a batch of rooms and, behind that on the same connection, publishes a token to this node's
//! own channel. When the token comes back on the subscriber, everything that was published before the heads were read
//! has come, or never will: so what is missing then is missing. The token is also the probe of the subscriber, which is
//! made anew when it delivers nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lanecast_protocol::position::DurableLane;
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::{Notify, oneshot};

use super::follow::{Need, Room};
use super::keys::Kind;
use super::state::{audited, is_stale};
use super::{Inner, scripts};

/// Rooms of one audit.
const BATCH_ROOMS: usize = 256;
/// Audits under way at once when it has to be fast: after a connection was made anew.
const HURRIED_AT_ONCE: usize = 8;
/// How long a sweep over all rooms takes when nothing hurries.
const SWEEP: Duration = Duration::from_secs(6);
/// How long a token may take.
const TOKEN_WITHIN: Duration = Duration::from_secs(2);
/// How often the lives of the rooms' records are prolonged, ms.
const TOUCH_EVERY_MS: u64 = 3_600_000;
/// By how much, beyond the retention, ms.
const TOUCH_MS: u64 = 2 * 86_400_000;

/// Tokens on their way. Bounded by the audits at once.
pub(super) struct Probes {
    id: String,
    serial: AtomicU64,
    waiting: Mutex<HashMap<(Kind, u64), oneshot::Sender<()>>>,
    hurry: Notify,
}

impl Probes {
    pub(super) fn new() -> Self {
        Self {
            id: format!("{:016x}", rand::random::<u64>()),
            serial: AtomicU64::new(0),
            waiting: Mutex::default(),
            hurry: Notify::new(),
        }
    }

    /// Names this engine's own channels.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Everything is to be looked at now.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    pub(super) fn arrived(&self, kind: Kind, payload: &[u8]) {
        let token = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        if let Some(waiting) = token.and_then(|token| self.waiting.lock().remove(&(kind, token))) {
            // Whoever gave up waiting has decided already.
            let _ = waiting.send(());
        }
    }

    fn expect(&self, kind: Kind) -> (u64, oneshot::Receiver<()>) {
        let token = self.serial.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().insert((kind, token), sender);
        (token, receiver)
    }

    fn give_up(&self, kind: Kind, token: u64) {
        self.waiting.lock().remove(&(kind, token));
    }
}

impl Inner {
    pub(super) async fn audit_for_ever(self: &Arc<Self>) {
        let (mut hurried, mut touched_ms) = (true, self.clock.now_ms());
        loop {
            let now_ms = self.clock.now_ms();
            let touch = touched_ms + TOUCH_EVERY_MS <= now_ms;
            if touch {
                touched_ms = now_ms;
            }
            hurried = self.sweep_rooms(hurried, touch).await;
        }
    }

    /// Looks at every room once. Returns whether the next sweep must hurry.
    async fn sweep_rooms(self: &Arc<Self>, hurried: bool, touch: bool) -> bool {
        let batches = self.batches();
        if hurried {
            let audits = futures_util::stream::iter(batches).map(|batch| self.audit(batch, touch));
            audits.buffer_unordered(HURRIED_AT_ONCE).collect::<()>().await;
            return false;
        }
        let pause = SWEEP / u32::try_from(batches.len()).unwrap_or(u32::MAX).max(1);
        for batch in batches {
            if tokio::time::timeout(pause, self.probes.hurry.notified()).await.is_ok() {
                return true;
            }
            self.audit(batch, touch).await;
        }
        false
    }

    /// All rooms, in batches of one partition each; at least one batch, for its token.
    fn batches(&self) -> Vec<Vec<Arc<Room>>> {
        let mut partitions: HashMap<usize, Vec<Arc<Room>>> = HashMap::new();
        for room in self.rooms.all() {
            partitions.entry(self.keys.partition(&room.name)).or_default().push(room);
        }
        let mut batches: Vec<Vec<Arc<Room>>> = partitions
            .into_values()
            .flat_map(|rooms| rooms.chunks(BATCH_ROOMS).map(<[_]>::to_vec).collect::<Vec<_>>())
            .collect();
        if batches.is_empty() {
            batches.push(Vec::new());
        }
        batches
    }

    async fn audit(self: &Arc<Self>, batch: Vec<Arc<Room>>, touch: bool) {
        let Some(up) = self.link.up() else { return };
        let generations = Kind::ALL.map(|kind| self.subscriber(kind).generation());
        let keys: Vec<String> =
            batch.iter().flat_map(|room| [self.keys.meta(&room.name), self.keys.live(&room.name)]).collect();
        let mut pipeline = redis::pipe();
        let mut cmd = up.script(scripts::AUDIT, &keys);
        cmd.arg(&*up.replication_id).arg(if touch { TOUCH_MS } else { 0 });
        pipeline.add_command(cmd);
        let mut tokens = Vec::new();
        for (kind, generation) in Kind::ALL.into_iter().zip(generations) {
            if generation != 0 && self.subscriber(kind).is_on(&self.keys.probe(self.probes.id(), kind)) {
                let (token, arrived) = self.probes.expect(kind);
                pipeline.cmd("PUBLISH").arg(self.keys.probe(self.probes.id(), kind)).arg(token);
                tokens.push((kind, generation, self.subscriber(kind).heard(), token, arrived));
            }
        }
        let answer = self.link.call_all(&up, &pipeline).await;
        let mut generation = 0;
        for (kind, of, heard, token, arrived) in tokens {
            let came = answer.is_ok() && tokio::time::timeout(TOKEN_WITHIN, arrived).await.is_ok();
            self.probes.give_up(kind, token);
            let subscriber = self.subscriber(kind);
            if came {
                if kind == Kind::Events {
                    generation = of;
                }
            } else if answer.is_ok() && subscriber.generation() == of && subscriber.heard() == heard {
                subscriber.rebuild("a probe did not come back");
            }
        }
        let Ok(answer) = answer else { return };
        let Some(Value::Array(found)) = answer.into_iter().next() else { return };
        for (room, found) in batch.into_iter().zip(found) {
            self.compare(room, &found, generation).await;
        }
    }

    /// `generation`: the subscriber's connection on which the token came; 0: none did, and only the log is looked at.
    async fn compare(self: &Arc<Self>, room: Arc<Room>, found: &Value, generation: u64) {
        if is_stale(found) {
            let live = room.told.lock().live;
            return self.serve(room, if live { Need::Open } else { Need::Nothing });
        }
        let Some(found) = audited(found) else { return };
        if generation == 0 {
            return;
        }
        let need = room.told.lock().audit(&*self.sink, &room.name, &found, generation);
        for lane in DurableLane::ALL {
            let owed = room.told.lock().begin_settling(lane);
            if let Some(count) = owed {
                self.settle(&room, lane, count).await;
            }
        }
        self.serve(room, need);
    }

    /// Lets the store count what only this node's clients got, so that those of other nodes learn that they missed it.
    async fn settle(self: &Arc<Self>, room: &Room, lane: DurableLane, count: u64) {
        let answer = self.count_transients(&room.name, lane, &[], count).await;
        room.told.lock().settle(lane, count, answer.ok());
    }

    /// Waits until everything that was published before is told, for tests of the engine.
    #[cfg(test)]
    pub(super) async fn settled(self: &Arc<Self>) {
        loop {
            for batch in self.batches() {
                self.audit(batch, false).await;
            }
            let idle = |room: &Arc<Room>| !room.told.lock().is_reading();
            if self.rooms.all().iter().all(idle) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
