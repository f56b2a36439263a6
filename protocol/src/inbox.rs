//! The client's receive queue of one room, between its session and the application.
//!
//! Items leave in batches: urgent before normal before bulk, FIFO inside a lane. A batch is *taken* when the next
//! one is asked for, or when [`Inbox::take`] says so; only then does the position move (LC-RES-004). The change of an
//! epoch is a barrier: what came before it is taken before it, so that the position always has one epoch.

use std::collections::VecDeque;

use crate::position::{DurableLane, PerLane, Position};
use crate::tracker::{EpochChange, SeqGap, SeqWindow};
use crate::v1;

/// An event as the application gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The epoch in which seq and order count.
    pub epoch: u64,
    /// The event as it came.
    pub event: v1::Event,
}

/// What a room hands to the application.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An event, durable or transient.
    Event(Delivery),
    /// Durable seqs that will not come, or that are revoked.
    Gap(SeqGap),
    /// Transient events that were lost.
    TransientGap {
        /// Their lane; `None`: any of them.
        lane: Option<DurableLane>,
        /// How many; `None`: an unknown number.
        count: Option<u64>,
        /// Why; unspecified: they were missed while the client was away.
        cause: v1::GapCause,
    },
}

/// An item, and the position once it and all that was handed out before it are handled.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The item.
    pub item: Item,
    /// What to store when it was handled.
    pub after: Position,
}

impl Item {
    fn cost(&self) -> usize {
        64 + match self {
            Self::Event(delivery) => delivery.event.envelope.len(),
            Self::Gap(_) | Self::TransientGap { .. } => 0,
        }
    }
}

/// What taking an item does to the position.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Seqs { lane: DurableLane, from: u64, to: u64 },
    None,
}

#[derive(Debug)]
struct Entry {
    mark: Mark,
    /// `None`: a gap that only the position hears of (cause FILTERED).
    item: Option<Item>,
}

/// What came between two changes of the epoch.
#[derive(Debug, Default)]
struct Segment {
    lanes: PerLane<VecDeque<Entry>>,
    /// The change that ends the segment.
    end: Option<EpochChange>,
}

impl Segment {
    fn pop(&mut self) -> Option<Entry> {
        DurableLane::ALL.into_iter().find_map(|lane| self.lanes[lane].pop_front())
    }

    fn is_empty(&self) -> bool {
        self.lanes.iter().all(|(_, queue)| queue.is_empty())
    }
}

/// The receive queue of a room.
#[derive(Debug, Default)]
pub struct Inbox {
    /// Never empty once something came; the last one is open.
    segments: VecDeque<Segment>,
    epoch: u64,
    taken: PerLane<SeqWindow>,
    /// Marks of the batch that is with the application.
    outstanding: Vec<Mark>,
    /// The change whose gaps are with the application.
    outstanding_change: Option<EpochChange>,
    items: usize,
    bytes: usize,
}

impl Inbox {
    /// The position: everything up to it was taken. `None` before the first subscription.
    pub fn position(&self) -> Option<Position> {
        (self.epoch != 0).then(|| position_of(self.epoch, &self.taken))
    }

    /// Sets where the room begins, before anything came.
    pub fn begin(&mut self, position: Position) {
        self.epoch = position.epoch;
        self.taken = PerLane::from_fn(|lane| SeqWindow::up_to(position.seq(lane)));
    }

