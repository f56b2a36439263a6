//! The outbox: durable publishes that are not settled, in memory or in a file.

mod file;
mod record;
mod writer;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

pub use self::file::OutboxSync;
pub(crate) use self::file::{Contents, OutboxFile, new_instance};
pub(crate) use self::record::Item;
pub(crate) use self::writer::{Report, Writer};
use crate::Lane;
use crate::error::PublishError;
use crate::event::{Body, Content};
use crate::publish::Published;

/// The outbox of a client: a view of the durable publishes that are not settled. From [`Client::outbox`].
///
/// [`Client::outbox`]: crate::Client::outbox
#[derive(Clone, Debug)]
pub struct Outbox {
    has_file: bool,
    pending: watch::Receiver<usize>,
    restored: usize,
    outcomes: Arc<Mutex<Option<mpsc::UnboundedReceiver<Outcome>>>>,
}

impl Outbox {
    pub(crate) fn new(
        has_file: bool,
        pending: watch::Receiver<usize>,
        restored: usize,
        outcomes: mpsc::UnboundedReceiver<Outcome>,
    ) -> Self {
        Self { has_file, pending, restored, outcomes: Arc::new(Mutex::new(Some(outcomes))) }
    }

    /// Whether it is in a file, and outlives the process.
    pub fn has_file(&self) -> bool {
        self.has_file
    }

    /// How many durable publishes are not settled, as it changes: those that wait in a file from before included.
    pub fn pending(&self) -> watch::Receiver<usize> {
        self.pending.clone()
    }

    /// How many publishes of an earlier run were in the file.
    pub fn restored(&self) -> usize {
        self.restored
    }

    /// How the publishes of an earlier run end, which no [`Receipt`](crate::Receipt) waits for. Each comes once; the stream
    /// ends after the last, or with the client. It goes to one reader: `None` if it was taken before.
    ///
    /// What nobody reads waits here, at most [`Self::restored`] items.
    pub fn outcomes(&self) -> Option<Outcomes> {
        self.outcomes.lock().take().map(|outcomes| Outcomes { outcomes })
    }
}

/// How a publish of an earlier run ended.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
pub struct Outcome {
    /// The room.
    pub room: String,
    /// The lane.
    #[cfg_attr(feature = "json", serde(serialize_with = "crate::json::text"))]
    pub lane: Lane,
    /// The event's type.
    pub r#type: String,
    /// The event's key.
    pub key: String,
    /// The payload.
    pub body: Body,
    /// Where it is stored, or why it is not: as a [`Receipt`](crate::Receipt) would have said.
    #[cfg_attr(feature = "json", serde(flatten, serialize_with = "crate::json::stored_or_failed"))]
    pub result: Result<Published, PublishError>,
}

impl Outcome {
    pub(crate) fn new(room: &str, lane: Lane, content: Content, result: Result<Published, PublishError>) -> Self {
        let Content { r#type, key, body, .. } = content;
        Self { room: room.to_owned(), lane, r#type, key, body, result }
    }
}

/// A stream of [`Outcome`]s, from [`Outbox::outcomes`].
#[derive(Debug)]
pub struct Outcomes {
    outcomes: mpsc::UnboundedReceiver<Outcome>,
}

impl Outcomes {
    /// The next outcome; `None`: there are no more. As [`Stream`], for those without its extension trait.
    ///
    /// # Cancel safety
    ///
    /// Cancelling never loses an outcome.
    pub async fn next(&mut self) -> Option<Outcome> {
        self.outcomes.recv().await
    }
}

impl Stream for Outcomes {
    type Item = Outcome;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Outcome>> {
        self.outcomes.poll_recv(cx)
    }
}
