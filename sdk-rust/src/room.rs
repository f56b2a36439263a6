//! A room, as something to subscribe and publish to.

use std::sync::Arc;
use std::time::Duration;

use lanecast_protocol::focus::Focus;
use lanecast_protocol::room::RoomName;

use crate::client::Client;
use crate::codec::Codec;
use crate::error::SubscribeError;
use crate::event::Body;
use crate::history::History;
use crate::owner::Command;
use crate::publish::Publish;
use crate::signal::{SendSignal, Signals};
use crate::subscription::Subscribe;
use crate::typed::TypedRoom;

/// A room of a client: a name and a handle, cheap to clone. Making one does nothing; a name that is none is an error of
/// the first operation.
#[derive(Clone, Debug)]
pub struct Room {
    pub(crate) client: Client,
    name: Arc<str>,
}

impl Room {
    pub(crate) fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.into() }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn checked_name(&self) -> Result<Arc<str>, String> {
        RoomName::check(&self.name).map_err(|error| error.to_string())?;
        Ok(self.name.clone())
    }

    /// Subscribes: `room.subscribe().from_beginning().await?`. A client has one subscription of a room at a time.
    pub fn subscribe(&self) -> Subscribe {
        Subscribe::new(self.clone())
    }

    /// Publishes an event: `room.publish("msg", "hello").await?`.
    pub fn publish(&self, r#type: impl Into<String>, body: impl Into<Body>) -> Publish {
        Publish::new(self.clone(), r#type.into(), body.into())
    }

    /// Sends a signal, a lossy message of which only the newest of its type and key matters: typing, a cursor. It is
    /// conflated, paced to the node's limit, and forgotten when its time to live is over.
    pub fn signal(&self, r#type: impl Into<String>, key: impl Into<String>, body: impl Into<Body>) -> SendSignal {
        SendSignal::new(self.clone(), r#type.into(), key.into(), Some(body.into()))
    }

    /// Takes a signal back: typing stopped.
    pub fn clear_signal(&self, r#type: impl Into<String>, key: impl Into<String>) -> SendSignal {
        SendSignal::new(self.clone(), r#type.into(), key.into(), None)
    }

    /// The room's signals: those that live now, then every change. Subscribes to the room if nobody has; the events of
    /// such a subscription are thrown away.
    ///
    /// # Cancel safety
    ///
    /// A future that was dropped leaves nothing behind.
    ///
    /// # Errors
    ///
    /// Of kind `Invalid`, `TooManyRooms` or `Closed`.
    pub async fn signals(&self) -> Result<Signals, SubscribeError> {
        Signals::start(self).await
    }

    /// Raises or lowers the room among the others of this client, for as long as it is subscribed: what waits of it at the
    /// node comes before, or after, that of the same lane in other rooms. An application raises the room that its user
    /// looks at. Kept over reconnects; nothing happens in a room that is not subscribed, or at a node that does not serve it.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, nothing was said.
    pub async fn focus(&self, focus: Focus) {
        // A closed client has no rooms.
        let _ = self.client.send(Command::Focus { room: self.name.clone(), focus }).await;
    }

    /// Reads the past of the room.
    pub fn history(&self) -> History {
        History::new(self.clone())
    }

    /// The room with payloads of one Rust type.
    pub fn typed<C: Codec>(&self, codec: C) -> TypedRoom<C> {
        TypedRoom::new(self.clone(), codec)
    }
}

/// How long a signal lives unless it says otherwise: the default of the node's policy for typing.
pub(crate) const SIGNAL_TTL: Duration = Duration::from_secs(10);