    /// Items waiting for the application.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether no item is waiting.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Approximate bytes waiting for the application.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn open(&mut self) -> &mut Segment {
        if self.segments.is_empty() {
            self.segments.push_back(Segment::default());
        }
        self.segments.back_mut().expect("a segment was just pushed")
    }

    fn push(&mut self, lane: DurableLane, mark: Mark, item: Option<Item>) {
        if let Some(item) = &item {
            self.items += 1;
            self.bytes += item.cost();
        }
        self.open().lanes[lane].push_back(Entry { mark, item });
    }

    /// Queues a durable event.
    pub fn event(&mut self, lane: DurableLane, delivery: Delivery) {
        let seq = delivery.event.seq;
        self.push(lane, Mark::Seqs { lane, from: seq, to: seq }, Some(Item::Event(delivery)));
    }

    /// Queues a transient event.
    pub fn transient(&mut self, lane: DurableLane, delivery: Delivery) {
        self.push(lane, Mark::None, Some(Item::Event(delivery)));
    }

    /// Queues a gap of transients, with normal if no lane is known; `count` `None` is an unknown number.
    pub fn transient_gap(&mut self, lane: Option<DurableLane>, count: Option<u64>, cause: v1::GapCause) {
        let place = lane.unwrap_or(DurableLane::Normal);
        self.push(place, Mark::None, Some(Item::TransientGap { lane, count, cause }));
    }

    /// Queues a gap. One of cause FILTERED moves the position and is not shown.
    pub fn gap(&mut self, gap: SeqGap) {
        let mark = Mark::Seqs { lane: gap.lane, from: gap.from, to: gap.to.unwrap_or(gap.from) };
        let shown = gap.cause != v1::GapCause::Filtered;
        self.push(gap.lane, mark, shown.then_some(Item::Gap(gap)));
    }

    /// Queues the change of the epoch.
    pub fn change_epoch(&mut self, change: EpochChange) {
        self.items += change.gaps.len();
        self.open().end = Some(change);
        self.segments.push_back(Segment::default());
    }

    /// Says that the batch handed out last was handled: the position moves over it.
    pub fn take(&mut self) {
        for mark in std::mem::take(&mut self.outstanding) {
            if let Mark::Seqs { lane, from, to } = mark {
                let fits = self.taken[lane].insert(from, to);
                debug_assert!(fits, "received never runs more than a window ahead of a hole");
            }
        }
        if let Some(change) = self.outstanding_change.take() {
            self.apply(&change);
        }
        // Whatever follows without being shown needs no application to be handled.
        self.pass_silent();
    }

    fn apply(&mut self, change: &EpochChange) {
        self.epoch = change.position.epoch;
        cut_back(&mut self.taken, change);
    }

    fn pass_silent(&mut self) {
        while let Some(segment) = self.segments.front_mut() {
            if !segment.is_empty() {
                return;
            }
            match &segment.end {
                Some(change) if change.gaps.is_empty() => {
                    let change = change.clone();
                    self.segments.pop_front();
                    self.apply(&change);
                }
                _ => return,
            }
        }
    }

    /// The next items, at most `max`, after taking the batch before. Empty: nothing is waiting.
    pub fn next_batch(&mut self, max: usize) -> Vec<Item> {
        self.next_placed(max).into_iter().map(|placed| placed.item).collect()
    }

    /// As [`Self::next_batch`], each item with the position after it: for an application that handles them singly.
    pub fn next_placed(&mut self, max: usize) -> Vec<Placed> {
        self.take();
        let mut batch: Vec<Placed> = Vec::new();
        let (mut epoch, mut taken) = (self.epoch, self.taken);
        while batch.len() < max {
            let Some(segment) = self.segments.front_mut() else { break };
            if let Some(entry) = segment.pop() {
                self.outstanding.push(entry.mark);
                if let Mark::Seqs { lane, from, to } = entry.mark {
                    taken[lane].insert(from, to);
                }
                let after = position_of(epoch, &taken);
                if let Some(item) = entry.item {
                    self.items -= 1;
                    self.bytes -= item.cost();
                    batch.push(Placed { item, after });
                } else if let Some(before) = batch.last_mut() {
                    before.after = after;
                }
                continue;
            }
            let Some(change) = segment.end.take() else { break };
            self.segments.pop_front();
            self.items -= change.gaps.len();
            let before = position_of(epoch, &taken);
            batch.extend(change.gaps.iter().map(|gap| Placed { item: Item::Gap(*gap), after: before }));
            epoch = change.position.epoch;
            cut_back(&mut taken, &change);
            if let Some(last) = batch.last_mut() {
                last.after = position_of(epoch, &taken);
            }
            self.outstanding_change = Some(change);
            break;
        }
        if batch.is_empty() && (!self.outstanding.is_empty() || self.outstanding_change.is_some()) {
            // Only silent entries were in the way.
            self.take();
            return if self.is_empty() { batch } else { self.next_placed(max) };
        }
        batch
    }
}

