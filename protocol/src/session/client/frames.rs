//! What a client does with each frame of a node.

use super::held::HeldFrame;
use super::room::Effect;
use super::{ASK_AGAIN_MS, Client, Event, Link, Pending, RoomState};
use crate::codec;
use crate::codes::{Action as Advice, Code, action_of};
use crate::focus::Focus;
use crate::lane::Lane;
use crate::outbox::CONTROL_BYTES_MAX;
use crate::publisher::Settled;
use crate::session::Now;
use crate::v1;
use crate::v1::frame::Body;

impl Client {
    pub(super) fn handle_body(&mut self, now: Now, id: u32, body: Body, bytes: usize) {
        match body {
            // A node that floods a client which cannot write is not answered further.
            Body::Ping(_) if self.outbox.bytes(Lane::Control) >= CONTROL_BYTES_MAX => {}
            Body::Ping(ping) => {
                let pong = v1::Pong { stamp: ping.stamp, server_time_ms: 0 };
                self.outbox.push(Lane::Control, codec::encode_body(id, Body::Pong(pong)));
            }
            Body::Pong(pong) => {
                if let Link::Open(open) = &mut self.link {
                    open.answered(pong.stamp);
                }
                self.set_clock(now, pong.server_time_ms, now.monotonic_ms.saturating_sub(pong.stamp));
            }
            Body::Subscribed(frame) => self.handle_subscribed(now, id, frame),
            Body::Unsubscribed(frame) => self.handle_unsubscribed(now, id, &frame),
            Body::Published(published) => {
                if !self.publisher.published(now.monotonic_ms, id, published)
                    && let Some(Pending::Publish(ticket)) = self.answered(id)
                {
                    self.events.push_back(Event::Settled(ticket, Settled::Stored(published)));
                }
            }
            Body::HistoryPage(page) => {
                if let Some(Pending::History(ticket)) = self.answered(id) {
                    self.events.push_back(Event::Page(ticket, Ok(Box::new(page))));
                }
            }
            Body::Event(_) | Body::Gap(_) | Body::Signal(_) => {
                self.handle_room_frame(now, HeldFrame { at_ms: now.monotonic_ms, bytes, body });
            }
            Body::Error(error) if error.closing => self.told_to_close(now, error.code),
            Body::Error(error) => self.handle_error(now, id, error),
            Body::GoAway(go_away) => {
                if let Link::Open(open) = &mut self.link {
                    open.leave_at_ms = Some(now.monotonic_ms + u64::from(go_away.retry_after_ms));
                    open.leave_to = go_away.address;
                }
            }
            Body::Limits(limits) => {
                if let Link::Open(open) = &mut self.link {
                    open.in_flight_max = limits.publishes_in_flight.max(1) as usize;
                    open.record_bytes = limits.record_bytes as usize;
                }
                self.signals.limit(now, limits.signals_per_second);
                self.limit_rooms(limits.rooms);
            }
            Body::Credit(credit) => self.handle_credit(now, &credit),
            Body::TokenRefreshed(refreshed) => {
                if let Some(Pending::Refresh(token)) = self.answered(id) {
                    self.token_refreshed(now, token, refreshed.expires_at_ms);
                }
            }
            Body::Done(_) => {
                self.answered(id);
            }
            // Frames of parts that this client does not use, and those that only clients send, say nothing to it.
            _ => {}
        }
    }

    fn handle_credit(&mut self, now: Now, credit: &v1::Credit) {
        if self.gate.credit(now.monotonic_ms, credit).is_err() {
            self.give_up(now, Code::Protocol);
        }
    }

    pub(super) fn answered(&mut self, id: u32) -> Option<Pending> {
        let Link::Open(open) = &mut self.link else { return None };
        open.pending.remove(&id)
    }

    pub(super) fn handle_subscribed(&mut self, now: Now, id: u32, frame: v1::Subscribed) {
        self.answered(id);
        let name = frame.room.clone();
        let Some(room) = self.rooms.get_mut(&name) else { return };
        let unasked = frame.cause != v1::SubscribedCause::Unspecified as i32;
        if !unasked && room.asked != Some(id) {
            // The answer to a Subscribe that a later one has overtaken.
            return;
        }
        if unasked && room.asked.is_some() {
            // It is about a place that this client has asked the node to move; where to, the answer says. That answers
            // from the position that was asked from, so nothing may change the epoch of the position meanwhile.
            return;
        }
        if frame.cause == v1::SubscribedCause::Degraded as i32 {
            let effect = room.degraded(&frame);
            return self.report(&name, effect);
        }
        let handle = frame.handle;
        if let Link::Open(open) = &mut self.link
            && open.held.dropped.remove(&handle)
        {
            room.hole_unseen = true;
        }
        let focused = !unasked && room.focus != Focus::Default;
        match room.subscribed(now.monotonic_ms, frame) {
            Ok(effect) => self.report(&name, effect),
            // Going on would lose events in silence; a new connection starts from what is known.
            Err(_) => return self.give_up(now, Code::Protocol),
        }
        if focused {
            // A node forgets it with the connection, or when the room was left.
            self.tell_focus(&name);
        }
        self.release_held(now);
    }

