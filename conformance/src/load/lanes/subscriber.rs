//! The side that measures.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use v1::frame::Body;

use super::super::consumer::{CAPABILITIES, Consumer, Taken};
use super::super::now_us;
use super::super::process::anonymous_kib;
use super::publisher::whole;
use super::report::{LaneReport, Latency, Report};
use super::{DONE, Flow, Focus, GO, Lanes, Part, Place, Rooms, Stamp, stamp, tell};
use crate::client::{Lane, Transport};
use crate::schema::v1;
use crate::target::Target;
use crate::verdict::{Outcome, Stop};

/// Ids of requests; those of pings follow.
const FOCUS_ID: u32 = 2;
const REPLAY_ID: u32 = 3;
/// Between two pings.
const BETWEEN_PINGS: Duration = Duration::from_millis(100);
/// Nothing was measured for this long: there is no publisher.
const SILENCE: Duration = Duration::from_secs(120);
/// What loses or expires may come this much after the last message was due.
const LAST: Duration = Duration::from_secs(1);
/// The round trip of the link that is measured; what comes later than this after its time to live was late.
const ROUND_TRIP_US: u64 = 60_000;

pub(super) async fn run(target: &Target, transport: Transport, plan: &Lanes, rooms: &Rooms) -> Outcome<Report> {
    let subscriptions = plan.places().into_iter().map(|place| v1::Subscribe {
        room: rooms.at(place),
        signals: place == Place::Main,
        ..v1::Subscribe::default()
    });
    let capabilities: Vec<v1::Capability> = CAPABILITIES
        .into_iter()
        .filter(|capability| match capability {
            v1::Capability::Credit => !plan.without.contains(&Part::Credit),
            _ => !plan.without.contains(&Part::Fragments),
        })
        .collect();
    let name = rooms.client("subscriber");
    let mut consumer = Consumer::join(target, transport, &name, subscriptions.collect(), &capabilities).await?;
    if plan.focus == Some(Focus::Background) {
        let focus = v1::Focus { room: rooms.at(Place::Background), level: v1::FocusLevel::Background as i32 };
        consumer.send(FOCUS_ID, Body::Focus(focus)).await;
    }
    tell(target, transport, rooms, GO).await?;
    let mut measured = Measured::new(plan, rooms);
    let closed = match measured.watch(&mut consumer).await {
        Ok(()) => None,
        Err(Stop::Fail(text, _)) => Some(text),
        Err(other) => return Err(other),
    };
    tell(target, transport, rooms, DONE).await?;
    Ok(measured.report(transport, closed))
}

impl Lanes {
    /// The rooms that the subscriber has from the beginning.
    fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self.flows().iter().map(|flow| flow.place).collect();
        places.dedup();
        places.retain(|place| *place != Place::Bulk || !self.import);
        places
    }
}

/// What came in one lane.
struct Came {
    flow: Flow,
    micros: Vec<u64>,
    numbers: HashSet<u64>,
    doubled: u64,
    gaps: u64,
    expired: u64,
    bytes: u64,
}

struct Measured<'a> {
    plan: &'a Lanes,
    rooms: &'a Rooms,
    lanes: Vec<Came>,
    /// By handle which room it is.
    handles: HashMap<u64, Place>,
    /// Events that were replayed; `None`: the room is not subscribed yet.
    replayed: Option<u64>,
    /// When the publisher began, µs since the Unix epoch.
    begin_us: Option<u64>,
    pings: Vec<u64>,
    ages: Vec<u64>,
    /// By key, when its newest value was due.
    values: HashMap<String, u64>,
    memory_kib: Option<(u64, u64)>,
}

impl<'a> Measured<'a> {
    fn new(plan: &'a Lanes, rooms: &'a Rooms) -> Self {
        let came = |flow| Came {
            flow,
            micros: Vec::new(),
            numbers: HashSet::new(),
            doubled: 0,
            gaps: 0,
            expired: 0,
            bytes: 0,
        };
        let places = plan.places();
        Self {
            plan,
            rooms,
            lanes: plan.flows().into_iter().filter(|flow| places.contains(&flow.place)).map(came).collect(),
            handles: HashMap::new(),
            replayed: None,
            begin_us: None,
            pings: Vec::new(),
            ages: Vec::new(),
            values: HashMap::new(),
            memory_kib: None,
        }
    }

    /// What is measured: from when to when messages are due, µs since the Unix epoch.
    fn span(&self) -> Option<(u64, u64)> {
        let from = self.begin_us? + self.plan.warm_up * 1_000_000;
        Some((from, from + self.plan.seconds * 1_000_000))
    }

    fn is_within(&self, us: u64) -> bool {
        self.span().is_some_and(|(from, to)| (from..to).contains(&us))
    }

