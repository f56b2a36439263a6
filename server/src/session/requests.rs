//! What a connection does with the requests of its session.

use std::sync::Arc;

use lanecast_protocol::codes::Code;
use lanecast_protocol::log::{Origin, Outcome, Publisher, Start};
use lanecast_protocol::position::Position;
use lanecast_protocol::session::Refusal;
use lanecast_protocol::session::server::{Accepted, Asked, Opened, check_numbers};
use lanecast_protocol::v1;

use super::pending::{self, Again, Done, Published, SIGNALS_MAX, Task, Why};
use super::{Connection, Entry, Joined, Owner};
use crate::admission;
use crate::auth::Identity;
use crate::auth::rights::{TypeFilter, Verb};
use crate::auth::token::TokenError;
use crate::engine::EngineError;
use crate::history;
use crate::hub::{Interest, Room, Subscription};
use crate::publish::{self, Intent, Level, engine_refusal, forbidden};
use crate::rates::{Rate, wait_ms};
use crate::telemetry::labels::{EngineCall, PublishResult, ReplayOutcome};
use crate::transport::Transport;

/// When a signal may come again while too many are under way, ms.
const SIGNALS_WAIT_MS: u32 = 250;

impl<T: Transport> Connection<T> {
    pub(super) fn authenticate(&mut self, hello: Box<v1::Hello>) {
        let (auth, peer) = (Arc::clone(&self.node.auth), self.peer.ip());
        self.begin(Box::pin(async move {
            let result = auth.user(&hello.token, &hello.device, peer).await;
            Done::Authenticated { hello, result }
        }));
    }

    fn finish_authentication(&mut self, hello: &v1::Hello, result: Result<Identity, TokenError>) {
        // It may have been given up meanwhile.
        if self.session.closing().is_some() {
            return;
        }
        let identity = match result {
            Ok(identity) => identity,
            Err(error) => {
                self.node.metrics.handshake_refused(error.code(), &error, self.peer);
                return self.session.close(Refusal::new(error.code(), error.to_string()));
            }
        };
        self.instance = hello.instance.as_str().into();
        // Who replaces a connection takes its place over, so that a full user can come back from a lost link.
        let former = self.replaced(&hello.replaces, &identity);
        let slot = former.as_ref().and_then(|former| former.take_slot());
        let Some(slot) = slot.or_else(|| self.node.admission.user(&identity.user)) else {
            let refusal = admission::too_many("user");
            self.node.metrics.handshake_refused(refusal.code, &refusal.detail, self.peer);
            return self.session.close(refusal);
        };
        self.entry.hold(slot);
        self.device = identity.device.as_deref().unwrap_or(&hello.device).into();
        let accepted = Accepted {
            connection_id: self.entry.id.to_string(),
            user: identity.user.to_string(),
            device: self.device.to_string(),
            token_expires_at_ms: identity.expires_at_ms,
            signals_per_second: identity.signals_per_second,
        };
        let user = Arc::clone(&identity.user);
        let owner = Owner { user, device: self.device.clone(), instance: self.instance.clone() };
        self.entry.set_mark(identity.mark.clone());
        self.node.registry.welcome(&self.entry, owner);
        if let Some(former) = former {
            former.command(super::Command::Close(Refusal::new(Code::Replaced, "the client has connected anew")));
        }
        // Whoever revokes looks at the registry after it was written down: one of both sees the other.
        if self.node.auth.is_revoked(&identity.user, &self.device, &identity.mark) {
            return self.session.close(revoked());
        }
        tracing::debug!(connection = &*self.entry.id, user = &*identity.user, peer = %self.peer, "welcomed");
        self.identity = Some(identity);
        self.session.accept(self.now(), accepted);
    }

    pub(super) fn refresh(&mut self, id: u32, token: String) {
        let (auth, peer, device) = (Arc::clone(&self.node.auth), self.peer.ip(), self.device.clone());
        self.begin(Box::pin(async move { Done::Refreshed { id, result: auth.user(&token, &device, peer).await } }));
    }

