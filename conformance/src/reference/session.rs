//! One connection of the reference server: its clocks, and what each of its frames does.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prost::Message as _;
use serde_json::{Value, json};
use v1::frame::Body;

use super::credit::{Gate, Told};
use super::fragments::Pieces;
use super::mutant::Mutant;
use super::outbox::Outbox;
use super::rights::Identity;
use super::state::{Asker, Refusal, answer, record};
use super::{
    CAPABILITIES, CLOSES_IN, HELLO_WITHIN, HISTORY_PAGE, IDLE_CLOSE, MESSAGE_BYTES, PUBLISHES, RECORD_BYTES, ROOMS,
    SIGNALS, SIGNALS_BURST, Shared, USER_CONNECTIONS, next_connection,
};
use crate::client::Lane;
use crate::schema::{record_length, v1};
use crate::target::{now_ms, open_jwt, open_jwt_of_any_kid};

/// How long a token may live: ten years, in seconds.
const LIFETIME_S_MAX: i64 = 315_360_000;

/// When a limit that was lowered holds.
const LOWERED_AFTER: Duration = Duration::from_secs(10);

/// Why a connection ends: code of the table.
pub(super) struct Fatal(pub u16);

pub(super) const PROTOCOL: Fatal = Fatal(4001);

pub(super) fn limits_json() -> Value {
    json!({"recordBytes": RECORD_BYTES, "messageBytes": MESSAGE_BYTES, "rooms": ROOMS,
        "publishesInFlight": PUBLISHES, "signalsPerSecond": SIGNALS, "historyPage": HISTORY_PAGE})
}

pub(super) fn error_record(code: u16) -> Vec<u8> {
    let error = v1::Error { code: code.into(), detail: "see the table".into(), closing: true, ..v1::Error::default() };
    record(0, Body::Error(error))
}

/// The limits of who has that identity.
fn limits(identity: &Identity) -> v1::Limits {
    v1::Limits {
        record_bytes: RECORD_BYTES,
        message_bytes: MESSAGE_BYTES as u32,
        rooms: ROOMS,
        publishes_in_flight: PUBLISHES,
        signals_per_second: signals_of(identity),
        history_page: HISTORY_PAGE,
    }
}

fn signals_of(identity: &Identity) -> u32 {
    identity.signals.unwrap_or(SIGNALS)
}

fn burst(signals_per_second: u32) -> u32 {
    signals_per_second.max(SIGNALS_BURST)
}

/// Sends GoAway to all and closes who is still there after a while.
pub(super) fn drain(shared: &Arc<Shared>) {
    shared.draining.store(true, Ordering::Relaxed);
    if !shared.is(Mutant::NoGoAway) {
        for outbox in shared.lock().outboxes.values() {
            let body = v1::GoAway {
                retry_after_ms: rand::random_range(1..1000),
                reason: v1::GoAwayReason::Draining as i32,
                address: String::new(),
                closes_in_ms: CLOSES_IN.as_millis() as u32,
            };
            answer(outbox, 0, Body::GoAway(body));
        }
    }
    let shared = shared.clone();
    tokio::spawn(async move {
        tokio::time::sleep(CLOSES_IN).await;
        for outbox in shared.lock().outboxes.values() {
            outbox.close(error_record(4204), 4204);
        }
    });
}

/// What the clocks of a connection count from.
pub(super) struct Clocks {
    pub opened: tokio::time::Instant,
    pub last_record: tokio::time::Instant,
}

impl Clocks {
    pub(super) fn start() -> Self {
        let now = tokio::time::Instant::now();
        Self { opened: now, last_record: now }
    }
}

/// A connection's requests, whatever carries them.
pub(super) struct Session {
    pub shared: Arc<Shared>,
    connection: u64,
    outbox: Arc<Outbox>,
    identity: Option<Identity>,
    instance: String,
    /// Tokens of the bucket for signals, and when they were counted.
    signals: (f64, Instant),
    /// Signals per second, and from when on fewer of them.
    signal_rate: u32,
    lowered: Option<(Instant, u32)>,
    /// Its place among the connections of its user.
    place: Option<String>,
    /// Closes without Error.
    silent: bool,
    pieces: Pieces,
    /// What the client is told of what it sent, if it takes credit.
    told: Option<Told>,
}

