//! A client on one connection.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use tokio::time::MissedTickBehavior;
use v1::frame::Body;

use super::link::DEAD_AFTER;
use super::outbox::ToSend;
use super::rooms::{self, Under};
use super::{Client, Link, Orders, Pause, Phase, Why};
use crate::faults::history::{Entry, Gap, Lane, Payload};
use crate::schema::v1;

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(10);
/// Between two Pings. Often, since a stopped node must be noticed soon.
const PING_EVERY: Duration = Duration::from_millis(1_000);
/// An unanswered publish makes the client look for another node.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a client waits before it asks again for a room that was refused for now.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// New publishes of one tick, so that a client that was held up does not come back with a burst without end.
const NEW_MAX: u64 = 200;
/// Every so manieth durable publish has a time to live.
const TTL_EVERY: u64 = 50;
/// That time to live: a resume after a longer time finds it expired.
const TTL_MS: u64 = 3_000;
/// How long a client that is going to lose its connection hears nothing any more, so that answers are lost with it.
const DEAF: Duration = Duration::from_millis(200);
/// Ids of Subscribe frames.
const SUBSCRIBE_IDS: u32 = 1_000;
/// Lanes of the publishes, by turns.
const LANES: [Lane; 5] = [Lane::Normal, Lane::Urgent, Lane::Normal, Lane::Bulk, Lane::Normal];

/// When a Ping is due, and since when one waits for its Pong.
struct Pings {
    next: Instant,
    waits_since: Option<Instant>,
}

impl Client {
    /// Serves the connection until it ends, and says why it did.
    pub(super) async fn serve(&mut self, mut link: Link) -> Why {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut pings = Pings { next: Instant::now() + PING_EVERY, waits_since: None };
        let mut orders = self.orders.clone();
        let mut cut_at = None;
        loop {
            let Orders { paused, cuts, .. } = *orders.borrow_and_update();
            if cuts != self.cuts {
                self.cuts = cuts;
                cut_at = Some(Instant::now() + DEAF);
            }
            if cut_at.is_some_and(|at| at <= Instant::now()) {
                return "cut, as told".into();
            }
            if self.is_over() || (paused && self.plan.pause == Pause::Away) {
                link.close().await;
                return "told to leave".into();
            }
            let reads = !(paused && self.plan.pause == Pause::Unread);
            let done = tokio::select! {
                frames = link.next(), if reads && cut_at.is_none() => match frames {
                    Ok(frames) => self.frames(frames, &mut pings),
                    Err(why) => Err(why),
                },
                _ = tick.tick() => self.tick(&mut link, &mut pings, reads).await,
                _ = orders.changed() => Ok(()),
            };
            if let Err(why) = done {
                return why;
            }
        }
    }

    fn frames(&mut self, frames: Vec<v1::Frame>, pings: &mut Pings) -> Result<(), Why> {
        for frame in frames {
            self.frame(frame, pings)?;
        }
        Ok(())
    }

    fn frame(&mut self, frame: v1::Frame, pings: &mut Pings) -> Result<(), Why> {
        match frame.body {
            Some(Body::Event(event)) => self.event(&event),
            Some(Body::Gap(gap)) => self.gap(&gap),
            Some(Body::Published(published)) => self.published(frame.id, &published),
            Some(Body::Subscribed(subscribed)) => self.subscribed(&subscribed),
            Some(Body::Unsubscribed(v1::Unsubscribed { room, code, .. })) => self.unsubscribed(&room, code),
            Some(Body::Pong(_)) => pings.waits_since = None,
            Some(Body::GoAway(_)) => return Err("sent away".into()),
            Some(Body::Error(error)) => self.error(frame.id, &error)?,
            _ => {}
        }
        Ok(())
    }

    fn broken(&mut self, what: String) {
        self.record(Entry::Broken { what });
    }

    /// The index of the room that a handle stands for, and the epoch under which the frame counts. Frames of former
    /// handles that do not count any more are left out in silence, as clients do.
    fn under(&mut self, what: &str, handle: u64, lane: Lane, seq: u64) -> Option<(u16, u64)> {
        for room in self.rooms.values() {
            match room.under(handle, lane, seq) {
                Under::Epoch(epoch) => return Some((room.room, epoch)),
                Under::Beyond => return None,
                Under::Unknown => {}
            }
        }
        self.broken(format!("LC-SUB-009: {what} {seq} on {lane} has handle {handle}, which stands for nothing"));
        None
    }

