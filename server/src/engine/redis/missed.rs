//! Following rooms: where each begins, and reading what was missed.

use std::sync::Arc;

use bytes::Bytes;
use lanecast_protocol::log::Start;
use lanecast_protocol::position::DurableLane;
use redis::Value;

use super::follow::{Live, Need, Room};
use super::keys::Kind;
use super::link::{CallError, UNAVAILABLE};
use super::{Inner, READ_BYTES, READ_EVENTS, SERIAL_DIGITS, SUBSCRIBE_WITHIN, TELL_MAX, record};
use crate::engine::{EngineError, Signal};

impl Inner {
    pub(super) async fn subscribe(self: &Arc<Self>, name: &str) -> Result<(), EngineError> {
        let (room, new) = self.rooms.enter(name);
        if new {
            for kind in Kind::ALL {
                self.subscriber(kind).want(&self.keys.channel(kind, name));
            }
        }
        let waited = tokio::time::timeout(SUBSCRIBE_WITHIN, async {
            loop {
                let mut changed = std::pin::pin!(room.changed.notified());
                // Enabled before the look, so that no change is missed in between.
                changed.as_mut().enable();
                if room.told.lock().live {
                    return;
                }
                self.join_if_on(&room);
                changed.await;
            }
        });
        if waited.await.is_ok() {
            return Ok(());
        }
        // Wanted as before: the next one to ask finds it nearer.
        Err(UNAVAILABLE)
    }

    /// Joins a room once its channels are on. Signals may be lost, so their connection is not waited for while it is down.
    pub(super) fn join_if_on(self: &Arc<Self>, room: &Arc<Room>) {
        let on = |kind| self.subscriber(kind).is_on(&self.keys.channel(kind, &room.name));
        let signals = on(Kind::Signals) || self.signals.generation() == 0;
        if signals && on(Kind::Events) && !room.told.lock().live {
            self.join(Arc::clone(room));
        }
    }

    /// Reads the beginning of a room whose channels are on.
    pub(super) fn join(self: &Arc<Self>, room: Arc<Room>) {
        if std::mem::replace(&mut room.told.lock().joining, true) {
            return;
        }
        let inner = Arc::clone(self);
        drop(tokio::spawn(async move {
            let Ok(_permit) = inner.reads.acquire().await else { return };
            let generation = inner.events.generation();
            let state = inner.state(&room.name, Start::Live).await;
            let live = inner.live(&room.name).await;
            let mut told = room.told.lock();
            told.joining = false;
            let mut need = Need::Nothing;
            if let (Ok(state), Ok(live)) = (state, live)
                && !told.live
            {
                need = told.begin(&*inner.sink, &room.name, &state, live);
                told.verify(generation);
            }
            drop(told);
            // A failure wakes them too: they ask again, or give up.
            room.changed.notify_waiters();
            inner.serve(room, need);
        }));
    }

    /// Does what a room needs.
    pub(super) fn serve(self: &Arc<Self>, room: Arc<Room>, need: Need) {
        match need {
            Need::Nothing => {}
            Need::Signals => {
                let inner = Arc::clone(self);
                drop(tokio::spawn(async move {
                    let Ok(_permit) = inner.reads.acquire().await else { return };
                    // What fails here the next audit finds.
                    let Ok(live) = inner.live(&room.name).await else { return };
                    room.told.lock().take_live(Some(&*inner.sink), &room.name, live);
                }));
            }
            Need::Open => {
                {
                    let mut told = room.told.lock();
                    told.open_again = true;
                    if std::mem::replace(&mut told.opening, true) {
                        return;
                    }
                }
                let inner = Arc::clone(self);
                drop(tokio::spawn(async move { inner.open_anew(&room).await }));
            }
            Need::Read(lanes) => {
                for lane in DurableLane::ALL.into_iter().filter(|lane| lanes[*lane]) {
                    let mut told = room.told.lock();
                    told.again[lane] = true;
                    if std::mem::replace(&mut told.reading[lane], true) {
                        continue;
                    }
                    let (inner, room) = (Arc::clone(self), Arc::clone(&room));
                    drop(tokio::spawn(async move { inner.read_missed(&room, lane).await }));
                }
            }
        }
    }