    pub(super) fn handle_unsubscribed(&mut self, now: Now, id: u32, frame: &v1::Unsubscribed) {
        if matches!(self.answered(id), Some(Pending::Ignored)) {
            if let Some(room) = self.rooms.get_mut(&frame.room)
                && room.paused
            {
                room.tracker.disconnected();
            }
            return;
        }
        let refused = frame.cause == v1::UnsubscribedCause::Refused as i32;
        let Some(room) = self.rooms.get_mut(&frame.room) else { return };
        if refused && room.asked != Some(0) {
            return;
        }
        if refused && matches!(action_of(frame.code), Advice::Retry | Advice::RetryAfter) {
            room.asked = None;
            room.again_at_ms = Some(now.monotonic_ms + ASK_AGAIN_MS);
            return;
        }
        self.end(&frame.room, frame.code);
    }

    pub(super) fn end(&mut self, name: &str, code: u32) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        room.tracker.disconnected();
        room.asked = None;
        room.state = RoomState::Ended { code: Some(code) };
        self.events.push_back(Event::Room(name.to_owned(), room.state.clone()));
    }

    pub(super) fn handle_error(&mut self, now: Now, id: u32, error: v1::Error) {
        if self.publisher.refused(now.monotonic_ms, id, &error) {
            return;
        }
        match self.answered(id) {
            Some(Pending::Publish(ticket)) => {
                let settled = Settled::Refused { code: error.code, detail: error.detail };
                self.events.push_back(Event::Settled(ticket, settled));
            }
            Some(Pending::History(ticket)) => self.events.push_back(Event::Page(ticket, Err(error))),
            Some(Pending::Subscribe(name)) => {
                let Some(room) = self.rooms.get_mut(&name) else { return };
                if room.asked != Some(id) {
                    return;
                }
                room.asked = None;
                match action_of(error.code) {
                    Advice::Retry | Advice::RetryAfter => {
                        room.again_at_ms = Some(now.monotonic_ms + ASK_AGAIN_MS.max(error.retry_after_ms.into()));
                    }
                    _ => self.end(&name, error.code),
                }
            }
            Some(Pending::Refresh(_)) => self.refresh_refused(now, &error),
            Some(Pending::Ignored) | None => {}
        }
    }

    pub(super) fn handle_room_frame(&mut self, now: Now, frame: HeldFrame) {
        let Some(handle) = handle_of(&frame.body) else { return };
        let Some(name) = self.rooms.iter().find(|(_, room)| room.tracker.knows(handle)).map(|(name, _)| name.clone())
        else {
            return self.hold(now, frame);
        };
        let (ordered, node_ms) = (self.ordered, self.node_time_ms(now));
        let Some(room) = self.rooms.get_mut(&name) else { return };
        let effect = match frame.body {
            Body::Event(event) => room.event(now.monotonic_ms, event, ordered),
            Body::Gap(gap) => room.gap(now.monotonic_ms, &gap, ordered),
            Body::Signal(signal) => {
                if room.heard.is_news(node_ms, &signal) {
                    self.events.push_back(Event::Signal(name, Box::new(signal)));
                }
                return;
            }
            _ => return,
        };
        if room.is_full() && !room.paused && room.wanted() {
            room.paused = true;
            room.muted = true;
            self.leave(&name);
        }
        self.report(&name, effect);
    }

    pub(super) fn report(&mut self, name: &str, effect: Effect) {
        let Some(room) = self.rooms.get(name) else { return };
        if effect.state {
            self.events.push_back(Event::Room(name.to_owned(), room.state.clone()));
        }
        if effect.items && !matches!(self.events.back(), Some(Event::Ready(ready)) if ready == name) {
            self.events.push_back(Event::Ready(name.to_owned()));
        }
    }

    /// Keeps a frame whose handle is not known yet. Where the transport keeps the order across lanes there is nothing
    /// to wait for: the handle is one that ended.
    pub(super) fn hold(&mut self, now: Now, frame: HeldFrame) {
        let ordered = self.ordered;
        let Link::Open(open) = &mut self.link else { return };
        if !ordered && !open.held.push(frame) {
            self.drop_held(now);
        }
    }

    pub(super) fn release_held(&mut self, now: Now) {
        let Link::Open(open) = &mut self.link else { return };
        open.held.bytes = 0;
        for frame in std::mem::take(&mut open.held.frames) {
            self.handle_room_frame(now, frame);
        }
    }

    pub(super) fn expire_held(&mut self, now: Now) {
        let Link::Open(open) = &self.link else { return };
        if open.held.expires_at_ms().is_some_and(|at| at <= now.monotonic_ms) {
            self.drop_held(now);
        }
    }

    /// Drops what was held, and subscribes again to every room whose answer is outstanding.
    pub(super) fn drop_held(&mut self, now: Now) {
        let Link::Open(open) = &mut self.link else { return };
        open.held.drop_all();
        for room in self.rooms.values_mut().filter(|room| room.asked.is_some()) {
            room.again_at_ms = Some(now.monotonic_ms);
        }
    }

    /// A number below `bound`, from a generator that needs no quality but spread (splitmix64).
    pub(super) fn draw(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// The handle of a frame of a room.
pub(super) fn handle_of(body: &Body) -> Option<u64> {
    match body {
        Body::Event(event) => Some(event.handle),
        Body::Gap(gap) => Some(gap.handle),
        Body::Signal(signal) => Some(signal.handle),
        _ => None,
    }
}