    /// Goes on with a newer token, or with the former one (LC-AUTH-020, LC-AUTH-021, LC-AUTH-023).
    fn finish_refresh(&mut self, id: u32, result: Result<Identity, TokenError>) {
        let identity = match result {
            Ok(identity) => identity,
            Err(error) => {
                tracing::debug!(connection = &*self.entry.id, %error, "a newer token was refused");
                return self.session.refuse_refresh(id, Refusal::new(error.code(), error.to_string()));
            }
        };
        let same_user = self.identity.as_ref().is_some_and(|former| former.user == identity.user);
        if !same_user || identity.device.as_ref().is_some_and(|device| *device != self.device) {
            let refusal = Refusal::new(Code::UserMismatch, "the token names another user or device");
            return self.session.refuse_refresh(id, refusal);
        }
        self.entry.set_mark(identity.mark.clone());
        if self.node.auth.is_revoked(&identity.user, &self.device, &identity.mark) {
            return self.session.close(revoked());
        }
        self.session.refreshed(self.now(), id, identity.expires_at_ms, identity.signals_per_second);
        self.identity = Some(identity);
        self.refreshed = true;
        self.hold_to_rights();
    }

    /// Ends the subscriptions that the rights do not allow any more, and holds the others to their types.
    fn hold_to_rights(&mut self) {
        let Some(identity) = &self.identity else { return };
        let mut lost = Vec::new();
        for joined in &mut self.joined {
            let room = joined.room.name();
            if !identity.allows(Verb::Subscribe, room) {
                lost.push(Arc::clone(room));
                continue;
            }
            joined.types = identity.subscribe_filter(room);
            joined.room.restrict(&self.entry.mailbox, &joined.types);
            let types = &joined.types;
            if !types.is_all() {
                self.session.refilter(joined.handle, |kind| types.passes(kind));
            }
        }
        for room in lost {
            self.session.unsubscribed(&room, v1::UnsubscribedCause::Revoked, Some(Code::Forbidden));
        }
    }

    /// The connection that this one replaces, if it is its own (LC-HS-015).
    fn replaced(&self, id: &str, identity: &Identity) -> Option<Arc<Entry>> {
        let former = self.node.registry.find(id)?;
        let own = former.owner().is_some_and(|owner| owner.user == identity.user && owner.instance == self.instance);
        (own && !Arc::ptr_eq(&former, &self.entry)).then_some(former)
    }

    pub(super) fn subscribe(&mut self, asked: Asked, subscribe: v1::Subscribe) {
        let allowed = self.identity.as_ref().filter(|identity| identity.allows(Verb::Subscribe, &subscribe.room));
        let Some(identity) = allowed else {
            return self.session.refuse_subscribe(asked, forbidden().in_room(subscribe.room));
        };
        if let Err(refusal) = self.node.rates.request(&self.node.metrics, identity) {
            return self.session.refuse_subscribe(asked, refusal.in_room(subscribe.room));
        }
        let interest = Interest {
            start: start(subscribe.start.as_ref()),
            transients: subscribe.transients,
            signals: subscribe.signals,
            types: identity.subscribe_filter(&subscribe.room),
            live: subscribe.signals,
        };
        self.open(Why::Asked(asked), subscribe.room.into(), interest);
    }

    /// Opens a room. The session holds back what else is asked about it until it was answered.
    pub(super) fn open(&mut self, why: Why, room: Arc<str>, interest: Interest) {
        let (hub, mailbox) = (Arc::clone(self.hub()), Arc::clone(&self.entry.mailbox));
        self.begin(Box::pin(async move {
            let Interest { start, signals, .. } = interest;
            let types = interest.types.clone();
            let result = hub.subscribe(&room, interest, &mailbox).await;
            Done::Opened(Box::new(pending::Opened { why, room, start, signals, types, result }))
        }));
    }

    pub(super) fn finish(&mut self, done: Done) {
        match done {
            Done::Authenticated { hello, result } => self.finish_authentication(&hello, result),
            Done::Refreshed { id, result } => self.finish_refresh(id, result),
            Done::Published(published) => self.answer_publish(published),
            Done::Signalled { id, room, result } => {
                self.pending().signals -= 1;
                match result {
                    Ok(()) => self.session.done(id),
                    Err(refusal) => self.session.refuse(id, refusal.in_room(room)),
                }
            }
            Done::Paged { id, room, result } => match result {
                Ok(page) => self.session.history_page(id, page),
                Err(refusal) => self.session.refuse_history(id, refusal.in_room(room)),
            },
            Done::Opened(opened) => self.finish_open(*opened),
            Done::Enlivened => {}
            Done::ReadAhead(lane) => self.pending().reads_ahead[lane] = false,
            Done::Read { read, result } => self.finish_read(read, result),
        }
    }

