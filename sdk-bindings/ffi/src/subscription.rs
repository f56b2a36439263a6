//! Reading a room.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cancel::Cancellation;
use crate::error::{ErrorKind, FfiError};
use crate::event::Item;
use crate::live::Counted;
use crate::pull::{Pull, Source};
use crate::run;
use crate::state::{RoomState, changed};

/// How to subscribe.
#[derive(Clone, Debug, uniffi::Record)]
pub struct SubscribeOptions {
    /// Where to begin; `None`: where the file of positions says, else live.
    pub start: Option<Start>,
    /// Also gets the room's signals: see [`Room::signals`](crate::Room::signals), which asks for them by itself.
    pub signals: bool,
}

/// Where a subscription begins. After a reconnect it always goes on where it was.
#[derive(Clone, Debug, uniffi::Enum)]
pub enum Start {
    /// With what is published from now on.
    Live,
    /// With the oldest event that the log still has.
    Beginning,
    /// After a position: [`Subscription::position`] of an earlier run.
    Position {
        /// Its text form.
        position: String,
    },
    /// So many durable events back, counted across lanes.
    Count {
        /// How many.
        events: u32,
    },
    /// With what was published in this time before now.
    Duration {
        /// Milliseconds.
        back_ms: u64,
    },
}

impl Start {
    fn begin(self, subscribe: lanecast::Subscribe) -> Result<lanecast::Subscribe, FfiError> {
        Ok(match self {
            Self::Live => subscribe.from_live(),
            Self::Beginning => subscribe.from_beginning(),
            Self::Position { position } => {
                let parsed = position.parse().map_err(|error| FfiError::local(ErrorKind::Invalid, error))?;
                subscribe.from_position(parsed)
            }
            Self::Count { events } => subscribe.from_count(events),
            Self::Duration { back_ms } => subscribe.from_duration(Duration::from_millis(back_ms)),
        })
    }
}

/// What came of a room.
#[derive(Clone, Debug, uniffi::Record)]
pub struct Batch {
    /// What to ask after for the next one, and what to acknowledge.
    pub number: u64,
    /// Events and gaps, urgent before normal before bulk. Empty: the subscription is over.
    pub items: Vec<Item>,
    /// What [`Subscription::position`] is once this batch was handled, as text: to be stored together with what the
    /// application makes of the batch. `None` if it is not known, because the subscription was over before it began.
    pub position: Option<String>,
}

/// A subscription of a room. Giving the last handle of it back unsubscribes.
#[derive(uniffi::Object)]
pub struct Subscription {
    pull: Arc<Pull<Reader>>,
    state: watch::Receiver<lanecast::RoomState>,
    /// The last position of a subscription that was cancelled.
    left: Mutex<Option<lanecast::Position>>,
    _counted: Counted,
}

struct Reader(lanecast::Subscription);

impl Source for Reader {
    type Item = Result<lanecast::Event, lanecast::Gap>;
    type Place = Option<lanecast::Position>;

    fn poll_batch(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Vec<Self::Item>> {
        // Made anew for each poll: nothing leaves the subscription but when it resolves.
        pin!(self.0.next_batch(max)).poll(cx)
    }

    fn place(&self) -> Self::Place {
        self.0.position_after()
    }

    fn acknowledge(&mut self) {
        self.0.acknowledge();
    }
}

impl Subscription {
    pub(crate) async fn begin(room: &lanecast::Room, options: SubscribeOptions) -> Result<Arc<Self>, FfiError> {
        let mut subscribe = room.subscribe();
        if let Some(start) = options.start {
            subscribe = start.begin(subscribe)?;
        }
        if options.signals {
            subscribe = subscribe.with_signals();
        }
        let subscription = subscribe.await?;
        Ok(Arc::new(Self {
            state: subscription.state(),
            pull: Arc::new(Pull::new(Reader(subscription))),
            left: Mutex::new(None),
            _counted: Counted::object(),
        }))
    }
}

#[uniffi::export]
impl Subscription {
    /// The batch after that number, 0 for the first: at least one item and at most `max`, or 4,096. Asking for it says that
    /// the batch of that number was handled. A call that was cancelled takes nothing along: the same call gives the same
    /// batch. Calls wait for each other.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid` if `max` is 0 or `after_batch` is neither the number of the last batch nor of the one before;
    /// `Cancelled`.
    pub async fn next_batch(
        &self,
        after_batch: u64,
        max: u32,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Batch, FfiError> {
        let pull = self.pull.clone();
        run::call(cancellation, async move {
            let (number, batch) = pull.next(after_batch, max).await?;
            let items = batch.items.iter().map(Into::into).collect();
            Ok(Batch { number, items, position: batch.place.map(|position| position.to_string()) })
        })
        .await
    }

    /// Says that the batch of that number was handled, without asking for more. Another number than the last batch's does
    /// nothing.
    pub fn acknowledge(&self, batch: u64) {
        self.pull.acknowledge(batch);
    }

    /// Where to go on after a restart, as text: behind everything that was handled. `None` before the node has answered for
    /// the first time.
    pub fn position(&self) -> Option<String> {
        let position = self.pull.with(|reader| reader.0.position()).unwrap_or_else(|| *self.left.lock());
        position.map(|position| position.to_string())
    }

    /// Waits until the node has answered.
    ///
    /// # Errors
    ///
    /// Of kind `Refused`, with the node's code, if it refused or ended the subscription; `Closed` or `Cancelled`.
    pub async fn ready(&self, cancellation: Option<Arc<Cancellation>>) -> Result<(), FfiError> {
        let ready = self.pull.with(|reader| reader.0.ready()).ok_or_else(FfiError::closed)?;
        run::call(cancellation, async move { Ok(ready.await?) }).await
    }

    /// How the subscription stands.
    pub fn state(&self) -> RoomState {
        (&*self.state.borrow()).into()
    }

    /// How the subscription stands, once that is not `after`; `None`: it will not change any more. Short-lived states may be
    /// skipped.
    ///
    /// # Errors
    ///
    /// Of kind `Cancelled`.
    pub async fn next_state(
        &self,
        after: Option<RoomState>,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Option<RoomState>, FfiError> {
        let state = self.state.clone();
        run::call(cancellation, async move { Ok(changed(state, after, |state| RoomState::from(state)).await) }).await
    }

    /// Unsubscribes. Who waits for a batch gets an empty one; what was not acknowledged does not count as handled.
    pub fn cancel(&self) {
        let position = self.pull.with(|reader| reader.0.position()).flatten();
        let mut left = self.left.lock();
        *left = left.or(position);
        drop(left);
        self.pull.end();
    }
}

/// A call that was given up may still hold the source for a moment. What it was for is over all the same.
impl Drop for Subscription {
    fn drop(&mut self) {
        self.pull.end();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}
