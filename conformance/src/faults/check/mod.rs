//! The checker: a pure function from histories to findings.
//!
//! It reads what clients recorded and what the logs hold at the end, and knows nothing of how they came about. What it
//! promises to find: seqs *lost* in silence, *doubled*, *reordered*; events *acknowledged but absent*; subscriptions
//! *wrongly recovered*; gaps that do not fit (overlapping, too small, over what the log has, with a cause that the
//! round does not explain); transients lost without a count; and who was not *current again* in time.
//!
//! In reading order: [`Facts`] what everything is compared with; `log` the end logs and the acknowledgements;
//! `subscriber` the walk through one client's history of a room; `transients`; `current`.

mod current;
mod log;
#[cfg(test)]
mod planted;
mod subscriber;
#[cfg(test)]
mod tests;
mod transients;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use super::history::{Cause, Entry, Gap, Histories, Lane, Payload, Position, RoomLog, Stored, Subscribed};

/// How long after a repair every subscriber has to be current again.
pub const CURRENT_WITHIN: Duration = Duration::from_secs(10);
/// Findings kept of each kind; the others are counted.
const KEPT_OF_KIND: usize = 20;
/// Lines of a history shown before and after a finding's own.
const NEAR: usize = 4;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A seq neither came nor was covered by a gap.
    Lost,
    /// An event came twice, or is stored twice.
    Doubled,
    /// Seqs, orders or publish numbers do not rise.
    Reordered,
    /// Acknowledged, and neither in the log nor explained.
    AcknowledgedAbsent,
    /// What `recovered` or a position promised does not hold.
    WronglyRecovered,
    /// A gap overlaps, is too small, or is not true.
    BadGap,
    /// What was delivered is not what the log has, and nobody revoked it.
    Forked,
    /// Transients are missing and not counted.
    TransientLost,
    /// A subscriber was not current again in time.
    NotCurrent,
    /// A publish was refused for good.
    Refused,
    /// The protocol was broken in another way.
    Broken,
    /// A fault took no effect, so that the round proves nothing.
    NoEffect,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Reordered => "reordered",
            Self::AcknowledgedAbsent => "acknowledged but absent",
            Self::WronglyRecovered => "wrongly recovered",
            Self::BadGap => "bad gap",
            Self::Forked => "forked in silence",
            Self::TransientLost => "transients lost in silence",
            Self::NotCurrent => "not current again",
            Self::Refused => "refused for good",
            Self::Broken => "protocol broken",
            Self::NoEffect => "fault without effect",
        })
    }
}

/// Something wrong, and where.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// In whose history.
    pub client: Option<usize>,
    /// Index of the room.
    pub room: Option<u16>,
    /// Lane.
    pub lane: Option<Lane>,
    /// Seq.
    pub seq: Option<u64>,
    /// In words.
    pub text: String,
    /// Index of the history's line at which it shows.
    pub line: Option<usize>,
}

impl Finding {
    fn new(kind: Kind, text: String) -> Self {
        Self { kind, client: None, room: None, lane: None, seq: None, text, line: None }
    }

    fn of(kind: Kind, payload: Payload, seq: u64, text: String) -> Self {
        Self { room: Some(payload.room), lane: Some(payload.lane), seq: Some(seq), ..Self::new(kind, text) }
    }

    /// The finding for people, with the lines of the history around it.
    pub fn explain(&self, histories: &Histories) -> String {
        let mut text = self.kind.to_string();
        if let Some(client) = self.client {
            text.push_str(&format!(", client {client}"));
        }
        if let Some(room) = self.room {
            let name = histories.run.rooms.get(usize::from(room)).map_or("", String::as_str);
            text.push_str(&format!(", room {room} ({name})"));
        }
        if let Some(lane) = self.lane {
            text.push_str(&format!(", {lane}"));
        }
        if let Some(seq) = self.seq {
            text.push_str(&format!(", seq {seq}"));
        }
        text.push_str(&format!(": {}\n", self.text));
        let (Some(lines), Some(line)) = (self.client.and_then(|client| histories.clients.get(client)), self.line)
        else {
            return text;
        };
        let near = |index: &usize| lines.get(*index).is_some_and(|line| self.concerns(&line.entry));
        let before: Vec<usize> = (0..line).rev().filter(near).take(NEAR).collect();
        let after = (line + 1..lines.len()).filter(near).take(NEAR);
        for index in before.into_iter().rev().chain([line]).chain(after) {
            let mark = if index == line { '>' } else { ' ' };
            let json = serde_json::to_string(&lines[index]).unwrap_or_default();
            text.push_str(&format!("  {mark} {:>6}  {json}\n", index + 1));
        }
        text
    }

