//! The connection of the moment: how it begins, and what is left when it ends.

use std::collections::BTreeMap;

use super::held::Held;
use super::refresh::Refresh;
use super::{
    Action, CONNECT_WITHIN_MS, Client, ClientState, Event, HEARTBEAT, Link, Open, Pending, RECONNECT,
    TOKENS_REFUSED_MAX,
};
use crate::codec;
use crate::codes::{Action as Advice, Code, action_of};
use crate::credit::{Gate, WINDOW_BYTES};
use crate::fragment::{Assembler, PIECE_BYTES_MAX};
use crate::lane::Lane;
use crate::publisher::Settled;
use crate::session::Now;
use crate::session::server::VERSION;
use crate::v1;
use crate::v1::frame::Body;

impl Client {
    pub(super) fn begin(&mut self, now: Now, refused: u32, address: String) {
        self.ground.spend();
        self.link = Link::Connecting { deadline_ms: now.monotonic_ms + CONNECT_WITHIN_MS };
        self.actions.push_back(Action::Connect { refused, address });
        self.events.push_back(Event::State(ClientState::Connecting));
    }

    /// The node does not answer or talks nonsense.
    pub(super) fn give_up(&mut self, now: Now, code: Code) {
        self.actions.push_back(Action::Disconnect(code));
        // The node may have said why it closes before its transport fell silent.
        let said = self.closing.take().unwrap_or(0);
        self.lost(now, said);
    }

    /// The node is about to close, for this reason. On streams it waits for this side, which has all that it is going to
    /// get on control (LC-QUIC-006); a WebSocket has a closing handshake of its own.
    pub(super) fn told_to_close(&mut self, now: Now, code: u32) {
        self.closing = Some(code);
        if !self.ordered {
            self.give_up(now, Code::from_number(code).unwrap_or(Code::Normal));
        }
    }

