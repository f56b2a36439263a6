//! A room.

use std::sync::Arc;

use crate::cancel::Cancellation;
use crate::error::FfiError;
use crate::history::{HistoryRequest, Page};
use crate::live::Counted;
use crate::publish::{Publication, Receipt};
use crate::run;
use crate::signal::{SignalToSend, Signals};
use crate::subscription::{SubscribeOptions, Subscription};

/// How much a room matters to the user now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Focus {
    /// The user looks at it.
    Foreground,
    /// As the lane says.
    Default,
    /// The user does not look.
    Background,
}

impl From<Focus> for lanecast::Focus {
    fn from(focus: Focus) -> Self {
        match focus {
            Focus::Foreground => Self::Foreground,
            Focus::Default => Self::Default,
            Focus::Background => Self::Background,
        }
    }
}

/// A room of a client. Making one does nothing.
#[derive(Debug, uniffi::Object)]
pub struct Room {
    room: lanecast::Room,
    _counted: Counted,
}

impl Room {
    pub(crate) fn new(room: lanecast::Room) -> Arc<Self> {
        Arc::new(Self { room, _counted: Counted::object() })
    }
}

#[uniffi::export]
impl Room {
    /// The name.
    pub fn name(&self) -> String {
        self.room.name().to_owned()
    }

    /// Subscribes. Resolves once the client has taken the subscription on, also without a connection. A client has one
    /// subscription of a room at a time.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid`, `AlreadySubscribed`, `TooManyRooms`, `Closed` or `Cancelled`.
    pub async fn subscribe(
        &self,
        options: SubscribeOptions,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Arc<Subscription>, FfiError> {
        let room = self.room.clone();
        run::call(cancellation, async move { Subscription::begin(&room, options).await }).await
    }

    /// Publishes. Resolves when the event is **queued**: in the outbox file, if there is one; it is sent even if the
    /// receipt is dropped. [`Receipt::stored`] waits for the node.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid`, `Closed` or `Cancelled`; with an outbox file also `OutboxFull` and `NotKept`.
    pub async fn publish(
        &self,
        publication: Publication,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Arc<Receipt>, FfiError> {
        let publish = publication.publish(&self.room);
        run::call(cancellation, async move { Ok(Receipt::new(publish.send().await?)) }).await
    }

    /// Sends a signal, a lossy message of which only the newest of its type and key matters. Resolves when the client has
    /// taken it.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid` or `Closed`.
    pub async fn signal(&self, signal: SignalToSend) -> Result<(), FfiError> {
        let sent = signal.send(&self.room);
        run::call(None, async move { Ok(sent.await?) }).await
    }

    /// Takes a signal back.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid` or `Closed`.
    pub async fn clear_signal(&self, r#type: String, key: String) -> Result<(), FfiError> {
        let sent = self.room.clear_signal(r#type, key);
        run::call(None, async move { Ok(sent.await?) }).await
    }

    /// The room's signals. Subscribes to the room if nobody has.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid`, `TooManyRooms`, `Closed` or `Cancelled`.
    pub async fn signals(&self, cancellation: Option<Arc<Cancellation>>) -> Result<Arc<Signals>, FfiError> {
        let room = self.room.clone();
        run::call(cancellation, async move { Ok(Signals::new(room.signals().await?)) }).await
    }

    /// Raises or lowers the room among the others of this client, for as long as it is subscribed.
    ///
    /// # Errors
    ///
    /// Of kind `Internal` only.
    pub async fn focus(&self, focus: Focus) -> Result<(), FfiError> {
        let room = self.room.clone();
        run::tell(async move { room.focus(focus.into()).await }).await
    }

    /// A page of the room's past. Without a connection it waits for one. A call that was cancelled changes nothing: the same
    /// request gets the same page.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid`, `TooMany`, `Refused`, `Closed` or `Cancelled`.
    pub async fn history_page(
        &self,
        request: HistoryRequest,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Page, FfiError> {
        let room = self.room.clone();
        run::call(cancellation, async move { request.page(&room).await }).await
    }
}
