//! Where a node stands in a room on behalf of one subscriber.
//!
//! A [`Place`] holds, for each lane, the last seq that was handed on. Fed with what the log has after it, it yields
//! every seq once: as an event, or inside a gap (LC-SUB-010). It knows no queue and no transport; whoever feeds it
//! takes no more from the log than fits.

use std::sync::Arc;

use bytes::Bytes;

use crate::position::{DurableLane, PerLane, Position};
use crate::v1;

/// An event as a place sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its seq.
    pub seq: u64,
    /// When it stops being worth anything, node's clock, ms; 0: never.
    pub expires_at_ms: u64,
    /// Its type, for subscribers whose right names types.
    pub event_type: Arc<str>,
    /// Its record, ready to send.
    pub record: Bytes,
}

/// What the log has after a place, in one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The lowest seq that the log still has, or would give next if it is empty.
    pub first: u64,
    /// Events in rising order of seq, from the place on.
    pub events: Vec<Stored>,
}

/// What to hand on next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An event.
    Event {
        /// Its seq.
        seq: u64,
        /// When it stops being worth anything, node's clock, ms; 0: never.
        expires_at_ms: u64,
        /// Its record.
        record: Bytes,
    },
    /// Seqs that will not be delivered.
    Gap {
        /// First of them.
        from: u64,
        /// Last of them.
        to: u64,
        /// Why.
        cause: v1::GapCause,
    },
}

/// Where a node stands in a room on behalf of one subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The epoch in which the seqs count.
    pub epoch: u64,
    sent: PerLane<u64>,
}

impl Place {
    /// A place after `position`.
    pub fn at(position: Position) -> Self {
        Self { epoch: position.epoch, sent: position.seqs() }
    }

    /// The position up to which everything was handed on.
    pub fn position(&self) -> Position {
        Position::new(self.epoch, self.sent)
    }

    /// The last seq that was handed on in a lane.
    pub fn sent(&self, lane: DurableLane) -> u64 {
        self.sent[lane]
    }

    /// Walks over a batch: yields events and gaps in order and moves the place behind them.
    ///
    /// `now_ms` is the node's clock: an event that expired is a gap (LC-SUB-016). `wanted` says whether the
    /// subscriber's right covers the event.
    pub fn advance(
        &mut self,
        lane: DurableLane,
        batch: Batch,
        now_ms: u64,
        wanted: impl Fn(&Stored) -> bool,
    ) -> Vec<Step> {
        let mut steps = Vec::with_capacity(batch.events.len() + 1);
        let sent = &mut self.sent[lane];
        if batch.first > *sent + 1 {
            push_gap(&mut steps, *sent + 1, batch.first - 1, v1::GapCause::Trimmed);
            *sent = batch.first - 1;
        }
        for event in batch.events {
            if event.seq <= *sent {
                continue;
            }
            if event.seq > *sent + 1 {
                // The log has a hole of its own. Nothing is known of it, which is what the gap says.
                push_gap(&mut steps, *sent + 1, event.seq - 1, v1::GapCause::Unknown);
            }
            *sent = event.seq;
            if event.expires_at_ms != 0 && event.expires_at_ms <= now_ms {
                push_gap(&mut steps, event.seq, event.seq, v1::GapCause::Expired);
            } else if !wanted(&event) {
                push_gap(&mut steps, event.seq, event.seq, v1::GapCause::Filtered);
            } else {
                let Stored { seq, expires_at_ms, record, .. } = event;
                steps.push(Step::Event { seq, expires_at_ms, record });
            }
        }
        steps
    }
}

/// Adds a gap, or widens the one before it if that has the same cause.
fn push_gap(steps: &mut Vec<Step>, from: u64, to: u64, cause: v1::GapCause) {
    if let Some(Step::Gap { to: last, cause: same, .. }) = steps.last_mut()
        && *same == cause
        && *last + 1 == from
    {
        *last = to;
        return;
    }
    steps.push(Step::Gap { from, to, cause });
}

#[cfg(test)]
mod tests {
    use super::*;
    use DurableLane::Normal;

    fn stored(seq: u64, expires_at_ms: u64) -> Stored {
        Stored { seq, expires_at_ms, event_type: "t".into(), record: Bytes::from(seq.to_string()) }
    }

    fn gap(from: u64, to: u64, cause: v1::GapCause) -> Step {
        Step::Gap { from, to, cause }
    }

    fn event(seq: u64) -> Step {
        Step::Event { seq, expires_at_ms: 0, record: Bytes::from(seq.to_string()) }
    }

    #[test]
    fn every_seq_once_as_event_or_gap() {
        // LC-SUB-010
        let mut place = Place::at(Position::new(1, PerLane([0, 2, 0])));
        let events = vec![stored(5, 0), stored(6, 10), stored(7, 9), stored(8, 0), stored(9, 0)];
        let steps = place.advance(Normal, Batch { first: 5, events }, 10, |event| event.seq != 8);
        assert_eq!(
            steps,
            [
                gap(3, 4, v1::GapCause::Trimmed),
                event(5),
                gap(6, 7, v1::GapCause::Expired),
                gap(8, 8, v1::GapCause::Filtered),
                event(9),
            ]
        );
        assert_eq!(place.position().to_string(), "1-0-9-0");
    }

    #[test]
    fn what_was_handed_on_is_not_repeated() {
        let mut place = Place::at(Position::new(1, PerLane([0, 5, 0])));
        let batch = Batch { first: 1, events: vec![stored(4, 0), stored(5, 0), stored(6, 0)] };
        assert_eq!(place.advance(Normal, batch, 0, |_| true), [event(6)]);
    }

    #[test]
    fn a_log_trimmed_to_nothing_is_a_gap() {
        let mut place = Place::at(Position::new(1, PerLane([0, 5, 0])));
        let batch = Batch { first: 10, events: vec![] };
        assert_eq!(place.advance(Normal, batch, 0, |_| true), [gap(6, 9, v1::GapCause::Trimmed)]);
    }
}
