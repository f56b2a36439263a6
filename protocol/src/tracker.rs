//! What a client knows of a room: which seqs arrived, in which epoch, under which handle.
//!
//! A [`Tracker`] decides for every Event and Gap whether it is new, a duplicate, or proof of a hole, and turns the
//! change of an epoch into the gaps that revoke what the log lost. It keeps *received*; *taken*, which the
//! application moves, is kept by the [`Inbox`](crate::inbox::Inbox) with the same [`SeqWindow`].
//!
//! Order of use: [`Tracker::subscribed`] first, then [`Tracker::event`] and [`Tracker::gap`] as frames come;
//! [`Tracker::disconnected`] when the connection is gone, since handles mean nothing on the next one.

use crate::position::{DurableLane, NUMBER_LIMIT, PerLane, Position};
use crate::v1;

/// How far above its lowest missing seq a client accepts urgent seqs that overtook one another (LC-RES-005).
pub const URGENT_WINDOW: u64 = 64;
/// Former handles of a room that still count, for epochs that follow one another faster than streams drain.
const FORMER_MAX: usize = 4;

/// A set of seqs: all up to `base`, and any of the 64 above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqWindow {
    base: u64,
    above: u64,
}

impl SeqWindow {
    /// All seqs up to and including `base`.
    pub const fn up_to(base: u64) -> Self {
        Self { base, above: 0 }
    }

    /// The highest seq below which none is missing.
    pub const fn base(self) -> u64 {
        self.base
    }

    /// Whether the seq is in the set.
    pub const fn contains(self, seq: u64) -> bool {
        if seq <= self.base {
            return true;
        }
        let bit = seq - self.base - 1;
        bit < URGENT_WINDOW && self.above >> bit & 1 == 1
    }

    /// The highest seq in the set.
    pub const fn highest(self) -> u64 {
        self.base + (u64::BITS - self.above.leading_zeros()) as u64
    }

    /// Adds `from..=to`. Returns false, and changes nothing, if that leaves a hole beyond the window.
    pub fn insert(&mut self, from: u64, to: u64) -> bool {
        if from <= self.base + 1 {
            if to > self.base {
                self.above = self.above.checked_shr(u32::try_from(to - self.base).unwrap_or(u32::MAX)).unwrap_or(0);
                self.base = to;
            }
        } else if to <= self.base + URGENT_WINDOW {
            for seq in from..=to {
                self.above |= 1 << (seq - self.base - 1);
            }
        } else {
            return false;
        }
        let ones = self.above.trailing_ones();
        self.above = self.above.checked_shr(ones).unwrap_or(0);
        self.base += u64::from(ones);
        true
    }

    /// The parts of `from..=to` that are not in the set.
    pub fn missing(self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let lowest = from.max(self.base + 1);
        let mut parts = Vec::new();
        let mut start = lowest;
        for held in (lowest..=to.min(self.base + URGENT_WINDOW)).filter(|seq| self.contains(*seq)) {
            if start < held {
                parts.push((start, held - 1));
            }
            start = held + 1;
        }
        if start <= to {
            parts.push((start, to));
        }
        parts
    }

    /// Removes everything above `seq`.
    pub fn cut_back(&mut self, seq: u64) {
        if seq <= self.base {
            *self = Self::up_to(seq);
        } else if seq - self.base < URGENT_WINDOW {
            self.above &= (1 << (seq - self.base)) - 1;
        }
    }
}

/// What to do with a frame of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is new: hand it on.
    Deliver,
    /// It came before: drop it.
    Duplicate,
    /// It belongs to a part of an epoch that was rolled back: drop it.
    Revoked,
    /// Something before it is missing without a Gap: drop it and subscribe again from *received*.
    Hole,
    /// The handle is not (or not yet) this room's.
    UnknownHandle,
}

/// Durable seqs that will not come, as the application sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqGap {
    /// The lane.
    pub lane: DurableLane,
    /// The epoch in which the seqs count.
    pub epoch: u64,
    /// First missing seq.
    pub from: u64,
    /// Last missing seq; `None`: no upper end.
    pub to: Option<u64>,
    /// Why.
    pub cause: v1::GapCause,
    /// Whether History may still have them.
    pub refillable: bool,
}

/// The room's epoch changed: what that revokes, and where it leaves the position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochChange {
    /// Rolled-back ranges, oldest epoch first.
    pub gaps: Vec<SeqGap>,
    /// The present epoch and, for each lane, up to where what came of the former one counts on.
    pub position: Position,
    /// Lanes whose numbers start anew at `position`, since the log does not know the former epoch.
    pub restarted: PerLane<bool>,
}