    fn event(&mut self, event: &v1::Event) {
        let Some(lane) = Lane::from_wire(event.lane) else {
            return self.broken(format!("LC-SUB-013: an Event in lane {}", event.lane));
        };
        let (seq, order) = (event.seq, event.order);
        let Some((room, epoch)) = self.under("an Event", event.handle, lane, seq) else { return };
        let Some(body) = body(&event.envelope) else {
            return self.broken(format!("LC-PUB-010: an Event {seq} on {lane} without the body that was published"));
        };
        if let Some(own) = self.rooms.get_mut(&room) {
            match seq {
                0 => own.transients(lane, 1),
                _ => own.received(lane, seq),
            }
        }
        if body.starts_with(FILLER) {
            return;
        }
        let Some((payload, sent_us)) = parse(&body) else {
            return self.broken(format!("LC-PUB-010: an Event {seq} on {lane} has the body {body:?}"));
        };
        if payload.room != room || payload.lane != lane || payload.transient != (seq == 0) {
            return self.broken(format!("LC-LANE-001: {payload} came in room {room}, lane {lane}, with seq {seq}"));
        }
        if seq == 0 {
            return self.record(Entry::Transient { payload });
        }
        self.record(Entry::Delivered { epoch, seq, order, payload });
        self.says_where(room);
        if let Some(seat) = self.seat().rooms.get(&room) {
            seat.newest_us.fetch_max(sent_us, Ordering::Relaxed);
        }
    }

    fn gap(&mut self, frame: &v1::Gap) {
        let Some(gap) = rooms::gap(frame) else {
            return self.broken(format!("LC-SUB-013: a Gap in lane {}", frame.lane));
        };
        let Gap { lane, from, to, count, .. } = gap;
        let Some((room, epoch)) = self.under("a Gap", frame.handle, lane, from) else { return };
        if epoch != gap.epoch {
            self.broken(format!("LC-SUB-013: a Gap of epoch {} under a handle of epoch {epoch}", gap.epoch));
        }
        if let Some(own) = self.rooms.get_mut(&room) {
            if from == 0 {
                own.transients(lane, count);
            } else {
                own.received(lane, to);
            }
        }
        self.record(Entry::Gap { room, gap });
        self.says_where(room);
    }

    fn subscribed(&mut self, frame: &v1::Subscribed) {
        let Some(index) = self.index(&frame.room) else {
            return self.broken(format!("LC-SUB-001: Subscribed for {}", frame.room));
        };
        let Some(record) = self.rooms.get_mut(&index).and_then(|room| room.subscribed(frame)) else { return };
        self.record(Entry::Subscribed(record));
        self.says_where(index);
    }

    fn unsubscribed(&mut self, room: &str, code: u32) {
        let Some(room) = self.index(room) else { return };
        self.record(Entry::Unsubscribed { room, code });
        if let Some(room) = self.rooms.get_mut(&room) {
            room.refused();
            room.ask_at = Some(Instant::now() + ASK_AGAIN);
        }
    }

    fn published(&mut self, id: u32, frame: &v1::Published) {
        let Some(payload) = self.outbox.published(id) else {
            return self.broken(format!("LC-FRM-013: Published answers {id}, which nothing asks for"));
        };
        let v1::Published { epoch, seq, order, duplicate, .. } = *frame;
        if Lane::from_wire(frame.lane) != Some(payload.lane) {
            self.broken(format!("LC-PUB-002: {payload} was answered with lane {}", frame.lane));
        }
        self.record(Entry::Acknowledged { payload, epoch, seq, order, duplicate });
        self.says_waiting();
    }

    fn error(&mut self, id: u32, error: &v1::Error) -> Result<(), Why> {
        if error.closing {
            return Err(format!("closed by the node: {} {}", error.code, error.detail));
        }
        let now = Instant::now();
        if let Some(payload) = self.outbox.refused(id, error.code, error.retry_after_ms, now) {
            self.record(Entry::Refused { payload, code: error.code });
            self.says_waiting();
            return Ok(());
        }
        match self.index(&error.room) {
            Some(room) => {
                self.record(Entry::Unsubscribed { room, code: error.code });
                if let Some(room) = self.rooms.get_mut(&room) {
                    room.refused();
                    room.ask_at = Some(now + ASK_AGAIN.max(Duration::from_millis(error.retry_after_ms.into())));
                }
            }
            None => self.broken(format!("LC-FRM-013: Error {} {} answers {id}", error.code, error.detail)),
        }
        Ok(())
    }

    fn index(&self, name: &str) -> Option<u16> {
        let name_of = |room: &&u16| self.shared.rooms.get(usize::from(**room)).is_some_and(|own| own == name);
        self.rooms.keys().find(name_of).copied()
    }

    fn says_where(&self, room: u16) {
        if let (Some(seat), Some(own)) = (self.seat().rooms.get(&room), self.rooms.get(&room)) {
            seat.set(own.position);
        }
    }

    fn says_waiting(&self) {
        self.seat().waiting.store(self.outbox.len() as u64, Ordering::Relaxed);
    }

