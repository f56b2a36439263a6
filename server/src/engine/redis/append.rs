//! Storing events: groups, the script's answer, and what is rare beside it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use lanecast_protocol::log::{Append, NUMBERS_REMEMBERED_MAX, Numbers, Origin, Outcome, Retention, Start};
use lanecast_protocol::position::DurableLane;
use redis::{Cmd, Value};

use super::flight::Path;
use super::group::Waiting;
use super::keys::{Kind, letter};
use super::link::Up;
use super::state::{self, Verdict};
use super::{HOUR_MS, INLINE_BULK_BYTES_MAX, INLINE_BYTES_MAX, Inner, record, scripts, unreadable};
use crate::engine::EngineError;

impl Inner {
    /// Stores groups of a room and lane until none waits.
    pub(super) async fn lead(self: &Arc<Self>, name: (Arc<str>, DurableLane)) {
        while let Some((retention, group)) = self.groups.next(&name) {
            let (room, lane) = (&name.0, name.1);
            let (waiting, answers): (Vec<Append>, Vec<_>) =
                group.into_iter().map(|Waiting { append, answer }| (append, answer)).unzip();
            let outcomes = self.store(room, lane, retention, &waiting).await;
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                // Whoever gave up waiting does not hear of it.
                let _ = answer.send(outcome);
            }
        }
    }

    pub(super) async fn store(
        self: &Arc<Self>,
        room: &Arc<str>,
        lane: DurableLane,
        retention: Retention,
        items: &[Append],
    ) -> Vec<Result<Outcome, EngineError>> {
        let bytes = items.iter().map(|item| item.tail.len()).sum();
        let under_way = self.flights.append(lane, bytes).await;
        let value = self.on_room(Path::of(lane), room, |up| self.append_command(up, room, lane, items)).await;
        drop(under_way);
        let stored = value.is_ok();
        let outcomes = self.outcomes(room, lane, items, value).await;
        if stored && self.upkeep.is_due(self.clock.now_ms(), room, lane, retention, items.len()) {
            self.tidy(room, lane, retention).await;
        }
        outcomes
    }

    /// Trims a lane and notes how much of it is kept.
    pub(super) async fn tidy(&self, room: &Arc<str>, lane: DurableLane, retention: Retention) {
        let Some(up) = self.link.up() else { return self.upkeep.forget(room, lane) };
        let mut cmd = up.script(scripts::TIDY, &[self.keys.meta(room), self.keys.log(room, lane)]);
        cmd.arg(&*up.replication_id).arg(self.clock.now_ms()).arg(letter(lane));
        cmd.arg(retention.events_max.max(1)).arg(retention.age_ms_max.min(1 << 53));
        let done = matches!(self.link.call_on(&up, Path::of(lane), &cmd).await, Ok(value) if state::text(&value) == Some("done"));
        if !done {
            self.upkeep.forget(room, lane);
        }
    }

    pub(super) fn append_command(&self, up: &Up, room: &str, lane: DurableLane, items: &[Append]) -> Cmd {
        let (meta, log) = (self.keys.meta(room), self.keys.log(room, lane));
        let mut cmd = match items.iter().any(|item| matches!(item.origin, Origin::Keyed { .. })) {
            true => {
                let [keys, ages] = self.keys.idempotency(room);
                up.script(scripts::APPEND, &[meta, log, keys, ages])
            }
            false => up.script(scripts::APPEND, &[meta, log]),
        };
        let now_ms = self.clock.now_ms();
        let seen = self.seen(room);
        cmd.arg(&*up.replication_id).arg(seen.epoch).arg(seen.heads[lane]).arg(letter(lane)).arg(now_ms);
        cmd.arg(self.keys.channel(Kind::Events, room)).arg(inline_bytes_max(lane));
        for item in items {
            match &item.origin {
                Origin::Numbered { publisher, number, after } => {
                    let mut field = Vec::with_capacity(2 + record::PUBLISHER_BYTES);
                    field.push(b'w');
                    field.extend_from_slice(letter(lane).as_bytes());
                    field.extend_from_slice(&record::publisher(publisher));
                    cmd.arg(field).arg(format!("{number:016}{:06}", now_ms / HOUR_MS)).arg(format!("{after:016}"));
                }
                Origin::Keyed { api_key, key, body } => {
                    cmd.arg([api_key.as_bytes(), b"\n", key.as_bytes()].concat()).arg("k").arg(body.as_slice());
                }
                Origin::Unmarked => {
                    cmd.arg("").arg("u").arg("");
                }
            }
            cmd.arg(record::event(item));
        }
        cmd
    }

    /// What the script's answer means to each item.
    pub(super) async fn outcomes(
        self: &Arc<Self>,
        room: &str,
        lane: DurableLane,
        items: &[Append],
        value: Result<Value, EngineError>,
    ) -> Vec<Result<Outcome, EngineError>> {
        let answer = value.and_then(|value| state::appended(value, lane).ok_or_else(|| unreadable(room)));
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                if matches!(error, EngineError::Full { .. }) {
                    self.refused.fetch_add(items.len() as u64, Ordering::Relaxed);
                }
                return vec![Err(error); items.len()];
            }
        };
        self.append_calls.fetch_add(1, Ordering::Relaxed);
        self.appended.fetch_add(items.len() as u64, Ordering::Relaxed);
        self.watermarks_evicted.fetch_add(answer.evicted, Ordering::Relaxed);
        if answer.newest > 0 {
            match self.rooms.find(room) {
                Some(followed) => followed.told.lock().acknowledged(answer.epoch, lane, answer.newest),
                None => self.witnesses.acknowledged(room, answer.epoch, lane, answer.newest),
            }
        }
        let mut outcomes = Vec::with_capacity(items.len());
        for (item, verdict) in items.iter().zip(answer.verdicts) {
            outcomes.push(Ok(match verdict {
                Verdict::Known(outcome) => outcome,
                Verdict::Duplicate => Outcome::Duplicate { first: self.first_of(room, item).await },
            }));
        }
        outcomes
    }

    /// Where a publish that was used before stands: looked up in the newest part of the log, since that is rare.
    pub(super) async fn first_of(self: &Arc<Self>, room: &str, item: &Append) -> Option<Numbers> {
        let Origin::Numbered { publisher, number, .. } = &item.origin else { return None };
        let wanted = (record::publisher(publisher), *number);
        let up = self.link.up()?;
        let mut cmd = redis::cmd("XREVRANGE");
        cmd.arg(self.keys.log(room, item.lane)).arg("+").arg("-").arg("COUNT").arg(NUMBERS_REMEMBERED_MAX * 2);
        let Ok(Value::Array(entries)) = self.link.call(&up, &cmd).await else { return None };
        let (seq, order) = entries.into_iter().find_map(|entry| find_number(entry, wanted))?;
        let state = self.state(room, Start::Live).await.ok()?;
        Some(Numbers { epoch: state.epoch_of(item.lane, seq), lane: item.lane, seq, order })
    }
}

fn inline_bytes_max(lane: DurableLane) -> usize {
    match lane {
        DurableLane::Urgent | DurableLane::Normal => INLINE_BYTES_MAX,
        DurableLane::Bulk => INLINE_BULK_BYTES_MAX,
    }
}

/// Seq and order of a stream's entry, if it is the wanted publish.
fn find_number(entry: Value, wanted: ([u8; record::PUBLISHER_BYTES], u64)) -> Option<(u64, u64)> {
    let Value::Array(entry) = entry else { return None };
    let [id, Value::Array(fields)] = &entry[..] else { return None };
    let [_, order, _, Value::BulkString(bytes)] = &fields[..] else { return None };
    let found = record::take(&mut Bytes::copy_from_slice(bytes))?;
    if (found.publisher, found.number) != wanted {
        return None;
    }
    let seq = state::text(id)?.split_once('-')?.0.parse().ok()?;
    Some((seq, state::text(order)?.parse().ok()?))
}
