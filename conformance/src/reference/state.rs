//! What the connections of the reference server share, and what each request does to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use prost::Message as _;
use v1::frame::Body;

use super::mutant::Mutant;
use super::outbox::{BULK, CONTROL, Out, Outbox, Outboxes, SIGNAL};
use super::rights::{Allowed, Identity, is_room_name};
use super::room::{LANES, LiveSignal, Room, Subscriber, check_envelope, is_expired, lane_index, rolled_back};
use super::{HISTORY_PAGE, NUMBER_MAX, RECORD_BYTES, ROOMS};
use crate::schema::{self, v1};
use crate::target::now_ms;

/// Why a request is refused: code and detail.
pub(super) type Refusal = (u32, &'static str);

const INVALID: u32 = 4300;
const UNIMPLEMENTED: u32 = 4301;
const FORBIDDEN: u32 = 4302;
const ROOM_NAME: u32 = 4303;
const TOO_MANY_ROOMS: u32 = 4304;
const NOT_SUBSCRIBED: u32 = 4305;
const MESSAGE_TOO_LARGE: u32 = 4306;
const LANE_NOT_ALLOWED: u32 = 4307;
const RATE_LIMITED: u32 = 4400;
const OUT_OF_ORDER: u32 = 4402;
/// The rate of `conform.rate.**` for a user (control.md).
const EVENTS_PER_SECOND: f64 = 10.0;
const EVENTS_BURST: f64 = 20.0;

/// Who asks.
pub(super) struct Asker<'a> {
    pub connection: u64,
    pub identity: &'a Identity,
    pub instance: &'a str,
    pub outbox: &'a Arc<Outbox>,
}

/// Rooms and connections.
pub(super) struct State {
    pub mutant: Option<Mutant>,
    pub outboxes: Outboxes,
    rooms: HashMap<String, Room>,
    /// Connections of users, and of addresses behind proxies.
    pub held: HashMap<String, u32>,
    /// Tokens for events of a user in a room, and when they were counted.
    events: HashMap<(String, String), (f64, Instant)>,
    epoch: u64,
    handles: u64,
}

/// The record of a frame.
pub(super) fn record(id: u32, body: Body) -> Vec<u8> {
    schema::record(&v1::Frame { id, body: Some(body) }.encode_to_vec())
}

/// Queues an answer on lane control.
pub(super) fn answer(outbox: &Outbox, id: u32, body: Body) {
    outbox.push(CONTROL, Out { record: record(id, body), ..Out::default() });
}

/// Outbox lane of an event lane.
fn outbox_lane(lane: usize) -> usize {
    [1, 2, BULK][lane]
}

impl State {
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        let epoch = now_ms() * 1024 + u64::from(rand::random::<u8>());
        Self {
            mutant,
            outboxes: HashMap::new(),
            rooms: HashMap::new(),
            held: HashMap::new(),
            events: HashMap::new(),
            epoch,
            handles: 0,
        }
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn check_room(&self, room: &str) -> Result<(), Refusal> {
        if is_room_name(room) || self.is(Mutant::RoomNamesUnchecked) {
            Ok(())
        } else {
            Err((ROOM_NAME, "not a room name"))
        }
    }

    fn check_right(&self, asker: &Asker<'_>, verb: &str, room: &str, kind: &str, lane: usize) -> Result<(), Refusal> {
        if self.is(Mutant::RightsUnchecked) {
            return Ok(());
        }
        match asker.identity.allows(verb, room, kind, lane + 1) {
            Allowed::Yes => Ok(()),
            Allowed::No => Err((FORBIDDEN, "not allowed")),
            Allowed::LaneTooHigh => Err((LANE_NOT_ALLOWED, "the right ends below this lane")),
        }
    }

    fn check_number(&self, number: u64) -> Result<(), Refusal> {
        if number < NUMBER_MAX || self.is(Mutant::LargeNumbersTaken) {
            Ok(())
        } else {
            Err((INVALID, "a number of 2^53 or more"))
        }
    }