    pub(super) fn welcomed(&mut self, now: Now, welcome: v1::Welcome) {
        if welcome.version != VERSION {
            return self.give_up(now, Code::Version);
        }
        if !self.is_outbox_of(&welcome.user) {
            return self.stop(now, Code::UserMismatch.number().into());
        }
        self.tokens_refused = 0;
        self.ground.refresh();
        self.connection_id = welcome.connection_id;
        self.heartbeat = welcome.heartbeat.unwrap_or(HEARTBEAT);
        self.reconnect = welcome.reconnect.unwrap_or(RECONNECT);
        self.set_clock(now, welcome.server_time_ms, 0);
        let limits = welcome.limits.unwrap_or_default();
        self.signals.limit(now, limits.signals_per_second);
        self.limit_rooms(limits.rooms);
        let held = match &mut self.link {
            Link::Handshake { held, .. } => std::mem::take(held),
            _ => Held::default(),
        };
        self.link = Link::Open(Box::new(Open {
            opened_at_ms: now.monotonic_ms,
            sent_at_ms: now.monotonic_ms,
            pong_by_ms: None,
            probe: None,
            leave_at_ms: None,
            leave_to: String::new(),
            in_flight_max: limits.publishes_in_flight.max(1) as usize,
            record_bytes: limits.record_bytes as usize,
            replicates: welcome.capabilities.contains(&v1::Capability::Replicated.into()),
            focuses: welcome.capabilities.contains(&v1::Capability::Focus.into()),
            reads: welcome.capabilities.contains(&v1::Capability::History.into()),
            signals: welcome.capabilities.contains(&v1::Capability::Signals.into()),
            refresh: Refresh::default(),
            pending: BTreeMap::new(),
            held,
        }));
        if self.ordered && welcome.capabilities.contains(&v1::Capability::Fragments.into()) {
            self.outbox.set_fragment_above(Some(PIECE_BYTES_MAX));
        }
        if welcome.capabilities.contains(&v1::Capability::Credit.into()) {
            self.gate = Gate::counting();
            self.meter.tell(WINDOW_BYTES);
        }
        let refreshes = welcome.capabilities.contains(&v1::Capability::Refresh.into());
        self.begin_refresh(now, refreshes, welcome.token_expires_at_ms);
        self.events.push_back(Event::State(ClientState::Connected));
        // Rooms that the application named after Hello was sent.
        let late: Vec<String> = self
            .rooms
            .iter()
            .filter(|(_, room)| room.wanted() && room.asked.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for name in late {
            self.ask(&name);
        }
    }

    /// The connection is gone: what now is decided by the code (LC-LIFE-023, LC-AUTH-022).
    pub(super) fn lost(&mut self, now: Now, code: u32) {
        // A node that says why it closes is there, and may not want to be asked again at once.
        let at_once = code == 0 && matches!(&self.link, Link::Open(open) if open.probe.is_some());
        self.count_life(now);
        self.detach();
        let action = if code >= 4000 { action_of(code) } else { Advice::Retry };
        let refused = if action == Advice::NewToken { code } else { 0 };
        if refused != 0 {
            self.tokens_refused += 1;
        }
        if action == Advice::Stop || self.tokens_refused > TOKENS_REFUSED_MAX {
            return self.stop(now, code);
        }
        let window = u64::from(self.reconnect.min_ms) << self.attempt.min(16);
        let window = window.min(self.reconnect.max_ms.into());
        self.attempt += 1;
        let delay_ms = if at_once { 0 } else { self.draw(window + 1) };
        self.wait(now.monotonic_ms + delay_ms, refused, String::new(), code);
    }

    pub(super) fn wait(&mut self, until_ms: u64, refused: u32, address: String, code: u32) {
        self.link = Link::Waiting { until_ms, refused, address, code };
        self.events.push_back(Event::State(ClientState::Suspended { code }));
    }

    pub(super) fn stop(&mut self, _now: Now, code: u32) {
        if matches!(self.link, Link::Closed { .. }) {
            return;
        }
        if matches!(self.link, Link::Open(_) | Link::Handshake { .. } | Link::Connecting { .. }) {
            self.actions.push_back(Action::Disconnect(Code::Normal));
        }
        self.detach();
        self.link = Link::Closed { code };
        self.events.push_back(Event::State(ClientState::Closed { code }));
    }

    /// Drops what belongs to the connection; rooms, publishes and signals stay.
    pub(super) fn detach(&mut self) {
        self.outbox.clear();
        self.assembler = Assembler::default();
        self.publisher.disconnected();
        let before = std::mem::replace(&mut self.link, Link::Idle);
        if let Link::Open(open) = before {
            for (_, pending) in open.pending {
                self.unanswered(pending);
            }
        }
        for (name, room) in &mut self.rooms {
            let state = room.state.clone();
            room.disconnected();
            if room.state != state {
                self.events.push_back(Event::Room(name.clone(), room.state.clone()));
            }
        }
    }

    fn unanswered(&mut self, pending: Pending) {
        let error = v1::Error {
            code: Code::Unavailable.number().into(),
            detail: "the connection ended before the answer came".into(),
            ..Default::default()
        };
        match pending {
            // It may have been passed on; that is what transient means.
            Pending::Publish(ticket) => {
                let settled = Settled::Refused { code: error.code, detail: error.detail };
                self.events.push_back(Event::Settled(ticket, settled));
            }
            Pending::History(ticket) => self.events.push_back(Event::Page(ticket, Err(error))),
            Pending::Subscribe(_) | Pending::Refresh(_) | Pending::Ignored => {}
        }
    }

    /// A connection that lived long enough ends the row of failures (LC-LIFE-023).
    pub(super) fn count_life(&mut self, now: Now) {
        if let Link::Open(open) = &self.link
            && now.monotonic_ms - open.opened_at_ms >= u64::from(self.reconnect.max_ms)
        {
            self.attempt = 0;
        }
    }

    pub(super) fn set_clock(&mut self, now: Now, node_ms: u64, round_trip_ms: u64) {
        if node_ms != 0 {
            self.clock_offset_ms = (node_ms + round_trip_ms / 2) as i64 - now.wall_ms as i64;
        }
    }

    pub(super) fn ping(&mut self, now: Now) {
        let id = self.id();
        let ping = v1::Ping { stamp: now.monotonic_ms };
        self.outbox.push(Lane::Control, codec::encode_body(id, Body::Ping(ping)));
    }
}
