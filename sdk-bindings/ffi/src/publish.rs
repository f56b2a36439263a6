//! Publishing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::cancel::Cancellation;
use crate::error::FfiError;
use crate::event::{Body, Lane};
use crate::live::Counted;
use crate::run;

/// An event to publish.
#[derive(Clone, Debug, uniffi::Record)]
pub struct Publication {
    /// Chosen by the application; those that begin with `$` are the system's own.
    pub r#type: String,
    /// The payload.
    pub body: Body,
    /// The lane: urgent overtakes normal, normal overtakes bulk.
    pub lane: Lane,
    /// What counts as delivered.
    pub delivery: Delivery,
    /// A key of the application's choice, at most 256 bytes; empty: none.
    pub key: String,
    /// Headers, at most 32.
    pub headers: HashMap<String, String>,
    /// MIME type of the payload; empty: text/plain for text, application/octet-stream for bytes.
    pub content_type: String,
    /// Not to be delivered later than this after the node took it, ms; nor kept in the outbox for longer.
    pub ttl_ms: Option<u64>,
    /// How long it may wait for its node in the outbox, ms, instead of what the client says.
    pub outbox_ttl_ms: Option<u64>,
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Delivery {
    /// Not stored: reaches who is subscribed now, and is sent now or not at all.
    Transient,
    /// Stored in the room's log.
    Stored,
    /// Stored, and counts as such only when a replica of the log has it too.
    Replicated,
}

impl Publication {
    pub(crate) fn publish(self, room: &lanecast::Room) -> lanecast::Publish {
        let mut publish =
            room.publish(self.r#type, self.body).lane(self.lane.into()).key(self.key).content_type(self.content_type);
        for (name, value) in self.headers {
            publish = publish.header(name, value);
        }
        if let Some(ttl_ms) = self.ttl_ms {
            publish = publish.ttl(Duration::from_millis(ttl_ms));
        }
        if let Some(ttl_ms) = self.outbox_ttl_ms {
            publish = publish.outbox_ttl(Duration::from_millis(ttl_ms));
        }
        match self.delivery {
            Delivery::Transient => publish.transient(),
            Delivery::Stored => publish,
            Delivery::Replicated => publish.replicated(),
        }
    }
}

/// Where a published event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Published {
    /// The life of the room's log in which the numbers count; 0: transient.
    pub epoch: u64,
    /// The lane in which it travels.
    pub lane: Lane,
    /// Number within room and lane; 0: transient, or a duplicate whose numbers the log no longer knows.
    pub seq: u64,
    /// Number within the room across lanes; 0 as above.
    pub order: u64,
    /// It was stored before, by a sending whose answer was lost.
    pub duplicate: bool,
}

impl From<lanecast::Published> for Published {
    fn from(published: lanecast::Published) -> Self {
        let lanecast::Published { epoch, lane, seq, order, duplicate } = published;
        Self { epoch, lane: lane.into(), seq, order, duplicate }
    }
}

/// The answer to a publish, to come. Dropping it takes nothing back.
#[derive(uniffi::Object)]
pub struct Receipt {
    answer: Arc<Mutex<Answer>>,
    _counted: Counted,
}

/// Kept, so that a call that was cancelled takes no answer along.
enum Answer {
    Open(lanecast::Receipt),
    Settled(Result<Published, FfiError>),
}

impl Receipt {
    pub(crate) fn new(receipt: lanecast::Receipt) -> Arc<Self> {
        let answer = Arc::new(Mutex::new(Answer::Open(receipt)));
        Arc::new(Self { answer, _counted: Counted::object() })
    }
}

#[uniffi::export]
impl Receipt {
    /// Waits until the node has stored the event; of a transient one: passed it on. May be called again, with the same result.
    ///
    /// # Errors
    ///
    /// Of kind `OutboxFull`, `NotConnected`, `TooMany`, `Refused`, `GivenUp`, `Closed` or `Cancelled`.
    pub async fn stored(&self, cancellation: Option<Arc<Cancellation>>) -> Result<Published, FfiError> {
        let answer = self.answer.clone();
        run::call(cancellation, async move { answer.lock().await.settled().await }).await
    }
}

impl Answer {
    async fn settled(&mut self) -> Result<Published, FfiError> {
        match self {
            Self::Settled(result) => result.clone(),
            Self::Open(receipt) => {
                let result = receipt.await.map(Into::into).map_err(Into::into);
                *self = Self::Settled(result.clone());
                result
            }
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").finish_non_exhaustive()
    }
}
