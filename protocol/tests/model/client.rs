//! A client of the model: the real tracker, inbox and publisher, and two ledgers, one behind each of the first two.

use bytes::Bytes;
use lanecast_protocol::inbox::{Delivery, Inbox, Item};
use lanecast_protocol::position::{DurableLane, Position};
use lanecast_protocol::publisher::{Bounds, Publisher};
use lanecast_protocol::tracker::{Tracker, Verdict};
use lanecast_protocol::v1;

use crate::ledger::Ledger;
use crate::planted::Planted;
use crate::wire::{Down, Link, Up, position_of};

const BOUNDS: Bounds = Bounds { items_max: 1000, bytes_max: 1 << 20 };

pub struct Client {
    /// A right hides secret events from it.
    pub filtered: bool,
    /// Whether the transport keeps the order of urgent events; if it ever did not, the application's order is not
    /// checked in that lane.
    pub ordered: bool,
    pub instance: u64,
    pub tracker: Tracker,
    pub inbox: Inbox,
    pub publisher: Publisher,
    pub received: Option<Ledger>,
    pub taken: Option<Ledger>,
    /// With the application, not taken yet.
    batch: Vec<Item>,
    /// Frames whose handle is not known yet.
    held: Vec<(DurableLane, Down)>,
    pub start: v1::start::At,
    /// Subscribe again from *received*.
    pub again: bool,
    /// The id of the Subscribe that is not answered.
    asked: Option<u32>,
    pub holes: u64,
    pub revoked: u64,
    pub next_id: u32,
}

impl Client {
    pub fn new(start: v1::start::At, filtered: bool, ordered: bool, instance: u64) -> Self {
        Self {
            filtered,
            ordered,
            instance,
            tracker: Tracker::new(),
            inbox: Inbox::default(),
            publisher: Publisher::new(BOUNDS),
            received: None,
            taken: None,
            batch: Vec::new(),
            held: Vec::new(),
            start,
            again: false,
            asked: None,
            holes: 0,
            revoked: 0,
            next_id: 0,
        }
    }

    /// Asks for the room: from where it is, or as the application said.
    pub fn subscribe(&mut self, planted: Option<Planted>) -> Up {
        self.next_id += 1;
        self.asked = Some(self.next_id);
        let at = match self.tracker.position() {
            Some(position) if planted != Some(Planted::PositionForgotten) => v1::start::At::Position(position.into()),
            _ => self.start.clone(),
        };
        Up::Subscribe(self.next_id, at)
    }

    pub fn disconnected(&mut self) {
        self.tracker.disconnected();
        self.publisher.disconnected();
        self.held.clear();
        self.again = false;
        self.asked = None;
    }

    /// The process dies: what the application took is known, nothing else.
    pub fn crash(&mut self, instance: u64) -> Result<(), String> {
        self.disconnected();
        self.take(0)?;
        self.batch.clear();
        self.instance = instance;
        self.publisher = Publisher::new(BOUNDS);
        let Some(position) = self.inbox.position() else {
            self.tracker = Tracker::new();
            return Ok(());
        };
        self.tracker = Tracker::at(position);
        self.inbox = Inbox::default();
        self.inbox.begin(position);
        // Of urgent events that overtook others the position knows nothing: they come again.
        let taken = self.taken.as_mut().unwrap();
        for lane in DurableLane::ALL {
            let _ = taken.cells[lane].split_off(&(position.seq(lane) + 1));
        }
        self.received = self.taken.clone();
        Ok(())
    }

    /// Takes a Subscribed. Returns false if the connection must be given up, since going on would skip seqs.
    pub fn subscribed(
        &mut self,
        link: &Link,
        id: u32,
        frame: &v1::Subscribed,
        planted: Option<Planted>,
    ) -> Result<bool, String> {
        if self.asked.is_some_and(|asked| asked != id) && planted != Some(Planted::AnyAnswerCounts) {
            // It is about a place from which this client has asked the node to move it; the answer says where to.
            return Ok(true);
        }
        let first = self.tracker.position().is_none();
        let Ok(change) = self.tracker.subscribed(frame) else { return Ok(false) };
        if id != 0 {
            self.asked = None;
        }
        if first {
            let position = position_of(frame);
            self.inbox.begin(position);
            self.received = Some(Ledger::begin(position));
            self.taken = self.received.clone();
        }
        if let Some(change) = change {
            let received = self.received.as_mut().unwrap();
            for gap in &change.gaps {
                received.gap(gap, true)?;
            }
            for lane in DurableLane::ALL {
                if change.restarted[lane] {
                    received.restart(lane, change.position.seq(lane));
                }
            }
            self.inbox.change_epoch(change);
        }
        for (lane, frame) in std::mem::take(&mut self.held) {
            self.durable(link, lane, frame, planted)?;
        }
        Ok(true)
    }

