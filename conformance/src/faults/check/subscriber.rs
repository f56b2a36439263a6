//! The walk through one subscriber's history of one room.
//!
//! It keeps, lane by lane, up to where the client has everything, and what it has of the log that the client follows at
//! present (its *line*): a fork cuts the line back, a log that is not known any more ends it and another begins. What
//! is left of it at the end is compared with the end log.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Facts, Finding, Kind, Report};
use crate::faults::history::{Cause, Entry, Gap, Lane, Payload, Position, Subscribed};

pub(super) fn check(facts: &Facts<'_>, client: usize, room: u16, report: &mut Report) {
    let lines = facts.histories.clients.get(client).map_or(&[][..], Vec::as_slice);
    let mut walk = Walk::new(facts, client, room, report);
    for (index, line) in lines.iter().enumerate() {
        walk.index = index;
        match &line.entry {
            Entry::Cut { .. } => walk.cut(),
            Entry::Subscribed(subscribed) if subscribed.room == room => walk.subscribed(subscribed),
            Entry::Delivered { epoch, seq, order, payload } if payload.room == room => {
                walk.delivered(*epoch, *seq, *order, *payload);
            }
            Entry::Gap { room: of, gap } if *of == room && gap.from > 0 => walk.gap(gap),
            _ => {}
        }
    }
    walk.end();
}

/// A lane of the line.
#[derive(Default)]
struct Track {
    /// Everything up to here came or was covered.
    received: u64,
    /// What came, by seq.
    came: BTreeMap<u64, Came>,
    /// What gaps covered.
    covered: Vec<Gap>,
    /// Passed over so far; what comes late is reordered, the rest is lost.
    holes: BTreeSet<u64>,
    /// Up to where frames of the former epoch's handle still count.
    former_through: u64,
}

#[derive(Clone, Copy)]
struct Came {
    payload: Payload,
    order: u64,
    index: usize,
}

/// What an answered Subscribe promised, until its head is reached.
struct Claim {
    asked: Position,
    head: Position,
    recovered: bool,
    index: usize,
    /// A gap after it said that something is missing.
    missing: bool,
}

struct Walk<'a, 'b> {
    facts: &'a Facts<'a>,
    report: &'b mut Report,
    client: usize,
    room: u16,
    index: usize,
    epoch: u64,
    tracks: [Track; 3],
    claim: Option<Claim>,
}

impl<'a, 'b> Walk<'a, 'b> {
    fn new(facts: &'a Facts<'a>, client: usize, room: u16, report: &'b mut Report) -> Self {
        Self { facts, report, client, room, index: 0, epoch: 0, tracks: Default::default(), claim: None }
    }

    fn add(&mut self, kind: Kind, lane: Lane, seq: u64, text: String) {
        self.add_at(kind, lane, seq, text, self.index);
    }

    fn add_at(&mut self, kind: Kind, lane: Lane, seq: u64, text: String, index: usize) {
        let finding = Finding::new(kind, text);
        let (client, room) = (Some(self.client), Some(self.room));
        let (lane, seq, line) = (Some(lane), Some(seq), Some(index));
        self.report.add(Finding { client, room, lane, seq, line, ..finding });
    }

    fn wrongly(&mut self, text: String, index: usize) {
        let finding = Finding::new(Kind::WronglyRecovered, text);
        let (client, room, line) = (Some(self.client), Some(self.room), Some(index));
        self.report.add(Finding { client, room, line, ..finding });
    }

    fn cut(&mut self) {
        self.claim = None;
        self.tracks.iter_mut().for_each(|track| track.former_through = 0);
    }

    fn subscribed(&mut self, subscribed: &Subscribed) {
        let Subscribed { position, asked, unasked, .. } = subscribed;
        if self.epoch == 0 {
            self.epoch = position.epoch;
            for lane in Lane::ALL {
                self.tracks[lane.index()].received = position.seqs[lane.index()];
            }
            return;
        }
        // An unasked one of the same epoch (degraded, and back) says nothing about the place: frames are on their way.
        if *unasked && position.epoch == self.epoch && subscribed.rolled_back.is_empty() {
            return;
        }
        let Some(asked) = asked.or(unasked.then_some(Position { epoch: self.epoch, seqs: self.received() })) else {
            return self.wrongly("a client that knew its position subscribed without one".into(), self.index);
        };
        for lane in Lane::ALL {
            self.change(lane, asked, subscribed);
        }
        self.epoch = position.epoch;
        if !unasked {
            self.claim(asked, subscribed);
        }
    }

