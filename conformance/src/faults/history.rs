//! What is recorded: one JSON object a line, small enough to read by eye and complete enough to judge by.
//!
//! A round is a directory: `run.json` (what was run, and the faults with their times), `client-NN.jsonl` (one client's
//! history), `log.jsonl` (the end of each room as history pages show it). The checker reads nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The lanes that carry events, in the order of their fields in a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Urgent.
    Urgent,
    /// Normal.
    Normal,
    /// Bulk.
    Bulk,
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    /// Place in arrays by lane.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The number on the wire.
    pub fn wire(self) -> i32 {
        self as i32 + 2
    }

    /// The lane of a number on the wire, if it carries events.
    pub fn from_wire(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.wire() == number)
    }

    fn letter(self) -> char {
        ['u', 'n', 'b'][self.index()]
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(["urgent", "normal", "bulk"][self.index()])
    }
}

/// What was published, by its name: who, where, in which lane, the how manieth. It is the beginning of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Payload {
    /// Who published it.
    pub client: u16,
    /// Index of the room.
    pub room: u16,
    /// Lane.
    pub lane: Lane,
    /// Not stored.
    pub transient: bool,
    /// Publish number; for transients a number of their own.
    pub number: u32,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.transient { "t" } else { "" };
        write!(f, "{}.{}.{}.{kind}{}", self.client, self.room, self.lane.letter(), self.number)
    }
}

impl FromStr for Payload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no payload of this checker");
        let mut parts = text.split('.');
        let mut part = || parts.next().ok_or_else(bad);
        let client = part()?.parse().map_err(|_| bad())?;
        let room = part()?.parse().map_err(|_| bad())?;
        let letter = part()?;
        let lane = Lane::ALL.into_iter().find(|lane| letter == lane.letter().to_string()).ok_or_else(bad)?;
        let number = part()?;
        let (transient, number) = number.strip_prefix('t').map_or((false, number), |number| (true, number));
        Ok(Self { client, room, lane, transient, number: number.parse().map_err(|_| bad())? })
    }
}

/// An epoch and a seq for each lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The epoch; 0: none known.
    pub epoch: u64,
    /// By lane.
    pub seqs: [u64; 3],
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.epoch, self.seqs[0], self.seqs[1], self.seqs[2])
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<u64>, _> = text.split('-').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[epoch, urgent, normal, bulk]) => Ok(Self { epoch, seqs: [urgent, normal, bulk] }),
            _ => Err(format!("{text:?} is no position")),
        }
    }
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(Payload, Position);

/// Why something will not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Not said, or a number that this checker does not know.
    Unspecified,
    /// The log no longer has it.
    Trimmed,
    /// Its time to live ran out.
    Expired,
    /// Erased on request.
    Erased,
    /// A right excludes it.
    Filtered,
    /// The log lost it.
    RolledBack,
    /// A connection to the log broke.
    Unknown,
    /// A full queue dropped it.
    Dropped,
}

impl Cause {
    /// The cause of a number on the wire.
    pub fn from_wire(number: i32) -> Self {
        let causes = [
            Self::Trimmed,
            Self::Expired,
            Self::Erased,
            Self::Filtered,
            Self::RolledBack,
            Self::Unknown,
            Self::Dropped,
        ];
        usize::try_from(number - 1).ok().and_then(|index| causes.get(index).copied()).unwrap_or(Self::Unspecified)
    }

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Trimmed => "trimmed",
            Self::Expired => "expired",
            Self::Erased => "erased",
            Self::Filtered => "filtered",
            Self::RolledBack => "rolled back",
            Self::Unknown => "unknown",
            Self::Dropped => "dropped",
        }
    }
}

/// A gap as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Lane.
    pub lane: Lane,
    /// The epoch in which the seqs count.
    pub epoch: u64,
    /// First missing seq; 0: transients are missing.
    pub from: u64,
    /// Last missing seq; 0: no upper end.
    pub to: u64,
    /// Transients missing; 0: unknown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub count: u64,
    /// Why.
    pub cause: Cause,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What a Subscribed knew of missed transients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// No mark was sent.
    #[default]
    Unasked,
    /// None.
    None,
    /// So many.
    Count(u64),
    /// Some may be.
    Unknown,
}

/// A Subscribed as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// Index of the room.
    pub room: u16,
    /// The position that was asked for; absent: none, or it came unasked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Position>,
    /// It came unasked.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unasked: bool,
    /// Where delivery begins.
    pub position: Position,
    /// The head at that moment.
    pub head: Position,
    /// What it says of durable events.
    pub recovered: bool,
    /// The node does not reach the log.
    #[serde(default, skip_serializing_if = "is_false")]
    pub degraded: bool,
    /// What was lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rolled_back: Vec<Gap>,
    /// What it says of transients.
    #[serde(default)]
    pub missed: Missed,
}

