//! What happens to an event or signal between its arrival and the engine, whoever brought it.
//!
//! Checks come in the order of LC-ERR-009: size, right, lane. The fields themselves were checked by whoever decoded
//! them.

use std::sync::Arc;

use bytes::Bytes;
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::log::{Append, Numbers, Origin, Outcome, Retention};
use lanecast_protocol::lossy::SignalKey;
use lanecast_protocol::position::DurableLane;
use lanecast_protocol::session::Refusal;
use lanecast_protocol::session::server::body_len;
use lanecast_protocol::v1;

use crate::auth::Identity;
use crate::auth::rights::{PublishVerdict, Verb};
use crate::config::DeliveryDefault;
use crate::engine::{EngineError, Signal, Transient};
use crate::node::Node;
use crate::policy::Policy;
use crate::telemetry::labels::{EngineCall, PublishResult};

/// An event that somebody wants to publish.
pub struct Intent<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// The instance of the client; empty for a service.
    pub instance: &'a str,
    /// Where.
    pub room: &'a str,
    /// The lane as it came.
    pub lane: i32,
    /// The delivery as it came.
    pub delivery: i32,
    /// Time to live, ms; 0: none.
    pub ttl_ms: u32,
    /// The envelope as it came.
    pub envelope: Bytes,
    /// The envelope, decoded.
    pub decoded: &'a v1::Envelope,
}

/// An event that may be published, ready for the engine.
pub enum Prepared {
    /// To be stored.
    Durable {
        /// How much the room keeps.
        retention: Retention,
        /// The event, but for the origin, which the caller knows.
        lane: DurableLane,
        /// When it was received, ms.
        time_ms: u64,
        /// When it expires, ms; 0: never.
        expires_at_ms: u64,
        /// Its type.
        event_type: Arc<str>,
        /// Its tail.
        tail: Bytes,
    },
    /// To be passed on.
    Transient(Transient),
}

/// Checks an event against policy and rights and makes it ready.
///
/// # Errors
/// MESSAGE_TOO_LARGE, FORBIDDEN or LANE_NOT_ALLOWED.
pub fn prepare(node: &Node, intent: Intent<'_>) -> Result<Prepared, Refusal> {
    let policy = node.config.policies.of(intent.room);
    check_size(policy, intent.decoded)?;
    let lane = Lane::from_wire(intent.lane).and_then(|lane| DurableLane::try_from(lane.to_wire()).ok());
    let lane = lane.unwrap_or(policy.default_lane);
    match intent.identity.allows_publish(intent.room, &intent.decoded.r#type, lane) {
        PublishVerdict::Allowed => {}
        PublishVerdict::LaneTooHigh => {
            return Err(Refusal::new(Code::LaneNotAllowed, "the right does not reach up to this lane"));
        }
        PublishVerdict::Forbidden => return Err(forbidden()),
    }
    if !policy.lanes.contains(&lane) {
        return Err(Refusal::new(Code::LaneNotAllowed, "the policy of this room does not have this lane"));
    }
    let time_ms = node.clock.now_ms();
    let expires_at_ms = if intent.ttl_ms == 0 { 0 } else { time_ms + u64::from(intent.ttl_ms) };
    let event_type: Arc<str> = intent.decoded.r#type.as_str().into();
    let tail = codec::event_tail(intent.identity.sender(intent.instance), time_ms, expires_at_ms, intent.envelope);
    let durable = match v1::Delivery::try_from(intent.delivery) {
        Ok(v1::Delivery::Durable) => true,
        Ok(v1::Delivery::Transient) => false,
        _ => policy.default_delivery == DeliveryDefault::Durable,
    };
    Ok(if durable {
        Prepared::Durable { retention: retention(policy), lane, time_ms, expires_at_ms, event_type, tail }
    } else {
        Prepared::Transient(Transient { lane, expires_at_ms, event_type, tail })
    })
}

/// Counts an event that will be given to the engine, after everything else was checked: what is refused for another
/// reason costs nothing.
///
/// # Errors
/// RATE_LIMITED.
pub fn count(node: &Node, identity: &Identity, room: &str) -> Result<(), Refusal> {
    node.rates.event(&node.metrics, identity, room, node.config.policies.of(room))
}

fn retention(policy: &Policy) -> Retention {
    Retention {
        events_max: usize::try_from(policy.retention_events).unwrap_or(usize::MAX),
        age_ms_max: policy.retention_ms,
    }
}

fn check_size(policy: &Policy, envelope: &v1::Envelope) -> Result<(), Refusal> {
    if body_len(envelope) > policy.message_bytes as usize {
        let detail = format!("this room takes at most {} bytes", policy.message_bytes);
        return Err(Refusal::new(Code::MessageTooLarge, detail));
    }
    Ok(())
}

/// A refusal by right; it does not tell whether the room exists (LC-SEC-007).
pub fn forbidden() -> Refusal {
    Refusal::new(Code::Forbidden, "the token does not allow this")
}

/// Stores an event. Dropping the future leaves open whether it was stored.
///
/// # Errors
/// What the engine says.
pub async fn store(
    node: &Node,
    room: &str,
    retention: Retention,
    level: Level,
    append: Append,
) -> Result<Outcome, EngineError> {
    store_all(node, room, retention, level, vec![append]).await.pop().unwrap_or(Err(UNANSWERED))
}