    async fn tick(&mut self, link: &mut Link, pings: &mut Pings, reads: bool) -> Result<(), Why> {
        let now = Instant::now();
        if !reads {
            // Nothing is read, so neither Pong nor answers can come.
            (pings.next, pings.waits_since) = (now, None);
            return Ok(());
        }
        if pings.waits_since.is_some_and(|since| now.duration_since(since) > DEAD_AFTER) {
            return Err("no Pong in time".into());
        }
        if self.outbox.oldest().is_some_and(|since| now.duration_since(since) > ANSWER_WITHIN) {
            return Err("a publish was not answered in time".into());
        }
        if pings.next <= now && pings.waits_since.is_none() {
            link.push(2, Body::Ping(v1::Ping { stamp: self.shared.now_us() })).await?;
            (pings.next, pings.waits_since) = (now + PING_EVERY, Some(now));
        }
        self.ask_again(link, now).await?;
        self.publish(link, now).await?;
        link.flush().await
    }

    async fn ask_again(&mut self, link: &mut Link, now: Instant) -> Result<(), Why> {
        for room in self.rooms.values_mut().filter(|room| !room.is_subscribed()) {
            if room.ask_at.is_some_and(|at| at <= now)
                && let Some(name) = self.shared.rooms.get(usize::from(room.room))
            {
                let id = SUBSCRIBE_IDS + u32::from(room.room);
                link.push(id, Body::Subscribe(room.ask(name))).await?;
            }
        }
        Ok(())
    }

    async fn publish(&mut self, link: &mut Link, now: Instant) -> Result<(), Why> {
        let us = self.shared.now_us();
        let mut due = Vec::new();
        if self.orders.borrow().phase == Phase::Publish && !self.plan.publishes.is_empty() {
            let seconds = now.duration_since(*self.began.get_or_insert(now)).as_secs_f64();
            let new = |rate: f64, made: u64| ((seconds * rate) as u64).saturating_sub(made).min(NEW_MAX);
            for _ in 0..new(self.plan.durable_per_s, self.durables) {
                let (room, lane) = self.place(self.durables);
                let ttl_ms = if self.durables % TTL_EVERY == TTL_EVERY - 1 { TTL_MS } else { 0 };
                if !self.outbox.push(room, lane, us, ttl_ms) {
                    self.seat().refused.fetch_add(1, Ordering::Relaxed);
                }
                self.durables += 1;
            }
            for _ in 0..new(self.plan.transient_per_s, self.transients) {
                let (room, lane) = self.place(self.transients);
                due.push(self.outbox.transient(room, lane, us));
                self.transients += 1;
            }
        }
        due.extend(self.outbox.due(now, link.in_flight_max));
        for publish in due {
            self.send(link, publish).await?;
        }
        self.says_waiting();
        Ok(())
    }

    /// Room and lane of the so manieth publish: rooms by turns, then lanes.
    fn place(&self, count: u64) -> (u16, Lane) {
        let rooms = self.plan.publishes.len() as u64;
        let room = self.plan.publishes[(count % rooms) as usize];
        (room, LANES[((count / rooms) % LANES.len() as u64) as usize])
    }

    async fn send(&mut self, link: &mut Link, publish: ToSend) -> Result<(), Why> {
        let ToSend { id, payload, after, ttl_ms, first_us, again } = publish;
        let delivery = if payload.transient { v1::Delivery::Transient } else { v1::Delivery::Durable };
        let frame = v1::Publish {
            room: self.shared.rooms.get(usize::from(payload.room)).cloned().unwrap_or_default(),
            lane: payload.lane.wire(),
            delivery: delivery.into(),
            number: if payload.transient { 0 } else { payload.number.into() },
            after,
            ttl_ms: ttl_ms as u32,
            envelope: envelope(&format!("{payload}@{first_us} "), self.shared.body_bytes),
            ..v1::Publish::default()
        };
        let connection = self.connections;
        self.record(Entry::Sent { payload, after, connection, ttl_ms, again });
        link.push(id, Body::Publish(frame)).await
    }
}

/// The beginning of bodies that only fill buffers and are nobody's payload.
pub(in crate::faults) const FILLER: &str = "filler ";

/// An envelope whose body begins with this text and has so many bytes.
pub(in crate::faults) fn envelope(text: &str, bytes: usize) -> Bytes {
    let body = Some(v1::envelope::Body::Text(format!("{text:.<bytes$}")));
    v1::Envelope { r#type: "faults".into(), body, ..v1::Envelope::default() }.encode_to_vec().into()
}

fn body(envelope: &Bytes) -> Option<String> {
    match v1::Envelope::decode(envelope.clone()).ok()?.body? {
        v1::envelope::Body::Text(text) => Some(text),
        v1::envelope::Body::Data(_) => None,
    }
}

/// What a body says: the payload, and when it was first published, µs since the round began.
pub(super) fn parse(body: &str) -> Option<(Payload, u64)> {
    let (payload, sent_us) = body.split(' ').next()?.split_once('@')?;
    Some((payload.parse().ok()?, sent_us.parse().ok()?))
}

/// The payload of an event in a page.
pub(super) fn payload_of(event: &v1::Event) -> Option<Payload> {
    parse(&body(&event.envelope)?).map(|(payload, _)| payload)
}