    fn room(&mut self, name: &str) -> &mut Room {
        let name = if self.is(Mutant::RoomNamesFolded) { name.to_lowercase() } else { name.to_owned() };
        if !self.rooms.contains_key(&name) {
            self.handles += 1;
            let source = u64::from(rand::random::<u32>()) + 1;
            self.rooms.insert(name.clone(), Room::new(&name, self.epoch, self.handles, source));
        }
        self.rooms.get_mut(&name).expect("inserted above")
    }

    /// Takes a place among at most so many.
    pub(super) fn hold(&mut self, who: &str, max: u32) -> bool {
        let held = self.held.entry(who.to_owned()).or_default();
        let has_place = *held < max;
        *held += u32::from(has_place);
        has_place
    }

    /// Gives a place back.
    pub(super) fn release(&mut self, who: &str) {
        if let Some(held) = self.held.get_mut(who) {
            *held = held.saturating_sub(1);
        }
    }

    /// Ends a connection's subscriptions.
    pub(super) fn leave(&mut self, connection: u64, instance: (&str, &str)) {
        self.outboxes.remove(&connection);
        let forget = self.is(Mutant::WatermarkPerConnection);
        for room in self.rooms.values_mut() {
            room.subscribers.retain(|subscriber| subscriber.connection != connection);
            if forget {
                room.watermarks.retain(|(user, id, _), _| (user.as_str(), id.as_str()) != instance);
            }
        }
    }

    pub(super) fn subscribe(&mut self, asker: &Asker<'_>, id: u32, ask: &v1::Subscribe) -> Result<(), Refusal> {
        self.check_room(&ask.room)?;
        let start = ask.start.as_ref().and_then(|start| start.at.clone());
        if let Some(v1::start::At::Position(position)) = &start {
            for number in [position.epoch, position.urgent, position.normal, position.bulk] {
                self.check_number(number)?;
            }
            if position.epoch == 0 {
                return Err((INVALID, "epoch 0"));
            }
        }
        if ask.members || ask.presence || ask.markers || ask.unread || matches!(start, Some(v1::start::At::Marker(_))) {
            return Err((UNIMPLEMENTED, "not served"));
        }
        self.check_right(asker, "subscribe", &ask.room, "", 0)?;
        let subscribed = self.rooms.values().flat_map(|room| &room.subscribers);
        let mine =
            subscribed.filter(|subscriber| subscriber.connection == asker.connection && !subscriber.ended).count();
        let own_handle = self.is(Mutant::HandlePerSubscription);
        let limit_unchecked = self.is(Mutant::RoomLimitUnchecked);
        let mutant = self.mutant;
        self.handles += 1;
        let fresh = self.handles;
        let room = self.room(&ask.room);
        let former = room.subscribers.iter().position(|subscriber| subscriber.connection == asker.connection);
        if former.is_none() && mine >= ROOMS as usize && !limit_unchecked {
            return Err((TOO_MANY_ROOMS, "too many rooms"));
        }
        let mut focus = v1::FocusLevel::Default as i32;
        if let Some(former) = former {
            let former = room.subscribers.remove(former);
            asker.outbox.forget(former.handle);
            focus = former.focus;
        }
        let handle = if own_handle { fresh } else { room.handle };
        let (position, recovered, rolled_back) = begin(room, start.as_ref(), mutant);
        let missed = ask.transients.as_ref().map(|mark| {
            let now = room.mark();
            let count = (now.urgent + now.normal + now.bulk) as i64 - (mark.urgent + mark.normal + mark.bulk) as i64;
            let knowledge = match count {
                _ if mark.source != now.source => v1::MissedKnowledge::Unknown,
                0 => v1::MissedKnowledge::None,
                _ => v1::MissedKnowledge::Count,
            };
            let count = if knowledge == v1::MissedKnowledge::Count { count.max(0) as u64 } else { 0 };
            v1::MissedTransients { knowledge: knowledge as i32, count }
        });
        let body = v1::Subscribed {
            room: ask.room.clone(),
            handle,
            position: Some(room.position(position)),
            head: Some(room.position(room.heads)),
            head_order: room.order,
            recovered,
            rolled_back,
            missed_transients: missed,
            transients: Some(room.mark()),
            cause: 0,
            degraded: false,
        };
        answer(asker.outbox, id, Body::Subscribed(body));
        let subscriber = Subscriber {
            connection: asker.connection,
            handle,
            signals: ask.signals,
            identity: asker.identity.clone(),
            types: asker.identity.visible_types(&ask.room),
            focus,
            ended: false,
        };
        catch_up(room, asker.outbox, &subscriber, position, mutant);
        if ask.signals && mutant != Some(Mutant::NoSignalsOnEntry) {
            for live in room.signals.values().filter(|live| !live.clear || mutant == Some(Mutant::ClearForgets)) {
                send_signal(asker.outbox, &subscriber, &live.signal, mutant);
            }
        }
        room.subscribers.push(subscriber);
        Ok(())
    }