/// The peer sent something that the protocol forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node broke {requirement}: {detail}")]
pub struct Misbehaviour {
    /// The requirement that it broke.
    pub requirement: &'static str,
    /// How.
    pub detail: &'static str,
}

#[derive(Clone, Debug)]
struct Former {
    handle: u64,
    through: PerLane<u64>,
}

/// Transient events of a room, counted as the node counts them.
#[derive(Clone, Copy, Debug, Default)]
struct TransientCount {
    source: u64,
    counts: PerLane<u64>,
}

/// What a client knows of one room.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    epoch: u64,
    /// 0 while there is no subscription on the present connection.
    handle: u64,
    received: PerLane<SeqWindow>,
    former: Vec<Former>,
    transients: Option<TransientCount>,
}

impl Tracker {
    /// A tracker of a room that was never subscribed to.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tracker that goes on after a stored position.
    pub fn at(position: Position) -> Self {
        let received = PerLane::from_fn(|lane| SeqWindow::up_to(position.seq(lane)));
        Self { epoch: position.epoch, received, ..Self::default() }
    }

    /// The position to resume from: *received*. `None` before the first subscription.
    pub fn position(&self) -> Option<Position> {
        (self.epoch != 0).then(|| Position::new(self.epoch, PerLane::from_fn(|lane| self.received[lane].base())))
    }

    /// The transient count to resume from, unless some were lost in an unknown number.
    pub fn transient_mark(&self) -> Option<v1::TransientMark> {
        self.transients.map(|count| v1::TransientMark {
            source: count.source,
            urgent: count.counts[DurableLane::Urgent],
            normal: count.counts[DurableLane::Normal],
            bulk: count.counts[DurableLane::Bulk],
        })
    }

    /// Whether a subscription is in place on the present connection.
    pub fn is_subscribed(&self) -> bool {
        self.handle != 0
    }

    /// The handle of the subscription on the present connection; 0: there is none.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// Whether frames under this handle are, or still count as, this room's.
    pub fn knows(&self, handle: u64) -> bool {
        handle != 0 && (handle == self.handle || self.former.iter().any(|former| former.handle == handle))
    }

    /// The epoch of the room's log; 0 before the first subscription.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The connection is gone, and its handles with it.
    pub fn disconnected(&mut self) {
        self.handle = 0;
        self.former.clear();
    }

    /// Takes a `Subscribed`, asked or not (LC-RES-010).
    ///
    /// # Errors
    /// [`Misbehaviour`] if it would skip seqs in silence or is not well formed; nothing has changed then.
    pub fn subscribed(&mut self, frame: &v1::Subscribed) -> Result<Option<EpochChange>, Misbehaviour> {
        let bad = |detail| Misbehaviour { requirement: "LC-SUB-010", detail };
        let position = frame.position.as_ref().ok_or(bad("no position"))?;
        let position = Position::try_from(position).map_err(|_| bad("position out of bounds"))?;
        if position.epoch == 0 || frame.handle == 0 {
            return Err(bad("epoch or handle is 0"));
        }
        let gaps = frame.rolled_back.iter().map(rolled_back).collect::<Result<Vec<_>, _>>()?;
        let change = if self.epoch == 0 {
            self.received = PerLane::from_fn(|lane| SeqWindow::up_to(position.seq(lane)));
            None
        } else if self.epoch == position.epoch && gaps.is_empty() {
            if DurableLane::ALL.into_iter().any(|lane| position.seq(lane) > self.received[lane].base()) {
                // On an unasked frame of the same epoch seqs may still be in flight; they count as before.
                if frame.cause == v1::SubscribedCause::Unspecified as i32 {
                    return Err(bad("begins beyond the position that was asked for"));
                }
            }
            None
        } else {
            Some(self.change_epoch(position, gaps))
        };
        self.epoch = position.epoch;
        self.handle = frame.handle;
        self.transients = frame
            .transients
            .as_ref()
            .map(|mark| TransientCount { source: mark.source, counts: PerLane([mark.urgent, mark.normal, mark.bulk]) });
        Ok(change)
    }