    fn finish_open(&mut self, opened: pending::Opened) {
        let pending::Opened { why, room, start, signals, types, result } = opened;
        self.pending().unblock();
        let Some(types) = self.types_now(&room, types) else {
            return self.refuse_opened(why, &room, result.ok());
        };
        let subscription = match result {
            Ok(subscription) => subscription,
            Err(error) => {
                self.node.metrics.engine_failed(EngineCall::Follow, &room, &error);
                return match why {
                    Why::Asked(asked) => self.session.refuse_subscribe(asked, engine_refusal(error).in_room(&*room)),
                    Why::Epoch(handle) => {
                        // The place stands where it stood; the client learns nothing until the room is open again.
                        self.session.release(&room);
                        let now_ms = self.now().monotonic_ms;
                        self.pending().retry(now_ms, Again::Open(handle));
                    }
                };
            }
        };
        if let Start::Position(position) = start {
            self.count_replay(position, &subscription);
        }
        let (handle, hub_room) = (subscription.handle, Arc::clone(&subscription.room));
        let degraded = self.hub().is_degraded();
        let opened = Opened { degraded, ..opened_room(Arc::clone(&room), subscription) };
        self.count_rolled_back(&opened.rolled_back);
        match why {
            Why::Epoch(former) => {
                let Some(joined) = self.joined.iter_mut().find(|joined| joined.handle == former) else {
                    // It was left meanwhile, for a reason that no request says.
                    self.session.release(&room);
                    return self.hub().leave(&hub_room, &self.entry.mailbox);
                };
                if self.refreshed {
                    hub_room.restrict(&self.entry.mailbox, &types);
                }
                (joined.handle, joined.room, joined.types) = (handle, hub_room, types);
                self.session.subscribed(0, opened, v1::SubscribedCause::Epoch);
            }
            Why::Asked(asked) => {
                self.joined.retain(|joined| joined.room.name() != hub_room.name());
                if self.refreshed {
                    hub_room.restrict(&self.entry.mailbox, &types);
                }
                self.joined.push(Joined { handle, room: Arc::clone(&hub_room), signals, types });
                self.session.subscribed(asked.id(), opened, v1::SubscribedCause::Unspecified);
                if signals {
                    self.enliven(hub_room);
                }
            }
        }
    }

    /// The types of a room that was opened by these; others if a newer token came meanwhile, none if it allows none.
    fn types_now(&self, room: &str, types: TypeFilter) -> Option<TypeFilter> {
        if !self.refreshed {
            return Some(types);
        }
        let identity = self.identity.as_ref().filter(|identity| identity.allows(Verb::Subscribe, room))?;
        Some(identity.subscribe_filter(room))
    }

    /// A newer token forbids what was being opened.
    fn refuse_opened(&mut self, why: Why, room: &str, subscription: Option<Subscription>) {
        if let Some(subscription) = subscription {
            self.hub().leave(&subscription.room, &self.entry.mailbox);
        }
        match why {
            Why::Asked(asked) => self.session.refuse_subscribe(asked, forbidden().in_room(room)),
            // It was unsubscribed when the token came.
            Why::Epoch(_) => self.session.release(room),
        }
    }

    /// Asks for the live signals of a room that was entered.
    fn enliven(&mut self, room: Arc<Room>) {
        let (node, mailbox) = (Arc::clone(&self.node), Arc::clone(&self.entry.mailbox));
        self.begin(Box::pin(async move {
            if let Err(error) = node.hub.enliven(&room, &mailbox).await {
                // Signals may be lost; the subscription is worth more.
                node.metrics.engine_failed(EngineCall::Follow, room.name(), &error);
            }
            Done::Enlivened
        }));
    }