    fn received(&self) -> [u64; 3] {
        Lane::ALL.map(|lane| self.tracks[lane.index()].received)
    }

    /// Takes the answer of one lane: what was revoked, and where delivery goes on.
    fn change(&mut self, lane: Lane, asked: Position, subscribed: &Subscribed) {
        let position = subscribed.position.seqs[lane.index()];
        let (asked, unasked) = (asked.seqs[lane.index()], subscribed.unasked);
        let gaps = || subscribed.rolled_back.iter().filter(|gap| gap.lane == lane);
        let track = &mut self.tracks[lane.index()];
        let received = track.received;
        track.former_through = if unasked { position } else { 0 };
        if let Some(open) = gaps().find(|gap| gap.to == 0) {
            track.former_through = 0;
            // What was still on its way to the client under the former handle is revoked with it.
            let from = open.from.min(received + 1);
            let revoked = track.came.split_off(&from);
            track.received = position;
            if position + 1 != from {
                // Another log: its seqs have nothing to do with the former ones.
                let former = std::mem::replace(track, Track { received: position, ..Track::default() });
                self.finish(lane, &former);
            }
            return self.revoke(lane, open, revoked);
        }
        let first = gaps().map(|gap| gap.from).min();
        let beyond: Vec<u64> = track.came.range(position + 1..).map(|(seq, _)| *seq).collect();
        let uncovered = |seq: &u64| !gaps().any(|gap| (gap.from..=gap.to).contains(seq));
        let kept = beyond.iter().copied().find(uncovered);
        let revoked = track.came.split_off(&(position + 1));
        track.received = received.min(position);
        track.covered.retain(|gap| gap.to <= position);
        track.holes.retain(|seq| *seq <= position);
        if let Some(seq) = kept {
            let what = match first {
                Some(_) => "the rolled-back gaps are too small: this seq was delivered and is taken back without one",
                None => "delivery begins before what was delivered, and no gap takes that back",
            };
            self.add(Kind::BadGap, lane, seq, format!("{what} (position {position}, received {received})"));
        }
        if !unasked && position > asked {
            let text = format!("delivery begins at {position}, asked was {asked}: what lies between is passed over");
            self.add(Kind::Lost, lane, asked + 1, text);
            self.tracks[lane.index()].received = position;
        }
        for gap in subscribed.rolled_back.iter().filter(|gap| gap.lane == lane) {
            let of_gap = revoked.range(gap.from..=gap.to.max(gap.from)).map(|(seq, came)| (*seq, *came)).collect();
            self.revoke(lane, gap, of_gap);
        }
    }

    /// What a gap revokes must be gone. The same payload may be there again, in a later epoch.
    fn revoke(&mut self, lane: Lane, gap: &Gap, revoked: BTreeMap<u64, Came>) {
        for (seq, came) in revoked {
            let still = self.facts.stored_at(self.room, lane, seq);
            if still.is_some_and(|still| still.payload == came.payload && still.epoch <= gap.epoch) {
                let text = format!("{} was revoked, and the log still has it under this seq and epoch", came.payload);
                self.add(Kind::BadGap, lane, seq, text);
            }
        }
    }

    fn claim(&mut self, asked: Position, subscribed: &Subscribed) {
        let Subscribed { position, head, recovered, rolled_back, degraded, .. } = subscribed;
        self.claim = None;
        if *recovered && !rolled_back.is_empty() {
            self.wrongly(format!("recovered, though rolled_back holds {} gaps", rolled_back.len()), self.index);
        }
        if *recovered && position.seqs != asked.seqs {
            self.wrongly(format!("recovered, asked at {asked} and answered at {position}"), self.index);
        }
        if *degraded || !rolled_back.is_empty() {
            return;
        }
        let (head, recovered, index) = (*head, *recovered, self.index);
        self.claim = Some(Claim { asked, head, recovered, index, missing: false });
        self.settle_claim();
    }

    /// Judges the claim once its head is reached.
    fn settle_claim(&mut self) {
        let received = self.received();
        let Some(claim) = &self.claim else { return };
        if received.iter().zip(claim.head.seqs).any(|(received, head)| *received < head) {
            return;
        }
        let (recovered, missing, index, asked) = (claim.recovered, claim.missing, claim.index, claim.asked);
        self.claim = None;
        if !recovered && !missing {
            self.wrongly(format!("not recovered, though everything from {asked} on came"), index);
        }
    }

