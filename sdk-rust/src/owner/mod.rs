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
mod publishes;
mod rooms;

use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lanecast_protocol::codec;
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::Lane;
use lanecast_protocol::publisher::Ticket;
use lanecast_protocol::session::Now;
use lanecast_protocol::session::client::{self as session, Action, Event, RECORD_BYTES_MAX};
use lanecast_protocol::v1;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

pub(crate) use self::command::{Command, Publication, Replies};
use self::publishes::Publishes;
use self::rooms::Rooms;
use crate::error::{HistoryError, HistoryErrorKind};
use crate::history::Unread;
use crate::outbox::{Contents, Outcome, Report, Writer};
use crate::positions::Positions;
use crate::state::{Cause, ClientState};
use crate::token::{TokenError, TokenRequest, TokenSource};
use crate::transport::{Dialer, LOOK_EVERY, Opened, Path, Target, Transport, Trial, Turn, Way};

/// How long a peer may take to close its side.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// A deadline that stays in the past waits for something else, the transport: look again only this often.
const OVERDUE: Duration = Duration::from_millis(5);

/// What joins the owner task to its handles.
pub(crate) struct Seams {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) state: watch::Sender<ClientState>,
    pub(crate) clock_offset_ms: Arc<AtomicI64>,
    /// Publishes that are not settled.
    pub(crate) pending: watch::Sender<usize>,
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

type Opening = BoxFuture<'static, Result<(Opened, String), OpenError>>;

enum Input {
    /// `None`: no handle is left.
    Command(Option<Box<Command>>),
    Woken,
    Opened(Result<(Opened, String), OpenError>),
    Turn(Turn),
    Closed,
    /// What the application gave for a token that will expire.
    Renewed(Result<String, TokenError>),
    /// Of the outbox file.
    Report(Option<Report>),
    Deadline,
}

pub(crate) struct Owner {
    session: session::Client,
    clock: Clock,
    seams: Seams,
    /// Some handle may still send commands.
    has_handles: bool,
    target: Target,
    dialer: Arc<Dialer>,
    tokens: TokenSource,
    /// The token that was accepted last, or not yet refused.
    token: Option<String>,
    /// The application makes a new token while the connection goes on.
    renewing: Option<BoxFuture<'static, Result<String, TokenError>>>,
    /// Why the last connection or attempt ended, for developers.
    last_detail: String,
    opening: Option<Opening>,
    /// What the session asked of the connection being opened: the code with which the token was refused or 0, and the address.
    asked: (u32, String),
    /// Of the connection in `link`.
    trial: Option<Trial>,
    link: Option<Box<dyn Transport>>,
    /// When outputs were taken last. Deadlines are asked for with this time: what becomes due while it is written would
    /// otherwise be forgotten.
    written: Now,
    /// The way of the connection, or of the last one; `None`: there was none, or it does not leave the device.
    path: Option<Path>,
    /// When to look at it next, in the foreground.
    look_at: Instant,
    is_foreground: bool,
    /// The connection before, on its way down. A further one takes its place: closing is a courtesy.
    closing: Option<BoxFuture<'static, ()>>,
    rooms: Rooms,
    publishes: Publishes,
    /// Pages asked for; bounded by the session's pending requests.
    pages: BTreeMap<Ticket, oneshot::Sender<Result<Box<v1::HistoryPage>, Unread>>>,
}

