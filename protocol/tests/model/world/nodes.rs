//! The nodes: what they read, what they answer, and what is checked of that at once.

use lanecast_protocol::codes::Code;
use lanecast_protocol::log::{Append, Numbers, Origin, Outcome, Publisher, Resumed, RolledBack, Start};
use lanecast_protocol::place::{Batch, Place, Step, Stored};
use lanecast_protocol::position::{DurableLane, Position};
use lanecast_protocol::v1;
use rand::Rng;

use super::{ROOM, World};
use crate::ledger::Cell;
use crate::planted::Planted;
use crate::wire::{Down, Up};

/// Frames of a lane in flight beyond which a node reads no more.
const LANE_FRAMES_MAX: usize = 24;
/// Former epochs that a node remembers having seen.
const SEEN_MAX: usize = 4;

impl World {
    /// What every call of the log begins with.
    pub(super) fn contact(&mut self, node: usize) {
        let seen = self.nodes[node].seen.clone();
        if self.store.contact(self.now_ms, &seen) {
            self.tally.epochs += 1;
            tell!(self, "node {node} opens epoch {}", self.store.log().epoch());
        }
        let head = self.store.log().head().position;
        let seen = &mut self.nodes[node].seen;
        match seen.iter_mut().find(|position| position.epoch == head.epoch) {
            Some(position) => *position = head,
            None => seen.push(head),
        }
        if seen.len() > SEEN_MAX {
            seen.remove(0);
        }
    }

    pub(super) fn handle(&mut self, node: usize, epoch: u64) -> u64 {
        let next = &mut self.next_handle;
        *self.nodes[node].handles.entry(epoch).or_insert_with(|| {
            *next += 1;
            *next
        })
    }

    pub(super) fn node_reads_control(&mut self, client: usize) -> Result<(), String> {
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let node = connection.node;
        let Some(Up::Subscribe(id, at)) = connection.link.control_up.pop_front() else { return Ok(()) };
        self.contact(node);
        let start = match &at {
            v1::start::At::Live(_) => Start::Live,
            v1::start::At::Beginning(_) => Start::Beginning,
            v1::start::At::Position(position) => Start::Position(Position::try_from(position).unwrap()),
            v1::start::At::Count(count) => Start::Count((*count).into()),
            v1::start::At::DurationMs(ms) => Start::Duration(*ms),
            v1::start::At::Marker(_) => return Err("markers are not modelled".into()),
        };
        let mut opened = self.store.log().open(self.now_ms, start);
        if let Start::Position(asked) = start {
            self.tally.resumed += 1;
            self.tally.recovered += u64::from(opened.recovered);
            self.tally.unknown_epochs += u64::from(opened.rolled_back.iter().any(|gap| gap.to.is_none()));
            opened.recovered |= self.is_planted(Planted::FalseComfort);
            if self.store.log().is_beyond_head(asked) {
                return Err(format!("{asked} is beyond the head of an epoch in which nothing was rolled back"));
            }
            self.check_resume(client, node, asked, &opened.rolled_back, opened.position, opened.recovered)?;
        }
        let resumed =
            Resumed { position: opened.position, rolled_back: opened.rolled_back, recovered: opened.recovered };
        self.begin(client, id, resumed, v1::SubscribedCause::Unspecified);
        Ok(())
    }

    /// Puts the subscriber's place where it begins and tells it.
    pub(super) fn begin(&mut self, client: usize, id: u32, resumed: Resumed, cause: v1::SubscribedCause) {
        let head = self.store.log().head();
        let node = self.connections[client].as_ref().unwrap().node;
        let handle = self.handle(node, resumed.position.epoch);
        let mut rolled_back: Vec<v1::Gap> = resumed.rolled_back.iter().map(gap_of).collect();
        if self.is_planted(Planted::ForkInSilence) {
            rolled_back.clear();
        }
        let frame = v1::Subscribed {
            room: ROOM.into(),
            handle,
            position: Some(resumed.position.into()),
            head: Some(head.position.into()),
            head_order: head.order,
            recovered: resumed.recovered,
            rolled_back,
            cause: cause.into(),
            ..Default::default()
        };
        let connection = self.connections[client].as_mut().unwrap();
        connection.place = Some((Place::at(resumed.position), handle));
        connection.link.control_down.push_back(Down::Subscribed(id, Box::new(frame)));
    }

