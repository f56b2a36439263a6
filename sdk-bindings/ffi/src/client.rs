//! A client.

use std::sync::Arc;

use crate::cancel::Cancellation;
use crate::error::FfiError;
use crate::event::unix_ms;
use crate::live::Counted;
use crate::outbox::Outcomes;
use crate::room::Room;
use crate::run;
use crate::state::{ClientState, changed};
use crate::token::TokenRequests;

/// A client: one connection at a time to a node, kept up until [`Self::shutdown`].
#[derive(Debug, uniffi::Object)]
pub struct Client {
    client: lanecast::Client,
    tokens: Option<Arc<TokenRequests>>,
    _counted: Counted,
}

impl Client {
    pub(crate) fn new(client: lanecast::Client, tokens: Option<Arc<TokenRequests>>) -> Arc<Self> {
        Arc::new(Self { client, tokens, _counted: Counted::object() })
    }
}

#[uniffi::export]
impl Client {
    /// The client's requests for tokens; `None`: it was made with a fixed one. They do not keep the client alive.
    pub fn token_requests(&self) -> Option<Arc<TokenRequests>> {
        self.tokens.clone()
    }

    /// A room by its name. A name that is none is an error of the first operation.
    pub fn room(&self, name: String) -> Arc<Room> {
        Room::new(self.client.room(name))
    }

    /// How the client stands.
    pub fn state(&self) -> ClientState {
        (&*self.client.state().borrow()).into()
    }

    /// How the client stands, once that is not `after`; `None`: it will not change any more. Short-lived states may be
    /// skipped, the last one never.
    ///
    /// # Errors
    ///
    /// Of kind `Cancelled`.
    pub async fn next_state(
        &self,
        after: Option<ClientState>,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Option<ClientState>, FfiError> {
        let state = self.client.state();
        run::call(cancellation, async move { Ok(changed(state, after, |state| ClientState::from(state)).await) }).await
    }

    /// Waits until there is a connection.
    ///
    /// # Errors
    ///
    /// Of kind `Closed`, with the node's code, if the client is over; `Cancelled`.
    pub async fn connected(&self, cancellation: Option<Arc<Cancellation>>) -> Result<(), FfiError> {
        let client = self.client.clone();
        run::call(cancellation, async move { Ok(client.connected().await?) }).await
    }

    /// Waits until every publish that was handed to the client before is settled: stored, refused or given up.
    ///
    /// # Errors
    ///
    /// Of kind `Closed`, `TooMany` or `Cancelled`.
    pub async fn flush(&self, cancellation: Option<Arc<Cancellation>>) -> Result<(), FfiError> {
        let client = self.client.clone();
        run::call(cancellation, async move { Ok(client.flush().await?) }).await
    }

    /// Says that the network changed: the connection is checked, or made anew, at once.
    ///
    /// # Errors
    ///
    /// Of kind `Internal` only.
    pub async fn network_changed(&self) -> Result<(), FfiError> {
        let client = self.client.clone();
        run::tell(async move { client.network_changed().await }).await
    }

    /// Says that the application is no longer in front of its user, and may soon be frozen or ended. Resolves when everything
    /// that the outbox file and the file of positions hold is on the disk.
    ///
    /// # Errors
    ///
    /// Of kind `Internal` only.
    pub async fn entered_background(&self) -> Result<(), FfiError> {
        let client = self.client.clone();
        run::tell(async move { client.entered_background().await }).await
    }

    /// Says that the application is in front of its user again: the connection is checked, or made anew, at once.
    ///
    /// # Errors
    ///
    /// Of kind `Internal` only.
    pub async fn entered_foreground(&self) -> Result<(), FfiError> {
        let client = self.client.clone();
        run::tell(async move { client.entered_foreground().await }).await
    }

    /// Asks for a new token now and hands it to the node, which goes on with its rights. Nothing happens without a
    /// connection, with a fixed token, or where the node does not serve it.
    ///
    /// # Errors
    ///
    /// Of kind `Internal` only.
    pub async fn refresh_token(&self) -> Result<(), FfiError> {
        let client = self.client.clone();
        run::tell(async move { client.refresh_token().await }).await
    }

    /// The node's clock, as far as it is known, ms since 1970: what to judge `expires_at_ms` by.
    pub fn node_time_ms(&self) -> u64 {
        unix_ms(self.client.node_time())
    }

    /// Whether the outbox is in a file, and outlives the process.
    pub fn outbox_has_file(&self) -> bool {
        self.client.outbox().has_file()
    }

    /// How many durable publishes are not settled.
    pub fn outbox_pending(&self) -> u64 {
        *self.client.outbox().pending().borrow() as u64
    }

    /// How many durable publishes are not settled, once that is not `after`; `None`: it will not change any more.
    ///
    /// # Errors
    ///
    /// Of kind `Cancelled`.
    pub async fn next_outbox_pending(
        &self,
        after: Option<u64>,
        cancellation: Option<Arc<Cancellation>>,
    ) -> Result<Option<u64>, FfiError> {
        let pending = self.client.outbox().pending();
        run::call(cancellation, async move { Ok(changed(pending, after, |pending| *pending as u64).await) }).await
    }

    /// How many publishes of an earlier run were in the outbox file.
    pub fn outbox_restored(&self) -> u64 {
        self.client.outbox().restored() as u64
    }

    /// How the publishes of an earlier run end; `None` if that was asked before.
    pub fn outbox_outcomes(&self) -> Option<Arc<Outcomes>> {
        self.client.outbox().outcomes().map(Outcomes::new)
    }

    /// Closes the client, and waits until its connection is gone and its outbox file unlocked. Publishes that are not settled
    /// end with an error: [`Self::flush`] first. Subscriptions end after what they still hold. The client closes also if the
    /// call is cancelled.
    ///
    /// # Errors
    ///
    /// Of kind `Internal` only.
    pub async fn shutdown(&self) -> Result<(), FfiError> {
        let client = self.client.clone();
        run::tell(async move { client.close().await }).await
    }
}
