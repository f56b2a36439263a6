//! Publishing events.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lanecast_protocol::v1;
use tokio::sync::oneshot;

use crate::Lane;
use crate::client::Client;
use crate::error::{PublishError, PublishErrorKind};
use crate::event::{Body, Content};
use crate::owner::{Command, Publication, Replies};
use crate::room::Room;
use crate::subscription::millis;

/// Where a published event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
pub struct Published {
    /// The life of the room's log in which the numbers count; 0: transient.
    pub epoch: u64,
    /// The lane in which it travels.
    #[cfg_attr(feature = "json", serde(serialize_with = "crate::json::text"))]
    pub lane: Lane,
    /// Number within room and lane; 0: transient, or a duplicate whose numbers the log no longer knows.
    pub seq: u64,
    /// Number within the room across lanes; 0 as above.
    pub order: u64,
    /// It was stored before, by a sending whose answer was lost.
    pub duplicate: bool,
}

impl Published {
    pub(crate) fn new(wire: v1::Published) -> Self {
        let v1::Published { epoch, lane, seq, order, duplicate } = wire;
        Self { epoch, lane: Lane::from_wire(lane).unwrap_or(Lane::Normal), seq, order, duplicate }
    }
}

/// An event to publish: made by [`Room::publish`], and awaited.
///
/// It is durable unless [`Self::transient`] says otherwise, and travels in lane normal unless [`Self::lane`] does.
/// Awaiting resolves when the node has **stored** it (a transient one: passed it on). Publishes of a room and lane reach
/// the log in the order in which they were handed to the client. Unanswered ones are sent again after a reconnect, and
/// stored once; the client gives one up when its time to live, or that of the outbox, runs out.
///
/// # Cancel safety
///
/// A future that was dropped may have published or not. Where that matters use [`Self::send`], which is the boundary:
/// dropped before it resolves, nothing was published; the [`Receipt`] may be dropped without taking anything back.
#[derive(Clone, Debug)]
#[must_use = "an event is published when this is awaited"]
pub struct Publish {
    room: Room,
    lane: Lane,
    transient: bool,
    ttl_ms: u32,
    keep_ms: Option<u64>,
    ack: v1::AckLevel,
    content: Content,
}

impl Publish {
    pub(crate) fn new(room: Room, r#type: String, body: Body) -> Self {
        let content = Content { r#type, body, ..Content::default() };
        Self {
            room,
            lane: Lane::Normal,
            transient: false,
            ttl_ms: 0,
            keep_ms: None,
            ack: v1::AckLevel::Stored,
            content,
        }
    }

    /// The lane: urgent overtakes normal, normal overtakes bulk, in every queue up to the subscriber.
    pub fn lane(mut self, lane: Lane) -> Self {
        self.lane = lane;
        self
    }

    /// A key of the application's choice, at most 256 bytes.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.content.key = key.into();
        self
    }

    /// A header, at most 32 of them; `traceparent` and `tracestate` carry the trace context.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.content.headers.insert(name.into(), value.into());
        self
    }

    /// MIME type of the payload.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content.content_type = content_type.into();
        self
    }

    /// Not to be delivered later than this after the node took it; nor kept in the outbox for longer. At most 49 days.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl_ms = ttl_ms(ttl);
        self
    }

    /// How long it may wait for its node in the outbox, instead of [`Builder::outbox_ttl`](crate::Builder::outbox_ttl).
    /// After that it is given up, which says nothing about how long it lives once it is stored: see [`Self::ttl`].
    pub fn outbox_ttl(mut self, ttl: Duration) -> Self {
        self.keep_ms = Some(millis(ttl));
        self
    }

    /// Counts as stored only when a replica of the log has it too, so that it survives the loss of the node's store. A
    /// node that cannot tell refuses it with `UNIMPLEMENTED`; one whose replica does not answer in time leaves it in the
    /// outbox, to be sent again. Transient events have no such level.
    pub fn replicated(mut self) -> Self {
        self.ack = v1::AckLevel::Replicated;
        self
    }

    /// Not stored: reaches who is subscribed now, and is sent now or not at all.
    pub fn transient(mut self) -> Self {
        self.transient = true;
        self
    }

    /// Hands the event to the client, without waiting for the node: the way to have many on their way at a time.
    ///
    /// With an outbox file ([`Builder::outbox_file`](crate::Builder::outbox_file)) a durable event is **queued** when this
    /// resolves: it is in the file, and is sent even if the process is killed now.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, nothing was published; with an outbox file it may have been.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid` or `Closed`; with an outbox file also `OutboxFull` and `NotKept`. Without one it is the receipt
    /// that says that the outbox is full.
    pub async fn send(self) -> Result<Receipt, PublishError> {
        let Self { room, lane, transient, ttl_ms, keep_ms, ack, content } = self;
        let name = room.checked_name().map_err(|error| PublishError::local(PublishErrorKind::Invalid, error))?;
        let (settled, answer) = oneshot::channel();
        let is_kept = !transient && room.client.outbox().has_file();
        let (queued, in_file) = is_kept.then(oneshot::channel).unzip();
        let publication = Publication { room: name, lane, transient, ttl_ms, keep_ms, ack, envelope: content.encode() };
        let command = Command::Publish { publication, replies: Replies { settled, queued } };
        room.client.send(command).await.map_err(|()| PublishError::closed())?;
        if let Some(in_file) = in_file {
            in_file.await.map_err(|_| PublishError::closed())??;
        }
        Ok(Receipt { answer, _client: room.client })
    }
}

/// The wire's form of a time to live: at least 1 ms, since 0 means none.
pub(crate) fn ttl_ms(ttl: Duration) -> u32 {
    u32::try_from(millis(ttl)).unwrap_or(u32::MAX).max(1)
}

impl IntoFuture for Publish {
    type Output = Result<Published, PublishError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        async move { self.send().await?.await }.boxed()
    }
}

/// The answer to a publish, to come. Dropping it takes nothing back.
#[derive(Debug)]
pub struct Receipt {
    answer: oneshot::Receiver<Result<Published, PublishError>>,
    /// Keeps the client alive: an event that someone waits for should still be sent.
    _client: Client,
}

impl Future for Receipt {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.poll_unpin(cx).map(|answer| answer.unwrap_or_else(|_| Err(PublishError::closed())))
    }
}