    /// Law 10, and the naming of what was lost.
    pub(super) fn check_resume(
        &self,
        client: usize,
        node: usize,
        asked: Position,
        rolled_back: &[RolledBack],
        position: Position,
        recovered: bool,
    ) -> Result<(), String> {
        let log = self.store.log();
        let oldest = log.head().oldest;
        let trimmed = DurableLane::ALL.into_iter().any(|lane| position.seq(lane) < oldest.seq(lane));
        if recovered != (rolled_back.is_empty() && !trimmed) {
            return Err(format!(
                "client {client} at {asked}: recovered {recovered}, trimmed {trimmed}, {rolled_back:?}"
            ));
        }
        let state = &self.clients[client];
        if let Some(received) = &state.received
            && state.tracker.epoch() == asked.epoch
            && recovered
        {
            for (lane, cells) in received.cells.iter() {
                for (seq, cell) in cells.range(..=asked.seq(lane)) {
                    if let Cell::Event(payload) = cell
                        && self.store.truth()[lane].get(*seq as usize - 1) != Some(payload)
                    {
                        return Err(format!("client {client} at {asked} is recovered, and its {lane} {seq} is lost"));
                    }
                }
            }
        }
        let mut forks = log.forks().skip_while(|fork| fork.epoch <= asked.epoch);
        let known = rolled_back.iter().all(|gap| gap.to.is_some());
        let seen = self.nodes[node].seen.iter().find(|seen| seen.epoch == asked.epoch);
        if let (Some(fork), Some(seen), true) = (forks.next(), seen, known) {
            for lane in DurableLane::ALL {
                let named = rolled_back.iter().any(|gap| {
                    gap.lane == lane && gap.epoch == asked.epoch && gap.to.is_some_and(|to| to >= seen.seq(lane))
                });
                if seen.seq(lane) >= fork.first[lane] && !named {
                    return Err(format!("{lane} {} of epoch {} is lost and not named", seen.seq(lane), asked.epoch));
                }
            }
        }
        Ok(())
    }

    pub(super) fn node_reads_lane(&mut self, client: usize) -> Result<(), String> {
        let lane = self.lane();
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let node = connection.node;
        let Some(Up::Publish { id, publish, instance }) = connection.link.lanes_up[lane].pop_front() else {
            return Ok(());
        };
        let answer = if self.chance(30) {
            refusal(id, Code::Unavailable)
        } else {
            let outcome = self.judge(node, &publish, instance)?;
            let lost_answer = self.chance(30);
            match outcome {
                None => refusal(id, Code::MessageTooLarge),
                // What the store did is not known to the node.
                Some(_) if lost_answer => refusal(id, Code::Unavailable),
                Some(Outcome::Stored(numbers)) => published(id, lane, Some((numbers.epoch, numbers.seq)), false),
                Some(Outcome::Duplicate { first }) => {
                    let epoch = self.store.log().epoch();
                    let numbers = first.map_or((epoch, 0), |first| (first.epoch, first.seq));
                    published(id, lane, Some(numbers), true)
                }
                Some(Outcome::OutOfOrder) => refusal(id, Code::OutOfOrder),
                Some(other) => return Err(format!("{other:?} for a numbered publish")),
            }
        };
        tell!(self, "node {node} answers client {client}: {answer:?}");
        if let Some(connection) = &mut self.connections[client] {
            connection.link.control_down.push_back(answer);
        }
        Ok(())
    }

    /// Lets the log judge a publish; `None`: the node refuses it for good.
    pub(super) fn judge(
        &mut self,
        node: usize,
        publish: &v1::Publish,
        instance: u64,
    ) -> Result<Option<Outcome>, String> {
        let payload = u64::from_be_bytes(publish.envelope[..].try_into().unwrap());
        let known = self.publishes[&payload];
        if known.too_large {
            return Ok(None);
        }
        self.contact(node);
        let lane = DurableLane::from_wire(publish.lane).unwrap();
        let publisher = Publisher { user: "user".into(), instance: instance.to_string() };
        let after = if self.is_planted(Planted::NoAfter) { 0 } else { publish.after };
        let origin = match self.is_planted(Planted::NoWatermark) {
            true => Origin::Unmarked,
            false => Origin::Numbered { publisher, number: publish.number, after },
        };
        let append = Append {
            lane,
            origin,
            time_ms: self.now_ms,
            expires_at_ms: known.expires_at_ms,
            event_type: if known.secret { "secret".into() } else { "open".into() },
            tail: publish.envelope.clone(),
        };
        if self.is_planted(Planted::AckUnstored) && self.chance(20) {
            let seq = self.store.log().head().position.seq(lane) + 1;
            let epoch = self.store.log().epoch();
            let numbers = Numbers { epoch, lane, seq, order: 0 };
            return Ok(Some(Outcome::Stored(numbers)));
        }
        let outcome = self.store.append(self.now_ms, append, payload)?;
        match outcome {
            Outcome::Stored(_) => self.tally.stored += 1,
            Outcome::Duplicate { .. } => self.tally.duplicates += 1,
            Outcome::OutOfOrder => self.tally.out_of_order += 1,
            _ => {}
        }
        tell!(self, "publish {payload} number {} after {after}: {outcome:?}", publish.number);
        Ok(Some(outcome))
    }

