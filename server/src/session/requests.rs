//! What a connection does with the requests of its session.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::stream::FuturesUnordered;
use lanecast_protocol::codes::Code;
use lanecast_protocol::log::{Origin, Outcome, Publisher, Start};
use lanecast_protocol::position::Position;
use lanecast_protocol::session::Refusal;
use lanecast_protocol::session::server::{Accepted, Asked, Opened, check_numbers};
use lanecast_protocol::v1;

use super::{Connection, Joined, Owner};
use crate::auth::Identity;
use crate::auth::rights::Verb;
use crate::engine::EngineError;
use crate::history;
use crate::hub::{Interest, Subscription, live_signal};
use crate::publish::{self, Intent, Level, engine_refusal, forbidden};
use crate::telemetry::labels::{EngineCall, PublishResult, ReplayOutcome};
use crate::transport::Transport;

/// What the engine said to a publish, or why it was refused.
pub(super) struct Answer {
    id: u32,
    room: Box<str>,
    result: Result<v1::Published, Refusal>,
}

/// A publish that waits for the engine.
pub(super) type PendingPublish = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A token bucket on the node's monotonic clock.
#[derive(Debug)]
pub(super) struct Bucket {
    per_second: u64,
    /// In thousandths.
    capacity: u64,
    tokens: u64,
    filled_at_ms: u64,
}

impl Bucket {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let capacity = u64::from(burst.max(per_second)) * 1000;
        Self { per_second: per_second.into(), capacity, tokens: capacity, filled_at_ms: 0 }
    }

    /// Takes one token, or says how many ms to wait for it.
    fn take(&mut self, now_ms: u64) -> Result<(), u32> {
        let passed = now_ms.saturating_sub(self.filled_at_ms);
        self.tokens = self.capacity.min(self.tokens + passed.saturating_mul(self.per_second));
        self.filled_at_ms = now_ms;
        match self.tokens.checked_sub(1000) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err((1000 - self.tokens).div_ceil(self.per_second.max(1)) as u32),
        }
    }
}

impl<T: Transport> Connection<T> {
    pub(super) fn authenticate(&mut self, hello: &v1::Hello) {
        let identity = match self.node.auth.user(&hello.token, self.peer.ip()) {
            Ok(identity) => identity,
            Err(error) => {
                self.node.metrics.handshake_refused(error.code(), &error, self.peer);
                return self.session.close(Refusal::new(error.code(), error.to_string()));
            }
        };
        let device = identity.device.as_deref().unwrap_or(&hello.device).to_owned();
        let accepted = Accepted {
            connection_id: self.entry.id.to_string(),
            user: identity.user.to_string(),
            device: device.clone(),
            token_expires_at_ms: identity.expires_at_ms,
        };
        self.instance = hello.instance.as_str().into();
        let user = Arc::clone(&identity.user);
        let owner = Owner { user, device: device.into(), instance: self.instance.clone() };
        self.node.registry.welcome(&self.entry, owner);
        self.replace(&hello.replaces, &identity);
        tracing::debug!(connection = &*self.entry.id, user = &*identity.user, peer = %self.peer, "welcomed");
        self.identity = Some(identity);
        self.session.accept(self.now(), accepted);
    }

    /// Closes the connection that this one replaces, if it is its own (LC-HS-015).
    fn replace(&self, id: &str, identity: &Identity) {
        if id.is_empty() {
            return;
        }
        let Some(former) = self.node.registry.find(id) else { return };
        let own = former.owner().is_some_and(|owner| owner.user == identity.user && owner.instance == self.instance);
        if own && !Arc::ptr_eq(&former, &self.entry) {
            former.command(super::Command::Close(Refusal::new(Code::Replaced, "the client has connected anew")));
        }
    }

    pub(super) async fn subscribe(&mut self, asked: Asked, subscribe: v1::Subscribe) {
        let room = subscribe.room.clone();
        if let Err(refusal) = self.open_room(asked, subscribe).await {
            self.session.refuse_subscribe(asked, refusal.in_room(room));
        }
    }

