//! What a session does with each frame of a client.

use super::check::{
    TOKEN_BYTES_MAX, check_hello, check_history, check_publish, check_room, check_signal, check_subscribe,
};
use super::{Asked, REQUESTS_MAX, Request, Session, State, Waiting};
use crate::binding;
use crate::codec;
use crate::codes::Code;
use crate::focus::Focus;
use crate::fragment::{self, PIECE_BYTES_MAX};
use crate::lane::{Lane, Lanes};
use crate::outbox::CONTROL_BYTES_MAX;
use crate::session::{Now, Refusal};
use crate::v1;
use crate::v1::frame::Body;

impl Session {
    pub(super) fn handle_hello(&mut self, id: u32, mut hello: v1::Hello) {
        if let Err(refusal) = check_hello(&hello) {
            return self.close(refusal);
        }
        if self.is_pipe && self.serves_fragments() && hello.capabilities.contains(&v1::Capability::Fragments.into()) {
            self.outbox.set_fragment_above(Some(PIECE_BYTES_MAX));
        }
        let subscriptions = std::mem::take(&mut hello.subscriptions);
        let instance = hello.instance.clone();
        let counts = hello.capabilities.contains(&v1::Capability::Credit.into());
        self.state = State::Authenticating { id, early: Vec::new(), early_bytes: 0, instance, subscriptions, counts };
        self.request(Request::Authenticate(Box::new(hello)));
    }

    pub(super) fn handle_open(&mut self, now: Now, frame: v1::Frame) {
        let id = frame.id;
        let Some(body) = frame.body else { return self.unimplemented(id, "") };
        match body {
            Body::Hello(_) => self.close(Refusal::new(Code::SecondHello, "Hello comes once")),
            Body::Ping(ping) => {
                let pong = v1::Pong { stamp: ping.stamp, server_time_ms: now.wall_ms };
                match &self.state {
                    State::Open(open) if open.hello_left > 0 => self.wait(Waiting::Ping { id, pong }),
                    _ => self.control(id, Body::Pong(pong)),
                }
            }
            Body::Pong(_) => {}
            Body::Credit(credit) => self.handle_credit(now, &credit),
            Body::Subscribe(subscribe) => match check_subscribe(&subscribe) {
                Ok(()) => self.request(Request::Subscribe { asked: Asked::Frame(id), subscribe }),
                Err(refusal) => self.refuse(id, refusal.in_room(subscribe.room)),
            },
            Body::Unsubscribe(v1::Unsubscribe { room }) => match check_room(&room) {
                Ok(()) => self.wait(Waiting::Unsubscribe { id, room }),
                Err(refusal) => self.refuse(id, refusal.in_room(room)),
            },
            Body::Publish(publish) => self.handle_publish(id, publish),
            Body::Signal(signal) => match check_signal(&signal, &self.config.limits) {
                Ok(envelope) => self.request(Request::Signal { id, signal, envelope: Box::new(envelope) }),
                Err(refusal) => self.refuse(id, refusal.in_room(signal.room)),
            },
            Body::History(history) => match check_history(&history) {
                Ok(()) => self.wait(Waiting::History { id, history }),
                Err(refusal) => self.refuse(id, refusal.in_room(history.room)),
            },
            Body::RefreshToken(v1::RefreshToken { token }) if token.len() <= TOKEN_BYTES_MAX => {
                self.request(Request::RefreshToken { id, token });
            }
            Body::RefreshToken(_) => self.refuse(id, Refusal::new(Code::BadToken, "the token is larger than 8 KiB")),
            Body::Fragment(fragment) if self.serves_fragments() => self.handle_fragment(now, fragment),
            Body::FragmentAbort(abort) if self.serves_fragments() => self.assembler.abort(&abort),
            Body::Unread(_) | Body::Fragment(_) | Body::FragmentAbort(_) => {
                self.unimplemented(id, "");
            }
            Body::Focus(v1::Focus { room, level }) if self.config.capabilities.contains(&v1::Capability::Focus) => {
                match check_room(&room) {
                    Ok(()) => self.wait(Waiting::Focus { id, room, focus: Focus::from_wire(level) }),
                    Err(refusal) => self.refuse(id, refusal.in_room(room)),
                }
            }
            Body::Focus(v1::Focus { room, .. })
            | Body::PresenceEnter(v1::PresenceEnter { room, .. })
            | Body::PresenceUpdate(v1::PresenceUpdate { room, .. })
            | Body::PresenceLeave(v1::PresenceLeave { room })
            | Body::PresenceGet(v1::PresenceGet { room, .. })
            | Body::Members(v1::Members { room, .. })
            | Body::ChangeMembers(v1::ChangeMembers { room, .. })
            | Body::Mark(v1::Mark { room, .. })
            | Body::Markers(v1::Markers { room, .. }) => self.unimplemented(id, &room),
            Body::Welcome(_)
            | Body::Error(_)
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
            | Body::PresencePage(_)
            | Body::PresenceDiff(_)
            | Body::MembersPage(_)
            | Body::Marked(_)
            | Body::UnreadCounts(_)
            | Body::MarkersPage(_) => self.close(Refusal::new(Code::Protocol, "only nodes send this frame")),
        }
    }