fn position_of(epoch: u64, taken: &PerLane<SeqWindow>) -> Position {
    Position::new(epoch, PerLane::from_fn(|lane| taken[lane].base()))
}

fn cut_back(taken: &mut PerLane<SeqWindow>, change: &EpochChange) {
    for lane in DurableLane::ALL {
        let seq = change.position.seq(lane);
        if change.restarted[lane] {
            taken[lane] = SeqWindow::up_to(seq);
        } else {
            taken[lane].cut_back(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DurableLane::{Normal, Urgent};

    fn event(epoch: u64, seq: u64) -> Delivery {
        Delivery { epoch, event: v1::Event { seq, ..Default::default() } }
    }

    fn inbox(normal: u64) -> Inbox {
        let mut inbox = Inbox::default();
        inbox.begin(Position::new(1, PerLane([0, normal, 0])));
        inbox
    }

    fn text(inbox: &Inbox) -> String {
        inbox.position().map(|position| position.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_position_moves_when_the_batch_was_taken() {
        // LC-RES-004
        let mut inbox = inbox(0);
        inbox.event(Normal, event(1, 1));
        inbox.event(Normal, event(1, 2));
        inbox.event(Urgent, event(1, 1));
        let batch = inbox.next_batch(2);
        assert!(matches!(&batch[0], Item::Event(delivery) if delivery.event.seq == 1));
        assert_eq!(text(&inbox), "1-0-0-0");
        assert_eq!(inbox.next_batch(2).len(), 1);
        assert_eq!(text(&inbox), "1-1-1-0");
        inbox.take();
        assert_eq!(text(&inbox), "1-1-2-0");
    }

    #[test]
    fn each_item_knows_the_position_after_it() {
        // LC-RES-004
        let mut inbox = inbox(0);
        let gap = |from, to, cause| SeqGap { lane: Normal, epoch: 1, from, to: Some(to), cause, refillable: false };
        inbox.event(Normal, event(1, 1));
        inbox.gap(gap(2, 3, v1::GapCause::Filtered));
        inbox.gap(gap(4, 9, v1::GapCause::Trimmed));
        let lost = gap(6, 9, v1::GapCause::RolledBack);
        let position = Position::new(2, PerLane([0, 5, 0]));
        inbox.change_epoch(EpochChange { gaps: vec![lost], position, restarted: PerLane([false; 3]) });
        let after: Vec<_> = inbox.next_placed(10).iter().map(|placed| placed.after.to_string()).collect();
        assert_eq!(after, ["1-0-3-0", "1-0-9-0", "2-0-5-0"]);
    }

    #[test]
    fn an_epoch_ends_behind_what_came_before_it() {
        let mut inbox = inbox(99);
        inbox.event(Normal, event(1, 100));
        inbox.event(Normal, event(1, 101));
        let gap = SeqGap {
            lane: Normal,
            epoch: 1,
            from: 101,
            to: Some(105),
            cause: v1::GapCause::RolledBack,
            refillable: false,
        };
        let position = Position::new(2, PerLane([0, 100, 0]));
        inbox.change_epoch(EpochChange { gaps: vec![gap], position, restarted: PerLane([false; 3]) });
        inbox.event(Urgent, event(2, 1));
        inbox.event(Normal, event(2, 101));
        assert_eq!(inbox.next_batch(10).len(), 3, "two events and the gap that revokes one of them");
        assert_eq!(text(&inbox), "1-0-99-0");
        assert_eq!(inbox.next_batch(10).len(), 2);
        assert_eq!(text(&inbox), "2-0-100-0");
        inbox.take();
        assert_eq!(text(&inbox), "2-1-101-0");
    }

    #[test]
    fn filtered_gaps_and_lossless_forks_pass_in_silence() {
        let mut inbox = inbox(0);
        inbox.gap(SeqGap {
            lane: Normal,
            epoch: 1,
            from: 1,
            to: Some(4),
            cause: v1::GapCause::Filtered,
            refillable: false,
        });
        let position = Position::new(2, PerLane([0, 4, 0]));
        inbox.change_epoch(EpochChange { gaps: vec![], position, restarted: PerLane([false; 3]) });
        assert!(inbox.next_batch(10).is_empty());
        assert_eq!(text(&inbox), "2-0-4-0");
    }
}