    /// Whether a frame's epoch is the line's, or the former handle's, which counts up to where the present one begins.
    fn epoch_fits(&self, lane: Lane, epoch: u64, through: u64) -> bool {
        epoch == self.epoch || (epoch < self.epoch && through <= self.tracks[lane.index()].former_through)
    }

    fn delivered(&mut self, epoch: u64, seq: u64, order: u64, payload: Payload) {
        let lane = payload.lane;
        if self.epoch == 0 || !self.epoch_fits(lane, epoch, seq) {
            let text = format!("{payload} came in epoch {epoch}, the subscription is in {}", self.epoch);
            return self.add(Kind::Broken, lane, seq, text);
        }
        self.pass_over(lane, seq);
        let index = self.index;
        let track = &mut self.tracks[lane.index()];
        if seq <= track.received {
            let late = track.holes.remove(&seq);
            let covered = track.covered.iter().any(|gap| (gap.from..=gap.to).contains(&seq));
            let (kind, text) = match (late, track.came.contains_key(&seq), covered) {
                (true, ..) => (Kind::Reordered, format!("{payload} came after seq {}", track.received)),
                (_, true, _) => (Kind::Doubled, format!("{payload} came although this seq had come")),
                (_, _, true) => (Kind::BadGap, format!("{payload} came although a gap covered this seq")),
                _ => (Kind::Doubled, format!("{payload} came from before where the subscription began")),
            };
            track.came.entry(seq).or_insert(Came { payload, order, index });
            return self.add(kind, lane, seq, text);
        }
        let before = track.came.last_key_value().map(|(_, came)| *came);
        track.received = seq;
        track.came.insert(seq, Came { payload, order, index });
        if let Some(before) = before.filter(|before| before.order >= order) {
            let text = format!("{payload} has order {order} after order {}", before.order);
            self.add(Kind::Reordered, lane, seq, text);
        }
        self.settle_claim();
    }

    fn gap(&mut self, gap: &Gap) {
        let Gap { lane, epoch, from, to, cause, .. } = *gap;
        // A gap of the former handle that reaches beyond where the present one begins counts up to there (LC-RES-015).
        let through = self.tracks[lane.index()].former_through;
        let to = if epoch < self.epoch { to.min(through) } else { to };
        if self.epoch == 0 || to < from || !self.epoch_fits(lane, epoch, to) {
            let text = format!("a gap {from} to {} in epoch {epoch}, the subscription is in {}", gap.to, self.epoch);
            return self.add(Kind::BadGap, lane, from, text);
        }
        self.pass_over(lane, from);
        if let Some(claim) = &mut self.claim
            && from <= claim.head.seqs[lane.index()]
            && !matches!(cause, Cause::Expired | Cause::Filtered)
        {
            claim.missing = true;
            if claim.recovered {
                let (index, asked) = (claim.index, claim.asked);
                let text = format!("recovered at {asked}, then a gap {} {from} to {to} on {lane}", cause.name());
                self.wrongly(text, index);
            }
        }
        let track = &mut self.tracks[lane.index()];
        let received = track.received;
        if from <= received {
            let text = format!("a gap {from} to {to} overlaps what came before, up to {received}");
            self.add(Kind::BadGap, lane, from, text);
        }
        self.cause_is_true(gap, from.max(received + 1), to);
        let track = &mut self.tracks[lane.index()];
        track.received = track.received.max(to);
        track.covered.push(Gap { from, to, ..*gap });
        self.settle_claim();
    }

