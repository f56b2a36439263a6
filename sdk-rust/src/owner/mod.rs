//! The one task behind a client: it owns the protocol session and the transport, and nobody else touches them.
//!
//! ```text
//!  handles ── commands ──▶ ┌───────┐ ──▶ session ──▶ outputs ──▶ transport
//!  readers ── wake ──────▶ │ Owner │ ◀── session ◀── records ◀── transport
//!  clock ── deadline ────▶ └───────┘ ──▶ feeds, boards, replies, states
//! ```
//!
//! After every input it drains every output. It ends when the session is closed: by the application, because no handle
//! is left, or because a node said that the client must not come back.

mod command;
mod rooms;

use std::collections::{BTreeMap, VecDeque};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::publisher::{Settled, Ticket};
use lanecast_protocol::session::Now;
use lanecast_protocol::session::client::{self as session, Action, Event, RECORD_BYTES_MAX};
use lanecast_protocol::v1;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

pub(crate) use self::command::{Command, Publication};
use self::rooms::Rooms;
use crate::error::{FlushError, HistoryError, HistoryErrorKind, PublishError, PublishErrorKind};
use crate::history::Unread;
use crate::publish::Published;
use crate::state::{Cause, ClientState};
use crate::token::{TokenRequest, TokenSource};
use crate::transport::{self, Target, Transport, Turn};

/// How long a peer may take to close its side.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Callers that wait in `flush` at a time.
const FLUSHES_MAX: usize = 1024;
/// A deadline that stays in the past waits for something else, the transport: look again only this often.
const OVERDUE: Duration = Duration::from_millis(5);

/// What joins the owner task to its handles.
pub(crate) struct Seams {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) state: watch::Sender<ClientState>,
    pub(crate) clock_offset_ms: Arc<AtomicI64>,
}

/// The session's clocks.
struct Clock {
    origin: Instant,
}

impl Clock {
    fn now(&self) -> Now {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { monotonic_ms: self.origin.elapsed().as_millis() as u64, wall_ms: since.as_millis() as u64 }
    }

    fn at(&self, monotonic_ms: u64) -> Instant {
        // Far enough for every deadline, and within what an Instant can hold.
        self.origin + Duration::from_millis(monotonic_ms.min(1 << 40))
    }
}

/// Why there is no connection.
enum OpenError {
    NoToken(String),
    Failed(String),
}

type Opening = BoxFuture<'static, Result<(Box<dyn Transport>, String), OpenError>>;

enum Input {
    /// `None`: no handle is left.
    Command(Option<Box<Command>>),
    Woken,
    Opened(Result<(Box<dyn Transport>, String), OpenError>),
    Turn(Turn),
    Closed,
    Deadline,
}

pub(crate) struct Owner {
    session: session::Client,
    clock: Clock,
    seams: Seams,
    /// Some handle may still send commands.
    has_handles: bool,
    target: Target,
    tokens: TokenSource,
    /// The token that was accepted last, or not yet refused.
    token: Option<String>,
    /// The code with which a node ended the last connection.
    last_code: u32,
    /// Why the last connection or attempt ended, for developers.
    last_detail: String,
    opening: Option<Opening>,
    link: Option<Box<dyn Transport>>,
    /// The connection before, on its way down. A further one takes its place: closing is a courtesy.
    closing: Option<BoxFuture<'static, ()>>,
    rooms: Rooms,
    /// Publishes that are not settled; bounded by the session's outbox and its pending requests.
    publishes: BTreeMap<Ticket, oneshot::Sender<Result<Published, PublishError>>>,
    /// Pages asked for; bounded by the session's pending requests.
    pages: BTreeMap<Ticket, oneshot::Sender<Result<Box<v1::HistoryPage>, Unread>>>,
    /// The newest publish so far.
    last_publish: Ticket,
    /// Who waits for the publishes up to a ticket, in their order; at most [`FLUSHES_MAX`].
    flushes: VecDeque<(Ticket, oneshot::Sender<Result<(), FlushError>>)>,
}

