//! The handle of a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use lanecast_protocol::session::client::Options;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::builder::Builder;
use crate::error::{ConnectError, ConnectErrorKind, FlushError, FlushErrorKind};
use crate::outbox::{Contents, Outbox, Writer};
use crate::owner::{Command, Owner, Seams};
use crate::positions::Positions;
use crate::room::Room;
use crate::state::ClientState;
use crate::token::TokenSource;
use crate::transport::{Dialer, Target};

/// Commands on their way to the owner task; beyond them the callers wait.
const COMMANDS_MAX: usize = 256;

/// A client: one connection at a time to a node, kept up until the client is closed.
///
/// Cheap to clone; all clones, rooms, subscriptions and receipts are handles of one task that owns the connection. It
/// ends with [`Self::close`], when its last handle is dropped, or when a node says that it must not come back.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// To the owner task, which ends when this is dropped.
    commands: mpsc::Sender<Command>,
    /// Wakes the owner task to look after readers.
    wake: Arc<Notify>,
    state: watch::Receiver<ClientState>,
    /// The node's clock minus ours, ms.
    clock_offset_ms: Arc<AtomicI64>,
    outbox: Outbox,
    /// `None`: they are the application's business.
    positions: Option<Positions>,
    /// The owner task, until someone waits for its end.
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Client {
    /// Begins to make a client of the node at an address:
    ///
    /// | address | transport |
    /// | --- | --- |
    /// | `https://host[:port]` | QUIC or WebSocket over TLS, whichever works: QUIC (port: [`Builder::quic_port`]) has a head start of 500 ms |
    /// | `quic://host[:port]` | QUIC; port 8443 unless named |
    /// | `wss://host[:port][/path]` | WebSocket over TLS |
    /// | `ws://host[:port][/path]`, or `http://` | WebSocket in the clear |
    ///
    /// Without a path it is `/v1/connect`. A node may send the client to another address of any of these forms, but never
    /// from an encrypted one to one in the clear.
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder::new(url.into())
    }

    pub(crate) fn start(
        runtime: &Handle,
        options: Options,
        to: (Target, Dialer),
        tokens: TokenSource,
        (kept, positions): (Option<(Contents, Writer)>, Option<Positions>),
    ) -> Self {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (state, watcher) = watch::channel(ClientState::Idle);
        let restored = kept.as_ref().map_or(0, |(contents, _)| contents.items.len());
        let (pending, pending_watcher) = watch::channel(restored);
        let (outcomes, outcomes_receiver) = mpsc::unbounded_channel();
        let (wake, clock_offset_ms) = (Arc::new(Notify::new()), Arc::new(AtomicI64::new(0)));
        let seams =
            Seams { commands: receiver, wake: wake.clone(), state, clock_offset_ms: clock_offset_ms.clone(), pending };
        let outbox = Outbox::new(kept.is_some(), pending_watcher, restored, outcomes_receiver);
        let task = runtime.spawn(Owner::new(options, to, tokens, seams, (kept, positions.clone()), outcomes).run());
        let task = Mutex::new(Some(task));
        Self { shared: Arc::new(Shared { commands, wake, state: watcher, clock_offset_ms, outbox, positions, task }) }
    }

    pub(crate) fn wake(&self) -> Arc<Notify> {
        self.shared.wake.clone()
    }

    pub(crate) fn positions(&self) -> Option<&Positions> {
        self.shared.positions.as_ref()
    }

    /// Cancel safe: dropped before it resolves, nothing was sent.
    pub(crate) async fn send(&self, command: Command) -> Result<(), ()> {
        self.shared.commands.send(command).await.map_err(|_| ())
    }

    /// A room by its name.
    pub fn room(&self, name: impl AsRef<str>) -> Room {
        Room::new(self.clone(), name.as_ref())
    }

    /// The client's state, as it changes.
    pub fn state(&self) -> watch::Receiver<ClientState> {
        self.shared.state.clone()
    }

    /// Waits until there is a connection.
    ///
    /// # Cancel safety
    ///
    /// Cancelling changes nothing.
    ///
    /// # Errors
    ///
    /// Of kind `Closed`, with the node's code, if the client is over.
    pub async fn connected(&self) -> Result<(), ConnectError> {
        let mut state = self.state();
        let settled = |state: &ClientState| matches!(state, ClientState::Connected | ClientState::Closed(_));
        let closed = || ConnectError::local(ConnectErrorKind::Closed, "");
        let state = state.wait_for(settled).await.map_err(|_| closed())?;
        match &*state {
            ClientState::Closed(cause) => Err(match cause.code {
                Some(code) => ConnectError::refused(ConnectErrorKind::Closed, code, cause.detail.clone()),
                None => closed(),
            }),
            _ => Ok(()),
        }
    }

    /// The durable publishes that are not settled.
    pub fn outbox(&self) -> &Outbox {
        &self.shared.outbox
    }

    /// Waits until every durable publish that was handed to the client before is settled: stored, refused or given up.
    /// Transient ones are waited for as well, and so are those that an outbox file held from before.
    ///
    /// # Cancel safety
    ///
    /// Cancelling changes nothing.
    ///
    /// # Errors
    ///
    /// Of kind `Closed` if the client ends before, `TooMany` if 1,024 callers wait.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let closed = || FlushError::local(FlushErrorKind::Closed, "");
        let (reply, answer) = oneshot::channel();
        self.send(Command::Flush { reply }).await.map_err(|()| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Says that the network changed: another Wi-Fi, a new address. The client connects at once if it has no connection, or
    /// one from an address that is gone. Another one it checks at once, over QUIC from a new socket, gives it up if no
    /// answer comes within 2 s, and then connects at once. What it had learned of which transport works is forgotten.
    ///
    /// For applications that hear of such things. Without the hint the client looks once a second whether the address is
    /// still there and still the one that leads to the node, unless it is in the background. A path that dies without a
    /// trace on this device is noticed 2 s after something was sent over QUIC, and by the heartbeat over WebSocket.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, nothing was said.
    pub async fn network_changed(&self) {
        // A closed client has no network to speak of.
        let _ = self.send(Command::NetworkChanged).await;
    }

    /// Says that the application is no longer in front of its user, and may soon be frozen or ended. Resolves when everything
    /// that the outbox file and the file of positions hold is on the disk, or the disk refused it, which is logged.
    ///
    /// A connection stays for as long as the system lets it. A new one is opened only while a durable publish is not
    /// settled: with the usual backoff, and at most 8 times in a row; another publish, a Welcome and
    /// [`Self::network_changed`] begin anew. Nothing looks after the path to the node.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, the client may be in the background or not: say where it is.
    pub async fn entered_background(&self) {
        let (reply, answer) = oneshot::channel();
        // A closed client has written everything.
        let _ = self.send(Command::EnteredBackground { reply }).await;
        for synced in answer.await.into_iter().flatten() {
            synced.wait().await;
        }
    }

    /// Says that the application is in front of its user again, perhaps after it was frozen. Without a connection the client
    /// connects at once, and its backoff begins anew. One that it has may be dead without having said so: it is given up
    /// unless it answers within 2 s, and the client connects at once.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, nothing was said.
    pub async fn entered_foreground(&self) {
        // A closed client is nowhere.
        let _ = self.send(Command::EnteredForeground).await;
    }

    /// Asks the token provider for a new token now and hands it to the node, which goes on with its rights: for an
    /// application that knows of new ones. Before a token expires that happens by itself. Nothing happens without a
    /// connection, with a fixed token, or where the node does not serve it.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, nothing was asked.
    pub async fn refresh_token(&self) {
        // A closed client needs no token.
        let _ = self.send(Command::RefreshToken).await;
    }

    /// The node's clock, as far as it is known: use it to judge [`Event::expires_at`](crate::Event), not the device's.
    pub fn node_time(&self) -> SystemTime {
        let offset_ms = self.shared.clock_offset_ms.load(Ordering::Relaxed);
        let offset = Duration::from_millis(offset_ms.unsigned_abs());
        let now = SystemTime::now();
        if offset_ms < 0 { now - offset } else { now + offset }
    }

    /// Closes the client, and waits until its connection and task are gone, and its files are unlocked. Publishes that
    /// are not settled end with an error: [`Self::flush`] first. What an outbox file keeps of them, the next client that
    /// opens it sends. Subscriptions end after what they still
    /// hold; what is acknowledged after this is in no file of positions.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the client closes also if this is dropped.
    pub async fn close(&self) {
        let task = self.shared.task.lock().take();
        let _ = self.send(Command::Close).await;
        self.shared.commands.closed().await;
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the owner task of a client failed");
        }
    }
}