    fn change_epoch(&mut self, position: Position, mut gaps: Vec<SeqGap>) -> EpochChange {
        let mut restarted = PerLane([false; 3]);
        for gap in &mut gaps {
            if gap.to.is_none() {
                // What was on its way under the former handle is not distinguishable from the new epoch's seqs.
                gap.from = gap.from.min(self.received[gap.lane].base() + 1);
                restarted[gap.lane] = true;
            }
        }
        let mut kept = position;
        for lane in DurableLane::ALL {
            if restarted[lane] {
                self.received[lane] = SeqWindow::up_to(position.seq(lane));
                continue;
            }
            kept.set_seq(lane, self.survives(lane, position.seq(lane), &mut gaps));
            self.received[lane].cut_back(kept.seq(lane));
        }
        for former in &mut self.former {
            for lane in DurableLane::ALL {
                let through = if restarted[lane] { 0 } else { position.seq(lane) };
                former.through[lane] = former.through[lane].min(through);
            }
        }
        if self.handle != 0 {
            let through = PerLane::from_fn(|lane| if restarted[lane] { 0 } else { position.seq(lane) });
            if self.former.len() == FORMER_MAX {
                self.former.remove(0);
            }
            self.former.push(Former { handle: self.handle, through });
        }
        EpochChange { gaps, position: kept, restarted }
    }

    /// Up to where a lane's seqs survive a fork after which the node begins at `position`.
    ///
    /// Urgent seqs that overtook others lie above the position that was asked for, so the node does not know of them.
    /// A gap of this epoch says where the fork was: what lies before it survives, and would be delivered twice if it
    /// were forgotten. Without one nothing proves that they survive: they are revoked, and come again if they do.
    fn survives(&self, lane: DurableLane, position: u64, gaps: &mut Vec<SeqGap>) -> u64 {
        let fork = gaps.iter().filter(|gap| gap.lane == lane && gap.epoch == self.epoch).map(|gap| gap.from).min();
        if let Some(fork) = fork {
            return position.max(fork - 1);
        }
        let highest = self.received[lane].highest();
        if highest > position {
            let cause = v1::GapCause::RolledBack;
            let (from, to) = (position + 1, Some(highest));
            gaps.push(SeqGap { lane, epoch: self.epoch, from, to, cause, refillable: false });
        }
        position
    }

    /// Takes a durable event's place. `ordered` says that the transport keeps the order of the lane.
    pub fn event(&mut self, handle: u64, lane: DurableLane, seq: u64, ordered: bool) -> Verdict {
        self.range(handle, lane, seq, seq, ordered)
    }

    /// Takes a durable gap's range; on [`Verdict::Deliver`] also what of it is news to the application: not what it
    /// got before, as urgent events that overtook others may have been.
    pub fn gap(&mut self, gap: &v1::Gap, ordered: bool) -> (Verdict, Vec<SeqGap>) {
        let (Some(lane), false) = (DurableLane::from_wire(gap.lane), gap.to < gap.from) else {
            return (Verdict::Hole, Vec::new());
        };
        let counts_to = gap.to.min(self.counts_through(gap.handle, lane).unwrap_or(0));
        let missing = self.received[lane].missing(gap.from, counts_to);
        let verdict = self.range(gap.handle, lane, gap.from, gap.to, ordered);
        if verdict != Verdict::Deliver {
            return (verdict, Vec::new());
        }
        let epoch = self.epoch;
        let cause = v1::GapCause::try_from(gap.cause).unwrap_or(v1::GapCause::Unknown);
        let refillable = gap.refillable;
        let news = missing.into_iter().map(|(from, to)| SeqGap { lane, epoch, from, to: Some(to), cause, refillable });
        (verdict, news.collect())
    }

    /// Up to where frames under a handle count: all, or up to where its epoch was left; `None`: not known.
    fn counts_through(&self, handle: u64, lane: DurableLane) -> Option<u64> {
        if handle == self.handle && handle != 0 {
            return Some(u64::MAX);
        }
        self.former.iter().find(|former| former.handle == handle).map(|former| former.through[lane])
    }

    fn range(&mut self, handle: u64, lane: DurableLane, from: u64, to: u64, ordered: bool) -> Verdict {
        let Some(through) = self.counts_through(handle, lane) else { return Verdict::UnknownHandle };
        if from > through {
            return Verdict::Revoked;
        }
        // A gap may reach over a fork: up to there it counts.
        let to = to.min(through);
        if to >= NUMBER_LIMIT {
            return Verdict::Hole;
        }
        let window = &mut self.received[lane];
        if to <= window.base() || (from == to && window.contains(to)) {
            return Verdict::Duplicate;
        }
        if ordered && from > window.base() + 1 {
            return Verdict::Hole;
        }
        if window.insert(from, to) { Verdict::Deliver } else { Verdict::Hole }
    }