    /// Whether the cause of a gap fits what is known otherwise.
    fn cause_is_true(&mut self, gap: &Gap, from: u64, to: u64) {
        let Gap { lane, cause, .. } = *gap;
        match cause {
            Cause::Trimmed => {
                let kept = (from..=to).find(|seq| self.facts.stored_at(self.room, lane, *seq).is_some());
                let kept = kept.filter(|_| self.facts.head(self.room).is_some_and(|head| head.epoch == gap.epoch));
                if let Some(seq) = kept {
                    self.add(Kind::BadGap, lane, seq, "a gap says trimmed, and the log still has it".into());
                }
            }
            Cause::Unknown if !self.facts.unknown_allowed => {
                let text = format!("cause unknown for {from} to {to}, and no connection to the log was broken");
                self.add(Kind::BadGap, lane, from, text);
            }
            Cause::Expired => {
                let immortal = (from..=to).find_map(|seq| {
                    let stored = self.facts.stored_at(self.room, lane, seq)?;
                    let ttl_ms = self.facts.publishes.get(&stored.payload)?.ttl_ms;
                    (ttl_ms == 0 && stored.epoch <= gap.epoch).then_some((seq, stored.payload))
                });
                if let Some((seq, payload)) = immortal {
                    let text = format!("a gap says expired, and {payload} has no time to live");
                    self.add(Kind::BadGap, lane, seq, text);
                }
            }
            Cause::Unknown | Cause::Erased | Cause::Filtered => {}
            Cause::Unspecified | Cause::RolledBack | Cause::Dropped => {
                let text = format!("a gap on a lane has cause {} for {from} to {to}", cause.name());
                self.add(Kind::BadGap, lane, from, text);
            }
        }
    }

    /// Notes the seqs between what was received and this one as passed over.
    fn pass_over(&mut self, lane: Lane, seq: u64) {
        let track = &mut self.tracks[lane.index()];
        track.holes.extend((track.received + 1..seq).take(HOLES_MAX.saturating_sub(track.holes.len())));
        track.received = track.received.max(seq.saturating_sub(1));
    }

    fn end(mut self) {
        let Some(head) = self.facts.head(self.room) else { return };
        if self.epoch == 0 {
            let text = "the client was never subscribed".into();
            return self.add(Kind::Lost, Lane::Normal, 0, text);
        }
        for lane in Lane::ALL {
            let track = std::mem::take(&mut self.tracks[lane.index()]);
            self.finish(lane, &track);
            let (received, through) = (track.received, head.seqs[lane.index()]);
            if head.epoch != self.epoch && received < through {
                let text = format!("the log ends in epoch {}, the client in {}", head.epoch, self.epoch);
                self.add(Kind::Lost, lane, received + 1, text);
            } else if received < through {
                let text = format!("what the log has from here up to {through} never came");
                self.add(Kind::Lost, lane, received + 1, text);
            } else if received > through {
                let text = format!("the log ends at {through}, the client has {received}, and no gap took that back");
                self.add(Kind::Forked, lane, through + 1, text);
            }
            self.compare(lane, &track, through);
        }
    }

    /// Judges a line that ended: nothing was passed over, each payload came once, each publisher's numbers rose.
    fn finish(&mut self, lane: Lane, track: &Track) {
        if let Some(first) = track.holes.first() {
            let text = format!("passed over without a gap, and {} more like it", track.holes.len() - 1);
            let next = track.came.range(first..).next().map_or(self.index, |(_, came)| came.index);
            self.add_at(Kind::Lost, lane, *first, text, next);
        }
        let mut newest: HashMap<u16, u32> = HashMap::new();
        for (seq, came) in &track.came {
            let Payload { client, number, .. } = came.payload;
            let last = newest.insert(client, number).unwrap_or(0);
            if number <= last {
                let kind = if number == last { Kind::Doubled } else { Kind::Reordered };
                let text = format!("{} came after number {last} of client {client}", came.payload);
                self.add_at(kind, lane, *seq, text, came.index);
            }
        }
    }

    /// What came and was not revoked is what the log has under that seq.
    fn compare(&mut self, lane: Lane, track: &Track, through: u64) {
        let trimmed = self.facts.trimmed_through(self.room, lane);
        for (seq, came) in track.came.range(trimmed + 1..=through.max(trimmed + 1)) {
            match self.facts.stored_at(self.room, lane, *seq) {
                Some(stored) if stored.payload == came.payload && stored.order == came.order => {}
                Some(stored) => {
                    let text = format!("{} came, the log has {} here, nobody said so", came.payload, stored.payload);
                    return self.add_at(Kind::Forked, lane, *seq, text, came.index);
                }
                None if self.facts.log_lacks(self.room, lane, *seq) || *seq > through => {}
                None => {
                    let text = format!("{} came, the log does not have this seq", came.payload);
                    return self.add_at(Kind::Forked, lane, *seq, text, came.index);
                }
            }
        }
    }
}

/// Seqs that are kept as passed over, per room and lane; more of them say nothing new.
const HOLES_MAX: usize = 10_000;
