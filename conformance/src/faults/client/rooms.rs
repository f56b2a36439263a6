//! What a subscriber keeps of a room: its position, its handles, its transient mark (LC-RES-014 to LC-RES-021).

use std::time::Instant;

use crate::faults::history::{Cause, Gap, Lane, Missed, Position, Subscribed};
use crate::schema::v1;

/// Former handles kept; more changes of epoch than that are not in flight at once.
const FORMER_MAX: usize = 8;

/// A subscription of a client.
#[derive(Default)]
pub(super) struct Room {
    /// Index.
    pub room: u16,
    /// What was received; epoch 0: never subscribed.
    pub position: Position,
    /// The newest transient mark.
    pub mark: Option<v1::TransientMark>,
    /// The present handle; 0: not subscribed.
    handle: u64,
    epoch: u64,
    former: Vec<Former>,
    /// The position of the Subscribe that waits for its answer.
    asked: Option<Option<Position>>,
    /// When to ask again after a refusal for now.
    pub ask_at: Option<Instant>,
}

struct Former {
    handle: u64,
    epoch: u64,
    /// Frames count up to here.
    through: [u64; 3],
}

/// What a handle stands for.
pub(super) enum Under {
    /// The subscription, in this epoch.
    Epoch(u64),
    /// A former one, beyond where it counts.
    Beyond,
    /// Nothing.
    Unknown,
}

impl Room {
    pub(super) fn new(room: u16) -> Self {
        Self { room, ..Self::default() }
    }

    /// The Subscribe that goes on from where the client is.
    pub(super) fn ask(&mut self, name: &str) -> v1::Subscribe {
        let position = (self.position.epoch != 0).then_some(self.position);
        self.asked = Some(position);
        self.ask_at = None;
        let at = position.map(|position| {
            let Position { epoch, seqs: [urgent, normal, bulk] } = position;
            v1::start::At::Position(v1::Position { epoch, urgent, normal, bulk })
        });
        v1::Subscribe {
            room: name.to_owned(),
            start: at.map(|at| v1::Start { at: Some(at) }),
            transients: self.mark,
            ..v1::Subscribe::default()
        }
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.refused();
        self.former.clear();
        self.ask_at = None;
    }

    /// The Subscribe was refused, or the subscription ended.
    pub(super) fn refused(&mut self) {
        self.handle = 0;
        self.asked = None;
    }

    /// Whether a subscription is in place.
    pub(super) fn is_subscribed(&self) -> bool {
        self.handle != 0
    }

    /// Takes a Subscribed and returns what to record; `None`: it does not count (LC-RES-016).
    pub(super) fn subscribed(&mut self, frame: &v1::Subscribed) -> Option<Subscribed> {
        let unasked = frame.cause != 0;
        let asked = match self.asked {
            Some(_) if unasked => return None,
            Some(asked) => asked,
            None if unasked => None,
            None => return None,
        };
        self.asked = None;
        let position = position(frame.position.as_ref());
        let rolled_back: Vec<Gap> = frame.rolled_back.iter().filter_map(gap).collect();
        let record = Subscribed {
            room: self.room,
            asked,
            unasked,
            position,
            head: self::position(frame.head.as_ref()),
            recovered: frame.recovered,
            degraded: frame.degraded,
            missed: missed(frame.missed_transients.as_ref()),
            rolled_back,
        };
        self.take(&record, frame.handle);
        self.mark = frame.transients;
        Some(record)
    }

    fn take(&mut self, record: &Subscribed, handle: u64) {
        let position = record.position;
        let open = |lane: Lane| record.rolled_back.iter().any(|gap| gap.lane == lane && gap.to == 0);
        if self.handle != 0 && self.handle != handle && record.unasked {
            let through = Lane::ALL.map(|lane| if open(lane) { 0 } else { position.seqs[lane.index()] });
            for former in &mut self.former {
                for (own, through) in former.through.iter_mut().zip(through) {
                    *own = through.min(*own);
                }
            }
            self.former.truncate(FORMER_MAX);
            self.former.push(Former { handle: self.handle, epoch: self.epoch, through });
        } else if !record.unasked {
            self.former.clear();
        }
        let same = self.position.epoch == position.epoch && record.rolled_back.is_empty();
        if self.position.epoch == 0 {
            self.position = position;
        } else if !same {
            for lane in Lane::ALL {
                let seq = &mut self.position.seqs[lane.index()];
                let at = position.seqs[lane.index()];
                *seq = if open(lane) { at } else { at.min(*seq) };
            }
            self.position.epoch = position.epoch;
        }
        self.handle = handle;
        self.epoch = position.epoch;
    }

    /// What a handle stands for, for a frame that ends at this seq (0: transient).
    pub(super) fn under(&self, handle: u64, lane: Lane, seq: u64) -> Under {
        if handle == self.handle && handle != 0 {
            return Under::Epoch(self.epoch);
        }
        match self.former.iter().find(|former| former.handle == handle) {
            Some(former) if seq <= former.through[lane.index()] => Under::Epoch(former.epoch),
            Some(_) => Under::Beyond,
            None => Under::Unknown,
        }
    }

    /// Everything up to this seq came or was covered.
    pub(super) fn received(&mut self, lane: Lane, seq: u64) {
        let received = &mut self.position.seqs[lane.index()];
        *received = (*received).max(seq);
    }

    /// So many transients of a lane came or were counted; 0: an unknown number.
    pub(super) fn transients(&mut self, lane: Lane, count: u64) {
        if count == 0 {
            self.mark = None;
        }
        if let Some(mark) = &mut self.mark {
            let own = match lane {
                Lane::Urgent => &mut mark.urgent,
                Lane::Normal => &mut mark.normal,
                Lane::Bulk => &mut mark.bulk,
            };
            *own += count;
        }
    }
}

/// A position off the wire.
pub(super) fn position(position: Option<&v1::Position>) -> Position {
    position.map_or_else(Position::default, |position| Position {
        epoch: position.epoch,
        seqs: [position.urgent, position.normal, position.bulk],
    })
}

/// A gap off the wire, if its lane carries events.
pub(super) fn gap(gap: &v1::Gap) -> Option<Gap> {
    let v1::Gap { epoch, from, to, count, .. } = *gap;
    Some(Gap { lane: Lane::from_wire(gap.lane)?, epoch, from, to, count, cause: Cause::from_wire(gap.cause) })
}

fn missed(missed: Option<&v1::MissedTransients>) -> Missed {
    let Some(missed) = missed else { return Missed::Unasked };
    match missed.knowledge() {
        v1::MissedKnowledge::Unspecified => Missed::Unasked,
        v1::MissedKnowledge::None => Missed::None,
        v1::MissedKnowledge::Count => Missed::Count(missed.count),
        v1::MissedKnowledge::Unknown => Missed::Unknown,
    }
}