impl Session {
    /// A session of a new connection.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            silent: shared.is(Mutant::CloseWithoutError),
            connection: next_connection(&shared),
            outbox: Arc::new(Outbox::new(shared.mutant)),
            pieces: Pieces::default(),
            told: None,
            shared,
            identity: None,
            instance: String::new(),
            signals: (f64::from(SIGNALS_BURST), Instant::now()),
            signal_rate: SIGNALS,
            lowered: None,
            place: None,
        }
    }

    /// What leaves on the connection.
    pub(super) fn outbox(&self) -> Arc<Outbox> {
        self.outbox.clone()
    }

    /// Whether Hello was accepted.
    pub(super) fn is_welcome(&self) -> bool {
        self.identity.is_some()
    }

    /// Waits for what comes next, under the clocks of the handshake, of idle connections and of the token.
    pub(super) async fn wait<T>(&self, clocks: &Clocks, next: impl Future<Output = T>) -> Result<T, Fatal> {
        let limit = match &self.identity {
            None if self.shared.is(Mutant::NoHelloDeadline) => tokio::time::Instant::now() + HELLO_WITHIN * 10,
            None => clocks.opened + HELLO_WITHIN,
            Some(_) => clocks.last_record + IDLE_CLOSE,
        };
        let expiry = self.identity.as_ref().map_or(0, |identity| identity.expires_at_ms);
        let token_dies = async {
            match expiry {
                0 => std::future::pending().await,
                expiry => tokio::time::sleep(Duration::from_millis(expiry.saturating_sub(now_ms()))).await,
            }
        };
        tokio::select! {
            next = tokio::time::timeout_at(limit, next) => {
                next.map_err(|_| if self.identity.is_none() { Fatal(4200) } else { Fatal(4201) })
            }
            () = token_dies => Err(Fatal(4101)),
        }
    }

    /// Ends what the connection had.
    pub(super) fn leave(&self) {
        let user = self.identity.as_ref().map_or("", |identity| identity.user.as_str());
        let mut state = self.shared.lock();
        if let Some(place) = &self.place {
            state.release(place);
        }
        state.leave(self.connection, (user, &self.instance));
    }

    /// Whether the client lets too many answers wait.
    pub(super) fn check_outbox(&self) -> Result<(), Fatal> {
        if self.outbox.overflowed() { Err(Fatal(4203)) } else { Ok(()) }
    }

    /// Has the connection closed with a code of the table.
    pub(super) fn close(&self, Fatal(code): Fatal) {
        let error = if self.silent { Vec::new() } else { error_record(code) };
        self.outbox.close(error, code);
    }

    /// Carries out the frames of a packet that stands by itself.
    pub(super) fn packet(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        let Ok(packet) = v1::Packet::decode(bytes) else {
            return if self.shared.is(Mutant::BrokenBytesIgnored) { Ok(()) } else { Err(PROTOCOL) };
        };
        if packet.stream_header.is_some() && !self.shared.is(Mutant::HeaderInPacketTaken) {
            return Err(PROTOCOL);
        }
        packet.frames.into_iter().try_for_each(|frame| self.take(frame))
    }

    /// Carries out one frame that came.
    pub(super) fn take(&mut self, frame: v1::Frame) -> Result<(), Fatal> {
        if let (Some(told), Some(body)) = (&self.told, &frame.body) {
            told.came(Lane::of_body(body), record_length(frame.encoded_len()));
        }
        self.frame(frame)
    }

    fn frame(&mut self, frame: v1::Frame) -> Result<(), Fatal> {
        let id = frame.id;
        match (frame.body, self.identity.is_some()) {
            (Some(Body::Hello(hello)), false) => self.hello(id, hello),
            (Some(Body::Hello(_)), true) if self.shared.is(Mutant::SecondHelloIgnored) => Ok(()),
            (Some(Body::Hello(_)), true) => Err(Fatal(4005)),
            (Some(Body::Ping(ping)), false) if self.shared.is(Mutant::NoHelloNeeded) => {
                self.pong(id, ping.stamp);
                Ok(())
            }
            (_, false) => Err(Fatal(4004)),
            (body, true) => self.request(id, body),
        }
    }

    fn hello(&mut self, id: u32, hello: v1::Hello) -> Result<(), Fatal> {
        let mine = hello.version_min <= 1 && 1 <= hello.version_max && hello.version_min > 0;
        if !mine && !self.shared.is(Mutant::AnyVersion) {
            return Err(Fatal(4006));
        }
        let fits = (1..=64).contains(&hello.instance.len())
            && hello.instance.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
            && hello.device.len() <= 128
            && hello.token.len() <= 8192;
        if !fits {
            return Err(Fatal(4007));
        }
        let mut identity = self.judge(&hello.token).map_err(Fatal)?;
        identity.device = identity.device.or(Some(hello.device));
        let welcome = v1::Welcome {
            version: 1,
            capabilities: CAPABILITIES.map(|capability| capability as i32).to_vec(),
            connection_id: format!("{}-{}", self.shared.node, self.connection),
            user: identity.user.clone(),
            device: identity.device.clone().unwrap_or_default(),
            instance: hello.instance.clone(),
            heartbeat: Some(v1::Heartbeat {
                ping_after_ms: 8_000,
                pong_within_ms: 5_000,
                idle_close_ms: IDLE_CLOSE.as_millis() as u32,
            }),
            limits: Some(limits(&identity)),
            server_time_ms: now_ms(),
            reconnect: Some(v1::ReconnectWindow { min_ms: 500, max_ms: 30_000 }),
            node: self.shared.node.clone(),
            token_expires_at_ms: identity.expires_at_ms,
        };
        let place = format!("user {}", identity.user);
        if !self.shared.is(Mutant::UserCapUnchecked) {
            if !self.shared.lock().hold(&place, USER_CONNECTIONS) {
                return Err(Fatal(4207));
            }
            self.place = Some(place);
        }
        let takes_fragments = hello.capabilities.contains(&v1::Capability::Fragments.into());
        self.outbox.set_fragments(takes_fragments || self.shared.is(Mutant::FragmentsForAll));
        self.signal_rate = signals_of(&identity);
        self.signals.0 = f64::from(burst(self.signal_rate));
        if hello.capabilities.contains(&v1::Capability::Credit.into()) {
            self.outbox.set_gate(Gate::new(self.shared.mutant));
            self.told = Some(Told::start(&self.outbox, &self.shared));
        } else if self.shared.is(Mutant::CreditForAll) {
            self.told = Some(Told::start(&self.outbox, &self.shared));
        }
        self.instance = hello.instance;
        self.identity = Some(identity);
        self.shared.lock().outboxes.insert(self.connection, self.outbox.clone());
        let id = if self.shared.is(Mutant::WelcomeWithoutId) { 0 } else { id };
        answer(&self.outbox, id, Body::Welcome(welcome));
        for ask in &hello.subscriptions {
            let refused = self.with_state(|state, asker| state.subscribe(asker, 0, ask));
            if let Err((code, _)) = refused
                && !self.shared.is(Mutant::RefusedSubscriptionSilent)
            {
                let cause = v1::UnsubscribedCause::Refused as i32;
                answer(&self.outbox, 0, Body::Unsubscribed(v1::Unsubscribed { room: ask.room.clone(), cause, code }));
            }
        }
        Ok(())
    }

    /// Who a token is for, or the code with which it is refused.
    fn judge(&self, token: &str) -> Result<Identity, u16> {
        let mut claims = open_jwt(&self.shared.secret, token);
        let is_unsigned = claims.is_none() && self.shared.is(Mutant::SignatureUnchecked);
        let any_kid = claims.is_none() && self.shared.is(Mutant::UnknownKidTaken);
        if any_kid {
            claims = open_jwt_of_any_kid(&self.shared.secret, token);
        }
        if is_unsigned {
            use base64::Engine as _;
            let payload = token.split('.').nth(1).unwrap_or("");
            let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload);
            claims = bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        }
        let claims = claims.ok_or(4100_u16)?;
        let now = (now_ms() / 1000) as i64;
        let late = claims["exp"].as_i64().is_some_and(|exp| exp <= now);
        let early = ["nbf", "iat"].iter().any(|name| claims[name].as_i64().is_some_and(|from| from > now));
        if (late || early) && !self.shared.is(Mutant::ExpiryUnchecked) {
            return Err(4101);
        }
        if claims["exp"].as_i64().is_some_and(|exp| exp > now + LIFETIME_S_MAX) {
            return Err(4100);
        }
        let mut identity = Identity::from_claims(&claims).ok_or(4100_u16)?;
        identity.star_matches_all = self.shared.is(Mutant::StarMatchesAll);
        if self.shared.is(Mutant::ExpiryUnchecked) {
            identity.expires_at_ms = 0;
        }
        Ok(identity)
    }

    /// Goes on with a newer token of the same user and device.
    fn refresh(&mut self, id: u32, token: &str) -> Result<(), Fatal> {
        let judged = if token.len() > 8192 { Err(4100) } else { self.judge(token) };
        let (user, device) = match &self.identity {
            Some(former) => (former.user.clone(), former.device.clone()),
            None => return Err(PROTOCOL),
        };
        let code = match &judged {
            Err(code) if self.shared.is(Mutant::BadRefreshCloses) => return Err(Fatal(*code)),
            Err(code) => Some(*code),
            Ok(_) if self.shared.is(Mutant::RefreshOfAnyUser) => None,
            Ok(identity) if identity.user != user => Some(4309),
            Ok(identity) if identity.device.is_some() && identity.device != device => Some(4309),
            Ok(_) => None,
        };
        if let Some(code) = code {
            self.refuse(id, String::new(), (code.into(), "the token does not do"));
            return Ok(());
        }
        let mut identity = judged.map_err(Fatal)?;
        let expires_at_ms = identity.expires_at_ms;
        if let Some(former) = &self.identity
            && self.shared.is(Mutant::OldRightsAfterRefresh)
        {
            identity.rights.clone_from(&former.rights);
        }
        identity.device = device;
        self.identity = Some(identity.clone());
        self.with_state(|state, asker| {
            // Under the lock: what is published once the client knows of it is judged by the newer token.
            answer(asker.outbox, id, Body::TokenRefreshed(v1::TokenRefreshed { expires_at_ms }));
            state.hold_to_rights(asker);
        });
        self.change_signal_rate(&identity);
        Ok(())
    }

    /// Tells the client of another rate of signals: more holds at once, less after a while (LC-FLOW-007).
    fn change_signal_rate(&mut self, identity: &Identity) {
        let (now, next) = (Instant::now(), signals_of(identity));
        let former = self.lowered.map_or(self.signal_rate, |(_, rate)| rate);
        if next == former {
            return;
        }
        if !self.shared.is(Mutant::LimitsUntold) {
            answer(&self.outbox, 0, Body::Limits(limits(identity)));
        }
        self.lowered = (next < self.signal_rate).then(|| (now + LOWERED_AFTER, next));
        if self.shared.is(Mutant::LimitLoweredAtOnce) || self.lowered.is_none() {
            self.signal_rate = next;
            self.signals.0 = self.signals.0.min(f64::from(burst(next)));
        }
    }

    fn with_state<T>(&self, act: impl FnOnce(&mut super::state::State, &Asker<'_>) -> T) -> T {
        let identity = self.identity.as_ref().expect("requests are handled after Hello only");
        let asker = Asker { connection: self.connection, identity, instance: &self.instance, outbox: &self.outbox };
        act(&mut self.shared.lock(), &asker)
    }

    fn pong(&self, id: u32, stamp: u64) {
        let stamp = if self.shared.is(Mutant::PongWithoutStamp) { 0 } else { stamp };
        answer(&self.outbox, id, Body::Pong(v1::Pong { stamp, server_time_ms: now_ms() }));
    }

    fn request(&mut self, id: u32, body: Option<Body>) -> Result<(), Fatal> {
        let unknown = body.is_none();
        let (room, result) = match body {
            Some(Body::Ping(ping)) => {
                self.pong(id, ping.stamp);
                return Ok(());
            }
            Some(Body::Pong(_)) => return Ok(()),
            // Without the capability it says nothing (LC-FRM-011).
            Some(Body::Credit(credit)) => {
                return self.outbox.with_gate(|gate| gate.credit(&credit)).unwrap_or(Ok(()));
            }
            Some(Body::Fragment(fragment)) => {
                let whole = self.pieces.take(&self.shared, fragment)?;
                return whole.map_or(Ok(()), |frame| self.frame(frame));
            }
            Some(Body::FragmentAbort(abort)) => {
                self.pieces.abort(abort.transfer);
                return Ok(());
            }
            Some(Body::RefreshToken(ask)) => return self.refresh(id, &ask.token),
            Some(Body::Subscribe(ask)) => {
                let result = self.with_state(|state, asker| state.subscribe(asker, id, &ask));
                (ask.room, result)
            }
            Some(Body::Unsubscribe(ask)) => {
                let result = self.with_state(|state, asker| state.unsubscribe(asker, id, &ask));
                (ask.room, result)
            }
            Some(Body::Publish(ask)) => {
                (ask.room.clone(), self.with_state(|state, asker| state.publish(asker, id, ask)))
            }
            Some(Body::Focus(ask)) => {
                let result = self.with_state(|state, asker| state.focus(asker, id, &ask));
                (ask.room, result)
            }
            Some(Body::History(ask)) => {
                let result = self.with_state(|state, asker| state.history(asker, id, &ask));
                (ask.room, result)
            }
            Some(Body::Signal(ask)) => {
                let room = ask.room.clone();
                let result = if self.signal_allowed() {
                    self.with_state(|state, asker| state.signal(asker, id, ask))
                } else {
                    Err((4400, "too many signals"))
                };
                (room, result)
            }
            Some(body) if only_nodes(&body) => return Err(PROTOCOL),
            Some(body) => (room_of(&body), Err((4301, "not served"))),
            None => (String::new(), Err((4301, "unknown"))),
        };
        match result {
            Ok(()) => Ok(()),
            Err(_) if unknown && id != 0 && self.shared.is(Mutant::UnknownRequestFatal) => Err(PROTOCOL),
            Err((4301, _)) if id == 0 && !(unknown && self.shared.is(Mutant::UnknownFrameAnswered)) => Ok(()),
            Err(refusal) => {
                self.refuse(id, room, refusal);
                Ok(())
            }
        }
    }

    fn refuse(&self, id: u32, room: String, (code, detail): Refusal) {
        let room = if self.shared.is(Mutant::ErrorWithoutRoom) { String::new() } else { room };
        let retry_after_ms = if code >= 4400 { 100 } else { 0 };
        let error = v1::Error { code, detail: detail.into(), room, retry_after_ms, closing: false };
        answer(&self.outbox, id, Body::Error(error));
    }

    fn signal_allowed(&mut self) -> bool {
        if let Some((from, rate)) = self.lowered
            && from <= Instant::now()
            && !self.shared.is(Mutant::LimitNeverLowered)
        {
            (self.signal_rate, self.lowered) = (rate, None);
        }
        let rate = self.signal_rate;
        let (tokens, counted) = &mut self.signals;
        *tokens = (*tokens + counted.elapsed().as_secs_f64() * f64::from(rate)).min(f64::from(burst(rate)));
        *counted = Instant::now();
        if *tokens < 1.0 && !self.shared.is(Mutant::SignalRateUnchecked) {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

fn only_nodes(body: &Body) -> bool {
    matches!(
        body,
        Body::Welcome(_)
            | Body::Subscribed(_)
            | Body::Unsubscribed(_)
            | Body::Published(_)
            | Body::Event(_)
            | Body::Gap(_)
            | Body::HistoryPage(_)
            | Body::Done(_)
            | Body::TokenRefreshed(_)
            | Body::Limits(_)
            | Body::GoAway(_)
            | Body::Error(_)
            | Body::PresencePage(_)
            | Body::PresenceDiff(_)
            | Body::MembersPage(_)
            | Body::Marked(_)
            | Body::UnreadCounts(_)
            | Body::MarkersPage(_)
    )
}

/// The room that a request of a kind that is not served names.
fn room_of(body: &Body) -> String {
    match body {
        Body::PresenceEnter(ask) => ask.room.clone(),
        Body::PresenceUpdate(ask) => ask.room.clone(),
        Body::PresenceLeave(ask) => ask.room.clone(),
        Body::PresenceGet(ask) => ask.room.clone(),
        Body::Members(ask) => ask.room.clone(),
        Body::ChangeMembers(ask) => ask.room.clone(),
        Body::Mark(ask) => ask.room.clone(),
        Body::Markers(ask) => ask.room.clone(),
        _ => String::new(),
    }
}
