//! Commands of the driver: what becomes of the client and of what it asked for.

use super::limits::Limit;
use super::{Accepted, Asked, Expiry, Open, Request, Session, State, VERSION, Waiting};
use crate::codec;
use crate::codes::Code;
use crate::credit::{Gate, WINDOW_BYTES};
use crate::fragment::Assembler;
use crate::lane::Lane;
use crate::session::{Now, Refusal};
use crate::v1;
use crate::v1::frame::Body;

/// Bytes of a room name that are repeated in a refusal: more than any valid name has.
const ECHO_BYTES_MAX: usize = 1024;

impl Session {
    /// Welcomes the client.
    pub fn accept(&mut self, now: Now, accepted: Accepted) {
        let State::Authenticating { id, early, instance, subscriptions, counts, .. } = &mut self.state else { return };
        let (id, early, instance, counts) = (*id, std::mem::take(early), std::mem::take(instance), *counts);
        let hello_left = subscriptions.len();
        let subscribes =
            subscriptions.drain(..).map(|subscribe| Request::Subscribe { asked: Asked::InHello, subscribe });
        self.requests.extend(subscribes.map(Waiting::Request));
        let expiry = Expiry::at(now, accepted.token_expires_at_ms);
        let limits = self.limits_with(accepted.signals_per_second);
        let signals_per_second = Limit::at(limits.signals_per_second);
        self.state = State::Open(Open { expiry, hello_left, signals_per_second, ..Open::default() });
        let welcome = v1::Welcome {
            version: VERSION,
            capabilities: self.config.capabilities.iter().map(|&capability| capability.into()).collect(),
            connection_id: accepted.connection_id,
            user: accepted.user,
            device: accepted.device,
            instance,
            heartbeat: Some(self.config.heartbeat),
            limits: Some(limits),
            server_time_ms: now.wall_ms,
            reconnect: Some(self.config.reconnect),
            node: self.config.node.clone(),
            token_expires_at_ms: accepted.token_expires_at_ms,
        };
        self.control(id, Body::Welcome(welcome));
        if counts && self.config.capabilities.contains(&v1::Capability::Credit) {
            self.gate = Gate::counting();
            self.meter.tell(WINDOW_BYTES);
        }
        for frame in early {
            self.handle_frame(now, frame);
        }
    }

    fn limits_with(&self, signals_per_second: u32) -> v1::Limits {
        match signals_per_second {
            0 => self.config.limits,
            signals_per_second => v1::Limits { signals_per_second, ..self.config.limits },
        }
    }

    /// Takes the newer token: it expires then, node's clock, ms; 0: never. With it the signals that the connection may send
    /// in a second may change; 0: as many as the node's limits say. What waited goes on.
    pub fn refreshed(&mut self, now: Now, id: u32, expires_at_ms: u64, signals_per_second: u32) {
        let limits = self.limits_with(signals_per_second);
        let State::Open(open) = &mut self.state else { return };
        open.expiry = Expiry::at(now, expires_at_ms);
        open.refreshing = false;
        let changed = open.signals_per_second.told() != limits.signals_per_second;
        open.signals_per_second.change(now.monotonic_ms, limits.signals_per_second);
        // Also under id 0: the client has to know until when it may stay.
        self.control(id, Body::TokenRefreshed(v1::TokenRefreshed { expires_at_ms }));
        if changed {
            // LC-FLOW-007
            self.control(0, Body::Limits(limits));
        }
    }

    /// Signals that the client may send in a second, as it holds for what is received now.
    pub fn signals_per_second(&self, now: Now) -> u32 {
        match &self.state {
            State::Open(open) => open.signals_per_second.now(now.monotonic_ms),
            _ => self.config.limits.signals_per_second,
        }
    }

    /// Refuses the newer token; the connection goes on with the one that it has.
    pub fn refuse_refresh(&mut self, id: u32, refusal: Refusal) {
        if let State::Open(open) = &mut self.state {
            open.refreshing = false;
        }
        self.refuse(id, refusal);
    }

    /// Answers a request that has nothing else to say (LC-FRM-014).
    pub fn done(&mut self, id: u32) {
        if id != 0 {
            self.control(id, Body::Done(v1::Done {}));
        }
    }

    /// Refuses a request. With id 0 the client learns of it all the same.
    pub fn refuse(&mut self, id: u32, refusal: Refusal) {
        self.control(id, Body::Error(error(refusal, false)));
    }

    /// Answers a Publish to that room.
    pub fn published(&mut self, id: u32, room: &str, published: v1::Published) {
        self.publish_settled(room);
        if id != 0 {
            self.control(id, Body::Published(published));
        }
    }

    /// Refuses a Publish; the refusal names its room.
    pub fn refuse_publish(&mut self, id: u32, refusal: Refusal) {
        self.publish_settled(&refusal.room);
        self.refuse(id, refusal);
    }

    fn publish_settled(&mut self, room: &str) {
        if let State::Open(open) = &mut self.state {
            open.publishes_in_flight = open.publishes_in_flight.saturating_sub(1);
            if let Some(at) = open.publishing.iter().position(|(of, _)| **of == *room) {
                open.publishing[at].1 -= 1;
                if open.publishing[at].1 == 0 {
                    open.publishing.swap_remove(at);
                }
            }
        }
    }

    /// Sends a page of history; it rides bulk.
    pub fn history_page(&mut self, id: u32, page: v1::HistoryPage) {
        let State::Open(open) = &mut self.state else { return };
        open.pages_in_flight = open.pages_in_flight.saturating_sub(1);
        self.outbox.push(Lane::Bulk, codec::encode_body(id, Body::HistoryPage(page)));
    }

    /// Refuses a page of history.
    pub fn refuse_history(&mut self, id: u32, refusal: Refusal) {
        if let State::Open(open) = &mut self.state {
            open.pages_in_flight = open.pages_in_flight.saturating_sub(1);
        }
        self.refuse(id, refusal);
    }

    /// Tells the client to connect elsewhere; the connection closes after `closes_in_ms`.
    pub fn go_away(&mut self, now: Now, go_away: v1::GoAway) {
        if let State::Open(open) = &mut self.state {
            open.leaves_at_ms = Some(now.monotonic_ms + u64::from(go_away.closes_in_ms));
            self.control(0, Body::GoAway(go_away));
        } else {
            self.close(Refusal::new(Code::GoingAway, "the node shuts down"));
        }
    }

    /// Closes the connection: an Error, then the transport's close with the same code.
    pub fn close(&mut self, refusal: Refusal) {
        if matches!(self.state, State::Closing(_) | State::Closed(_)) {
            return;
        }
        self.state = State::Closing(refusal.code);
        self.requests.clear();
        self.histories.clear();
        self.assembler = Assembler::default();
        self.outbox.clear();
        self.outbox.push(Lane::Control, codec::encode_body(0, Body::Error(error(refusal, true))));
    }
}

fn error(mut refusal: Refusal, closing: bool) -> v1::Error {
    if refusal.room.len() > ECHO_BYTES_MAX {
        // One absurd name must not overflow lane control.
        refusal.room.truncate(refusal.room.floor_char_boundary(ECHO_BYTES_MAX));
    }
    v1::Error {
        code: refusal.code.number().into(),
        detail: refusal.detail,
        room: refusal.room,
        retry_after_ms: refusal.retry_after_ms,
        closing,
    }
}