    /// A node reads a lane for a subscriber, as far as its queue has room.
    pub(super) fn pump(&mut self, client: usize) -> Result<(), String> {
        let lane = self.lane();
        let records_max = self.rng.random_range(1..8);
        let Some(connection) = &self.connections[client] else { return Ok(()) };
        let node = connection.node;
        let Some((mut place, handle)) = connection.place else { return Ok(()) };
        if connection.link.lanes_down[lane].len() > LANE_FRAMES_MAX {
            return Ok(());
        }
        self.contact(node);
        let read = self.store.log().read(lane, place.sent(lane), records_max, usize::MAX);
        if read.epoch != place.epoch && !self.is_planted(Planted::EpochUnnoticed) {
            let asked = place.position();
            let resumed = self.store.log().resume(asked);
            tell!(self, "node {node} moves client {client} from {asked} to {resumed:?}");
            self.check_resume(client, node, asked, &resumed.rolled_back, resumed.position, resumed.recovered)?;
            let recovered = false;
            self.begin(client, 0, Resumed { recovered, ..resumed }, v1::SubscribedCause::Epoch);
            return Ok(());
        }
        let hides = self.clients[client].filtered;
        let events: Vec<Stored> = read
            .records
            .iter()
            .map(|record| Stored {
                seq: record.seq,
                expires_at_ms: record.expires_at_ms,
                event_type: record.event_type.clone(),
                record: record.tail.clone(),
            })
            .collect();
        let mut batch = Batch { first: read.first, events };
        if self.is_planted(Planted::TrimmedInSilence) && batch.first > place.sent(lane) + 1 {
            place = Place::at(place.position().with_seq(lane, batch.first - 1));
            batch.first = 1;
        }
        let steps = place.advance(lane, batch, self.now_ms, |event| !hides || &*event.event_type != "secret");
        let epoch = place.epoch;
        for step in steps {
            let frame = match step {
                Step::Event { seq, record, .. } => {
                    Down::Event { handle, seq, payload: u64::from_be_bytes(record[..].try_into().unwrap()) }
                }
                Step::Gap { from, to, cause } => {
                    self.check_gap(lane, from, to, cause)?;
                    let lane = v1::Lane::from(lane).into();
                    Down::Gap(v1::Gap { handle, lane, epoch, from, to, cause: cause.into(), ..Default::default() })
                }
            };
            let connection = self.connections[client].as_mut().unwrap();
            connection.link.lanes_down[lane].push_back(frame);
        }
        self.connections[client].as_mut().unwrap().place = Some((place, handle));
        Ok(())
    }

    /// A gap says why, and it is true.
    pub(super) fn check_gap(
        &mut self,
        lane: DurableLane,
        from: u64,
        to: u64,
        cause: v1::GapCause,
    ) -> Result<(), String> {
        let payloads = self.store.truth()[lane].get(from as usize - 1..to as usize).ok_or("a gap beyond the log")?;
        let publishes = || payloads.iter().map(|payload| &self.publishes[payload]);
        let (is_true, count) = match cause {
            v1::GapCause::Trimmed => (to <= self.store.trimmed[lane], &mut self.tally.trimmed_gaps),
            v1::GapCause::Expired => {
                let now_ms = self.now_ms;
                let all = publishes().all(|publish| publish.expires_at_ms != 0 && publish.expires_at_ms <= now_ms);
                (all, &mut self.tally.expired_gaps)
            }
            v1::GapCause::Filtered => (publishes().all(|publish| publish.secret), &mut self.tally.filtered_gaps),
            other => return Err(format!("a gap with cause {other:?}")),
        };
        *count += 1;
        if is_true { Ok(()) } else { Err(format!("{lane} {from} to {to} is not {cause:?}")) }
    }
}

fn gap_of(lost: &RolledBack) -> v1::Gap {
    v1::Gap {
        lane: v1::Lane::from(lost.lane).into(),
        epoch: lost.epoch,
        from: lost.from,
        to: lost.to.unwrap_or(0),
        cause: v1::GapCause::RolledBack.into(),
        ..Default::default()
    }
}

fn refusal(id: u32, code: Code) -> Down {
    Down::Refused { id, error: v1::Error { code: code.number().into(), ..Default::default() } }
}

fn published(id: u32, lane: DurableLane, numbers: Option<(u64, u64)>, duplicate: bool) -> Down {
    let (epoch, seq) = numbers.unwrap_or_default();
    let lane = v1::Lane::from(lane).into();
    Down::Published { id, published: v1::Published { epoch, lane, seq, duplicate, ..Default::default() } }
}