    /// Replaces a room's log by an empty one of the next epoch (LC-RES-010).
    pub(super) fn new_log(&mut self, name: &str) {
        self.handles += 1;
        let handle = self.handles;
        let Some(room) = self.rooms.get_mut(name) else { return };
        let mut fresh = Room::new(name, room.epoch + 1, handle, room.source);
        fresh.transients = room.transients;
        fresh.subscribers = room.subscribers.clone();
        fresh.subscribers.iter_mut().for_each(|subscriber| subscriber.handle = handle);
        let lost = (0..3).map(|lane| rolled_back(room.epoch, lane, 1, 0)).collect();
        *room = fresh;
        self.tell_epoch(name, lost);
    }

    /// Keeps a room's log as it is, for [`old_log`](Self::old_log).
    pub(super) fn keep_log(&mut self, name: &str) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.keep();
        }
    }

    /// Replaces a room's log by what was kept of it, in the next epoch (LC-RES-013).
    pub(super) fn old_log(&mut self, name: &str) {
        self.handles += 1;
        let handle = self.handles;
        let Some(room) = self.rooms.get_mut(name) else { return };
        let lost = room.go_back();
        room.handle = handle;
        room.subscribers.iter_mut().for_each(|subscriber| subscriber.handle = handle);
        self.tell_epoch(name, lost);
    }

    /// Tells the subscribers of a room that another epoch began at its head.
    fn tell_epoch(&self, name: &str, rolled_back: Vec<v1::Gap>) {
        let Some(room) = self.rooms.get(name) else { return };
        let body = v1::Subscribed {
            room: name.to_owned(),
            handle: room.handle,
            position: Some(room.position(room.heads)),
            head: Some(room.position(room.heads)),
            rolled_back,
            transients: Some(room.mark()),
            cause: v1::SubscribedCause::Epoch as i32,
            ..v1::Subscribed::default()
        };
        for subscriber in &room.subscribers {
            if let Some(outbox) = self.outboxes.get(&subscriber.connection) {
                outbox.set_focus(subscriber.handle, subscriber.focus);
                answer(outbox, 0, Body::Subscribed(body.clone()));
            }
        }
    }

    /// Tells every subscriber that the logs are away, or back (LC-SUB-018).
    pub(super) fn engine(&mut self, up: bool) {
        if self.is(Mutant::LossUntold) {
            return;
        }
        for (name, room) in &self.rooms {
            let at = room.position(room.heads);
            for subscriber in &room.subscribers {
                let body = v1::Subscribed {
                    room: name.clone(),
                    handle: subscriber.handle,
                    position: Some(at),
                    head: Some(at),
                    cause: v1::SubscribedCause::Degraded as i32,
                    degraded: !up,
                    ..v1::Subscribed::default()
                };
                if let Some(outbox) = self.outboxes.get(&subscriber.connection) {
                    answer(outbox, 0, Body::Subscribed(body));
                }
            }
        }
    }

    /// Puts what waits of a room before or behind the others (LC-FLOW-020).
    pub(super) fn focus(&mut self, asker: &Asker<'_>, id: u32, ask: &v1::Focus) -> Result<(), Refusal> {
        self.check_room(&ask.room)?;
        let level = match v1::FocusLevel::try_from(ask.level).unwrap_or_default() {
            v1::FocusLevel::Unspecified => v1::FocusLevel::Default,
            level => level,
        };
        let ignored = self.is(Mutant::FocusIgnored);
        let room = self.room(&ask.room);
        let mut mine = room.subscribers.iter_mut().filter(|one| one.connection == asker.connection && !one.ended);
        let Some(subscriber) = mine.next() else { return Err((NOT_SUBSCRIBED, "not subscribed")) };
        if !ignored {
            subscriber.focus = level as i32;
            asker.outbox.set_focus(subscriber.handle, subscriber.focus);
        }
        if id != 0 {
            answer(asker.outbox, id, Body::Done(v1::Done {}));
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, asker: &Asker<'_>, id: u32, ask: &v1::Unsubscribe) -> Result<(), Refusal> {
        self.check_room(&ask.room)?;
        let goes_on = self.is(Mutant::UnsubscribeIgnored);
        let room = self.room(&ask.room);
        let mut mine = room.subscribers.iter_mut().filter(|one| one.connection == asker.connection && !one.ended);
        let Some(subscriber) = mine.next() else { return Err((NOT_SUBSCRIBED, "not subscribed")) };
        subscriber.ended = true;
        let handle = subscriber.handle;
        asker.outbox.set_focus(handle, v1::FocusLevel::Default as i32);
        if !goes_on {
            asker.outbox.forget(handle);
            room.subscribers.retain(|subscriber| subscriber.connection != asker.connection);
        }
        let body = v1::Unsubscribed { room: ask.room.clone(), cause: 0, code: 0 };
        answer(asker.outbox, id, Body::Unsubscribed(body));
        Ok(())
    }

    /// Ends the subscriptions that the rights do not allow any more; the others follow their types (LC-AUTH-020).
    pub(super) fn hold_to_rights(&mut self, asker: &Asker<'_>) {
        for (name, room) in &mut self.rooms {
            let Some(at) = room.subscribers.iter().position(|one| one.connection == asker.connection) else { continue };
            if asker.identity.allows("subscribe", name, "", 0) == Allowed::Yes {
                let types = asker.identity.visible_types(name);
                (room.subscribers[at].identity, room.subscribers[at].types) = (asker.identity.clone(), types);
                continue;
            }
            let gone = room.subscribers.remove(at);
            asker.outbox.forget(gone.handle);
            let cause = v1::UnsubscribedCause::Revoked as i32;
            let body = v1::Unsubscribed { room: name.clone(), cause, code: FORBIDDEN };
            answer(asker.outbox, 0, Body::Unsubscribed(body));
        }
    }

    pub(super) fn publish(&mut self, asker: &Asker<'_>, id: u32, ask: v1::Publish) -> Result<(), Refusal> {
        self.check_room(&ask.room)?;
        if ask.lane == v1::Lane::Control as i32 || ask.lane == v1::Lane::Signal as i32 {
            return Err((INVALID, "not a lane of events"));
        }
        let (envelope, body_bytes) = check_envelope(&ask.envelope).map_err(|why| (INVALID, why))?;
        let policy = self.room(&ask.room).policy;
        let lane = lane_index(ask.lane).unwrap_or(policy.lane);
        let durable = match ask.delivery {
            delivery if delivery == v1::Delivery::Durable as i32 => true,
            delivery if delivery == v1::Delivery::Transient as i32 => false,
            _ => policy.durable,
        };
        if ask.envelope.is_empty() {
            return Err((INVALID, "no envelope"));
        }
        if durable {
            self.check_number(ask.number)?;
            self.check_number(ask.after)?;
            if ask.number == 0 || ask.after >= ask.number {
                return Err((INVALID, "number and after"));
            }
        }
        if ask.ack == v1::AckLevel::Replicated as i32 {
            return Err((UNIMPLEMENTED, "no replicas"));
        }
        if body_bytes > policy.message_bytes && !self.is(Mutant::MessageSizeUnchecked) {
            return Err((MESSAGE_TOO_LARGE, "too large"));
        }
        self.check_right(asker, "publish", &ask.room, &envelope.r#type, lane)?;
        if policy.only_lane && lane != policy.lane && !self.is(Mutant::PolicyLaneUnchecked) {
            return Err((LANE_NOT_ALLOWED, "the policy does not have this lane"));
        }
        if policy.rated && !self.event_allowed(&asker.identity.user, &ask.room) {
            return Err((RATE_LIMITED, "too many events"));
        }
        let lane = if self.is(Mutant::LaneLost) { 1 } else { lane };
        let time_ms = now_ms();
        let bytes = if self.is(Mutant::EnvelopeReencoded) { envelope.encode_to_vec().into() } else { ask.envelope };
        let event = v1::Event {
            lane: LANES[lane] as i32,
            from: Some(v1::Sender {
                user: asker.identity.user.clone(),
                service: String::new(),
                instance: asker.instance.to_owned(),
            }),
            time_ms,
            expires_at_ms: if ask.ttl_ms == 0 { 0 } else { time_ms + u64::from(ask.ttl_ms) },
            envelope: bytes,
            ..v1::Event::default()
        };
        let stored = durable || self.is(Mutant::TransientStored);
        let published = if stored {
            self.store(asker, &ask.room, lane, (ask.number, ask.after), durable, event)?
        } else {
            let room = self.room(&ask.room);
            room.transients[lane] += 1;
            self.deliver(asker.connection, &ask.room, lane, &event);
            v1::Published { lane: LANES[lane] as i32, ..v1::Published::default() }
        };
        if id != 0 {
            answer(asker.outbox, id, Body::Published(published));
        }
        Ok(())
    }

    fn event_allowed(&mut self, user: &str, room: &str) -> bool {
        let unchecked = self.is(Mutant::PublishRateUnchecked);
        let key = (user.to_owned(), room.to_owned());
        let (tokens, counted) = self.events.entry(key).or_insert_with(|| (EVENTS_BURST, Instant::now()));
        *tokens = (*tokens + counted.elapsed().as_secs_f64() * EVENTS_PER_SECOND).min(EVENTS_BURST);
        *counted = Instant::now();
        if *tokens < 1.0 && !unchecked {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    fn store(
        &mut self,
        asker: &Asker<'_>,
        name: &str,
        lane: usize,
        (number, after): (u64, u64),
        judged: bool,
        event: v1::Event,
    ) -> Result<v1::Published, Refusal> {
        let (doubles, unordered) = (self.is(Mutant::DuplicateStored), self.is(Mutant::OrderUnchecked));
        let across = self.is(Mutant::SeqAcrossLanes);
        let room = self.room(name);
        let epoch = room.epoch;
        let key = (asker.identity.user.clone(), asker.instance.to_owned(), lane);
        let mark = room.watermarks.entry(key.clone()).or_default();
        if judged && number <= mark.number && !doubles {
            let (seq, order) = mark.known.get(&number).copied().unwrap_or_default();
            return Ok(v1::Published { epoch, lane: LANES[lane] as i32, seq, order, duplicate: true });
        }
        if judged && after > mark.number && !unordered {
            return Err((OUT_OF_ORDER, "an earlier publish is not stored"));
        }
        let event = room.append(lane, across, event);
        if judged && let Some(mark) = room.watermarks.get_mut(&key) {
            mark.number = mark.number.max(number);
            mark.known.insert(number, (event.seq, event.order));
        }
        self.deliver(asker.connection, name, lane, &event);
        Ok(v1::Published { epoch, lane: event.lane, seq: event.seq, order: event.order, duplicate: false })
    }

    fn deliver(&mut self, publisher: u64, name: &str, lane: usize, event: &v1::Event) {
        let mutant = self.mutant;
        let name = if self.is(Mutant::RoomNamesFolded) { name.to_lowercase() } else { name.to_owned() };
        let Some(room) = self.rooms.get(&name) else { return };
        for subscriber in &room.subscribers {
            if mutant == Some(Mutant::OwnEventsLeftOut) && subscriber.connection == publisher {
                continue;
            }
            if let Some(outbox) = self.outboxes.get(&subscriber.connection) {
                send_event(outbox, subscriber, room.epoch, lane, event, mutant);
            }
        }
    }

    pub(super) fn signal(&mut self, asker: &Asker<'_>, id: u32, ask: v1::Signal) -> Result<(), Refusal> {
        self.check_room(&ask.room)?;
        self.check_number(ask.start)?;
        self.check_number(ask.counter)?;
        let (envelope, body_bytes) = check_envelope(&ask.envelope).map_err(|why| (INVALID, why))?;
        if ask.envelope.is_empty() || envelope.key.is_empty() || ask.counter == 0 {
            return Err((INVALID, "a signal needs a key and a counter"));
        }
        let policy = self.room(&ask.room).policy;
        if body_bytes > policy.message_bytes {
            return Err((MESSAGE_TOO_LARGE, "too large"));
        }
        self.check_right(asker, "signal", &ask.room, &envelope.r#type, 0)?;
        if id != 0 {
            answer(asker.outbox, id, Body::Done(v1::Done {}));
        }
        let (mutant, last_wins) = (self.mutant, self.is(Mutant::LastSignalWins));
        let room = self.room(&ask.room);
        room.signals.retain(|_, live| live.signal.expires_at_ms > now_ms() || mutant == Some(Mutant::SignalsLiveOn));
        let user = asker.identity.user.clone();
        let key = (user.clone(), asker.instance.to_owned(), envelope.r#type, envelope.key);
        let stamp = (ask.start, ask.counter);
        if room.signals.get(&key).is_some_and(|live| live.stamp >= stamp) && !last_wins {
            return Ok(());
        }
        let ttl = if ask.ttl_ms == 0 { policy.signal_ttl_ms } else { u64::from(ask.ttl_ms) };
        let signal = v1::Signal {
            start: ask.start,
            counter: ask.counter,
            expires_at_ms: now_ms() + ttl.min(policy.signal_ttl_max_ms),
            from: Some(v1::Sender { user, service: String::new(), instance: asker.instance.to_owned() }),
            clear: ask.clear,
            envelope: ask.envelope,
            ..v1::Signal::default()
        };
        let subscribers: Vec<Subscriber> = room.subscribers.iter().filter(|one| one.signals).cloned().collect();
        if !(ask.clear && mutant == Some(Mutant::ClearForgets)) {
            room.signals.insert(key, LiveSignal { stamp, clear: ask.clear, signal: signal.clone() });
        }
        for subscriber in subscribers {
            if let Some(outbox) = self.outboxes.get(&subscriber.connection) {
                send_signal(outbox, &subscriber, &signal, mutant);
            }
        }
        Ok(())
    }

    pub(super) fn history(&mut self, asker: &Asker<'_>, id: u32, ask: &v1::History) -> Result<(), Refusal> {
        self.check_room(&ask.room)?;
        if let Some(cursor) = &ask.cursor {
            self.check_number(cursor.epoch)?;
            self.check_number(cursor.order)?;
        }
        if ask.lanes.iter().any(|lane| *lane == v1::Lane::Control as i32 || *lane == v1::Lane::Signal as i32) {
            return Err((INVALID, "not a lane of events"));
        }
        self.check_right(asker, "history", &ask.room, "", 0)?;
        let mutant = self.mutant;
        let room = self.room(&ask.room);
        let page = page(room, ask, mutant);
        asker.outbox.push(BULK, Out { record: record(id, Body::HistoryPage(page)), ..Out::default() });
        Ok(())
    }
}

/// Where a subscription begins, whether it is recovered, and what was rolled back.
fn begin(room: &Room, start: Option<&v1::start::At>, mutant: Option<Mutant>) -> ([u64; 3], bool, Vec<v1::Gap>) {
    use v1::start::At;
    match start {
        None | Some(At::Live(_) | At::Marker(_)) => (room.heads, false, Vec::new()),
        Some(At::Beginning(_)) => (room.before_first(), false, Vec::new()),
        Some(At::Count(count)) => (room.position_at(room.order.saturating_sub(u64::from(*count))), false, Vec::new()),
        Some(At::DurationMs(duration)) => {
            let since = now_ms().saturating_sub(*duration);
            let newer = room.log.iter().find(|event| event.time_ms >= since && *duration > 0);
            (room.position_at(newer.map_or(room.order, |event| event.order - 1)), false, Vec::new())
        }
        Some(At::Position(asked)) => {
            let lanes = [asked.urgent, asked.normal, asked.bulk];
            let gap = |lane: usize, from: u64| rolled_back(asked.epoch, lane, from, 0);
            let all = mutant != Some(Mutant::RollbackToldToTheAhead);
            if let Some((lanes, gaps)) = room.across_forks(asked.epoch, lanes, all) {
                return (lanes, gaps.is_empty(), gaps);
            }
            if asked.epoch != room.epoch && mutant != Some(Mutant::EpochIgnored) {
                let gaps = (0..3).map(|lane| gap(lane, lanes[lane] + 1)).collect();
                return (room.before_first(), false, gaps);
            }
            let ahead: Vec<usize> = (0..3).filter(|lane| lanes[*lane] > room.heads[*lane]).collect();
            if !ahead.is_empty() && mutant != Some(Mutant::AheadBelieved) {
                let gaps = ahead.iter().map(|lane| gap(*lane, room.heads[*lane] + 1)).collect();
                return ([0, 1, 2].map(|lane| lanes[lane].min(room.heads[lane])), false, gaps);
            }
            let before = room.before_first();
            let complete = (0..3).all(|lane| lanes[lane] >= before[lane]);
            (lanes, complete || mutant == Some(Mutant::AlwaysRecovered), Vec::new())
        }
    }
}

/// Sends what the log has after a position, with gaps for what it no longer has.
fn catch_up(room: &Room, outbox: &Outbox, subscriber: &Subscriber, position: [u64; 3], mutant: Option<Mutant>) {
    let (before, handle) = (room.before_first(), subscriber.handle);
    for (lane, (&asked, &before)) in position.iter().zip(&before).enumerate() {
        if asked < before && mutant != Some(Mutant::SilentTrim) {
            let to = if mutant == Some(Mutant::ShortGap) { before - 1 } else { before };
            let gap = v1::Gap {
                handle,
                lane: LANES[lane] as i32,
                epoch: room.epoch,
                from: asked + 1,
                to,
                cause: v1::GapCause::Trimmed as i32,
                ..v1::Gap::default()
            };
            let seq = gap.from;
            let out = Out { record: record(0, Body::Gap(gap)), room: handle, seq, ..Out::default() };
            outbox.push(outbox_lane(lane), out);
        }
    }
    for event in &room.log {
        let lane = lane_index(event.lane).unwrap_or(1);
        let first = if mutant == Some(Mutant::CatchUpRepeatsOne) { position[lane].max(1) } else { position[lane] + 1 };
        let skipped = mutant == Some(Mutant::CatchUpSkipsOne) && event.seq == room.heads[lane];
        if event.seq >= first && !skipped {
            send_event(outbox, subscriber, room.epoch, lane, event, mutant);
        }
    }
}

fn send_event(
    outbox: &Outbox,
    subscriber: &Subscriber,
    epoch: u64,
    lane: usize,
    event: &v1::Event,
    mutant: Option<Mutant>,
) {
    let handle = subscriber.handle;
    let visible = subscriber.sees(&event.envelope) || mutant == Some(Mutant::TypesUnchecked);
    let cause = if visible { v1::GapCause::Expired } else { v1::GapCause::Filtered };
    let gap = v1::Gap {
        handle,
        lane: LANES[lane] as i32,
        epoch,
        from: event.seq,
        to: event.seq,
        count: u64::from(event.seq == 0),
        cause: cause as i32,
        refillable: false,
    };
    if !visible {
        let out = Out { record: record(0, Body::Gap(gap)), room: handle, seq: event.seq, ..Out::default() };
        return outbox.push(outbox_lane(lane), out);
    }
    let lives_on = mutant == Some(Mutant::ExpiredSent);
    let event = v1::Event { handle, ..event.clone() };
    let out = Out {
        expires_at_ms: if lives_on { 0 } else { event.expires_at_ms },
        seq: event.seq,
        record: record(0, Body::Event(event)),
        instead: Some(record(0, Body::Gap(gap))),
        room: handle,
        key: None,
    };
    outbox.push(outbox_lane(lane), out);
}

fn send_signal(outbox: &Outbox, subscriber: &Subscriber, signal: &v1::Signal, mutant: Option<Mutant>) {
    let handle = subscriber.handle;
    if !subscriber.sees(&signal.envelope) && mutant != Some(Mutant::TypesUnchecked) {
        return;
    }
    let key = check_envelope(&signal.envelope).map(|(envelope, _)| {
        let from = signal.from.clone().unwrap_or_default();
        format!("{}\n{}\n{}\n{}", from.user, from.instance, envelope.r#type, envelope.key)
    });
    let signal = v1::Signal { handle, ..signal.clone() };
    let out = Out {
        expires_at_ms: if mutant == Some(Mutant::SignalsLiveOn) { 0 } else { signal.expires_at_ms },
        record: record(0, Body::Signal(signal)),
        room: handle,
        key: key.ok(),
        ..Out::default()
    };
    outbox.push(SIGNAL, out);
}

fn page(room: &Room, ask: &v1::History, mutant: Option<Mutant>) -> v1::HistoryPage {
    let forward = ask.direction == v1::HistoryDirection::Forward as i32 && mutant != Some(Mutant::HistoryBackwardOnly);
    let inclusive = u64::from(mutant == Some(Mutant::CursorInclusive));
    let limit = match ask.limit {
        0 => HISTORY_PAGE,
        limit => limit.min(HISTORY_PAGE),
    } as usize;
    let mut lanes: Vec<i32> = ask.lanes.iter().copied().filter(|lane| *lane != 0).collect();
    if lanes.is_empty() {
        lanes = LANES.map(|lane| lane as i32).to_vec();
    }
    let cursor = ask.cursor.as_ref().filter(|cursor| cursor.epoch == room.epoch);
    let wanted = |event: &&v1::Event| {
        let inside = cursor.is_none_or(|cursor| {
            if forward { event.order + inclusive > cursor.order } else { event.order < cursor.order + inclusive }
        });
        inside && lanes.contains(&event.lane)
    };
    let chosen: Vec<&v1::Event> =
        if forward { room.log.iter().filter(wanted).collect() } else { room.log.iter().rev().filter(wanted).collect() };
    let mut page = v1::HistoryPage {
        room: ask.room.clone(),
        head: Some(room.position(room.heads)),
        head_order: room.order,
        ..v1::HistoryPage::default()
    };
    if let Some(unknown) = ask.cursor.as_ref().filter(|cursor| cursor.epoch != room.epoch) {
        page.gaps = lanes.iter().map(|lane| page_gap(*lane, unknown.epoch, 1, 0, v1::GapCause::RolledBack)).collect();
    }
    let mut bytes = 0;
    let mut last = 0;
    for (place, event) in chosen.iter().enumerate() {
        bytes += event.encoded_len() + 32;
        if place == limit || place > 0 && bytes + 1024 > RECORD_BYTES as usize {
            page.next = Some(v1::Cursor { epoch: room.epoch, order: last });
            break;
        }
        last = event.order;
        if is_expired(event) && mutant != Some(Mutant::ExpiredSent) {
            page.gaps.push(page_gap(event.lane, room.epoch, event.seq, event.seq, v1::GapCause::Expired));
        } else {
            page.events.push(v1::Event { epoch: room.epoch, ..(*event).clone() });
        }
    }
    let reaches_the_beginning = if forward { cursor.is_none() } else { page.next.is_none() };
    if reaches_the_beginning && mutant != Some(Mutant::SilentTrimInPages) {
        for (lane, to) in LANES.into_iter().zip(room.before_first()) {
            if to > 0 && lanes.contains(&(lane as i32)) {
                page.gaps.push(page_gap(lane as i32, room.epoch, 1, to, v1::GapCause::Trimmed));
            }
        }
    }
    page
}

fn page_gap(lane: i32, epoch: u64, from: u64, to: u64, cause: v1::GapCause) -> v1::Gap {
    v1::Gap { lane, epoch, from, to, cause: cause as i32, ..v1::Gap::default() }
}