impl Owner {
    pub(crate) fn new(
        options: session::Options,
        (target, dialer): (Target, Dialer),
        tokens: TokenSource,
        seams: Seams,
        (kept, positions): (Option<(Contents, Writer)>, Option<Positions>),
        outcomes: mpsc::UnboundedSender<Outcome>,
    ) -> Self {
        let (mut session, clock) = (session::Client::new(options), Clock { origin: Instant::now() });
        session.set_one_queue(dialer.one_queue);
        let mut publishes = Publishes::new(seams.pending.clone(), outcomes);
        if let Some((contents, writer)) = kept {
            publishes.take_over(&mut session, clock.now(), contents, writer);
        }
        Self {
            written: clock.now(),
            session,
            clock,
            rooms: Rooms::new(seams.wake.clone(), positions),
            publishes,
            seams,
            has_handles: true,
            target,
            dialer: Arc::new(dialer),
            tokens,
            token: None,
            renewing: None,
            last_detail: String::new(),
            opening: None,
            asked: (0, String::new()),
            trial: None,
            link: None,
            path: None,
            look_at: Instant::now(),
            is_foreground: true,
            closing: None,
            pages: BTreeMap::new(),
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
        self.publishes.finish(&mut self.session).await;
        self.rooms.finish().await;
        // The handles learn of the end by the drop of what they wait for.
    }

    fn is_over(&self) -> bool {
        matches!(self.session.state(), session::ClientState::Closed { .. }) && self.closing.is_none()
    }

    /// Waits for whatever comes first.
    async fn input(&mut self) -> Input {
        let deadline = self.deadline();
        let Self { seams, opening, link, closing, renewing, has_handles, publishes, .. } = self;
        tokio::select! {
            command = seams.commands.recv(), if *has_handles => Input::Command(command.map(Box::new)),
            () = seams.wake.notified() => Input::Woken,
            opened = maybe(opening) => Input::Opened(opened),
            turn = turn(link) => Input::Turn(turn),
            () = maybe(closing) => Input::Closed,
            renewed = maybe(renewing) => Input::Renewed(renewed),
            report = publishes.report() => Input::Report(report),
            () = sleep_until(deadline) => Input::Deadline,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let now = self.written;
        let session = self.session.poll_timeout(now).map(|at_ms| match at_ms > now.monotonic_ms {
            true => self.clock.at(at_ms),
            false => Instant::now() + OVERDUE,
        });
        let signals = self.rooms.next_expiry_ms().map(|at_ms| {
            let left_ms = at_ms.saturating_sub(self.session.node_time_ms(now)).max(1);
            Instant::now() + Duration::from_millis(left_ms)
        });
        [session, signals, self.next_look()].into_iter().flatten().min()
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
            Input::Renewed(renewed) => {
                self.renewing = None;
                self.renewed(now, renewed);
            }
            Input::Report(report) => {
                if !self.publishes.reported(&mut self.session, report) {
                    tracing::error!("the thread of an outbox file ended");
                    self.session.close(now);
                }
            }
            Input::Deadline => {}
        }
        self.look(now);
        // Also when something else came first: a deadline must not wait for a quiet moment.
        self.session.handle_timeout(now);
        self.rooms.expire(self.session.node_time_ms(now));
    }

    fn command(&mut self, now: Now, command: Command) {
        match command {
            Command::Publish { publication, replies } => {
                self.publishes.publish(&mut self.session, now, publication, replies);
            }
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
            Command::Flush { reply } => self.publishes.flush(reply),
            Command::Focus { room, focus } => self.session.focus(&room, focus),
            Command::NetworkChanged => self.network_changed(now),
            Command::EnteredBackground { reply } => {
                self.is_foreground = false;
                self.session.entered_background(now);
                // A caller that is gone does not want to know.
                let _ = reply.send([self.publishes.sync(), self.rooms.sync()].into_iter().flatten().collect());
            }
            Command::EnteredForeground => self.entered_foreground(now),
            Command::RefreshToken => self.session.refresh_token(now),
            Command::Close => self.session.close(now),
        }
    }

    // The connection.

    fn opened(&mut self, now: Now, opened: Result<(Opened, String), OpenError>) {
        match opened {
            Ok((Opened { link, trial }, token)) => {
                self.token = Some(token.clone());
                self.session.opened(now, token, link.ordered());
                self.path = link.path();
                self.look_at = Instant::now() + LOOK_EVERY;
                (self.link, self.trial) = (Some(link), Some(trial));
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
            Turn::Packet(lane, packet) => self.packet(now, lane, packet),
            // `drain` writes on.
            Turn::Written => {}
            Turn::Over { code, detail } => {
                tracing::debug!(code, %detail, "the connection ended");
                self.last_detail = detail;
                self.judge(code.is_none());
                self.hang_up(None);
                self.session.handle_closed(now, code);
            }
            Turn::Fault(code) => self.fault(now, code),
        }
    }

    fn packet(&mut self, now: Now, lane: Option<Lane>, packet: Bytes) {
        for record in codec::records(packet, RECORD_BYTES_MAX) {
            match record {
                Ok(record) => self.session.handle_record(now, lane, record),
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

    /// When to look at the way next.
    fn next_look(&self) -> Option<Instant> {
        (self.is_foreground && self.path.is_some()).then_some(self.look_at)
    }

    /// Looks, if it is time, whether the network changed without a hint.
    fn look(&mut self, now: Now) {
        if self.next_look().is_some_and(|at| at <= Instant::now()) {
            let way = self.way();
            if way != Way::Same {
                tracing::debug!(?way, "the way to the node changed");
                self.move_on(now, way);
            }
        }
    }

    fn way(&mut self) -> Way {
        self.look_at = Instant::now() + LOOK_EVERY;
        self.path.as_mut().map_or(Way::Same, Path::look)
    }

    fn network_changed(&mut self, now: Now) {
        let way = self.way();
        self.move_on(now, way);
    }

    /// What was learned here of transports holds no more, and sockets may be bound to what is gone.
    fn move_on(&mut self, now: Now, way: Way) {
        self.dialer.forget();
        self.open_anew();
        if let Some(link) = &mut self.link {
            link.network_changed();
        }
        match way {
            Way::Gone => self.session.path_lost(now),
            Way::Same | Way::Moved => self.session.network_changed(now),
        }
    }

    /// Who was frozen does not know whether the network is the same one.
    fn entered_foreground(&mut self, now: Now) {
        self.is_foreground = true;
        self.session.entered_foreground(now);
        match self.way() {
            Way::Same => self.open_anew(),
            way => self.move_on(now, way),
        }
    }

    /// Begins the attempt anew that is under way.
    fn open_anew(&mut self) {
        if self.opening.is_some() {
            let (refused, address) = self.asked.clone();
            self.connect(refused, &address);
        }
    }

    /// Remembers how the transport did; `lost`: neither side ended the connection.
    fn judge(&mut self, lost: bool) {
        let Some(trial) = self.trial.take() else { return };
        let welcomed = self.session.state() == session::ClientState::Connected;
        match lost {
            true => self.dialer.lost(trial, welcomed),
            false => self.dialer.ended(trial, welcomed),
        }
    }

    /// Closes the connection in the background.
    fn hang_up(&mut self, code: Option<Code>) {
        self.opening = None;
        self.judge(matches!(code, Some(Code::IdleTimeout | Code::HandshakeTimeout)));
        if let Some(path) = &mut self.path {
            path.unbind();
        }
        if let Some(link) = self.link.take() {
            let closed = link.close(code);
            let within = async move { drop(tokio::time::timeout(CLOSE_WITHIN, closed).await) };
            self.closing = Some(within.boxed());
        }
    }

    fn connect(&mut self, refused: u32, address: &str) {
        if refused != 0 {
            self.token = None;
            if matches!(self.tokens, TokenSource::Fixed(_)) {
                return self.session.no_token(self.clock.now(), refused);
            }
        }
        let target = match address {
            "" => self.target.clone(),
            address => self.target.moved(address).unwrap_or_else(|error| {
                tracing::warn!(%error, "the node named an address that cannot be used");
                self.target.clone()
            }),
        };
        self.asked = (refused, address.to_owned());
        let (tokens, token, dialer) = (self.tokens.clone(), self.token.clone(), self.dialer.clone());
        let opening = async move {
            let token = match token {
                Some(token) => token,
                None => {
                    let token = tokens.token(TokenRequest::after(refused)).await;
                    token.map_err(|error| OpenError::NoToken(format!("no token: {error}")))?
                }
            };
            let link = dialer.open(&target).await.map_err(OpenError::Failed)?;
            Ok((link, token))
        };
        self.opening = Some(opening.boxed());
    }

    fn renew(&mut self, refused: u32) {
        let (tokens, request) = (self.tokens.clone(), TokenRequest::after(refused));
        self.renewing = Some(async move { tokens.token(request).await }.boxed());
    }

    fn renewed(&mut self, now: Now, renewed: Result<String, TokenError>) {
        match renewed {
            Ok(token) => self.session.renewed(now, token),
            Err(error) => {
                tracing::debug!(%error, "no new token");
                self.session.not_renewed(now);
            }
        }
    }

    // Outputs.

    /// Drains every output: what the session wants done, what happened, and what there is to write.
    fn drain(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(action) = self.session.poll_action() {
                quiet = false;
                match action {
                    Action::Connect { refused, address } => self.connect(refused, &address),
                    Action::Disconnect(code) => self.hang_up(Some(code)),
                    Action::RenewToken { refused } => self.renew(refused),
                }
            }
            quiet &= !self.events();
            self.write();
            // What the node would not take ends as it is about to be written.
            quiet &= !self.events();
            if quiet {
                break;
            }
        }
        self.publishes.show(&self.session);
        let now = self.clock.now();
        let offset_ms = self.session.node_time_ms(now) as i64 - now.wall_ms as i64;
        self.seams.clock_offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    fn write(&mut self) {
        self.written = self.clock.now();
        let Some(link) = &mut self.link else { return };
        let now = self.written;
        let session = &mut self.session;
        session.set_window(link.window());
        session.set_round_trip(link.unreliable_round_trip());
        let message_max = session.record_bytes_max();
        link.write(&mut |lanes| session.poll_output(now, lanes), message_max);
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
                Event::TokenRefreshed(token) => self.token = Some(token),
                Event::Settled(ticket, settled) => self.publishes.settled(ticket, settled),
                Event::Page(ticket, page) => {
                    let Some(reply) = self.pages.remove(&ticket) else { continue };
                    let refused = |error: v1::Error| {
                        HistoryError::refused(HistoryErrorKind::Refused, error.code, error.detail)
                            .after_ms(error.retry_after_ms)
                    };
                    let _ = reply.send(page.map_err(|error| Unread::Asked(refused(error))));
                }
            }
        }
        any
    }

    fn state(&mut self, state: session::ClientState) {
        let state = match state {
            session::ClientState::Closed { code } if code == u32::from(Code::Normal.number()) => {
                ClientState::Closed(Cause::new(code, ""))
            }
            state => ClientState::new(state, &self.last_detail),
        };
        if state == ClientState::Connected {
            self.last_detail.clear();
            self.publishes.connected(&self.session);
        }
        tracing::debug!(?state, "the client's state changed");
        self.seams.state.send_replace(state);
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

#[cfg(test)]
mod tests;