    /// Whether a line is about the same room and lane, or about the connection.
    fn concerns(&self, entry: &Entry) -> bool {
        let (room, lane) = match entry {
            Entry::Connected { .. } | Entry::Cut { .. } | Entry::Broken { .. } => return true,
            Entry::Sent { payload, .. } | Entry::Acknowledged { payload, .. } | Entry::Refused { payload, .. } => {
                (payload.room, Some(payload.lane))
            }
            Entry::Delivered { payload, .. } | Entry::Transient { payload } => (payload.room, Some(payload.lane)),
            Entry::Subscribed(Subscribed { room, .. }) | Entry::Unsubscribed { room, .. } => (*room, None),
            Entry::Gap { room, gap } => (*room, Some(gap.lane)),
        };
        self.room.is_none_or(|own| own == room) && (self.lane.is_none() || lane.is_none() || self.lane == lane)
    }
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Durable publishes, each once however often it was sent.
    pub sent: u64,
    /// Durable publishes answered by Published.
    pub acknowledged: u64,
    /// Durable events that came, over all subscribers.
    pub delivered: u64,
    /// Seqs covered by gaps, by cause; open-ended ones count one.
    pub gaps: BTreeMap<Cause, u64>,
    /// Transient events that came.
    pub transients: u64,
    /// Transients that gaps counted.
    pub transients_counted: u64,
    /// Gaps of transients without a count.
    pub transients_unknown: u64,
    /// Connections that ended.
    pub cuts: u64,
}

/// What the checker found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong, the first of each kind.
    pub findings: Vec<Finding>,
    /// How many of each kind.
    pub totals: BTreeMap<Kind, u64>,
    /// What was counted.
    pub counts: Counts,
    /// By fault: how long after the repair the last subscriber was current again in the last of its rooms.
    pub current: Vec<Option<Duration>>,
}

impl Report {
    fn add(&mut self, finding: Finding) {
        let total = self.totals.entry(finding.kind).or_default();
        *total += 1;
        if *total <= KEPT_OF_KIND as u64 {
            self.findings.push(finding);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.totals.is_empty()
    }
}

/// A publish as its client recorded it.
#[derive(Clone, Copy, Debug)]
struct Publish {
    first_us: u64,
    /// Connection on which it was last sent.
    connection: u32,
    ttl_ms: u64,
    acknowledged: bool,
}

/// A rolled-back gap that a subscriber was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    gap: Gap,
    /// The log that the gap speaks of is not known any more: nothing of that epoch is promised.
    restarted: bool,
}

/// What everything is compared with.
struct Facts<'a> {
    histories: &'a Histories,
    publishes: HashMap<Payload, Publish>,
    /// By payload: where it is stored in the end.
    stored: HashMap<Payload, Stored>,
    /// By room and lane, by seq.
    by_seq: HashMap<(u16, Lane), BTreeMap<u64, Stored>>,
    logs: HashMap<u16, &'a RoomLog>,
    /// By room and lane: what subscribers were told that the log lost.
    told: HashMap<(u16, Lane), Vec<Told>>,
    unknown_allowed: bool,
}

impl<'a> Facts<'a> {
    fn new(histories: &'a Histories) -> Self {
        let mut facts = Self {
            histories,
            publishes: HashMap::new(),
            stored: HashMap::new(),
            by_seq: HashMap::new(),
            logs: histories.logs.iter().map(|log| (log.room, log)).collect(),
            told: HashMap::new(),
            unknown_allowed: histories.run.faults.iter().any(|fault| fault.breaks_log),
        };
        for log in &histories.logs {
            for event in &log.events {
                facts.stored.entry(event.payload).or_insert(*event);
                facts.by_seq.entry((log.room, event.payload.lane)).or_default().insert(event.seq, *event);
            }
        }
        for line in histories.clients.iter().flatten() {
            facts.note(line.us, &line.entry);
        }
        facts
    }

    fn note(&mut self, us: u64, entry: &Entry) {
        match entry {
            Entry::Sent { payload, connection, ttl_ms, .. } => {
                let new = Publish { first_us: us, connection: *connection, ttl_ms: *ttl_ms, acknowledged: false };
                self.publishes.entry(*payload).or_insert(new).connection = *connection;
            }
            Entry::Acknowledged { payload, .. } => {
                if let Some(publish) = self.publishes.get_mut(payload) {
                    publish.acknowledged = true;
                }
            }
            Entry::Subscribed(subscribed) => {
                for gap in &subscribed.rolled_back {
                    let restarted = gap.to == 0 && gap.epoch != subscribed.position.epoch;
                    self.told.entry((subscribed.room, gap.lane)).or_default().push(Told { gap: *gap, restarted });
                }
            }
            _ => {}
        }
    }

