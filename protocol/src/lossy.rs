//! What may be lost on the way to a slow subscriber, and how the loss is counted or absorbed.
//!
//! Transient events wait in a [`TransientQueue`]: bounded in bytes, oldest dropped first, every drop reported as a gap
//! (LC-SUB-020). Signals wait in a [`SignalQueue`]: conflated by key, the newest wins, expired ones are never sent
//! (LC-SIG-009). Both are emptied only as far as the session's lane has room.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec;
use crate::focus::{Focus, Turns};
use crate::outbox::Expiry;
use crate::position::DurableLane;
use crate::v1;
use crate::v1::frame::Body;

/// Bytes of transient events that wait for one connection and lane.
const TRANSIENT_BYTES_MAX: usize = 64 * 1024;
/// Keys that wait for one connection; beyond it the oldest signal is dropped.
const SIGNALS_MAX: usize = 1024;

/// The record of a gap of transients; `count` 0 is an unknown number.
pub fn transient_gap_record(of: Under, lane: DurableLane, count: u64, cause: v1::GapCause) -> Bytes {
    let Under { handle, epoch } = of;
    let lane = v1::Lane::from(lane).into();
    codec::encode_body(0, Body::Gap(v1::Gap { handle, lane, epoch, count, cause: cause.into(), ..Default::default() }))
}

/// Under what transients are sent: a handle, and the epoch that it stands for (LC-SUB-013).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Under {
    /// The handle of the room's subscription.
    pub handle: u64,
    /// Its epoch.
    pub epoch: u64,
}

#[derive(Debug)]
struct Transient {
    of: Under,
    /// Its number in the room's count of its lane.
    count: u64,
    record: Bytes,
    expires_at_ms: u64,
}

/// What left a queue of transients or signals.
#[derive(Debug)]
pub struct Popped {
    /// The handle that it is sent under.
    pub handle: u64,
    /// The record of the event, the signal, or a gap.
    pub record: Bytes,
    /// With a time to live: what takes its place if that runs out in the session's queue.
    pub expiry: Option<Expiry>,
    /// It is a gap, with this cause.
    pub gap: Option<v1::GapCause>,
}

/// Transient events of one lane that wait for one connection.
#[derive(Debug, Default)]
pub struct TransientQueue {
    waiting: VecDeque<Transient>,
    bytes: usize,
    /// Left out and not reported: whose, cause and count (0: unknown). Bounded by the rooms of the connection.
    left_out: VecDeque<(Under, v1::GapCause, u64)>,
    turns: Turns,
}

