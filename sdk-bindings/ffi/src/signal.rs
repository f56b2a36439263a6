//! Signals.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::cancel::Cancellation;
use crate::error::FfiError;
use crate::event::{Body, Sender, unix_ms};
use crate::live::Counted;
use crate::pull::{Pull, Source, gather};
use crate::run;

/// A signal to send.
#[derive(Clone, Debug, uniffi::Record)]
pub struct SignalToSend {
    /// Its type, 1 to 128 bytes.
    pub r#type: String,
    /// Its key, 1 to 256 bytes: with sender and type, what the newest one replaces.
    pub key: String,
    /// The payload.
    pub body: Body,
    /// MIME type of the payload; empty: text/plain for text, application/octet-stream for bytes.
    pub content_type: String,
    /// How long it lives if nothing newer comes, ms; `None`: 10 s.
    pub ttl_ms: Option<u64>,
}

impl SignalToSend {
    pub(crate) fn send(self, room: &lanecast::Room) -> lanecast::SendSignal {
        let signal = room.signal(self.r#type, self.key, self.body).content_type(self.content_type);
        match self.ttl_ms {
            Some(ttl_ms) => signal.ttl(Duration::from_millis(ttl_ms)),
            None => signal,
        }
    }
}

/// A signal that lives.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Signal {
    /// Who sent it.
    pub from: Sender,
    /// Its type.
    pub r#type: String,
    /// Its key.
    pub key: String,
    /// MIME type of the payload.
    pub content_type: String,
    /// The payload.
    pub body: Body,
    /// When it dies, by the node's clock, ms since 1970.
    pub expires_at_ms: u64,
}

impl From<&lanecast::Signal> for Signal {
    fn from(signal: &lanecast::Signal) -> Self {
        Self {
            from: (&signal.from).into(),
            r#type: signal.r#type.clone(),
            key: signal.key.clone(),
            content_type: signal.content_type.clone(),
            body: (&signal.body).into(),
            expires_at_ms: unix_ms(signal.expires_at),
        }
    }
}

/// A change of a room's signals.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum SignalChange {
    /// A signal is new, or has a new value.
    Live {
        /// The signal.
        signal: Signal,
    },
    /// A signal is gone.
    Gone {
        /// Who sent it.
        from: Sender,
        /// Its type.
        r#type: String,
        /// Its key.
        key: String,
        /// True: its time ran out. False: its sender took it back.
        expired: bool,
    },
}

impl From<&lanecast::SignalChange> for SignalChange {
    fn from(change: &lanecast::SignalChange) -> Self {
        match change {
            lanecast::SignalChange::Live(signal) => Self::Live { signal: signal.into() },
            lanecast::SignalChange::Gone { from, r#type, key, expired } => {
                Self::Gone { from: from.into(), r#type: r#type.clone(), key: key.clone(), expired: *expired }
            }
        }
    }
}

/// What changed of a room's signals.
#[derive(Clone, Debug, uniffi::Record)]
pub struct SignalBatch {
    /// What to ask after for the next one.
    pub number: u64,
    /// The changes. Empty: over.
    pub changes: Vec<SignalChange>,
}

/// The signals of a room: first those that live, then every change. A reader that is slow sees the newest state of each key,
/// never a backlog. Giving the last handle of it back ends the interest.
#[derive(uniffi::Object)]
pub struct Signals {
    pull: Arc<Pull<Reader>>,
    _counted: Counted,
}

struct Reader(lanecast::Signals);

impl Source for Reader {
    type Item = lanecast::SignalChange;
    type Place = ();

    fn poll_batch(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Vec<Self::Item>> {
        gather(max, || pin!(self.0.next()).poll(cx))
    }
}

impl Signals {
    pub(crate) fn new(signals: lanecast::Signals) -> Arc<Self> {
        Arc::new(Self { pull: Arc::new(Pull::new(Reader(signals))), _counted: Counted::object() })
    }
}

#[uniffi::export]
impl Signals {
    /// The changes after that batch, 0 for the first: at least one and at most `max`, or 4,096. A call that was cancelled
    /// takes nothing along: the same call gives the same batch. Calls wait for each other.
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
    ) -> Result<SignalBatch, FfiError> {
        let pull = self.pull.clone();
        run::call(cancellation, async move {
            let (number, batch) = pull.next(after_batch, max).await?;
            Ok(SignalBatch { number, changes: batch.items.iter().map(Into::into).collect() })
        })
        .await
    }

    /// The signals that live now; none once it was cancelled.
    pub fn live(&self) -> Vec<Signal> {
        self.pull.with(|reader| reader.0.live().iter().map(Into::into).collect()).unwrap_or_default()
    }

    /// Ends the interest. Who waits for a batch gets an empty one.
    pub fn cancel(&self) {
        self.pull.end();
    }
}

/// A call that was given up may still hold the source for a moment. What it was for is over all the same.
impl Drop for Signals {
    fn drop(&mut self) {
        self.pull.end();
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}
