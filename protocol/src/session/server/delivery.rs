//! How what rooms have reaches the outbox: durable events by pull, what the log does not hold by push.

use bytes::Bytes;

use super::{Read, Ready, Session, State, Subscription};
use crate::codec;
use crate::focus::Focus;
use crate::lane::Lane;
use crate::outbox::Expiry;
use crate::place::{Batch, Step, Stored};
use crate::position::DurableLane;
use crate::session::Now;
use crate::v1;
use crate::v1::frame::Body;

impl Session {
    /// Says that a lane of a room has something after the place.
    pub fn mark_ready(&mut self, handle: u64, lane: DurableLane) {
        if let State::Open(open) = &mut self.state
            && let Some(subscription) = open.subscriptions.iter_mut().find(|known| known.handle == handle)
        {
            let ready = &mut subscription.ready[lane];
            *ready = match *ready {
                Ready::No | Ready::Fresh => Ready::Fresh,
                Ready::Yes => Ready::Yes,
                Ready::Reading | Ready::ReadingAgain => Ready::ReadingAgain,
                Ready::Suspended => Ready::Suspended,
            };
        }
    }

    /// Hands over what was read; returns the gaps that it led to. `more` says that the log has further events after the
    /// batch.
    pub fn deliver(
        &mut self,
        now: Now,
        read: &Read,
        batch: Batch,
        more: bool,
        wanted: impl Fn(&Stored) -> bool,
    ) -> Vec<v1::GapCause> {
        let mut gaps = Vec::new();
        let State::Open(open) = &mut self.state else { return gaps };
        // Unless a Subscribe moved the place while the log was being read, or its epoch ended.
        let Some(subscription) = open.subscriptions.iter_mut().find(|known| known.opening == read.opening) else {
            return gaps;
        };
        subscription.ready[read.lane] = match subscription.ready[read.lane] {
            _ if more => Ready::Yes,
            // What was marked meanwhile may have come after what was read.
            Ready::ReadingAgain => Ready::Fresh,
            _ => Ready::No,
        };
        self.outbox.set_now(now.wall_ms);
        let (epoch, is_lowered) = (subscription.place.epoch, subscription.focus == Focus::Background);
        let gap = |from, to, cause| gap_record(read.handle, read.lane, epoch, from, to, cause);
        let lane = Lane::from(read.lane);
        for step in subscription.place.advance(read.lane, batch, now.wall_ms, wanted) {
            let (record, expiry) = match step {
                Step::Gap { from, to, cause } => {
                    gaps.push(cause);
                    (gap(from, to, cause), None)
                }
                Step::Event { expires_at_ms: 0, record, .. } => (record, None),
                Step::Event { seq, expires_at_ms, record } => {
                    let instead = gap(seq, seq, v1::GapCause::Expired);
                    (record, Some(Expiry { at_ms: expires_at_ms, instead }))
                }
            };
            self.outbox.push_from(lane, read.handle, record, expiry, !more && !is_lowered);
        }
        gaps
    }

    /// What was asked for was not read: it will be asked for again. Nothing is lost, the place stands where it stood.
    pub fn read_again(&mut self, read: &Read) {
        if let State::Open(open) = &mut self.state
            && let Some(subscription) = open.subscriptions.iter_mut().find(|known| known.opening == read.opening)
        {
            subscription.ready[read.lane] = Ready::Yes;
        }
    }

    /// Queues a record that the log does not hold: a transient event, a gap of transients or a signal. Ask
    /// [`Self::has_room`] first; beyond it they wait, and are dropped, in the connection's mailbox. Events of a room without a
    /// backlog pass what others still have of theirs, as durable ones do.
    pub fn send(&mut self, lane: Lane, handle: u64, record: Bytes, expiry: Option<Expiry>) {
        if self.is_open() {
            let passes = lane != Lane::Signal && self.focus_of(handle) != Focus::Background;
            self.outbox.push_from(lane, handle, record, expiry, passes);
        }
    }

    /// The next read of a room's log, while half of its lane's budget is free here: rooms take turns, and each is
    /// to be worth a read. What came to a room that had been read to its end passes what others have still to read,
    /// so that one is read sooner, unless the client lowered it. A lane of a room is not asked for again before its
    /// read was answered, by [`Self::deliver`] or [`Self::read_again`], which may be much later; the others go on,
    /// with smaller turns, since all may be answered at once. Those that the client lowered do not: what they had
    /// meanwhile would go before what is being read.
    pub fn next_read(&mut self) -> Option<Read> {
        let State::Open(open) = &mut self.state else { return None };
        let count = open.subscriptions.len();
        for lane in DurableLane::ALL {
            let queued = self.outbox.bytes(lane.into());
            if count == 0 {
                return None;
            }
            let free = self.config.lane_bytes.saturating_sub(queued);
            let may_pass = free > 0 && self.outbox.may_pass(lane.into());
            let is_full = free < self.config.lane_bytes / 2;
            let may_read = |known: &Subscription| match known.ready[lane] {
                Ready::Fresh if is_full => may_pass && known.focus < Focus::Background,
                Ready::Fresh => true,
                Ready::Yes => !is_full,
                Ready::No | Ready::Reading | Ready::ReadingAgain | Ready::Suspended => false,
            };
            if is_full {
                let is_kept = |known: &Subscription| known.ready[lane].is_yes() && !may_read(known);
                let kept = open.subscriptions.iter_mut().filter(|known| is_kept(known));
                kept.for_each(|known| known.held_back[lane] = true);
            }
            let reading = open.subscriptions.iter().filter(|known| known.ready[lane].is_reading());
            let least = reading.map(|known| known.focus).min().unwrap_or(Focus::Background);
            let ready = open.subscriptions.iter().filter(|known| may_read(known) && known.focus <= least);
            let Some(focus) = open.turns[lane].next(ready.map(|known| known.focus)) else { continue };
            let turn = open.turn[lane][focus as usize] as usize;
            let is_next = |known: &Subscription| may_read(known) && known.focus == focus;
            let mut places = (0..count).map(|step| (turn + step) % count);
            let Some(at) = places.find(|&at| is_next(&open.subscriptions[at])) else { continue };
            open.turn[lane][focus as usize] = at as u32 + 1;
            let reading = open.subscriptions.iter().filter(|known| known.ready[lane].is_reading()).count();
            let subscription = &mut open.subscriptions[at];
            subscription.ready[lane] = Ready::Reading;
            return Some(Read {
                room: subscription.room.clone(),
                handle: subscription.handle,
                opening: subscription.opening,
                epoch: subscription.place.epoch,
                lane,
                after: subscription.place.sent(lane),
                bytes: free / (1 + reading),
                held_back: std::mem::take(&mut subscription.held_back[lane]),
            });
        }
        None
    }
}

/// The record of a durable gap.
pub fn gap_record(handle: u64, lane: DurableLane, epoch: u64, from: u64, to: u64, cause: v1::GapCause) -> Bytes {
    let gap = v1::Gap {
        handle,
        lane: v1::Lane::from(lane).into(),
        epoch,
        from,
        to,
        count: 0,
        cause: cause.into(),
        refillable: cause == v1::GapCause::Unknown,
    };
    codec::encode_body(0, Body::Gap(gap))
}
