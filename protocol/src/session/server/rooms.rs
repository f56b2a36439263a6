//! The rooms of a connection: how subscriptions begin, move, stand and end.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::check::check_subscribe;
use super::delivery::gap_record;
use super::{Asked, CONTROL_BYTES_BUSY, OPENINGS_MAX, Opened, Ready, Request, Session, State, Subscription, Waiting};
use crate::codec;
use crate::codes::Code;
use crate::focus::Focus;
use crate::lane::Lane;
use crate::place::Place;
use crate::position::{DurableLane, PerLane, Position};
use crate::session::Refusal;
use crate::v1;
use crate::v1::frame::Body;

impl Session {
    /// Refuses a Subscribe.
    pub fn refuse_subscribe(&mut self, asked: Asked, refusal: Refusal) {
        self.release(&refusal.room);
        if asked == Asked::InHello {
            self.hello_answered();
        }
        if let Asked::Frame(id) = asked {
            return self.refuse(id, refusal);
        }
        let cause = v1::UnsubscribedCause::Refused.into();
        let code = refusal.code.number().into();
        self.control(0, Body::Unsubscribed(v1::Unsubscribed { room: refusal.room, cause, code }));
    }

    /// Begins a subscription, or moves the place of one, and answers it. With a cause it comes unasked: the room
    /// has a new epoch, and `opened.position` is where the place stands in it.
    pub fn subscribed(&mut self, id: u32, opened: Opened, cause: v1::SubscribedCause) {
        self.release(&opened.room);
        if id == 0 && cause == v1::SubscribedCause::Unspecified {
            self.hello_answered();
        }
        let State::Open(open) = &mut self.state else { return };
        open.openings = open.openings.wrapping_add(1);
        open.untold |= opened.degraded != open.degraded;
        // A position below the head has something to read, be it only the gap of a trimmed log.
        let ready = PerLane::from_fn(|lane| match opened.head.seq(lane) > opened.position.seq(lane) {
            true => Ready::Yes,
            false => Ready::No,
        });
        let subscription = Subscription {
            room: opened.room.clone(),
            handle: opened.handle,
            opening: open.openings,
            place: Place::at(opened.position),
            ready,
            held_back: PerLane::default(),
            head: opened.head,
            head_order: opened.head_order,
            degraded: opened.degraded,
            focus: Focus::default(),
        };
        match open.subscriptions.iter_mut().find(|known| known.room == opened.room) {
            Some(known) => {
                let subscription = Subscription { focus: known.focus, ..subscription };
                let former = std::mem::replace(known, subscription).handle;
                // What waits of the former place would come behind this answer, from before or beyond the new place.
                let unasked = cause != v1::SubscribedCause::Unspecified;
                self.forget_queued(former, unasked.then_some(opened.position));
            }
            None => open.subscriptions.push(subscription),
        }
        let frame = v1::Subscribed {
            room: opened.room.to_string(),
            handle: opened.handle,
            position: Some(opened.position.into()),
            head: Some(opened.head.into()),
            head_order: opened.head_order,
            recovered: opened.recovered,
            rolled_back: opened.rolled_back,
            missed_transients: opened.missed_transients,
            transients: opened.transients,
            cause: cause.into(),
            degraded: opened.degraded,
        };
        self.control(id, Body::Subscribed(frame));
    }

    fn hello_answered(&mut self) {
        if let State::Open(open) = &mut self.state {
            open.hello_left = open.hello_left.saturating_sub(1);
            open.hello_opens = false;
        }
    }

    /// Says of every subscription whose client was last told otherwise that the log can, or cannot, be reached
    /// (LC-SUB-018). As lane control has room: call it again as it drains. The frame changes nothing else.
    pub fn tell_degraded(&mut self, degraded: bool) {
        let State::Open(open) = &mut self.state else { return };
        open.untold |= open.degraded != degraded;
        open.degraded = degraded;
        while self.outbox.bytes(Lane::Control) < CONTROL_BYTES_BUSY {
            let State::Open(open) = &mut self.state else { return };
            if !open.untold {
                return;
            }
            let held = &open.held;
            let mut others = open.subscriptions.iter_mut().filter(|known| known.degraded != degraded);
            let Some(known) = others.find(|known| !held.contains(&known.room)) else {
                // What is being opened is told by its answer, or after it.
                open.untold = open.subscriptions.iter().any(|known| known.degraded != degraded);
                return;
            };
            known.degraded = degraded;
            let frame = known.stands();
            self.control(0, Body::Subscribed(frame));
        }
    }