    fn count_replay(&self, asked: Position, subscription: &Subscription) {
        let log = &subscription.opened.log;
        let outcome = match (log.recovered, log.rolled_back.is_empty()) {
            (true, _) => ReplayOutcome::Recovered,
            (false, true) => ReplayOutcome::Trimmed,
            (false, false) => ReplayOutcome::RolledBack,
        };
        self.node.metrics.replays.of(outcome).inc();
        tracing::debug!(room = &**subscription.room.name(), %asked, recovered = log.recovered, "resumed");
    }

    pub(super) fn publish(&mut self, id: u32, publish: v1::Publish, decoded: &v1::Envelope) {
        match self.begin_publish(id, publish, decoded) {
            Ok(task) => self.begin(task),
            Err((room, refusal)) => {
                self.node.metrics.publishes.of(PublishResult::Refused).inc();
                self.session.refuse_publish(id, refusal.in_room(room));
            }
        }
    }

    /// Makes the publish ready. Its call of the engine begins with the first poll, which comes at once, so publishes of
    /// one connection reach the engine in the order in which they came (LC-PUB-025).
    fn begin_publish(&self, id: u32, publish: v1::Publish, decoded: &v1::Envelope) -> Result<Task, (String, Refusal)> {
        let Some(identity) = &self.identity else { return Err((publish.room, forbidden())) };
        let intent = Intent {
            identity,
            instance: &self.instance,
            room: &publish.room,
            lane: publish.lane,
            delivery: publish.delivery,
            ttl_ms: publish.ttl_ms,
            envelope: publish.envelope.clone(),
            decoded,
        };
        let prepared = match publish::prepare(&self.node, intent) {
            Ok(prepared) => prepared,
            Err(refusal) => return Err((publish.room, refusal)),
        };
        let origin = Origin::Numbered {
            publisher: Publisher { user: identity.user.to_string(), instance: self.instance.to_string() },
            number: publish.number,
            after: publish.after,
        };
        let node = Arc::clone(&self.node);
        let (level, asked_at_ms) = (Level::of(&publish), publish.asked_at_ms);
        let room: Box<str> = publish.room.as_str().into();
        Ok(match prepared.into_append(origin) {
            Ok((retention, append)) => {
                let counted =
                    check_numbers(&publish).and_then(|()| publish::count(&self.node, identity, &publish.room));
                if let Err(refusal) = counted {
                    return Err((publish.room, refusal));
                }
                Box::pin(async move {
                    let outcome = publish::store(&node, &room, retention, level, append).await;
                    if let Ok(Outcome::Stored(numbers)) = &outcome {
                        node.traces.asked(&room, *numbers, asked_at_ms);
                    }
                    Done::Published(Published { id, room, result: answer(outcome) })
                })
            }
            Err(transient) => {
                if let Err(refusal) = publish::count(&self.node, identity, &publish.room) {
                    return Err((publish.room, refusal));
                }
                Box::pin(async move {
                    let lane = v1::Lane::from(transient.lane).into();
                    let passed = publish::pass_on(&node, &room, transient).await;
                    let result = passed.map(|()| v1::Published { lane, ..Default::default() }).map_err(engine_refusal);
                    Done::Published(Published { id, room, result })
                })
            }
        })
    }

    fn answer_publish(&mut self, answer: Published) {
        match answer.result {
            Ok(published) => self.session.published(answer.id, &answer.room, published),
            Err(refusal) => self.session.refuse_publish(answer.id, refusal.in_room(answer.room)),
        }
    }

    pub(super) fn signal(&mut self, id: u32, signal: v1::Signal, envelope: &v1::Envelope) {
        let room: Box<str> = signal.room.as_str().into();
        let under_way = self.pending.as_ref().map_or(0, |pending| pending.signals);
        let taken = self.take_signal();
        let ready = match (&self.identity, taken) {
            (_, Err(wait_ms)) => Err(Refusal::new(Code::RateLimited, "too many signals").retry_after(wait_ms)),
            (_, Ok(())) if under_way >= SIGNALS_MAX => {
                Err(Refusal::new(Code::RateLimited, "too many signals under way").retry_after(SIGNALS_WAIT_MS))
            }
            (None, _) => Err(forbidden()),
            (Some(identity), Ok(())) => publish::signal(&self.node, identity, &self.instance, signal, envelope),
        };
        let live = match ready {
            Ok(live) => live,
            Err(refusal) => return self.session.refuse(id, refusal.in_room(room)),
        };
        self.pending().signals += 1;
        let hub = Arc::clone(self.hub());
        self.begin(Box::pin(async move {
            let result = hub.engine().signal(&room, live).await.map(drop).map_err(engine_refusal);
            Done::Signalled { id, room, result }
        }));
    }