    fn handle_credit(&mut self, now: Now, credit: &v1::Credit) {
        match self.gate.credit(now.monotonic_ms, credit) {
            Ok(Some(lane)) => self.progress.moved(now.monotonic_ms, Lanes::NONE.with(lane)),
            Ok(None) => {}
            Err(fault) => self.handle_fault(fault),
        }
    }

    fn serves_fragments(&self) -> bool {
        self.config.capabilities.contains(&v1::Capability::Fragments)
    }

    /// Takes a piece of a frame, and the frame once it is whole (LC-FRM-030, LC-FRM-031).
    fn handle_fragment(&mut self, now: Now, fragment: v1::Fragment) {
        let bytes_max = self.config.limits.record_bytes as usize;
        let whole = match self.assembler.take(now.monotonic_ms, fragment, bytes_max) {
            Ok(Some((lane, frame))) => fragment::decode(frame)
                .and_then(|frame| binding::check_lane(Some(lane), frame.body.as_ref().map(Lane::of)).map(|()| frame)),
            Ok(None) => return,
            Err(fault) => Err(fault),
        };
        match whole {
            Ok(frame) => self.handle_open(now, frame),
            Err(fault) => self.handle_fault(fault),
        }
    }

    /// LC-FRM-010: an unknown request is answered, an unknown notice ignored.
    pub(super) fn unimplemented(&mut self, id: u32, room: &str) {
        if id != 0 {
            let refusal = Refusal::new(Code::Unimplemented, "this node does not serve this frame");
            self.refuse(id, refusal.in_room(room));
        }
    }

    pub(super) fn request(&mut self, request: Request) {
        self.wait(Waiting::Request(request));
    }

    pub(super) fn wait(&mut self, waiting: Waiting) {
        // Only a client that does not read its answers, or sends a flood in one packet, gets here.
        if self.requests.len() >= REQUESTS_MAX {
            return self.close(Refusal::new(Code::ControlOverflow, "too many requests at once"));
        }
        self.requests.push_back(waiting);
    }

    pub(super) fn handle_publish(&mut self, id: u32, publish: v1::Publish) {
        let limits = self.config.limits;
        let replicates = self.config.capabilities.contains(&v1::Capability::Replicated);
        let State::Open(open) = &mut self.state else { return };
        let refusal = if open.publishes_in_flight >= limits.publishes_in_flight {
            let detail = format!("at most {} publishes in flight", limits.publishes_in_flight);
            Refusal::new(Code::TooManyInFlight, detail).retry_after(100)
        } else {
            match check_publish(&publish, &limits, replicates) {
                Ok(envelope) => {
                    open.publishes_in_flight += 1;
                    let envelope = Box::new(envelope);
                    return self.request(Request::Publish { id, publish, envelope });
                }
                Err(refusal) => refusal,
            }
        };
        self.refuse(id, refusal.in_room(publish.room));
    }

    pub(super) fn control(&mut self, id: u32, body: Body) {
        if !matches!(self.state, State::Open(_)) {
            return;
        }
        let record = codec::encode_body(id, body);
        if self.outbox.bytes(Lane::Control) + record.len() > CONTROL_BYTES_MAX {
            // LC-FLOW-004: answers are never dropped, so whoever does not read them has to go.
            return self.close(Refusal::new(Code::ControlOverflow, "answers are not read"));
        }
        self.outbox.push(Lane::Control, record);
    }
}
