//! Subscribing to a room, and reading it.

use std::collections::VecDeque;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use lanecast_protocol::inbox::Placed;
use lanecast_protocol::session::client::SubscribeOptions;
use lanecast_protocol::v1;
use lanecast_protocol::v1::start::At;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

use crate::codec::Codec;
use crate::error::{SubscribeError, SubscribeErrorKind};
use crate::event::{self, Event, Gap};
use crate::feed::Feed;
use crate::owner::Command;
use crate::positions::Bookmark;
use crate::room::Room;
use crate::state::RoomState;
use crate::typed::TypedSubscription;
use crate::{Position, client};

/// How to subscribe to a room: made by [`Room::subscribe`], and awaited.
///
/// Without a start it begins where the client's file of positions says ([`Builder::positions_file`]), or else live, with
/// what is published from now on. After a reconnect it always goes on where it was.
///
/// [`Builder::positions_file`]: crate::Builder::positions_file
///
/// # Cancel safety
///
/// A future that was dropped leaves no subscription behind.
#[derive(Clone, Debug)]
#[must_use = "a subscription begins when this is awaited"]
pub struct Subscribe {
    room: Room,
    options: SubscribeOptions,
}

impl Subscribe {
    pub(crate) fn new(room: Room) -> Self {
        Self { room, options: SubscribeOptions::default() }
    }

    fn at(mut self, at: At) -> Self {
        self.options.start = Some(at);
        self
    }

    /// Begins with the oldest event that the log still has.
    pub fn from_beginning(self) -> Self {
        self.at(At::Beginning(v1::StartBeginning {}))
    }

    /// Begins with what is published from now on.
    pub fn from_live(self) -> Self {
        self.at(At::Live(v1::StartLive {}))
    }

    /// Goes on after a position, for example [`Subscription::position`] of an earlier run.
    pub fn from_position(self, position: Position) -> Self {
        self.at(At::Position(position.into()))
    }

    /// Begins so many durable events back, counted across lanes.
    pub fn from_count(self, events: u32) -> Self {
        self.at(At::Count(events))
    }

    /// Begins with what was published in this time before now.
    pub fn from_duration(self, back: Duration) -> Self {
        self.at(At::DurationMs(millis(back)))
    }

    /// Also gets the room's signals: see [`Room::signals`], which asks for them by itself.
    pub fn with_signals(mut self) -> Self {
        self.options.signals = true;
        self
    }

    async fn start(self) -> Result<Subscription, SubscribeError> {
        let Self { room, mut options } = self;
        let closed = || SubscribeError::local(SubscribeErrorKind::Closed, "");
        let name = room.checked_name().map_err(|error| SubscribeError::local(SubscribeErrorKind::Invalid, error))?;
        let (feed, state) = (Feed::new(room.client.wake()), watch::Sender::new(RoomState::Subscribing));
        let bookmark = room.client.positions().map(|positions| positions.bookmark(name.clone()));
        if options.start.is_none() {
            let known = bookmark.as_ref().and_then(Bookmark::position);
            options.start = known.map(|position| At::Position(position.into()));
        }
        // Made first: should this future be dropped, its own drop ends the subscription.
        let subscription = Subscription {
            state: state.subscribe(),
            feed: feed.clone(),
            ready: VecDeque::new(),
            handed: None,
            position: None,
            bookmark,
            room,
        };
        let (reply, answer) = oneshot::channel();
        let command = Command::Subscribe { room: name, options, feed, state, reply };
        subscription.room.client.send(command).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())??;
        Ok(subscription)
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    // The protocol's numbers are below 2^53, and 2^53 ms are 285,000 years.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(lanecast_protocol::position::NUMBER_LIMIT - 1)
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    /// Resolves once the client has taken the subscription on, also without a connection. What the node says to it is
    /// told by [`Subscription::ready`] and [`Subscription::state`].
    fn into_future(self) -> Self::IntoFuture {
        self.start().boxed()
    }
}

/// A subscription of a room: a stream of events, and of gaps in the place of events that will not come.
///
/// Items come urgent before normal before bulk, and in the order of their seqs within a lane. Two ways to read: as a
/// [`Stream`], item by item, or with [`Self::next_batch`]. In both, *asking again says that what was handed out before
/// is handled*: then [`Self::position`] moves over it. The stream ends when the subscription is over:
/// [`Self::state`] says why.
///
/// An application that does not read costs a bounded amount of memory: behind 1,024 items or 1 MiB the client leaves
/// the room and resumes from the log once half of that was taken.
///
/// Dropping it unsubscribes.
#[derive(Debug)]
#[must_use = "dropping a subscription unsubscribes"]
pub struct Subscription {
    room: Room,
    feed: Arc<Feed>,
    state: watch::Receiver<RoomState>,
    /// Taken from the feed and not handed out yet.
    ready: VecDeque<Placed>,
    /// The position after what was handed out last and is not yet said to be handled.
    handed: Option<Position>,
    /// The position after what is handled.
    position: Option<Position>,
    /// Keeps it over the end of the process.
    bookmark: Option<Bookmark>,
}

