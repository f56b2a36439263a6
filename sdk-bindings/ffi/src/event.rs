//! What a room hands over.

use std::collections::HashMap;
use std::time::SystemTime;

/// A lane that a publisher can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, uniffi::Enum)]
pub enum Lane {
    /// Overtakes the others.
    Urgent,
    /// Ordinary messages.
    Normal,
    /// Yields to the others.
    Bulk,
}

impl From<lanecast::Lane> for Lane {
    fn from(lane: lanecast::Lane) -> Self {
        match lane {
            lanecast::Lane::Urgent => Self::Urgent,
            lanecast::Lane::Normal => Self::Normal,
            lanecast::Lane::Bulk => Self::Bulk,
        }
    }
}

impl From<Lane> for lanecast::Lane {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Urgent => Self::Urgent,
            Lane::Normal => Self::Normal,
            Lane::Bulk => Self::Bulk,
        }
    }
}

/// A payload.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Body {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// Bytes.
    Bytes {
        /// The bytes.
        bytes: Vec<u8>,
    },
}

impl From<&lanecast::Body> for Body {
    fn from(body: &lanecast::Body) -> Self {
        match body {
            lanecast::Body::Text(text) => Self::Text { text: text.clone() },
            lanecast::Body::Bytes(bytes) => Self::Bytes { bytes: bytes.to_vec() },
        }
    }
}

impl From<Body> for lanecast::Body {
    fn from(body: Body) -> Self {
        match body {
            Body::Text { text } => Self::Text(text),
            Body::Bytes { bytes } => Self::Bytes(bytes.into()),
        }
    }
}

/// Who sent something: said by the node, never by the sender.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Sender {
    /// The user; empty for a service.
    pub user: String,
    /// The service that published over HTTP; empty for a user.
    pub service: String,
    /// The instance of the client; empty for a service.
    pub instance: String,
}

impl From<&lanecast::Sender> for Sender {
    fn from(from: &lanecast::Sender) -> Self {
        let lanecast::Sender { user, service, instance } = from.clone();
        Self { user, service, instance }
    }
}

/// An event. Its room is the one whose subscription or history it came from.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Event {
    /// The lane, in which it travelled and in which `seq` counts.
    pub lane: Lane,
    /// The life of the room's log in which `seq` and `order` count.
    pub epoch: u64,
    /// Number within room and lane, contiguous from 1; 0: transient.
    pub seq: u64,
    /// Number within the room across lanes, contiguous from 1: for sorting; 0: transient.
    pub order: u64,
    /// Who sent it.
    pub from: Sender,
    /// When the node received it, by the node's clock, ms since 1970.
    pub time_ms: u64,
    /// When it stops being worth anything, by the node's clock, ms since 1970; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// Chosen by the publisher; those that begin with `$` are the system's own.
    pub r#type: String,
    /// Chosen by the publisher; empty: none.
    pub key: String,
    /// MIME type of the payload; empty: text/plain for text, application/octet-stream for bytes.
    pub content_type: String,
    /// Headers of the publisher.
    pub headers: HashMap<String, String>,
    /// The payload.
    pub body: Body,
}

impl From<&lanecast::Event> for Event {
    fn from(event: &lanecast::Event) -> Self {
        Self {
            lane: event.lane.into(),
            epoch: event.epoch,
            seq: event.seq,
            order: event.order,
            from: (&event.from).into(),
            time_ms: unix_ms(event.time),
            expires_at_ms: event.expires_at.map(unix_ms),
            r#type: event.r#type.clone(),
            key: event.key.clone(),
            content_type: event.content_type.clone(),
            headers: event.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            body: (&event.body).into(),
        }
    }
}

/// Milliseconds since 1970; 0 for what was before.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Why events will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, uniffi::Enum)]
pub enum GapCause {
    /// The log no longer has them.
    Trimmed,
    /// Their time to live ran out.
    Expired,
    /// They were erased on request.
    Erased,
    /// The log lost them; what was delivered of them is revoked.
    RolledBack,
    /// A full queue dropped them; transient events only.
    Dropped,
    /// They were sent while this client was away; transient events only.
    Missed,
    /// A connection to the log broke and nothing is known, or the node gave a cause that this version does not know.
    Unknown,
}

impl From<lanecast::GapCause> for GapCause {
    fn from(cause: lanecast::GapCause) -> Self {
        match cause {
            lanecast::GapCause::Trimmed => Self::Trimmed,
            lanecast::GapCause::Expired => Self::Expired,
            lanecast::GapCause::Erased => Self::Erased,
            lanecast::GapCause::RolledBack => Self::RolledBack,
            lanecast::GapCause::Dropped => Self::Dropped,
            lanecast::GapCause::Missed => Self::Missed,
            _ => Self::Unknown,
        }
    }
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Missing {
    /// The durable events with these seqs.
    Seqs {
        /// Their lane.
        lane: Lane,
        /// The epoch in which the seqs count.
        epoch: u64,
        /// The first.
        from: u64,
        /// The last; `None`: no upper end, the log does not know the epoch any more.
        to: Option<u64>,
    },
    /// Transient events.
    Transients {
        /// Their lane; `None`: any of them.
        lane: Option<Lane>,
        /// How many; `None`: an unknown number.
        count: Option<u64>,
    },
}

impl From<lanecast::Missing> for Missing {
    fn from(missing: lanecast::Missing) -> Self {
        match missing {
            lanecast::Missing::Seqs { lane, epoch, from, to } => Self::Seqs { lane: lane.into(), epoch, from, to },
            lanecast::Missing::Transients { lane, count } => Self::Transients { lane: lane.map(Into::into), count },
        }
    }
}

/// Events that will not come. The only way past a seq that is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Gap {
    /// What is missing.
    pub missing: Missing,
    /// Why.
    pub cause: GapCause,
    /// Whether the room's history may still have them.
    pub refillable: bool,
}

impl From<&lanecast::Gap> for Gap {
    fn from(gap: &lanecast::Gap) -> Self {
        Self { missing: gap.missing.into(), cause: gap.cause.into(), refillable: gap.refillable }
    }
}

/// An event, or a gap in the place of events that will not come.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events")]
pub enum Item {
    /// An event.
    Event {
        /// The event.
        event: Event,
    },
    /// A gap.
    Gap {
        /// The gap.
        gap: Gap,
    },
}

impl From<&Result<lanecast::Event, lanecast::Gap>> for Item {
    fn from(item: &Result<lanecast::Event, lanecast::Gap>) -> Self {
        match item {
            Ok(event) => Self::Event { event: event.into() },
            Err(gap) => Self::Gap { gap: gap.into() },
        }
    }
}