/// What an acknowledgement stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The log has the event.
    Stored,
    /// Replicas of the log have it too (LC-PUB-030).
    Replicated,
}

impl Level {
    /// The level that a publish asks for.
    pub fn of(publish: &v1::Publish) -> Self {
        if publish.ack == v1::AckLevel::Replicated as i32 { Self::Replicated } else { Self::Stored }
    }
}

/// An engine answers each item (E1); one that did not would leave it open what became of the rest.
const UNANSWERED: EngineError = EngineError::Unavailable { retry_after_ms: 1000 };

/// Stores events of a room in one call; the outcomes are one for each, in their order. Dropping the future leaves
/// open which were stored.
pub async fn store_all(
    node: &Node,
    room: &str,
    retention: Retention,
    level: Level,
    items: Vec<Append>,
) -> Vec<Result<Outcome, EngineError>> {
    let (count, engine, began) = (items.len(), node.hub.engine(), node.clock.elapsed());
    let lanes: Vec<DurableLane> = items.iter().map(|item| item.lane).collect();
    let mut outcomes = match level {
        Level::Stored => engine.append(room, retention, items).await,
        Level::Replicated => engine.append_replicated(room, retention, items).await,
    };
    outcomes.resize(count, Err(UNANSWERED));
    let took = (node.clock.elapsed() - began).as_secs_f64();
    lanes.into_iter().for_each(|lane| node.metrics.append.of(lane.into()).observe(took));
    for outcome in &outcomes {
        if let Ok(Outcome::Stored(numbers)) = outcome {
            node.traces.stored(room, *numbers, began);
        }
        let result = match outcome {
            Ok(Outcome::Stored(_)) => PublishResult::Stored,
            Ok(Outcome::Duplicate { .. } | Outcome::Replayed(_)) => PublishResult::Duplicate,
            Ok(_) | Err(EngineError::Full { .. }) => PublishResult::Refused,
            Err(EngineError::Unavailable { .. }) => PublishResult::Failed,
        };
        node.metrics.publishes.of(result).inc();
    }
    if let Some(error) = outcomes.iter().find_map(|outcome| outcome.as_ref().err()) {
        node.metrics.engine_failed(EngineCall::Append, room, error);
    }
    outcomes
}

/// Passes a transient event on.
///
/// # Errors
/// What the engine says.
pub async fn pass_on(node: &Node, room: &str, event: Transient) -> Result<(), EngineError> {
    let passed = node.hub.engine().publish_transient(room, event).await;
    let result = if passed.is_ok() { PublishResult::Transient } else { PublishResult::Failed };
    node.metrics.publishes.of(result).inc();
    passed
}

impl Prepared {
    /// The append of a durable event, with its origin.
    pub fn into_append(self, origin: Origin) -> Result<(Retention, Append), Transient> {
        match self {
            Self::Durable { retention, lane, time_ms, expires_at_ms, event_type, tail } => {
                Ok((retention, Append { lane, origin, time_ms, expires_at_ms, event_type, tail }))
            }
            Self::Transient(event) => Err(event),
        }
    }
}

/// The answer of a stored event.
pub fn published(numbers: Numbers, duplicate: bool) -> v1::Published {
    let lane = v1::Lane::from(numbers.lane).into();
    v1::Published { epoch: numbers.epoch, lane, seq: numbers.seq, order: numbers.order, duplicate }
}

/// The refusal that an engine's error stands for.
pub fn engine_refusal(error: EngineError) -> Refusal {
    Refusal::new(error.code(), error.to_string()).retry_after(error.retry_after_ms())
}

/// Checks a signal and makes it ready for the engine.
///
/// # Errors
/// MESSAGE_TOO_LARGE, FORBIDDEN or RATE_LIMITED.
pub fn signal(
    node: &Node,
    identity: &Identity,
    instance: &str,
    signal: v1::Signal,
    envelope: &v1::Envelope,
) -> Result<Signal, Refusal> {
    let policy = node.config.policies.of(&signal.room);
    check_size(policy, envelope)?;
    if !identity.allows_type(Verb::Signal, &signal.room, &envelope.r#type) {
        return Err(forbidden());
    }
    node.rates.signal(&node.metrics, identity, &signal.room, policy)?;
    let ttl_ms = match signal.ttl_ms {
        0 => policy.signal_ttl_ms,
        asked => asked.min(policy.signal_ttl_max_ms),
    };
    let expires_at_ms = node.clock.now_ms() + u64::from(ttl_ms);
    let key = SignalKey {
        // A separator that neither user ids nor instances can hold.
        sender: format!("{}\n{}\n{instance}", identity.user, identity.service).into(),
        kind: envelope.r#type.as_str().into(),
        key: envelope.key.as_str().into(),
    };
    let frame = v1::Signal { expires_at_ms, from: Some(identity.sender(instance)), ..signal };
    Ok(Signal {
        key,
        start: frame.start,
        counter: frame.counter,
        expires_at_ms,
        clear: frame.clear,
        tail: codec::signal_tail(&frame),
    })
}