impl Owner {
    pub(crate) fn new(options: session::Options, target: Target, tokens: TokenSource, seams: Seams) -> Self {
        Self {
            session: session::Client::new(options),
            clock: Clock { origin: Instant::now() },
            rooms: Rooms::new(seams.wake.clone()),
            seams,
            has_handles: true,
            target,
            tokens,
            token: None,
            last_code: 0,
            last_detail: String::new(),
            opening: None,
            link: None,
            closing: None,
            publishes: BTreeMap::new(),
            pages: BTreeMap::new(),
            last_publish: Ticket(0),
            flushes: VecDeque::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        self.session.connect(self.clock.now());
        self.drain();
        while !self.is_over() {
            let input = self.input().await;
            self.handle(input);
            self.drain();
        }
        self.rooms.end_all(&mut self.session);
        // The handles learn of the end by the drop of what they wait for.
    }

    fn is_over(&self) -> bool {
        matches!(self.session.state(), session::ClientState::Closed { .. }) && self.closing.is_none()
    }

    /// Waits for whatever comes first.
    async fn input(&mut self) -> Input {
        let deadline = self.deadline();
        let Self { seams, opening, link, closing, has_handles, .. } = self;
        tokio::select! {
            command = seams.commands.recv(), if *has_handles => Input::Command(command.map(Box::new)),
            () = seams.wake.notified() => Input::Woken,
            opened = maybe(opening) => Input::Opened(opened),
            turn = turn(link) => Input::Turn(turn),
            () = maybe(closing) => Input::Closed,
            () = sleep_until(deadline) => Input::Deadline,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let now = self.clock.now();
        let session = self.session.poll_timeout(now).map(|at_ms| match at_ms > now.monotonic_ms {
            true => self.clock.at(at_ms),
            false => Instant::now() + OVERDUE,
        });
        let signals = self.rooms.next_expiry_ms().map(|at_ms| {
            let left_ms = at_ms.saturating_sub(self.session.node_time_ms(now)).max(1);
            Instant::now() + Duration::from_millis(left_ms)
        });
        [session, signals].into_iter().flatten().min()
    }

    fn handle(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Command(Some(command)) => self.command(now, *command),
            Input::Command(None) => {
                self.has_handles = false;
                self.session.close(now);
            }
            Input::Woken => self.rooms.look_after(&mut self.session),
            Input::Opened(opened) => {
                self.opening = None;
                self.opened(now, opened);
            }
            Input::Turn(turn) => self.turn(now, turn),
            Input::Closed => self.closing = None,
            Input::Deadline => {}
        }
        // Also when something else came first: a deadline must not wait for a quiet moment.
        self.session.handle_timeout(now);
        self.rooms.expire(self.session.node_time_ms(now));
    }

    fn command(&mut self, now: Now, command: Command) {
        match command {
            Command::Publish { publication, reply } => self.publish(now, publication, reply),
            Command::Subscribe { room, options, feed, state, reply } => {
                // A caller that is gone has dropped its subscription, which `look_after` will see.
                let _ = reply.send(self.rooms.subscribe(&mut self.session, &room, options, feed, state));
            }
            Command::Signals { room, reply } => {
                // A seat that nobody waits for any more is dropped, which `look_after` will see.
                let _ = reply.send(self.rooms.signals(&mut self.session, &room));
            }
            Command::Signal(signal) => self.session.signal(now, signal),
            Command::History { request, reply } => match self.session.history(request) {
                Ok(ticket) => {
                    self.pages.insert(ticket, reply);
                }
                Err(error) => drop(reply.send(Err(Unread::NotAsked(error)))),
            },
            Command::Flush { reply } => self.flush(reply),
            Command::NetworkChanged => self.session.network_changed(now),
            Command::Close => self.session.close(now),
        }
    }

    fn publish(&mut self, now: Now, publication: Publication, reply: oneshot::Sender<Result<Published, PublishError>>) {
        let Publication { room, lane, transient, ttl_ms, envelope } = publication;
        let ticket = match transient {
            true => self.session.publish_transient(&room, lane, envelope, ttl_ms),
            false => self.session.publish(now, &room, lane, envelope, ttl_ms),
        };
        match ticket {
            Ok(ticket) => {
                self.last_publish = ticket;
                self.publishes.insert(ticket, reply);
            }
            // A caller that does not wait does not want to know.
            Err(error) => drop(reply.send(Err(error.into()))),
        }
    }

    fn flush(&mut self, reply: oneshot::Sender<Result<(), FlushError>>) {
        if self.flushes.len() == FLUSHES_MAX {
            // Callers that gave up make room.
            self.flushes.retain(|(_, reply)| !reply.is_closed());
        }
        if self.flushes.len() == FLUSHES_MAX {
            let error = FlushError::local(crate::FlushErrorKind::TooMany, "").may_retry();
            return drop(reply.send(Err(error)));
        }
        self.flushes.push_back((self.last_publish, reply));
        self.settle_flushes();
    }

    fn settle_flushes(&mut self) {
        let oldest = self.publishes.first_key_value().map(|(ticket, _)| *ticket);
        while let Some((ticket, _)) = self.flushes.front()
            && oldest.is_none_or(|oldest| oldest > *ticket)
            && let Some((_, reply)) = self.flushes.pop_front()
        {
            let _ = reply.send(Ok(()));
        }
    }

    // The connection.

    fn opened(&mut self, now: Now, opened: Result<(Box<dyn Transport>, String), OpenError>) {
        match opened {
            Ok((link, token)) => {
                self.token = Some(token.clone());
                self.session.opened(now, token, link.ordered());
                self.link = Some(link);
            }
            Err(OpenError::NoToken(detail) | OpenError::Failed(detail)) => {
                tracing::debug!(%detail, "no connection");
                self.last_detail = detail;
                self.session.failed(now);
            }
        }
    }

    fn turn(&mut self, now: Now, turn: Turn) {
        match turn {
            Turn::Packet(packet) => self.packet(now, packet),
            // `drain` writes on.
            Turn::Written => {}
            Turn::Over { code, detail } => {
                tracing::debug!(code, %detail, "the connection ended");
                self.last_detail = detail;
                self.hang_up(None);
                self.session.handle_closed(now, code);
            }
            Turn::Fault(code) => self.fault(now, code),
        }
    }

    fn packet(&mut self, now: Now, packet: Bytes) {
        for record in codec::records(packet, RECORD_BYTES_MAX) {
            match record {
                Ok(record) => self.session.handle_record(now, record),
                Err(error) => return self.fault(now, error.code),
            }
            // The session's events are drained record by record, so that a packet of many makes no queue of them.
            self.events();
        }
    }

    /// The node sent what it must not.
    fn fault(&mut self, now: Now, code: Code) {
        tracing::warn!(%code, "the node broke the protocol");
        self.last_detail = format!("the node broke the protocol: {code}");
        self.hang_up(Some(code));
        self.session.handle_closed(now, None);
    }

    /// Closes the connection in the background.
    fn hang_up(&mut self, code: Option<Code>) {
        self.opening = None;
        if let Some(link) = self.link.take() {
            let closed = link.close(code);
            let within = async move { drop(tokio::time::timeout(CLOSE_WITHIN, closed).await) };
            self.closing = Some(within.boxed());
        }
    }

    fn connect(&mut self, new_token: bool, address: &str) {
        let refused = new_token.then_some(self.last_code);
        if new_token {
            self.token = None;
            if matches!(self.tokens, TokenSource::Fixed(_)) {
                return self.session.no_token(self.clock.now(), self.last_code);
            }
        }
        let target = match address {
            "" => self.target.clone(),
            address => self.target.moved(address).unwrap_or_else(|error| {
                tracing::warn!(%error, "the node named an address that cannot be used");
                self.target.clone()
            }),
        };
        let (tokens, token) = (self.tokens.clone(), self.token.clone());
        let opening = async move {
            let token = match token {
                Some(token) => token,
                None => {
                    let token = tokens.token(TokenRequest { refused }).await;
                    token.map_err(|error| OpenError::NoToken(format!("no token: {error}")))?
                }
            };
            let link = transport::open(target).await.map_err(OpenError::Failed)?;
            Ok((link, token))
        };
        self.opening = Some(opening.boxed());
    }

    // Outputs.

    /// Drains every output: what the session wants done, what happened, and what there is to write.
    fn drain(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(action) = self.session.poll_action() {
                quiet = false;
                match action {
                    Action::Connect { new_token, address } => self.connect(new_token, &address),
                    Action::Disconnect(code) => self.hang_up(Some(code)),
                }
            }
            quiet &= !self.events();
            self.write();
            if quiet {
                break;
            }
        }
        let now = self.clock.now();
        let offset_ms = self.session.node_time_ms(now) as i64 - now.wall_ms as i64;
        self.seams.clock_offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    fn write(&mut self) {
        let Some(link) = &mut self.link else { return };
        let now = self.clock.now();
        let session = &mut self.session;
        let message_max = session.record_bytes_max();
        link.write(&mut || session.poll_output(now), message_max);
    }

    /// Hands on what happened. Returns whether something did.
    fn events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.session.poll_event() {
            any = true;
            match event {
                Event::State(state) => self.state(state),
                Event::Room(room, state) => self.rooms.state(&mut self.session, &room, state),
                Event::Ready(room) => self.rooms.supply(&mut self.session, &room),
                Event::Signal(room, signal) => {
                    let node_ms = self.session.node_time_ms(self.clock.now());
                    self.rooms.signal(&room, node_ms, *signal);
                }
                Event::Settled(ticket, settled) => self.settled(ticket, settled),
                Event::Page(ticket, page) => {
                    let Some(reply) = self.pages.remove(&ticket) else { continue };
                    let refused =
                        |error: v1::Error| HistoryError::refused(HistoryErrorKind::Refused, error.code, error.detail);
                    let _ = reply.send(page.map_err(|error| Unread::Asked(refused(error))));
                }
            }
        }
        any
    }