    /// Counts a transient event. Returns false under a foreign handle.
    pub fn transient(&mut self, handle: u64, lane: DurableLane) -> bool {
        if !self.knows(handle) {
            return false;
        }
        // What comes under a former handle was counted before the present subscription began.
        if let Some(count) = &mut self.transients
            && handle == self.handle
        {
            count.counts[lane] += 1;
        }
        true
    }

    /// Counts a transient gap; `count` 0 is an unknown number. Returns false under a foreign handle.
    pub fn transient_gap(&mut self, handle: u64, lane: DurableLane, count: u64) -> bool {
        if !self.knows(handle) {
            return false;
        }
        match &mut self.transients {
            _ if handle != self.handle => {}
            Some(known) if count > 0 => known.counts[lane] += count,
            _ => self.transients = None,
        }
        true
    }
}

fn rolled_back(gap: &v1::Gap) -> Result<SeqGap, Misbehaviour> {
    let bad = |detail| Misbehaviour { requirement: "LC-RES-010", detail };
    if gap.cause != v1::GapCause::RolledBack as i32 {
        return Err(bad("a gap in Subscribed has another cause than ROLLED_BACK"));
    }
    if gap.from == 0 || (gap.to != 0 && gap.to < gap.from) {
        return Err(bad("a gap in Subscribed has no range"));
    }
    Ok(SeqGap {
        lane: DurableLane::from_wire(gap.lane).ok_or(bad("a gap in Subscribed has no durable lane"))?,
        epoch: gap.epoch,
        from: gap.from,
        to: (gap.to != 0).then_some(gap.to),
        cause: v1::GapCause::RolledBack,
        refillable: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use DurableLane::{Normal, Urgent};

    fn subscribed(handle: u64, position: Position, rolled_back: Vec<v1::Gap>) -> v1::Subscribed {
        v1::Subscribed { handle, position: Some(position.into()), rolled_back, ..Default::default() }
    }

    fn position(epoch: u64, urgent: u64, normal: u64, bulk: u64) -> Position {
        Position::new(epoch, PerLane([urgent, normal, bulk]))
    }

    fn lost(lane: DurableLane, epoch: u64, from: u64, to: u64) -> v1::Gap {
        let (lane, cause) = (v1::Lane::from(lane) as i32, v1::GapCause::RolledBack as i32);
        v1::Gap { lane, epoch, from, to, cause, ..Default::default() }
    }

    #[test]
    fn duplicates_are_dropped_and_holes_are_seen() {
        let mut tracker = Tracker::new();
        assert_eq!(tracker.subscribed(&subscribed(1, position(9, 0, 4, 0), vec![])), Ok(None));
        assert_eq!(tracker.event(1, Normal, 4, true), Verdict::Duplicate);
        assert_eq!(tracker.event(1, Normal, 6, true), Verdict::Hole);
        assert_eq!(tracker.event(1, Normal, 5, true), Verdict::Deliver);
        assert_eq!(tracker.event(1, Normal, 6, true), Verdict::Deliver);
        assert_eq!(tracker.event(2, Normal, 7, true), Verdict::UnknownHandle);
        assert_eq!(tracker.position(), Some(position(9, 0, 6, 0)));
    }

    #[test]
    fn urgent_overtakes_within_the_window_only() {
        // LC-RES-005
        let mut tracker = Tracker::new();
        tracker.subscribed(&subscribed(1, position(9, 0, 0, 0), vec![])).unwrap();
        assert_eq!(tracker.event(1, Urgent, 3, false), Verdict::Deliver);
        assert_eq!(tracker.event(1, Urgent, 3, false), Verdict::Duplicate);
        assert_eq!(tracker.event(1, Urgent, 65, false), Verdict::Hole);
        assert_eq!(tracker.event(1, Urgent, 64, false), Verdict::Deliver);
        assert_eq!(tracker.event(1, Urgent, 1, false), Verdict::Deliver);
        assert_eq!(tracker.position(), Some(position(9, 1, 0, 0)));
        assert_eq!(tracker.event(1, Urgent, 2, false), Verdict::Deliver);
        assert_eq!(tracker.position(), Some(position(9, 3, 0, 0)));
        // The window is kept across a reconnect: what came above the position is still a duplicate.
        tracker.disconnected();
        tracker.subscribed(&subscribed(1, position(9, 3, 0, 0), vec![])).unwrap();
        assert_eq!(tracker.event(1, Urgent, 64, false), Verdict::Duplicate);
    }

    #[test]
    fn a_fork_revokes_what_was_delivered_and_keeps_what_is_in_flight() {
        // LC-RES-010: at (1, 105) with the log forked at 101 into epoch 2.
        let mut tracker = Tracker::at(position(1, 0, 98, 0));
        tracker.subscribed(&subscribed(7, position(1, 0, 98, 0), vec![])).unwrap();
        let frame = subscribed(8, position(2, 0, 100, 0), vec![lost(Normal, 1, 101, 105)]);
        let change = tracker.subscribed(&frame).unwrap().unwrap();
        assert_eq!((change.gaps[0].from, change.gaps[0].to), (101, Some(105)));
        for (handle, seq, expected) in [
            (7, 99, Verdict::Deliver),
            (7, 100, Verdict::Deliver),
            (7, 101, Verdict::Revoked),
            (8, 101, Verdict::Deliver),
        ] {
            assert_eq!(tracker.event(handle, Normal, seq, true), expected, "{handle}:{seq}");
        }
        assert_eq!(tracker.position(), Some(position(2, 0, 101, 0)));
    }

    #[test]
    fn a_gap_that_reaches_over_a_fork_counts_up_to_it() {
        // LC-RES-014
        let mut tracker = Tracker::at(position(1, 16, 0, 0));
        tracker.subscribed(&subscribed(5, position(1, 16, 0, 0), vec![])).unwrap();
        tracker.subscribed(&subscribed(8, position(2, 17, 0, 0), vec![lost(Urgent, 1, 18, 18)])).unwrap();
        let gap =
            v1::Gap { handle: 5, lane: v1::Lane::Urgent as i32, epoch: 1, from: 17, to: 18, ..Default::default() };
        let (verdict, news) = tracker.gap(&gap, false);
        assert_eq!((verdict, news[0].from, news[0].to), (Verdict::Deliver, 17, Some(17)));
        assert_eq!(tracker.position(), Some(position(2, 17, 0, 0)));
    }

    #[test]
    fn an_unknown_epoch_restarts_the_numbers() {
        let mut tracker = Tracker::at(position(1, 0, 40, 0));
        let frame = subscribed(3, position(2, 0, 0, 0), vec![lost(Normal, 1, 41, 0), lost(Urgent, 1, 1, 0)]);
        let change = tracker.subscribed(&frame).unwrap().unwrap();
        assert_eq!(change.gaps.len(), 2);
        assert!(change.restarted[Normal]);
        assert_eq!(tracker.event(3, Normal, 1, true), Verdict::Deliver);
    }

    #[test]
    fn a_gap_tells_only_what_is_news() {
        let mut tracker = Tracker::at(position(1, 0, 5, 0));
        tracker.subscribed(&subscribed(1, position(1, 0, 5, 0), vec![])).unwrap();
        let gap = |from, to| v1::Gap {
            handle: 1,
            lane: v1::Lane::Normal as i32,
            epoch: 1,
            from,
            to,
            cause: v1::GapCause::Trimmed as i32,
            ..Default::default()
        };
        let (verdict, news) = tracker.gap(&gap(4, 9), true);
        assert_eq!(verdict, Verdict::Deliver);
        let [news] = news[..] else { panic!("one range is news: {news:?}") };
        assert_eq!((news.from, news.to, news.cause), (6, Some(9), v1::GapCause::Trimmed));
        assert_eq!(tracker.gap(&gap(4, 9), true).0, Verdict::Duplicate);
        assert_eq!(tracker.gap(&gap(11, 12), true).0, Verdict::Hole);
    }

    #[test]
    fn a_gap_leaves_out_what_overtook_it() {
        // LC-SUB-010: urgent 3 came before the connection broke, and was trimmed with the others meanwhile.
        let mut tracker = Tracker::at(position(1, 1, 0, 0));
        tracker.subscribed(&subscribed(1, position(1, 1, 0, 0), vec![])).unwrap();
        assert_eq!(tracker.event(1, Urgent, 3, false), Verdict::Deliver);
        let (lane, epoch) = (v1::Lane::Urgent as i32, 1);
        let gap = v1::Gap { handle: 1, lane, epoch, from: 2, to: 200, ..Default::default() };
        let news: Vec<_> = tracker.gap(&gap, false).1.iter().map(|gap| (gap.from, gap.to)).collect();
        assert_eq!(news, [(2, Some(2)), (4, Some(200))]);
    }

    #[test]
    fn what_overtook_others_before_a_fork_stays_if_the_fork_is_known() {
        // LC-RES-014: 3 and 6 came, 1 did not; the fork is at 5, so 3 survives and 6 does not.
        let mut tracker = Tracker::at(position(1, 0, 0, 0));
        tracker.subscribed(&subscribed(1, position(1, 0, 0, 0), vec![])).unwrap();
        for seq in [3, 6] {
            assert_eq!(tracker.event(1, Urgent, seq, false), Verdict::Deliver);
        }
        tracker.disconnected();
        let mut forked = tracker.clone();
        let change = forked.subscribed(&subscribed(2, position(2, 0, 0, 0), vec![lost(Urgent, 1, 5, 6)])).unwrap();
        assert_eq!(change.unwrap().position, position(2, 4, 0, 0));
        assert_eq!(forked.event(2, Urgent, 3, false), Verdict::Duplicate);
        assert_eq!(forked.event(2, Urgent, 6, false), Verdict::Deliver);
        // Where no gap says that and where something was lost, nothing proves that 3 and 6 are still the same.
        let change = tracker.subscribed(&subscribed(2, position(2, 0, 0, 0), vec![])).unwrap().unwrap();
        let [revoked] = change.gaps[..] else { panic!("one range is revoked: {change:?}") };
        assert_eq!((revoked.epoch, revoked.from, revoked.to), (1, 1, Some(6)));
        assert_eq!(tracker.event(2, Urgent, 3, false), Verdict::Deliver);
    }

    #[test]
    fn a_subscription_must_not_skip_in_silence() {
        let mut tracker = Tracker::at(position(1, 0, 5, 0));
        assert!(tracker.subscribed(&subscribed(1, position(1, 0, 6, 0), vec![])).is_err());
        assert_eq!(tracker.position(), Some(position(1, 0, 5, 0)));
    }

    #[test]
    fn a_window_is_the_set_of_its_seqs() {
        let mut window = SeqWindow::up_to(10);
        let mut set: std::collections::BTreeSet<u64> = (1..=10).collect();
        for (from, to) in [(12, 12), (74, 74), (20, 30), (11, 11), (13, 19), (1, 40), (90, 95), (41, 200)] {
            if window.insert(from, to) {
                set.extend(from..=to);
            }
            assert!((1..=300).all(|seq| window.contains(seq) == set.contains(&seq)), "{from}..={to}");
            assert_eq!(Some(&window.highest()), set.last());
            let missing: Vec<u64> = window.missing(5, 250).into_iter().flat_map(|(from, to)| from..=to).collect();
            assert!(missing.iter().copied().eq((5..=250).filter(|seq| !set.contains(seq))), "{from}..={to}");
        }
        assert!(!window.insert(300, 300));
        assert!(window.insert(1, NUMBER_LIMIT - 1), "a huge range is no work");
    }

    #[test]
    fn numbers_out_of_bounds_are_a_hole() {
        let mut tracker = Tracker::at(position(1, 0, 5, 0));
        tracker.subscribed(&subscribed(1, position(1, 0, 5, 0), vec![])).unwrap();
        assert_eq!(tracker.event(1, Normal, u64::MAX, false), Verdict::Hole);
        let gap = v1::Gap { handle: 1, lane: 3, from: 1, to: u64::MAX, ..Default::default() };
        assert_eq!(tracker.gap(&gap, true).0, Verdict::Hole);
    }

    #[test]
    fn transients_are_counted_until_a_number_is_unknown() {
        // LC-RES-020
        let mut tracker = Tracker::new();
        let mut frame = subscribed(1, position(1, 0, 0, 0), vec![]);
        frame.transients = Some(v1::TransientMark { source: 5, normal: 10, ..Default::default() });
        tracker.subscribed(&frame).unwrap();
        assert!(tracker.transient(1, Normal));
        assert!(tracker.transient_gap(1, Normal, 3));
        assert_eq!(tracker.transient_mark().unwrap().normal, 14);
        assert!(tracker.transient_gap(1, Urgent, 0));
        assert_eq!(tracker.transient_mark(), None);
        assert!(!tracker.transient(2, Normal));
    }
}