    /// Holds back every request about a room until its opening is answered: by [`Self::subscribed`],
    /// [`Self::refuse_subscribe`] or [`Self::release`]. A [`Request::Subscribe`] does so by itself.
    pub fn hold(&mut self, room: &Arc<str>) {
        if let State::Open(open) = &mut self.state
            && !open.held.contains(room)
        {
            open.held.push(Arc::clone(room));
        }
    }

    /// Ends what [`Self::hold`] began.
    pub fn release(&mut self, room: &str) {
        if let State::Open(open) = &mut self.state {
            open.held.retain(|held| **held != *room);
        }
    }

    /// Whether a room is being opened.
    pub fn is_held(&self, room: &str) -> bool {
        matches!(&self.state, State::Open(open) if open.held.iter().any(|held| **held == *room))
    }

    /// Whether another room may be opened now: not while many are, or answers wait.
    pub fn may_open(&self) -> bool {
        let State::Open(open) = &self.state else { return false };
        open.held.len() < OPENINGS_MAX && self.outbox.bytes(Lane::Control) <= CONTROL_BYTES_BUSY
    }

    /// The place of a subscription, in its epoch.
    pub fn position(&self, handle: u64) -> Option<Position> {
        let State::Open(open) = &self.state else { return None };
        open.subscriptions.iter().find(|known| known.handle == handle).map(|known| known.place.position())
    }

    /// The epoch of a handle ended: nothing more is read under it, and what is being read is not delivered. Returns the
    /// place, from which the room is to be opened again; it does not move until then.
    pub fn suspend(&mut self, handle: u64) -> Option<Position> {
        let State::Open(open) = &mut self.state else { return None };
        let known = open.subscriptions.iter_mut().find(|known| known.handle == handle)?;
        open.openings = open.openings.wrapping_add(1);
        known.opening = open.openings;
        known.ready = PerLane([Ready::Suspended; 3]);
        Some(known.place.position())
    }

    /// Ends a subscription unasked.
    pub fn unsubscribed(&mut self, room: &str, cause: v1::UnsubscribedCause, code: Option<Code>) {
        let State::Open(open) = &mut self.state else { return };
        let Some(at) = open.subscriptions.iter().position(|known| &*known.room == room) else { return };
        let gone = open.subscriptions.remove(at);
        self.forget_queued(gone.handle, None);
        self.requests.push_back(Waiting::Request(Request::Unsubscribed { handle: gone.handle }));
        let code = code.map_or(0, |code| code.number().into());
        self.control(0, Body::Unsubscribed(v1::Unsubscribed { room: room.to_owned(), cause: cause.into(), code }));
    }

    /// Drops what waits of a handle, or what of it lies beyond a position.
    pub(super) fn forget_queued(&mut self, handle: u64, through: Option<Position>) {
        for lane in [Lane::Urgent, Lane::Normal, Lane::Signal, Lane::Bulk] {
            self.outbox.revise(lane, |record| still_due(record, handle, through));
        }
    }

    /// Holds what waits of a handle to other types than those by which it was queued (LC-AUTH-020).
    pub fn refilter(&mut self, handle: u64, wanted: impl Fn(&str) -> bool) {
        let Some(epoch) = self.position(handle).map(|position| position.epoch) else { return };
        let excluded_in = |of, kind: &str| (of == handle && !wanted(kind)).then_some(epoch);
        for lane in [Lane::Urgent, Lane::Normal, Lane::Signal, Lane::Bulk] {
            self.outbox.revise(lane, |record| filtered(record, excluded_in));
        }
    }

    /// Raises or lowers a room (LC-FLOW-020).
    pub(super) fn focus(&mut self, id: u32, room: &str, focus: Focus) {
        let State::Open(open) = &mut self.state else { return };
        match open.subscriptions.iter_mut().find(|known| &*known.room == room) {
            Some(known) => {
                known.focus = focus;
                self.done(id);
            }
            None => self.refuse(id, Refusal::new(Code::NotSubscribed, "not subscribed").in_room(room)),
        }
    }

    /// How much the room of a handle matters to the client's user now.
    pub fn focus_of(&self, handle: u64) -> Focus {
        let State::Open(open) = &self.state else { return Focus::Default };
        open.subscriptions.iter().find(|known| known.handle == handle).map_or(Focus::Default, |known| known.focus)
    }

