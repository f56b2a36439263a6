//! Signals: lossy messages of which only the newest per sender, type and key matters.

mod board;

use std::future::IntoFuture;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt};
use lanecast_protocol::session::client::Outgoing;
use tokio::sync::oneshot;

pub(crate) use self::board::{Board, Seat};
pub use self::board::{Signal, SignalChange};
use crate::error::{SignalError, SignalErrorKind, SubscribeError, SubscribeErrorKind};
use crate::event::{Body, Content};
use crate::owner::Command;
use crate::publish::ttl_ms;
use crate::room::{Room, SIGNAL_TTL};

/// Bounds of the protocol on what names a signal.
const TYPE_BYTES_MAX: usize = 128;
const KEY_BYTES_MAX: usize = 256;

/// A signal to send: made by [`Room::signal`] and [`Room::clear_signal`], and awaited.
///
/// Awaiting resolves when the client has taken it. Nothing answers a signal: it may be replaced by a newer one of the
/// same type and key, and is not kept over a reconnect for longer than it lives. At most 256 keys wait; beyond them the
/// oldest is dropped.
///
/// # Cancel safety
///
/// A future that was dropped has sent nothing, or all.
#[derive(Clone, Debug)]
#[must_use = "a signal is sent when this is awaited"]
pub struct SendSignal {
    room: Room,
    content: Content,
    ttl: Duration,
    clear: bool,
}

impl SendSignal {
    pub(crate) fn new(room: Room, r#type: String, key: String, body: Option<Body>) -> Self {
        let clear = body.is_none();
        let content = Content { r#type, key, body: body.unwrap_or_default(), ..Content::default() };
        Self { room, content, ttl: SIGNAL_TTL, clear }
    }

    /// How long it lives if nothing newer comes; 10 s unless told otherwise.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// MIME type of the payload.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content.content_type = content_type.into();
        self
    }

    async fn start(self) -> Result<(), SignalError> {
        let invalid = |detail: String| SignalError::local(SignalErrorKind::Invalid, detail);
        let room = self.room.checked_name().map_err(invalid)?;
        let (r#type, key) = (&self.content.r#type, &self.content.key);
        if r#type.is_empty() || r#type.len() > TYPE_BYTES_MAX || key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(invalid("a signal has a type of 1 to 128 bytes and a key of 1 to 256".into()));
        }
        let signal = Outgoing {
            room: room.to_string(),
            kind: (r#type.clone(), key.clone()),
            envelope: self.content.encode(),
            ttl_ms: ttl_ms(self.ttl),
            clear: self.clear,
        };
        let sent = self.room.client.send(Command::Signal(signal)).await;
        sent.map_err(|_| SignalError::local(SignalErrorKind::Closed, ""))
    }
}

impl IntoFuture for SendSignal {
    type Output = Result<(), SignalError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.start().boxed()
    }
}

/// The signals of a room: first those that live, then every change. A reader that is slow sees the newest state of each
/// key, never a backlog. Ends when the room's subscription ended or the client closed.
///
/// Dropping the last one of a room, while nobody is subscribed to its events, unsubscribes.
#[derive(Debug)]
#[must_use = "dropping it ends the interest in the room's signals"]
pub struct Signals {
    seat: Seat,
    seen: u64,
    /// Keeps the client alive.
    _room: Room,
}

impl Signals {
    pub(crate) async fn start(room: &Room) -> Result<Self, SubscribeError> {
        let closed = || SubscribeError::local(SubscribeErrorKind::Closed, "");
        let name = room.checked_name().map_err(|error| SubscribeError::local(SubscribeErrorKind::Invalid, error))?;
        let (reply, answer) = oneshot::channel();
        room.client.send(Command::Signals { room: name, reply }).await.map_err(|()| closed())?;
        let seat = answer.await.map_err(|_| closed())??;
        Ok(Self { seat, seen: 0, _room: room.clone() })
    }

    /// The signals that live now.
    pub fn live(&self) -> Vec<Signal> {
        self.seat.board.live()
    }

    /// The next change; `None`: over. As [`Stream`], for those without its extension trait.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<SignalChange> {
        StreamExt::next(self).await
    }
}

impl Stream for Signals {
    type Item = SignalChange;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.seat.board.poll_after(cx, self.seen, self.seat.began));
        Poll::Ready(next.map(|(version, change)| {
            self.seen = version;
            change
        }))
    }
}