    /// Reads until everything came, or time is over.
    async fn watch(&mut self, consumer: &mut Consumer) -> Outcome {
        let silence = Instant::now() + SILENCE;
        let (mut next_ping, mut pings) = (Instant::now(), REPLAY_ID);
        while !self.is_over() {
            if self.begin_us.is_none() && Instant::now() > silence {
                return Err(Stop::harness("no publisher came"));
            }
            if Instant::now() >= next_ping {
                pings += 1;
                consumer.send(pings, Body::Ping(v1::Ping { stamp: now_us() })).await;
                next_ping = Instant::now() + BETWEEN_PINGS;
                self.look_at_memory();
            }
            if self.plan.replay > 0 && self.replayed.is_none() && self.is_within(now_us()) {
                self.replayed = Some(0);
                consumer.send(REPLAY_ID, Body::Subscribe(whole(&self.rooms.at(Place::Replay)))).await;
            }
            if let Some(taken) = consumer.next(next_ping).await? {
                self.take(taken)?;
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let Some((_, to)) = self.span() else { return false };
        let now = now_us();
        let is_complete = |came: &Came| {
            let awaited = came.flow.place == Place::Main && came.flow.lane != Lane::Signal;
            !awaited || came.numbers.len() as u64 + came.gaps >= came.flow.count(self.plan.seconds)
        };
        let late = now > to + self.plan.grace * 1_000_000;
        late || now > to + LAST.as_micros() as u64 && self.lanes.iter().all(is_complete)
    }

    fn look_at_memory(&mut self) {
        if self.is_within(now_us())
            && let Some(now) = self.plan.pid.and_then(anonymous_kib)
        {
            let (before, most) = self.memory_kib.unwrap_or((now, now));
            self.memory_kib = Some((before, most.max(now)));
        }
    }

    fn take(&mut self, Taken { frame, at_us }: Taken) -> Outcome {
        match frame.body {
            Some(Body::Event(event)) => {
                let (_, stamp) = stamp(event.envelope)?;
                match self.handles.get(&event.handle) {
                    Some(Place::Replay) => self.replayed = self.replayed.map(|before| before + 1),
                    Some(place) => self.message(*place, Lane::from_wire(event.lane), stamp, at_us),
                    // It overtook its Subscribed, long before anything is measured.
                    None => {}
                }
            }
            Some(Body::Signal(signal)) => {
                let (key, stamp) = stamp(signal.envelope)?;
                if let Some(former) = self.values.insert(key, stamp.due_us)
                    && self.is_within(at_us)
                {
                    self.ages.push(at_us.saturating_sub(former));
                }
                self.message(Place::Main, Some(Lane::Signal), stamp, at_us);
            }
            Some(Body::Gap(gap)) => {
                let missing = if gap.from == 0 { gap.count } else { gap.to.saturating_sub(gap.from) + 1 };
                if let Some(place) = self.handles.get(&gap.handle).copied()
                    && let Some(came) = self.came(place, Lane::from_wire(gap.lane))
                {
                    came.gaps += missing;
                }
            }
            Some(Body::Subscribed(subscribed)) => {
                let places = self.plan.places().into_iter().chain([Place::Replay]);
                let place = places.into_iter().find(|place| self.rooms.at(*place) == subscribed.room);
                self.handles.extend(place.map(|place| (subscribed.handle, place)));
            }
            Some(Body::Pong(pong)) if self.is_within(pong.stamp) => self.pings.push(at_us.saturating_sub(pong.stamp)),
            Some(Body::Error(error)) => return Err(Stop::fail(format!("the server said {error:?}"))),
            _ => {}
        }
        Ok(())
    }

    fn came(&mut self, place: Place, lane: Option<Lane>) -> Option<&mut Came> {
        self.lanes.iter_mut().find(|came| came.flow.place == place && Some(came.flow.lane) == lane)
    }

    fn message(&mut self, place: Place, lane: Option<Lane>, stamp: Stamp, at_us: u64) {
        let (now_within, due_within) = (self.is_within(at_us), self.is_within(stamp.due_us));
        let ttl_us = u64::from(self.plan.ttl_ms) * 1_000;
        let Some(came) = self.came(place, lane) else { return };
        let begin_us = stamp.due_us - came.flow.due_us(stamp.number).min(stamp.due_us);
        // The first counts, as it does for an application (LC-QUIC-014).
        if due_within && !came.numbers.insert(stamp.number) {
            came.doubled += 1;
            return;
        }
        if now_within {
            came.bytes += stamp.bytes as u64;
        }
        if due_within {
            let late_us = at_us.saturating_sub(stamp.due_us);
            came.micros.push(late_us);
            came.expired += u64::from(ttl_us > 0 && late_us > ttl_us + ROUND_TRIP_US);
        }
        if came.flow.rate > 0.0 {
            self.begin_us.get_or_insert(begin_us);
        }
    }

    fn report(self, transport: Transport, closed: Option<String>) -> Report {
        let seconds = self.plan.seconds;
        let lanes = self.lanes.into_iter().map(|came| {
            let (published, delivered) = (came.flow.count(seconds), came.numbers.len() as u64);
            LaneReport {
                lane: came.flow.name,
                published,
                delivered,
                delivered_percent: delivered as f64 * 100.0 / published.max(delivered).max(1) as f64,
                latency: Latency::of(came.micros),
                kbit_per_s: came.bytes as f64 * 8.0 / 1e3 / seconds.max(1) as f64,
                gaps: came.gaps,
                doubled: came.doubled,
                expired: came.expired,
            }
        });
        Report {
            transport: transport.name(),
            seconds,
            lanes: lanes.collect(),
            ping: Latency::of(self.pings),
            signal_age: (self.plan.signal_keys > 0).then(|| Latency::of(self.ages)),
            replayed: self.replayed,
            closed,
            memory_kib: self.memory_kib,
        }
    }
}