    async fn open_room(&mut self, asked: Asked, subscribe: v1::Subscribe) -> Result<(), Refusal> {
        let name = subscribe.room.as_str();
        let identity = self.identity.as_ref().ok_or_else(forbidden)?;
        if !identity.allows(Verb::Subscribe, name) {
            return Err(forbidden());
        }
        let types = identity.subscribe_filter(name);
        let start = start(subscribe.start.as_ref());
        let signals = subscribe.signals;
        let interest = Interest { start, transients: subscribe.transients, signals, types: types.clone() };
        let subscription = self.node.hub.subscribe(name, interest, &self.entry.mailbox).await.map_err(|error| {
            self.node.metrics.engine_failed(EngineCall::Follow, name, &error);
            engine_refusal(error)
        })?;
        if let Start::Position(position) = start {
            self.count_replay(position, &subscription);
        }
        let (handle, hub_room) = (subscription.handle, Arc::clone(&subscription.room));
        let live = if signals { self.node.hub.engine().live_signals(name).await } else { Ok(Vec::new()) };
        self.joined.retain(|joined| joined.room.name() != hub_room.name());
        self.joined.push(Joined { handle, room: hub_room, signals, types: types.clone() });
        let opened = opened(name.into(), subscription);
        self.count_rolled_back(&opened.rolled_back);
        self.session.subscribed(asked.id(), opened, v1::SubscribedCause::Unspecified);
        match live {
            Ok(live) => {
                for signal in live.iter().filter(|signal| types.passes(&signal.key.kind)) {
                    self.entry.mailbox.signal(handle, live_signal(handle, signal));
                }
            }
            // Signals may be lost; the subscription is worth more.
            Err(error) => self.node.metrics.engine_failed(EngineCall::Follow, name, &error),
        }
        Ok(())
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
            Ok(mut pending) => match pending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                // The usual case of an engine in memory; no queue, no wake-up.
                Poll::Ready(answer) => self.answer_publish(answer),
                Poll::Pending => {
                    self.publishes.get_or_insert_with(|| Box::new(FuturesUnordered::new())).push(pending);
                }
            },
            Err((room, refusal)) => {
                self.node.metrics.publishes.of(PublishResult::Refused).inc();
                self.session.refuse_publish(id, refusal.in_room(room));
            }
        }
    }

    /// Makes the publish ready. Its call of the engine begins with the first poll, which comes at once, so publishes of
    /// one connection reach the engine in the order in which they came (LC-PUB-025).
    fn begin_publish(
        &self,
        id: u32,
        publish: v1::Publish,
        decoded: &v1::Envelope,
    ) -> Result<PendingPublish, (String, Refusal)> {
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
        let level = Level::of(&publish);
        let room: Box<str> = publish.room.as_str().into();
        Ok(match prepared.into_append(origin) {
            Ok((retention, append)) => {
                if let Err(refusal) = check_numbers(&publish) {
                    return Err((publish.room, refusal));
                }
                Box::pin(async move {
                    let outcome = publish::store(&node, &room, retention, level, append).await;
                    Answer { id, room, result: answer(outcome) }
                })
            }
            Err(transient) => Box::pin(async move {
                let lane = v1::Lane::from(transient.lane).into();
                let passed = publish::pass_on(&node, &room, transient).await;
                let result = passed.map(|()| v1::Published { lane, ..Default::default() }).map_err(engine_refusal);
                Answer { id, room, result }
            }),
        })
    }

    pub(super) fn answer_publish(&mut self, answer: Answer) {
        match answer.result {
            Ok(published) => self.session.published(answer.id, published),
            Err(refusal) => self.session.refuse_publish(answer.id, refusal.in_room(answer.room)),
        }
    }

    pub(super) async fn signal(&mut self, id: u32, signal: v1::Signal, envelope: &v1::Envelope) {
        let room = signal.room.clone();
        let result = match (&self.identity, self.signals.take(self.now().monotonic_ms)) {
            (_, Err(wait_ms)) => Err(Refusal::new(Code::RateLimited, "too many signals").retry_after(wait_ms)),
            (None, _) => Err(forbidden()),
            (Some(identity), Ok(())) => publish::signal(&self.node, identity, &self.instance, signal, envelope).await,
        };
        match result {
            Ok(_) => self.session.done(id),
            Err(refusal) => self.session.refuse(id, refusal.in_room(room)),
        }
    }

    pub(super) async fn history(&mut self, id: u32, asked: v1::History) {
        let room = asked.room.clone();
        let Some(identity) = &self.identity else { return };
        match history::read(&self.node, identity, asked).await {
            Ok(page) => self.session.history_page(id, page),
            Err(refusal) => self.session.refuse(id, refusal.in_room(room)),
        }
    }
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
pub(super) fn opened(room: Arc<str>, subscription: Subscription) -> Opened {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_pass_and_then_the_rate() {
        let mut bucket = Bucket::new(10, 20);
        assert!((0..20).all(|_| bucket.take(5).is_ok()));
        assert_eq!(bucket.take(5), Err(100));
        assert_eq!(bucket.take(100), Err(5));
        assert_eq!(bucket.take(105), Ok(()));
    }
}