impl TransientQueue {
    /// Queues an event, the `count`th of its room and lane; returns how many older ones it pushed out.
    pub fn push(&mut self, of: Under, count: u64, record: Bytes, expires_at_ms: u64) -> u64 {
        self.bytes += record.len();
        self.waiting.push_back(Transient { of, count, record, expires_at_ms });
        let mut pushed_out = 0;
        while self.bytes > TRANSIENT_BYTES_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.bytes -= oldest.record.len();
            self.leave_out(oldest.of, v1::GapCause::Dropped, 1);
            pushed_out += 1;
        }
        pushed_out
    }

    /// Counts events that are not delivered; 0 is an unknown number, and stays one: added to a known number it would
    /// pass for none.
    pub fn leave_out(&mut self, of: Under, cause: v1::GapCause, events: u64) {
        let same = |whose: &Under, why: &v1::GapCause, count: u64| {
            *whose == of && *why == cause && (count == 0) == (events == 0)
        };
        match self.left_out.iter_mut().find(|(whose, why, count)| same(whose, why, *count)) {
            Some((.., count)) => *count += events,
            None => self.left_out.push_back((of, cause, events)),
        }
    }

    /// A subscription begins anew at a count: what was before the beginning is not sent any more. Unless the subscriber
    /// is told otherwise how many it missed (`counted`), a gap of unknown count stands for it.
    pub fn begin(&mut self, handle: u64, count: u64, counted: bool) {
        let before = |transient: &Transient| transient.of.handle == handle && transient.count <= count;
        let waited = self.waiting.iter().find(|transient| before(transient)).map(|transient| transient.of);
        let left_out = self.left_out.iter().find(|(of, ..)| of.handle == handle).map(|(of, ..)| *of);
        self.waiting.retain(|transient| !before(transient));
        self.bytes = self.waiting.iter().map(|transient| transient.record.len()).sum();
        self.left_out.retain(|(of, ..)| of.handle != handle);
        if let Some(of) = waited.or(left_out).filter(|_| !counted) {
            self.leave_out(of, v1::GapCause::Unknown, 0);
        }
    }

    /// The next record to send. What waits under the handles in `withheld` stays: its subscriber does not know them yet.
    pub fn pop(&mut self, lane: DurableLane, withheld: &[u64]) -> Option<Popped> {
        self.pop_focused(lane, withheld, |_| Focus::Default)
    }

    /// As [`Self::pop`], the rooms in focus first (LC-FLOW-020); `focus` is asked with the handle. Of one room the order
    /// stays.
    pub fn pop_focused(&mut self, lane: DurableLane, withheld: &[u64], focus: impl Fn(u64) -> Focus) -> Option<Popped> {
        let known = |of: &Under| !withheld.contains(&of.handle);
        if let Some(at) = self.left_out.iter().position(|(of, ..)| known(of)) {
            let (of, cause, count) = self.left_out.remove(at)?;
            let record = transient_gap_record(of, lane, count, cause);
            return Some(Popped { handle: of.handle, record, expiry: None, gap: Some(cause) });
        }
        let known = |transient: &&Transient| known(&transient.of);
        let next = self.turns.next(self.waiting.iter().filter(known).map(|transient| focus(transient.of.handle)))?;
        let is_next = |transient: &Transient| known(&transient) && focus(transient.of.handle) == next;
        let at = self.waiting.iter().position(is_next)?;
        let Transient { of, record, expires_at_ms, .. } = self.waiting.remove(at)?;
        self.bytes -= record.len();
        let expiry = (expires_at_ms != 0).then(|| Expiry {
            at_ms: expires_at_ms,
            instead: transient_gap_record(of, lane, 1, v1::GapCause::Expired),
        });
        Some(Popped { handle: of.handle, record, expiry, gap: None })
    }

    /// Forgets a subscription that ended; returns whether anything of it waited.
    pub fn forget(&mut self, handle: u64) -> bool {
        let before = (self.waiting.len(), self.left_out.len());
        self.waiting.retain(|transient| transient.of.handle != handle);
        self.bytes = self.waiting.iter().map(|transient| transient.record.len()).sum();
        self.left_out.retain(|(of, ..)| of.handle != handle);
        before != (self.waiting.len(), self.left_out.len())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.left_out.is_empty()
    }
}

/// What a signal replaces: sender and, inside it, type and key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SignalKey {
    /// User, service and instance of the sender.
    pub sender: Arc<str>,
    /// The type.
    pub kind: Arc<str>,
    /// The key.
    pub key: Arc<str>,
}

/// A signal on its way to subscribers.
#[derive(Clone, Debug)]
pub struct LiveSignal {
    /// What it replaces.
    pub key: SignalKey,
    /// Which of two is newer: (start, counter).
    pub age: (u64, u64),
    /// When it dies, node's clock, ms.
    pub expires_at_ms: u64,
    /// Its record, ready to send.
    pub record: Bytes,
}

/// What a signal did to those that waited before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Nothing: it waits beside them.
    Beside,
    /// One of two signals of its key, the older, will not be sent.
    Conflated,
    /// The queue was full: the oldest will not be sent.
    Dropped,
}

/// Signals that wait for one connection.
#[derive(Debug, Default)]
pub struct SignalQueue {
    waiting: VecDeque<(u64, LiveSignal)>,
    /// What expired here since it was asked last.
    expired: u64,
    turns: Turns,
}