    /// A token of this connection for a signal, or how long there will be none, ms.
    fn take_signal(&mut self) -> Result<(), u32> {
        let now = self.now();
        let (per_second, now_ns) = (self.session.signals_per_second(now), now.monotonic_ms * 1_000_000);
        let burst = self.node.config.limits.signals_burst.max(per_second);
        let Some(rate) = Rate::per_second(per_second, burst) else { return Ok(()) };
        if let Some(former) = self.signals_rate.replace(rate).filter(|former| *former != rate) {
            self.signals.change(former, rate, now_ns);
        }
        match self.signals.wait_ns(rate, now_ns) {
            0 => {
                self.signals.take(rate, now_ns);
                Ok(())
            }
            wait_ns => Err(wait_ms(wait_ns)),
        }
    }

    pub(super) fn history(&mut self, id: u32, asked: v1::History) {
        let Some(identity) = self.identity.clone() else { return };
        let (node, room) = (Arc::clone(&self.node), asked.room.as_str().into());
        self.begin(Box::pin(async move {
            let result = history::read(&node, &identity, asked).await;
            Done::Paged { id, room, result }
        }));
    }
}

/// Why a connection ends whose token was revoked (LC-AUTH-003).
pub(crate) fn revoked() -> Refusal {
    Refusal::new(Code::TokenRevoked, "the token was revoked")
}

/// What the outcome of an append means to its publisher.
fn answer(outcome: Result<Outcome, EngineError>) -> Result<v1::Published, Refusal> {
    match outcome {
        Ok(Outcome::Stored(place) | Outcome::Replayed(place)) => Ok(publish::published(place, false)),
        Ok(Outcome::Duplicate { first: Some(place) }) => Ok(publish::published(place, true)),
        Ok(Outcome::Duplicate { first: None }) => Ok(v1::Published { duplicate: true, ..Default::default() }),
        Ok(Outcome::OutOfOrder) => {
            Err(Refusal::new(Code::OutOfOrder, "an earlier publish of this instance is not stored yet"))
        }
        Ok(Outcome::KeyConflict) => Err(Refusal::new(Code::IdempotencyConflict, "the key was used with another body")),
        Ok(Outcome::KeysFull { retry_after_ms }) => {
            let retry_after_ms = u32::try_from(retry_after_ms).unwrap_or(u32::MAX);
            Err(Refusal::new(Code::RateLimited, "too many idempotency keys").retry_after(retry_after_ms))
        }
        Err(error) => Err(engine_refusal(error)),
    }
}

/// Where a Subscribe begins; its fields were checked.
pub(crate) fn start(start: Option<&v1::Start>) -> Start {
    match start.and_then(|start| start.at.as_ref()) {
        Some(v1::start::At::Beginning(_)) => Start::Beginning,
        Some(v1::start::At::Position(position)) => Position::try_from(position).map_or(Start::Live, Start::Position),
        Some(v1::start::At::Count(count)) => Start::Count((*count).into()),
        Some(v1::start::At::DurationMs(duration_ms)) => Start::Duration(*duration_ms),
        Some(v1::start::At::Live(_) | v1::start::At::Marker(_)) | None => Start::Live,
    }
}

/// What a session is told about a room that was opened.
fn opened_room(room: Arc<str>, subscription: Subscription) -> Opened {
    let crate::engine::Opened { log, transients, missed_transients } = subscription.opened;
    Opened {
        room,
        handle: subscription.handle,
        position: log.position,
        head: log.head,
        head_order: log.head_order,
        recovered: log.recovered,
        rolled_back: log.rolled_back.iter().map(history::rolled_back).collect(),
        missed_transients: Some(missed_transients),
        transients: Some(transients),
        degraded: false,
    }
}
