//! The answers of the scripts, as values.

use lanecast_protocol::log::{self, Fork, LanePart, Numbers, Outcome, Record, RoomLog, Start};
use lanecast_protocol::position::{DurableLane, PerLane, Position};
use redis::Value;

use bytes::Bytes;

use super::record;

/// What a room had at one moment.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) epoch: u64,
    pub(super) order: u64,
    pub(super) heads: PerLane<u64>,
    pub(super) firsts: PerLane<u64>,
    pub(super) transients: PerLane<u64>,
    /// Where the asked count or time begins.
    asked: PerLane<u64>,
    /// The epoch before the first fork.
    base: u64,
    forks: Vec<StoredFork>,
}

/// A fork as it is stored.
#[derive(Clone, Copy, Debug)]
struct StoredFork {
    /// The epoch that it ended; 0: not known.
    ended: u64,
    fork: Fork,
    /// The transients of the ended epoch.
    transients: PerLane<u64>,
}

/// A reader of an array, from the front.
pub(super) struct Parts(std::vec::IntoIter<Value>);

impl Parts {
    pub(super) fn of(value: Value) -> Option<Self> {
        match value {
            Value::Array(parts) => Some(Self(parts.into_iter())),
            _ => None,
        }
    }

    fn left(&self) -> usize {
        self.0.len()
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        number(&self.0.next()?)
    }

    fn lanes(&mut self) -> Option<PerLane<u64>> {
        Some(PerLane([self.number()?, self.number()?, self.number()?]))
    }

    fn array(&mut self) -> Option<Self> {
        Self::of(self.0.next()?)
    }

    pub(super) fn bytes(&mut self) -> Option<Bytes> {
        match self.0.next()? {
            Value::BulkString(bytes) => Some(bytes.into()),
            _ => None,
        }
    }

    pub(super) fn text(&mut self) -> Option<String> {
        text(&self.0.next()?).map(str::to_owned)
    }

    /// Seq, order and record of each event.
    fn records(&mut self, lane: DurableLane, keep: usize) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        while self.left() > keep {
            let (seq, order, mut bytes) = (self.number()?, self.number()?, self.bytes()?);
            records.push(record::take(&mut bytes)?.record(lane, seq, order));
        }
        Some(records)
    }
}