    /// Takes an event or a gap from its lane.
    pub fn durable(
        &mut self,
        link: &Link,
        lane: DurableLane,
        frame: Down,
        planted: Option<Planted>,
    ) -> Result<(), String> {
        let ordered = link.ordered || lane != DurableLane::Urgent;
        let verdict = match &frame {
            Down::Event { handle, seq, payload } => {
                let mut verdict = self.tracker.event(*handle, lane, *seq, ordered);
                let mistaken = match planted {
                    Some(Planted::DuplicatesPass) => verdict == Verdict::Duplicate,
                    Some(Planted::RevokedPass) => verdict == Verdict::Revoked,
                    _ => false,
                };
                if mistaken {
                    verdict = Verdict::Deliver;
                }
                if verdict == Verdict::Deliver {
                    self.received.as_mut().unwrap().event(lane, *seq, *payload, self.ordered)?;
                    let envelope = Bytes::copy_from_slice(&payload.to_be_bytes());
                    let event = v1::Event { seq: *seq, envelope, ..Default::default() };
                    self.inbox.event(lane, Delivery { epoch: self.tracker.epoch(), event });
                }
                verdict
            }
            Down::Gap(gap) => {
                let (verdict, news) = self.tracker.gap(gap, ordered);
                for news in news {
                    self.received.as_mut().unwrap().gap(&news, self.ordered)?;
                    self.inbox.gap(news);
                }
                verdict
            }
            other => return Err(format!("{other:?} on a lane")),
        };
        match verdict {
            Verdict::UnknownHandle => {
                self.held.push((lane, frame));
                if self.held.len() > 200 {
                    self.held.clear();
                    self.again = true;
                }
            }
            Verdict::Hole => {
                self.holes += 1;
                self.again = true;
            }
            Verdict::Revoked => self.revoked += 1,
            Verdict::Deliver | Verdict::Duplicate => {}
        }
        Ok(())
    }

    /// The application takes the batch that it has, and then at most `max` items more.
    pub fn take(&mut self, max: usize) -> Result<(), String> {
        let Some(taken) = &mut self.taken else { return Ok(()) };
        let mut restarted = Vec::new();
        for item in self.batch.drain(..) {
            match item {
                Item::Event(delivery) => {
                    let payload = u64::from_be_bytes(delivery.event.envelope[..].try_into().unwrap());
                    let lane = Self::lane_of(payload);
                    taken.event(lane, delivery.event.seq, payload, self.ordered)?;
                }
                Item::Gap(gap) => {
                    taken.gap(&gap, self.ordered)?;
                    if gap.to.is_none() {
                        restarted.push(gap.lane);
                    }
                }
                other => return Err(format!("{other:?} was handed out")),
            }
        }
        self.batch = self.inbox.next_batch(max);
        let position = self.inbox.position().ok_or("no position")?;
        for lane in restarted {
            taken.restart(lane, position.seq(lane));
        }
        self.check_position(position)
    }

    /// The position says neither more nor less than what was taken.
    fn check_position(&self, position: Position) -> Result<(), String> {
        let taken = self.taken.as_ref().unwrap();
        for lane in DurableLane::ALL {
            let reached = position.seq(lane);
            if reached < taken.base[lane] {
                return Err(format!(
                    "the position {position} lies before the beginning {} of {lane}",
                    taken.base[lane]
                ));
            }
            // What a right hides is not shown to the application: its holes are audited at the end.
            let mut missing = (taken.base[lane] + 1..=reached).filter(|seq| !taken.cells[lane].contains_key(seq));
            if let Some(seq) = missing.next()
                && !self.filtered
            {
                return Err(format!("the position {position} covers {lane} {seq}, which was not taken"));
            }
            if taken.cells[lane].contains_key(&(reached + 1)) {
                return Err(format!("the position {position} does not cover {lane} {}", reached + 1));
            }
        }
        Ok(())
    }

    /// The lane of a payload stands in its lowest digit.
    pub fn lane_of(payload: u64) -> DurableLane {
        DurableLane::ALL[(payload % 10) as usize]
    }

    pub fn has_taken_all(&self) -> bool {
        self.batch.is_empty() && self.inbox.is_empty()
    }
}