    pub(super) fn admit(&self, subscribe: &v1::Subscribe) -> Result<(), Refusal> {
        check_subscribe(subscribe)?;
        let limit = self.config.limits.rooms as usize;
        let State::Open(open) = &self.state else { return Ok(()) };
        let known = open.subscriptions.iter().any(|known| *known.room == *subscribe.room);
        let known_to = |room: &str| open.subscriptions.iter().any(|known| *known.room == *room);
        let opening = open.held.iter().filter(|held| !known_to(held)).count();
        if !known && open.subscriptions.len() + opening >= limit {
            return Err(Refusal::new(Code::TooManyRooms, format!("at most {limit} rooms")));
        }
        Ok(())
    }

    pub(super) fn end(&mut self, id: u32, room: &str) -> Option<u64> {
        let State::Open(open) = &mut self.state else { return None };
        let Some(at) = open.subscriptions.iter().position(|known| &*known.room == room) else {
            self.refuse(id, Refusal::new(Code::NotSubscribed, "not subscribed").in_room(room));
            return None;
        };
        let gone = open.subscriptions.remove(at);
        self.forget_queued(gone.handle, None);
        self.control(id, Body::Unsubscribed(v1::Unsubscribed { room: room.to_owned(), cause: 0, code: 0 }));
        Some(gone.handle)
    }
}

impl Subscription {
    /// How it stands, and nothing that would move a client.
    fn stands(&self) -> v1::Subscribed {
        let position = self.place.position();
        let seen = |lane| position.seq(lane).max(self.head.seq(lane));
        v1::Subscribed {
            room: self.room.to_string(),
            handle: self.handle,
            position: Some(position.into()),
            head: Some(Position::new(position.epoch, PerLane::from_fn(seen)).into()),
            head_order: self.head_order,
            cause: v1::SubscribedCause::Degraded.into(),
            degraded: self.degraded,
            ..Default::default()
        }
    }
}

/// What becomes of a record if only some types are wanted. `excluded_in` is asked with handle and type, and says the epoch
/// of the handle for those that are not: an event becomes the gap that covers it (LC-AUTH-013), a signal is not sent.
pub fn filtered(record: &Bytes, excluded_in: impl Fn(u64, &str) -> Option<u64>) -> Option<Bytes> {
    let frame = codec::records(record.clone(), usize::MAX).next().and_then(|frame| codec::decode(frame.ok()?).ok());
    let epoch_of = |handle: u64, envelope: &Bytes| {
        let envelope = v1::Envelope::decode(envelope.clone()).ok()?;
        excluded_in(handle, &envelope.r#type)
    };
    match frame.and_then(|frame| frame.body) {
        Some(Body::Event(event)) => match epoch_of(event.handle, &event.envelope) {
            None => Some(record.clone()),
            Some(epoch) => {
                let v1::Event { handle, lane, seq, .. } = event;
                let (count, cause) = (u64::from(seq == 0), v1::GapCause::Filtered.into());
                let gap = v1::Gap { handle, lane, epoch, from: seq, to: seq, count, cause, refillable: false };
                Some(codec::encode_body(0, Body::Gap(gap)))
            }
        },
        Some(Body::Signal(signal)) if epoch_of(signal.handle, &signal.envelope).is_some() => None,
        _ => Some(record.clone()),
    }
}

/// What becomes of a queued record when a subscription ends or moves; `None`: it is not sent any more. With a position
/// only what lies beyond it goes (LC-RES-010).
///
/// Records are looked into instead of being labelled, since this is rare and queues are long-lived.
fn still_due(record: &Bytes, handle: u64, through: Option<Position>) -> Option<Bytes> {
    let frame = codec::records(record.clone(), usize::MAX).next().and_then(|frame| codec::decode(frame.ok()?).ok());
    let through = |wire| Some(through?.seq(DurableLane::from_wire(wire)?));
    let keep = match frame.and_then(|frame| frame.body) {
        Some(Body::Event(event)) if event.handle == handle => through(event.lane).is_some_and(|last| event.seq <= last),
        Some(Body::Gap(gap)) if gap.handle == handle => match through(gap.lane) {
            Some(last) if gap.to > last => {
                let lane = DurableLane::from_wire(gap.lane)?;
                let cause = v1::GapCause::try_from(gap.cause).ok()?;
                return (gap.from <= last).then(|| gap_record(handle, lane, gap.epoch, gap.from, last, cause));
            }
            last => last.is_some(),
        },
        Some(Body::Signal(signal)) if signal.handle == handle => through(v1::Lane::Normal.into()).is_some(),
        _ => true,
    };
    keep.then(|| record.clone())
}