impl SignalQueue {
    /// Queues a signal, in the place of an older one of the same key.
    pub fn push(&mut self, handle: u64, signal: LiveSignal) -> Pushed {
        let same = self.waiting.iter_mut().find(|(of, older)| *of == handle && older.key == signal.key);
        if let Some((_, older)) = same {
            if older.age < signal.age {
                *older = signal;
            }
            return Pushed::Conflated;
        }
        let full = self.waiting.len() == SIGNALS_MAX;
        if full {
            self.waiting.pop_front();
        }
        self.waiting.push_back((handle, signal));
        if full { Pushed::Dropped } else { Pushed::Beside }
    }

    /// The next record to send that is alive at this time of the node's clock, but for those under the handles in
    /// `withheld`.
    pub fn pop(&mut self, now_ms: u64, withheld: &[u64]) -> Option<Popped> {
        self.pop_focused(now_ms, withheld, |_| Focus::Default)
    }

    /// As [`Self::pop`], the rooms in focus first (LC-FLOW-020); `focus` is asked with the handle.
    pub fn pop_focused(&mut self, now_ms: u64, withheld: &[u64], focus: impl Fn(u64) -> Focus) -> Option<Popped> {
        loop {
            let known = |of: &u64| !withheld.contains(of);
            let handles = self.waiting.iter().map(|(of, _)| *of).filter(known);
            let next = self.turns.next(handles.map(&focus))?;
            let at = self.waiting.iter().position(|(of, _)| known(of) && focus(*of) == next)?;
            let (handle, signal) = self.waiting.remove(at)?;
            if signal.expires_at_ms > now_ms {
                let expiry = Expiry { at_ms: signal.expires_at_ms, instead: Bytes::new() };
                return Some(Popped { handle, record: signal.record, expiry: Some(expiry), gap: None });
            }
            self.expired += 1;
        }
    }

    /// How many signals expired here since this was called last.
    pub fn take_expired(&mut self) -> u64 {
        std::mem::take(&mut self.expired)
    }

    /// What waits, with its handle, oldest first.
    pub fn drain(self) -> impl Iterator<Item = (u64, LiveSignal)> {
        self.waiting.into_iter()
    }

    /// Forgets a subscription that ended.
    pub fn forget(&mut self, handle: u64) {
        self.waiting.retain(|(of, _)| *of != handle);
    }