/// One thing that a client did or saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A connection has its Welcome.
    Connected {
        /// Index of the node.
        node: usize,
        /// Number of the connection, from 1.
        connection: u32,
    },
    /// A connection ended, or could not be made.
    Cut {
        /// Index of the node.
        node: usize,
        /// Why, for people.
        why: String,
    },
    /// A publish was sent.
    Sent {
        /// What.
        payload: Payload,
        /// The number in `after`; 0 for transients.
        after: u64,
        /// Number of the connection.
        connection: u32,
        /// Time to live, ms; 0: none.
        #[serde(default, skip_serializing_if = "is_zero")]
        ttl_ms: u64,
        /// Not for the first time.
        #[serde(default, skip_serializing_if = "is_false")]
        again: bool,
    },
    /// A publish was answered by Published.
    Acknowledged {
        /// What.
        payload: Payload,
        /// Its epoch; 0: transient.
        epoch: u64,
        /// Its seq; 0: transient, or a duplicate whose numbers are not known any more.
        seq: u64,
        /// Its order.
        order: u64,
        /// It was stored before.
        #[serde(default, skip_serializing_if = "is_false")]
        duplicate: bool,
    },
    /// A publish was refused.
    Refused {
        /// What.
        payload: Payload,
        /// The code.
        code: u32,
    },
    /// A subscription is in place, or moved.
    Subscribed(Subscribed),
    /// A subscription was refused or ended.
    Unsubscribed {
        /// Index of the room.
        room: u16,
        /// The code.
        code: u32,
    },
    /// A durable event came.
    Delivered {
        /// The epoch of its handle.
        epoch: u64,
        /// Its seq.
        seq: u64,
        /// Its order.
        order: u64,
        /// What. Room and lane are those of the payload; the client compares.
        payload: Payload,
    },
    /// A transient event came.
    Transient {
        /// What.
        payload: Payload,
    },
    /// A gap came on a lane.
    Gap {
        /// Index of the room.
        room: u16,
        /// The gap.
        #[serde(flatten)]
        gap: Gap,
    },
    /// Something came that the protocol does not allow here.
    Broken {
        /// The requirement, and what came.
        what: String,
    },
}

/// An entry and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// µs since the round began.
    pub us: u64,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// A fault as it was brought about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultTime {
    /// Its name.
    pub name: String,
    /// When it began, µs since the round began.
    pub began_us: u64,
    /// From when on subscribers have to become current again.
    pub repaired_us: u64,
    /// It broke connections between nodes and the log, so that gaps with cause UNKNOWN are allowed.
    pub breaks_log: bool,
    /// How it was seen that the fault took effect; an error: it did not.
    pub effect: Result<String, String>,
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Names of the rooms, by index.
    pub rooms: Vec<String>,
    /// By client: the rooms it is subscribed to.
    pub subscribers: BTreeMap<usize, Vec<u16>>,
    /// The faults, in their order.
    pub faults: Vec<FaultTime>,
    /// Publishes that were not answered long after the last fault.
    #[serde(default)]
    pub unanswered: u64,
}

/// An event of the end log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its epoch.
    pub epoch: u64,
    /// Its seq.
    pub seq: u64,
    /// Its order.
    pub order: u64,
    /// What. The lane is the payload's; the reader compares.
    pub payload: Payload,
}

/// The end log of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomLog {
    /// Index of the room.
    pub room: u16,
    /// The head.
    pub head: Position,
    /// The events by rising order.
    pub events: Vec<Stored>,
    /// What the pages reported missing.
    pub gaps: Vec<Gap>,
}

/// Everything recorded of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histories {
    /// What was run.
    pub run: Run,
    /// By client.
    pub clients: Vec<Vec<Line>>,
    /// By room.
    pub logs: Vec<RoomLog>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_being_written_and_read() {
        let payload: Payload = "3.12.n.57".parse().unwrap();
        assert_eq!(payload.to_string(), "3.12.n.57");
        assert!("3.12.x.57".parse::<Payload>().is_err());
        let gap = Gap { lane: Lane::Bulk, epoch: 7, from: 3, to: 0, count: 0, cause: Cause::RolledBack };
        let position: Position = "7-4-20-0".parse().unwrap();
        let entries = [
            Entry::Delivered { epoch: 7, seq: 1, order: 2, payload },
            Entry::Gap { room: 3, gap },
            Entry::Subscribed(Subscribed {
                room: 3,
                asked: Some(position),
                unasked: false,
                position,
                head: position,
                recovered: true,
                degraded: false,
                rolled_back: vec![gap],
                missed: Missed::Count(4),
            }),
        ];
        for entry in entries {
            let line = Line { us: 5, entry };
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
        }
    }

    #[test]
    fn lanes_and_causes_have_their_numbers() {
        assert_eq!(Lane::from_wire(2), Some(Lane::Urgent));
        assert_eq!(Lane::from_wire(5), None);
        assert_eq!((Cause::from_wire(0), Cause::from_wire(7)), (Cause::Unspecified, Cause::Dropped));
    }
}
