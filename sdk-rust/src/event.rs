//! What a room hands over: events, and gaps in the place of events that will not come.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lanecast_protocol::inbox::Item;
use lanecast_protocol::v1;
use lanecast_protocol::v1::envelope;
use prost::Message as _;

use crate::Lane;

/// Who sent an event or a signal: said by the node, never by the sender.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
pub struct Sender {
    /// The user; empty for a service.
    pub user: String,
    /// The service that published over HTTP; empty for a user.
    pub service: String,
    /// The instance of the client; empty for a service.
    pub instance: String,
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.user.is_empty() { &self.service } else { &self.user })
    }
}

impl From<v1::Sender> for Sender {
    fn from(wire: v1::Sender) -> Self {
        Self { user: wire.user, service: wire.service, instance: wire.instance }
    }
}

/// A payload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize), serde(rename_all = "camelCase"))]
pub enum Body {
    /// Text.
    Text(String),
    /// Bytes.
    #[cfg_attr(feature = "json", serde(rename = "data", serialize_with = "crate::json::base64"))]
    Bytes(Bytes),
}

impl Default for Body {
    fn default() -> Self {
        Self::Bytes(Bytes::new())
    }
}

impl Body {
    /// The payload as bytes, whichever it is.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// The payload as text; `None` if it is bytes that are not UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        }
    }
}

impl From<&str> for Body {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// What the publisher said: type, key, headers and payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) r#type: String,
    pub(crate) key: String,
    pub(crate) content_type: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Body,
}

impl Content {
    /// Reads an envelope. One that does not decode was never accepted by a conforming node; it shows as empty.
    pub(crate) fn decode(envelope: Bytes) -> Self {
        let envelope = v1::Envelope::decode(envelope).unwrap_or_default();
        let body = match envelope.body {
            Some(envelope::Body::Text(text)) => Body::Text(text),
            Some(envelope::Body::Data(data)) => Body::Bytes(data),
            None => Body::default(),
        };
        Self {
            r#type: envelope.r#type,
            key: envelope.key,
            content_type: envelope.content_type,
            headers: envelope.headers,
            body,
        }
    }

    pub(crate) fn encode(self) -> Bytes {
        let body = match self.body {
            Body::Text(text) => Some(envelope::Body::Text(text)),
            Body::Bytes(data) if data.is_empty() => None,
            Body::Bytes(data) => Some(envelope::Body::Data(data)),
        };
        let (r#type, key, content_type, headers) = (self.r#type, self.key, self.content_type, self.headers);
        v1::Envelope { r#type, key, content_type, headers, body }.encode_to_vec().into()
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize), serde(rename_all = "camelCase"))]
pub struct Event {
    /// The room.
    pub room: String,
    /// The lane, in which it travelled and in which `seq` counts.
    #[cfg_attr(feature = "json", serde(serialize_with = "crate::json::text"))]
    pub lane: Lane,
    /// The life of the room's log in which `seq` and `order` count.
    pub epoch: u64,
    /// Number within room and lane, contiguous from 1; 0: transient.
    pub seq: u64,
    /// Number within the room across lanes, contiguous from 1: for sorting; 0: transient.
    pub order: u64,
    /// Who sent it.
    #[cfg_attr(feature = "json", serde(flatten))]
    pub from: Sender,
    /// When the node received it, by the node's clock.
    #[cfg_attr(feature = "json", serde(rename = "timeMs", serialize_with = "crate::json::unix_ms"))]
    pub time: SystemTime,
    /// When it stops being worth anything, by the node's clock.
    #[cfg_attr(feature = "json", serde(rename = "expiresAtMs", serialize_with = "crate::json::maybe_unix_ms"))]
    pub expires_at: Option<SystemTime>,
    /// Chosen by the publisher; those that begin with `$` are the system's own.
    pub r#type: String,
    /// Chosen by the publisher; empty: none.
    pub key: String,
    /// MIME type of the payload; empty: text/plain for text, application/octet-stream for bytes.
    pub content_type: String,
    /// Headers of the publisher.
    pub headers: BTreeMap<String, String>,
    /// The payload.
    pub body: Body,
}

impl Event {
    pub(crate) fn new(room: &str, epoch: u64, wire: v1::Event) -> Self {
        let content = Content::decode(wire.envelope);
        Self {
            room: room.to_owned(),
            lane: Lane::from_wire(wire.lane).unwrap_or(Lane::Normal),
            epoch,
            seq: wire.seq,
            order: wire.order,
            from: wire.from.unwrap_or_default().into(),
            time: time(wire.time_ms),
            expires_at: (wire.expires_at_ms != 0).then(|| time(wire.expires_at_ms)),
            r#type: content.r#type,
            key: content.key,
            content_type: content.content_type,
            headers: content.headers,
            body: content.body,
        }
    }

    /// Whether it is stored in the room's log.
    pub fn is_durable(&self) -> bool {
        self.seq != 0
    }

    /// The payload as text; `None` if it is bytes that are not UTF-8.
    pub fn text(&self) -> Option<&str> {
        self.body.as_text()
    }

    /// The payload as bytes, whichever it is.
    pub fn bytes(&self) -> &[u8] {
        self.body.as_bytes()
    }

    /// The payload, read as JSON.
    ///
    /// # Errors
    /// If it is not JSON of this type.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.bytes())
    }
}

pub(crate) fn time(unix_ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms)
}

/// Why events will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
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

impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trimmed => "trimmed",
            Self::Expired => "expired",
            Self::Erased => "erased",
            Self::RolledBack => "rolled back",
            Self::Dropped => "dropped",
            Self::Missed => "missed",
            Self::Unknown => "unknown",
        })
    }
}

impl GapCause {
    fn from_wire(cause: v1::GapCause) -> Self {
        match cause {
            v1::GapCause::Trimmed => Self::Trimmed,
            v1::GapCause::Expired => Self::Expired,
            v1::GapCause::Erased => Self::Erased,
            v1::GapCause::RolledBack => Self::RolledBack,
            v1::GapCause::Dropped => Self::Dropped,
            // FILTERED is not shown; the inbox passes it in silence.
            v1::GapCause::Unspecified | v1::GapCause::Filtered | v1::GapCause::Unknown => Self::Unknown,
        }
    }
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize), serde(untagged))]
pub enum Missing {
    /// The durable events with these seqs.
    Seqs {
        /// Their lane.
        #[cfg_attr(feature = "json", serde(serialize_with = "crate::json::text"))]
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
        #[cfg_attr(feature = "json", serde(serialize_with = "crate::json::maybe_text"))]
        lane: Option<Lane>,
        /// How many; `None`: an unknown number.
        count: Option<u64>,
    },
}

/// Events that will not come. The only way past a seq that is not an event.
///
/// Of cause [`GapCause::RolledBack`] it also revokes: seqs in its range that were delivered are no longer in the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
pub struct Gap {
    /// The room.
    pub room: String,
    /// What is missing.
    #[cfg_attr(feature = "json", serde(flatten))]
    pub missing: Missing,
    /// Why.
    pub cause: GapCause,
    /// Whether [`Room::history`](crate::Room::history) may still have them.
    pub refillable: bool,
}

impl Gap {
    /// The lane, where one is known.
    pub fn lane(&self) -> Option<Lane> {
        match self.missing {
            Missing::Seqs { lane, .. } => Some(lane),
            Missing::Transients { lane, .. } => lane,
        }
    }

    /// How many events are missing; `None`: an unknown number.
    pub fn count(&self) -> Option<u64> {
        match self.missing {
            Missing::Seqs { from, to, .. } => to.map(|to| to + 1 - from),
            Missing::Transients { count, .. } => count,
        }
    }

    /// A gap of a page of history.
    pub(crate) fn of_page(room: &str, wire: &v1::Gap) -> Option<Self> {
        let cause = v1::GapCause::try_from(wire.cause).unwrap_or(v1::GapCause::Unknown);
        if cause == v1::GapCause::Filtered {
            return None;
        }
        let lane = Lane::from_wire(wire.lane)?;
        let to = (wire.to != 0).then_some(wire.to);
        Some(Self {
            room: room.to_owned(),
            missing: Missing::Seqs { lane, epoch: wire.epoch, from: wire.from, to },
            cause: GapCause::from_wire(cause),
            refillable: wire.refillable,
        })
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = self.cause;
        match self.missing {
            Missing::Seqs { lane, epoch, from, to: Some(to) } => {
                write!(f, "{lane} {from} to {to} of epoch {epoch} {cause}")
            }
            Missing::Seqs { lane, epoch, from, to: None } => write!(f, "{lane} {from} and on of epoch {epoch} {cause}"),
            Missing::Transients { count: Some(count), .. } => write!(f, "{count} transient events {cause}"),
            Missing::Transients { count: None, .. } => write!(f, "some transient events {cause}"),
        }
    }
}

/// Reads an item of the session as the application sees it.
pub(crate) fn item(room: &str, item: Item) -> Result<Event, Gap> {
    match item {
        Item::Event(delivery) => Ok(Event::new(room, delivery.epoch, delivery.event)),
        Item::Gap(gap) => Err(Gap {
            room: room.to_owned(),
            missing: Missing::Seqs { lane: gap.lane, epoch: gap.epoch, from: gap.from, to: gap.to },
            cause: GapCause::from_wire(gap.cause),
            refillable: gap.refillable,
        }),
        Item::TransientGap { lane, count, cause } => Err(Gap {
            room: room.to_owned(),
            missing: Missing::Transients { lane, count },
            cause: match cause {
                v1::GapCause::Unspecified => GapCause::Missed,
                cause => GapCause::from_wire(cause),
            },
            refillable: false,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_survives_the_wire() {
        for body in [Body::from("hé"), Body::from(vec![0, 255]), Body::default()] {
            let headers = BTreeMap::from([("traceparent".to_owned(), "00-1".to_owned())]);
            let content = Content { r#type: "msg".into(), key: "k".into(), content_type: "a/b".into(), headers, body };
            assert_eq!(Content::decode(content.clone().encode()), content);
        }
    }

    #[test]
    fn a_gap_says_what_is_missing() {
        let mut gap = Gap {
            room: "r".into(),
            missing: Missing::Seqs { lane: Lane::Normal, epoch: 7, from: 3, to: Some(5) },
            cause: GapCause::Trimmed,
            refillable: false,
        };
        assert_eq!((gap.to_string().as_str(), gap.count()), ("normal 3 to 5 of epoch 7 trimmed", Some(3)));
        gap.missing = Missing::Transients { lane: None, count: None };
        gap.cause = GapCause::Missed;
        assert_eq!((gap.to_string().as_str(), gap.count()), ("some transient events missed", None));
    }
}