    /// Signals that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(record: &Bytes) -> v1::Gap {
        let frame = codec::decode(codec::records(record.clone(), 1 << 20).next().unwrap().unwrap()).unwrap();
        match frame.body {
            Some(Body::Gap(gap)) => gap,
            other => panic!("not a gap: {other:?}"),
        }
    }

    #[test]
    fn what_is_dropped_is_counted_by_room() {
        // LC-SUB-020
        let mut queue = TransientQueue::default();
        let record = Bytes::from(vec![0; TRANSIENT_BYTES_MAX / 4]);
        let dropped: u64 =
            (0..10).map(|at| queue.push(Under { handle: at % 2, epoch: 9 }, at, record.clone(), 0)).sum();
        assert_eq!(dropped, 6);
        let first = queue.pop(DurableLane::Normal, &[]).unwrap();
        let second = queue.pop(DurableLane::Normal, &[]).unwrap();
        assert_eq!(first.gap, Some(v1::GapCause::Dropped));
        assert_eq!(
            [gap(&first.record), gap(&second.record)].map(|gap| (gap.handle, gap.epoch, gap.count)),
            [(0, 9, 3), (1, 9, 3)]
        );
        assert_eq!(std::iter::from_fn(|| queue.pop(DurableLane::Normal, &[])).count(), 4);
        assert!(queue.is_empty());
    }

    #[test]
    fn rooms_in_focus_go_first_and_keep_their_order() {
        // LC-FLOW-020
        let focus = |handle| if handle == 1 { Focus::Background } else { Focus::Default };
        let (mut transients, mut signals) = (TransientQueue::default(), SignalQueue::default());
        for count in 1..=40_u8 {
            let handle = u64::from(count % 2) + 1;
            let record = Bytes::from(vec![count]);
            transients.push(Under { handle, epoch: 9 }, count.into(), record.clone(), 0);
            let key = SignalKey { sender: "u".into(), kind: "t".into(), key: count.to_string().into() };
            signals.push(handle, LiveSignal { key, age: (0, 1), expires_at_ms: 9, record });
        }
        let take = || transients.pop_focused(DurableLane::Normal, &[], focus).map(|popped| popped.record[0]);
        let events: Vec<_> = std::iter::from_fn(take).collect();
        let signals: Vec<_> =
            std::iter::from_fn(|| signals.pop_focused(0, &[], focus).map(|popped| popped.record[0])).collect();
        // 15 of the room in front, one of the one behind, and then the rest of each.
        let (front, behind): (Vec<u8>, Vec<u8>) = (1..=40).partition(|count| count % 2 == 1);
        let expected = [&front[..15], &behind[..1], &front[15..], &behind[1..]].concat();
        assert_eq!((events, signals), (expected.clone(), expected));
    }

    #[test]
    fn what_a_subscriber_cannot_place_yet_waits() {
        // LC-SUB-009, LC-SUB-020
        let mut queue = TransientQueue::default();
        let (old, new) = (Under { handle: 1, epoch: 9 }, Under { handle: 2, epoch: 10 });
        queue.push(new, 1, Bytes::from_static(b"early"), 0);
        queue.push(old, 7, Bytes::from_static(b"late"), 0);
        queue.push(new, 2, Bytes::from_static(b"after"), 0);
        assert_eq!(queue.pop(DurableLane::Normal, &[2]).unwrap().record, "late");
        assert!(queue.pop(DurableLane::Normal, &[2]).is_none());
        queue.begin(2, 1, false);
        let Popped { record: first, .. } = queue.pop(DurableLane::Normal, &[]).unwrap();
        assert_eq!((gap(&first).handle, gap(&first).count, gap(&first).cause), (2, 0, v1::GapCause::Unknown.into()));
        assert_eq!(queue.pop(DurableLane::Normal, &[]).unwrap().record, "after");
        queue.push(new, 3, Bytes::from_static(b"counted"), 0);
        queue.begin(2, 3, true);
        assert!(queue.is_empty(), "Subscribed said how many were missed");
    }

    #[test]
    fn an_unknown_number_is_not_added_to_a_known_one() {
        // LC-SUB-020
        let (mut queue, of) = (TransientQueue::default(), Under { handle: 1, epoch: 9 });
        for events in [2, 0, 3, 0] {
            queue.leave_out(of, v1::GapCause::Unknown, events);
        }
        let gaps: Vec<_> =
            std::iter::from_fn(|| queue.pop(DurableLane::Normal, &[])).map(|it| gap(&it.record).count).collect();
        assert_eq!(gaps, [5, 0]);
    }

    #[test]
    fn the_newest_signal_keeps_the_place_of_the_older() {
        // LC-SIG-009
        let signal = |key: &str, counter, text: &'static str| LiveSignal {
            key: SignalKey { sender: "u".into(), kind: "cursor".into(), key: key.into() },
            age: (0, counter),
            expires_at_ms: 100,
            record: Bytes::from(text),
        };
        let mut queue = SignalQueue::default();
        for (key, counter, text) in [("a", 1, "a1"), ("b", 2, "b2"), ("a", 4, "a4"), ("a", 3, "a3")] {
            let expected = if counter > 2 { Pushed::Conflated } else { Pushed::Beside };
            assert_eq!(queue.push(1, signal(key, counter, text)), expected);
        }
        queue.push(2, signal("a", 1, "other room"));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(99, &[])).map(|popped| popped.record).collect();
        assert_eq!(order, ["a4", "b2", "other room"]);
        queue.push(1, signal("a", 9, "dead"));
        assert!(queue.pop(100, &[]).is_none());
        assert_eq!((queue.take_expired(), queue.take_expired()), (1, 0));
    }
}