impl Subscription {
    /// The room.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// The next items, at least one and at most `max`; an empty batch says that the subscription is over. Asking says
    /// that the batch before is handled.
    ///
    /// # Cancel safety
    ///
    /// Cancelling never loses an event: items leave the queue only in the moment in which this resolves.
    ///
    /// # Panics
    ///
    /// If `max` is 0: an empty batch has a meaning of its own.
    pub async fn next_batch(&mut self, max: usize) -> Vec<Result<Event, Gap>> {
        assert!(max > 0, "a batch holds at least one item");
        poll_fn(|cx| self.poll_batch(cx, max)).await
    }

    fn poll_batch(&mut self, cx: &Context<'_>, max: usize) -> Poll<Vec<Result<Event, Gap>>> {
        self.acknowledge();
        if let Some(bookmark) = &self.bookmark {
            ready!(bookmark.poll_written(cx));
        }
        if self.ready.is_empty() {
            match self.feed.poll_take(cx) {
                Poll::Ready(Some(items)) => self.ready = items,
                Poll::Ready(None) => return Poll::Ready(Vec::new()),
                Poll::Pending => return Poll::Pending,
            }
        }
        let count = self.ready.len().min(max);
        let name = self.room.name();
        let mut handed = None;
        let batch = (self.ready.drain(..count))
            .map(|Placed { item, after }| {
                handed = Some(after);
                event::item(name, item)
            })
            .collect();
        self.handed = handed;
        Poll::Ready(batch)
    }

    /// Says that everything handed out is handled, without asking for more. A file of positions has it a moment later:
    /// before the next batch is handed out, and before [`Client::entered_background`] or [`Client::close`] resolves.
    ///
    /// [`Client::entered_background`]: crate::Client::entered_background
    /// [`Client::close`]: crate::Client::close
    pub fn acknowledge(&mut self) {
        if let Some(handed) = self.handed.take() {
            self.position = Some(handed);
            if let Some(bookmark) = &self.bookmark {
                bookmark.store(handed);
            }
        }
    }

    /// Where to go on after a restart: behind everything that is handled. Its text form (`to_string`, `parse`) is made
    /// to be stored. `None` before the node has answered for the first time.
    pub fn position(&self) -> Option<Position> {
        self.position.or_else(|| self.feed.start())
    }

    /// What [`Self::position`] will be once everything that was handed out is handled: for an application that stores
    /// it together with what it makes of a batch, before it says that the batch is handled.
    pub fn position_after(&self) -> Option<Position> {
        self.handed.or_else(|| self.position())
    }

    /// The subscription's state, as it changes.
    pub fn state(&self) -> watch::Receiver<RoomState> {
        self.state.clone()
    }

    /// Waits until the node has answered, and a file of positions has where the subscription begins. The future does not keep
    /// the subscription.
    ///
    /// # Cancel safety
    ///
    /// Cancelling changes nothing.
    ///
    /// # Errors
    ///
    /// With kind `Refused` and the node's code if it refused or ended the subscription, `Closed` if the client ended.
    pub fn ready(&self) -> impl Future<Output = Result<(), SubscribeError>> + Send + use<> {
        let (state, written) = (self.state.clone(), self.bookmark.as_ref().map(Bookmark::written));
        async move {
            answered(state).await?;
            if let Some(written) = written {
                written.await;
            }
            Ok(())
        }
    }

    /// Reads the payloads with a codec.
    pub fn typed<C: Codec>(self, codec: C) -> TypedSubscription<C> {
        TypedSubscription::new(self, Arc::new(codec))
    }
}

async fn answered(mut state: watch::Receiver<RoomState>) -> Result<(), SubscribeError> {
    let over = |state: &RoomState| matches!(state, RoomState::Ended(_));
    let closed = || SubscribeError::local(SubscribeErrorKind::Closed, "");
    let state = state.wait_for(|state| state.is_subscribed() || over(state)).await.map_err(|_| closed())?;
    match &*state {
        RoomState::Ended(Some(cause)) => {
            Err(SubscribeError::refused(SubscribeErrorKind::Refused, cause.code.unwrap_or(0), cause.detail.clone()))
        }
        RoomState::Ended(None) => Err(closed()),
        _ => Ok(()),
    }
}

impl Stream for Subscription {
    type Item = Result<Event, Gap>;

    /// The next event or gap; asking says that the one before is handled.
    ///
    /// # Cancel safety
    ///
    /// Cancelling `next()` never loses an event.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.poll_batch(cx, 1).map(|batch| batch.into_iter().next())
    }
}

impl Subscription {
    /// The next event or gap; `None`: the subscription is over. As [`Stream`], for those without its extension trait.
    ///
    /// # Cancel safety
    ///
    /// Cancelling never loses an event.
    pub async fn next(&mut self) -> Option<Result<Event, Gap>> {
        StreamExt::next(self).await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.feed.abandon();
    }
}

const _: fn() = || {
    fn sendable<T: Send + Sync + Unpin>() {}
    sendable::<Subscription>();
    sendable::<client::Client>();
};