    /// Sees what the store has, and has read what was not told.
    async fn open_anew(self: &Arc<Self>, room: &Arc<Room>) {
        let Ok(_permit) = self.reads.acquire().await else { return };
        loop {
            room.told.lock().open_again = false;
            // A new epoch is told on the way.
            let state = self.state(&room.name, Start::Live).await;
            let failed = state.is_err();
            if let Ok(state) = state {
                let need = room.told.lock().behind(&state);
                // Before the end of this: in between nobody may take the room for told.
                self.serve(Arc::clone(room), need);
            }
            let mut told = room.told.lock();
            if failed || !told.open_again {
                told.opening = false;
                // What failed here the next audit finds, and whether anything else is missing.
                return self.probes.hurry();
            }
        }
    }

    /// Reads what of a lane was missed until nothing is. What fails here the next audit finds.
    async fn read_missed(self: &Arc<Self>, room: &Room, lane: DurableLane) {
        loop {
            room.told.lock().again[lane] = false;
            let read = self.read_missed_once(room, lane).await;
            let mut told = room.told.lock();
            if read.is_err() || !told.again[lane] {
                told.reading[lane] = false;
                if std::mem::take(&mut told.holes) || read.is_err() {
                    // Whether nothing else is missing an audit says, and readers wait for that.
                    self.probes.hurry();
                }
                return;
            }
        }
    }

    async fn read_missed_once(self: &Arc<Self>, room: &Room, lane: DurableLane) -> Result<(), EngineError> {
        loop {
            let (epoch, after) = {
                let told = room.told.lock();
                (told.epoch, told.head[lane])
            };
            let read = self.read_lane(&room.name, lane, after, READ_EVENTS, READ_BYTES).await?;
            if read.epoch > epoch {
                // Tells the new epoch, and has it read.
                return self.state(&room.name, Start::Live).await.map(drop);
            }
            let too_many = read.head.saturating_sub(TELL_MAX);
            let mut told = room.told.lock();
            if told.epoch != epoch {
                // What was read does not follow what was told of the new one.
                continue;
            }
            if too_many > after {
                told.jump(&*self.sink, &room.name, lane, too_many);
            } else if !told.tell_read(&*self.sink, &room.name, lane, read) {
                return Ok(());
            }
        }
    }

    /// The live signals that the store has.
    pub(super) async fn live(&self, room: &str) -> Result<Live, EngineError> {
        let up = self.up()?;
        let value = self.link.call(&up, redis::cmd("HGETALL").arg(self.keys.live(room))).await;
        let value = value.map_err(CallError::into_engine)?;
        let now_ms = self.clock.now_ms();
        let mut live: Vec<(Bytes, Signal)> = Vec::new();
        for value in values_of_map(value) {
            let Value::BulkString(bytes) = value else { continue };
            let mut record = Bytes::from(bytes);
            if record.len() > SERIAL_DIGITS {
                let serial = record.split_to(SERIAL_DIGITS);
                live.extend(record::decode_signal(record).map(|signal| (serial, signal)));
            }
        }
        live.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let serial = live.last().and_then(|(serial, _)| std::str::from_utf8(serial).ok()?.parse().ok());
        let signals = live.into_iter().map(|(_, signal)| signal).collect();
        Ok(Live { now_ms, serial: serial.unwrap_or(0), signals })
    }
}

fn values_of_map(value: Value) -> Vec<Value> {
    match value {
        Value::Map(pairs) => pairs.into_iter().map(|(_, value)| value).collect(),
        Value::Array(flat) => flat.into_iter().skip(1).step_by(2).collect(),
        _ => Vec::new(),
    }
}