    fn state(&mut self, state: session::ClientState) {
        if let session::ClientState::Suspended { code } | session::ClientState::Closed { code } = state {
            self.last_code = code;
        }
        let state = match state {
            session::ClientState::Closed { code } if code == u32::from(Code::Normal.number()) => {
                ClientState::Closed(Cause::new(code, ""))
            }
            state => ClientState::new(state, &self.last_detail),
        };
        if state == ClientState::Connected {
            self.last_detail.clear();
        }
        tracing::debug!(?state, "the client's state changed");
        self.seams.state.send_replace(state);
    }

    fn settled(&mut self, ticket: Ticket, settled: Settled) {
        let answer = match settled {
            Settled::Stored(published) => Ok(Published::new(published)),
            Settled::Refused { code, detail } => Err(PublishError::refused(PublishErrorKind::Refused, code, detail)),
            Settled::GivenUp => Err(PublishError::local(PublishErrorKind::GivenUp, "")),
        };
        if let Some(reply) = self.publishes.remove(&ticket) {
            let _ = reply.send(answer);
        }
        self.settle_flushes();
    }
}

/// The future, or none that ever ends. Cancel safe: the future stays where it is.
async fn maybe<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

async fn turn(link: &mut Option<Box<dyn Transport>>) -> Turn {
    match link {
        Some(link) => poll_fn(|cx| link.poll_turn(cx)).await,
        None => pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}