    fn head(&self, room: u16) -> Option<Position> {
        self.logs.get(&room).map(|log| log.head)
    }

    fn stored_at(&self, room: u16, lane: Lane, seq: u64) -> Option<&Stored> {
        self.by_seq.get(&(room, lane))?.get(&seq)
    }

    /// Up to where the end log is trimmed in a lane.
    fn trimmed_through(&self, room: u16, lane: Lane) -> u64 {
        let gaps = self.logs.get(&room).into_iter().flat_map(|log| &log.gaps);
        gaps.filter(|gap| gap.lane == lane && gap.cause == Cause::Trimmed).map(|gap| gap.to).max().unwrap_or(0)
    }

    /// Whether the end log itself says that the seq is missing, for another reason than trimming.
    fn log_lacks(&self, room: u16, lane: Lane, seq: u64) -> bool {
        let gaps = self.logs.get(&room).into_iter().flat_map(|log| &log.gaps);
        gaps.filter(|gap| gap.lane == lane).any(|gap| (gap.from..=gap.to).contains(&seq))
    }

    /// Whether somebody was told that the log lost this seq of this epoch. A later epoch than the event's own may
    /// stand in the gap: forks that lose nothing change the epoch in silence.
    fn told_lost(&self, room: u16, lane: Lane, epoch: u64, seq: u64) -> bool {
        self.told.get(&(room, lane)).into_iter().flatten().any(|told| {
            let covers = seq >= told.gap.from && (told.gap.to == 0 || seq <= told.gap.to);
            told.gap.epoch >= epoch && (told.restarted || covers)
        })
    }
}

/// Judges a round.
pub fn check(histories: &Histories) -> Report {
    let facts = Facts::new(histories);
    let mut report = Report::default();
    for fault in &histories.run.faults {
        if let Err(why) = &fault.effect {
            report.add(Finding::new(Kind::NoEffect, format!("{}: {why}", fault.name)));
        }
    }
    if histories.run.unanswered > 0 {
        let text = format!("{} publishes had no answer long after the last fault", histories.run.unanswered);
        report.add(Finding::new(Kind::NotCurrent, text));
    }
    log::check(&facts, &mut report);
    for (client, rooms) in &histories.run.subscribers {
        for room in rooms {
            subscriber::check(&facts, *client, *room, &mut report);
            transients::check(&facts, *client, *room, &mut report);
        }
    }
    current::check(&facts, &mut report);
    for (client, lines) in histories.clients.iter().enumerate() {
        for (index, line) in lines.iter().enumerate() {
            note(client, index, &line.entry, &mut report);
        }
    }
    let durable = |publish: &(&Payload, &Publish)| !publish.0.transient;
    report.counts.sent = facts.publishes.iter().filter(durable).count() as u64;
    report.counts.acknowledged =
        facts.publishes.iter().filter(durable).filter(|(_, publish)| publish.acknowledged).count() as u64;
    report
}

/// Counts a line, and takes over what the client itself saw to be wrong.
fn note(client: usize, index: usize, entry: &Entry, report: &mut Report) {
    let counts = &mut report.counts;
    match entry {
        Entry::Delivered { .. } => counts.delivered += 1,
        Entry::Transient { .. } => counts.transients += 1,
        Entry::Cut { .. } => counts.cuts += 1,
        Entry::Gap { gap, .. } if gap.from == 0 && gap.count == 0 => counts.transients_unknown += 1,
        Entry::Gap { gap, .. } if gap.from == 0 => counts.transients_counted += gap.count,
        Entry::Gap { gap, .. } => *counts.gaps.entry(gap.cause).or_default() += size(gap),
        Entry::Subscribed(subscribed) => {
            for gap in &subscribed.rolled_back {
                *counts.gaps.entry(gap.cause).or_default() += size(gap);
            }
        }
        Entry::Broken { what } => {
            let finding = Finding::new(Kind::Broken, what.clone());
            report.add(Finding { client: Some(client), line: Some(index), ..finding });
        }
        Entry::Refused { payload, code } if !(4400..4500).contains(code) => {
            let finding = Finding::of(Kind::Refused, *payload, 0, format!("{payload} was refused with {code}"));
            report.add(Finding { client: Some(client), line: Some(index), ..finding });
        }
        _ => {}
    }
}

fn size(gap: &Gap) -> u64 {
    if gap.to == 0 { 1 } else { (gap.to + 1).saturating_sub(gap.from) }
}