/// A script's answer that the room must be opened anew first.
pub(super) fn is_stale(value: &Value) -> bool {
    text(value) == Some("stale")
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

impl StoredFork {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map_while(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next();
        let (ended, epoch) = (next()?, next()?);
        let mut lanes = || Some(PerLane([next()?, next()?, next()?]));
        let first = lanes()?;
        let first_order = next()?;
        let mut lanes = || Some(PerLane([next()?, next()?, next()?]));
        let (lost_through, transients) = (lanes()?, lanes()?);
        Some(Self { ended, fork: Fork { epoch, first, first_order, lost_through }, transients })
    }
}

/// The epoch before the first fork, and the forks that end an epoch that is known.
fn split(stored: &[StoredFork], epoch: u64) -> (u64, Vec<StoredFork>) {
    match stored.split_first() {
        None => (epoch, Vec::new()),
        Some((first, rest)) if first.ended == 0 => (first.fork.epoch, rest.to_vec()),
        Some((first, _)) => (first.ended, stored.to_vec()),
    }
}

impl State {
    pub(super) fn parse(value: Value) -> Option<Self> {
        let mut parts = Parts::of(value)?;
        let (epoch, order) = (parts.number()?, parts.number()?);
        let (heads, firsts, transients) = (parts.lanes()?, parts.lanes()?, parts.lanes()?);
        let (_kept, _age) = (parts.number()?, parts.number()?);
        let asked = parts.lanes()?;
        let _forked = parts.number()?;
        let mut stored = Vec::new();
        while parts.left() > 0 {
            stored.push(StoredFork::parse(&parts.text()?)?);
        }
        let (base, forks) = split(&stored, epoch);
        Some(Self { epoch, order, heads, firsts, transients, asked, base, forks })
    }

    /// The first seqs of the present epoch.
    pub(super) fn epoch_first(&self) -> PerLane<u64> {
        self.forks.last().map_or(PerLane([1; 3]), |last| last.fork.first)
    }

    /// The first order of the present epoch.
    pub(super) fn epoch_first_order(&self) -> u64 {
        self.forks.last().map_or(1, |last| last.fork.first_order)
    }

    /// How many transients an epoch had when it ended.
    pub(super) fn transients_of(&self, ended: u64) -> Option<PerLane<u64>> {
        self.forks.iter().find(|fork| fork.ended == ended).map(|fork| fork.transients)
    }

    fn log(&self) -> RoomLog {
        let lanes = PerLane::from_fn(|lane| LanePart {
            first: self.firsts[lane],
            head: self.heads[lane],
            trimmed_order: 0,
            records: Vec::new(),
        });
        RoomLog::part(self.base, self.forks.iter().map(|stored| stored.fork), self.order, lanes)
    }

    /// The epoch whose range holds a seq.
    pub(super) fn epoch_of(&self, lane: DurableLane, seq: u64) -> u64 {
        self.log().epoch_of(lane, seq)
    }

    pub(super) fn whole_head(&self) -> log::Head {
        self.log().head()
    }

    /// Where a subscription begins. For a count or a duration the script has looked.
    pub(super) fn open(&self, now_ms: u64, start: Start) -> log::Opened {
        let mut opened = self.log().open(now_ms, start);
        if matches!(start, Start::Count(_) | Start::Duration(1..)) {
            opened.position = Position::new(self.epoch, self.asked);
        }
        opened
    }
}

/// The answer of `read.lua`.
pub(super) fn read(value: Value, lane: DurableLane) -> Option<log::Read> {
    let mut parts = Parts::of(value)?;
    let (epoch, first, head) = (parts.number()?, parts.number()?, parts.number()?);
    Some(log::Read { epoch, first, head, records: parts.records(lane, 0)? })
}

/// The answer of `history.lua`.
pub(super) struct Excerpt {
    /// What was read.
    pub(super) log: RoomLog,
    /// Whether a lane has more in the direction that was read.
    pub(super) more: PerLane<bool>,
    /// The lowest and the highest order that was read of a lane.
    pub(super) edges: PerLane<Option<(u64, u64)>>,
}

pub(super) fn history(value: Value) -> Option<Excerpt> {
    let mut parts = Parts::of(value)?;
    let (epoch, order) = (parts.number()?, parts.number()?);
    let heads = parts.array()?.lanes()?;
    let firsts = parts.array()?.lanes()?;
    let trimmed = parts.array()?.lanes()?;
    let mut texts = parts.array()?;
    let mut stored = Vec::new();
    while texts.left() > 0 {
        stored.push(StoredFork::parse(&texts.text()?)?);
    }
    let (base, forks) = split(&stored, epoch);
    let mut more = PerLane([false; 3]);
    let mut edges = PerLane([None; 3]);
    let mut lanes = Vec::new();
    for lane in DurableLane::ALL {
        let mut flat = parts.array()?;
        let records = flat.records(lane, 1)?;
        more[lane] = flat.number()? == 1;
        edges[lane] = records.first().zip(records.last()).map(|(first, last)| (first.order, last.order));
        let part = LanePart { first: firsts[lane], head: heads[lane], trimmed_order: trimmed[lane], records };
        lanes.push(part);
    }
    let lanes: [LanePart; 3] = lanes.try_into().ok()?;
    let log = RoomLog::part(base, forks.into_iter().map(|stored| stored.fork), order, PerLane(lanes));
    Some(Excerpt { log, more, edges })
}

/// The answer of `append.lua`.
pub(super) struct Appended {
    pub(super) epoch: u64,
    /// One for each item.
    pub(super) verdicts: Vec<Verdict>,
    pub(super) evicted: u64,
    /// The newest seq that it stored; 0: none.
    pub(super) newest: u64,
}

/// What a script said of an append.
pub(super) enum Verdict {
    Known(Outcome),
    /// The first one is to be looked up in the log.
    Duplicate,
}

pub(super) fn appended(value: Value, lane: DurableLane) -> Option<Appended> {
    // An array if some verdicts say more than their letter.
    let (first, mut parts) = match value {
        Value::Array(_) => {
            let mut parts = Parts::of(value)?;
            (parts.text()?, parts)
        }
        other => (text(&other)?.to_owned(), Parts(Vec::new().into_iter())),
    };
    let mut words = first.split(' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    let (epoch, mut seq, mut order, evicted) = (number()?, number()?, number()?, number()?);
    let letters = words.next()?;
    let (mut verdicts, mut newest) = (Vec::with_capacity(letters.len()), 0);
    for letter in letters.bytes() {
        verdicts.push(match letter {
            b's' => {
                let numbers = Numbers { epoch, lane, seq, order };
                newest = seq;
                (seq, order) = (seq + 1, order + 1);
                Verdict::Known(Outcome::Stored(numbers))
            }
            b'd' => Verdict::Duplicate,
            b'o' => Verdict::Known(Outcome::OutOfOrder),
            b'c' => Verdict::Known(Outcome::KeyConflict),
            b'r' => {
                let text = parts.text()?;
                let mut words = text.split(' ');
                let mut number = || words.next()?.parse::<u64>().ok();
                let (epoch, seq, order) = (number()?, number()?, number()?);
                Verdict::Known(Outcome::Replayed(Numbers { epoch, lane: record::lane(words.next()?)?, seq, order }))
            }
            b'f' => Verdict::Known(Outcome::KeysFull { retry_after_ms: parts.number()? }),
            _ => return None,
        });
    }
    Some(Appended { epoch, verdicts, evicted, newest })
}

/// What an audit found of a room.
pub(super) struct Audited {
    pub(super) epoch: u64,
    pub(super) heads: PerLane<u64>,
    pub(super) transients: PerLane<u64>,
    pub(super) serial: u64,
}

pub(super) fn audited(value: &Value) -> Option<Audited> {
    let mut numbers = text(value)?.split(' ').map_while(|number| number.parse::<u64>().ok());
    let mut next = || numbers.next();
    let epoch = next()?;
    let mut lanes = || Some(PerLane([next()?, next()?, next()?]));
    let (heads, transients) = (lanes()?, lanes()?);
    Some(Audited { epoch, heads, transients, serial: next()? })
}
