//! Places in a room's log: per lane ([`Position`]) and across lanes ([`Cursor`]).
//!
//! Both have a text form, used as SSE event id, in query parameters and in logs. Parsing is strict: for every value
//! there is exactly one text, so a position that was truncated or re-formatted on its way is refused instead of
//! being taken for another one.

use std::fmt;
use std::ops::{Index, IndexMut};
use std::str::FromStr;

use crate::v1;

/// Every number of the protocol is below this (2^53), for Lua and JavaScript (LC-TYPE-001).
pub const NUMBER_LIMIT: u64 = 1 << 53;

/// A lane whose durable events are numbered and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DurableLane {
    /// Overtakes the others.
    Urgent,
    /// Ordinary messages.
    Normal,
    /// Yields to the others.
    Bulk,
}

impl DurableLane {
    /// All, highest first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Name in configuration, queries and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }

    /// The lane with that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.name() == name)
    }

    /// The lane with that number on the wire; `None` for unspecified, control, signal and unknown numbers.
    pub fn from_wire(number: i32) -> Option<Self> {
        v1::Lane::try_from(number).ok().and_then(|lane| Self::try_from(lane).ok())
    }
}

impl fmt::Display for DurableLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<DurableLane> for v1::Lane {
    fn from(lane: DurableLane) -> Self {
        match lane {
            DurableLane::Urgent => Self::Urgent,
            DurableLane::Normal => Self::Normal,
            DurableLane::Bulk => Self::Bulk,
        }
    }
}

impl TryFrom<v1::Lane> for DurableLane {
    type Error = NotDurable;

    fn try_from(lane: v1::Lane) -> Result<Self, NotDurable> {
        match lane {
            v1::Lane::Urgent => Ok(Self::Urgent),
            v1::Lane::Normal => Ok(Self::Normal),
            v1::Lane::Bulk => Ok(Self::Bulk),
            v1::Lane::Unspecified | v1::Lane::Control | v1::Lane::Signal => Err(NotDurable(lane)),
        }
    }
}

/// The lane stores no events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lane {0:?} stores no events")]
pub struct NotDurable(pub v1::Lane);

/// One value for each durable lane, indexed by [`DurableLane`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PerLane<T>(pub [T; DurableLane::COUNT]);

impl<T> PerLane<T> {
    /// Makes the value of each lane.
    pub fn from_fn(mut make: impl FnMut(DurableLane) -> T) -> Self {
        Self(DurableLane::ALL.map(&mut make))
    }

    /// The lanes and their values, highest lane first.
    pub fn iter(&self) -> impl Iterator<Item = (DurableLane, &T)> {
        DurableLane::ALL.into_iter().zip(&self.0)
    }
}

impl<T> Index<DurableLane> for PerLane<T> {
    type Output = T;

    fn index(&self, lane: DurableLane) -> &T {
        &self.0[lane.index()]
    }
}

impl<T> IndexMut<DurableLane> for PerLane<T> {
    fn index_mut(&mut self, lane: DurableLane) -> &mut T {
        &mut self.0[lane.index()]
    }
}

/// The epoch of a room's log and, for each lane, the seq up to which everything was handled (law 2).
///
/// Text form: `epoch-urgent-normal-bulk`, decimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// Names one life of the log.
    pub epoch: u64,
    /// Highest handled seq of lane urgent; 0: none.
    pub urgent: u64,
    /// Highest handled seq of lane normal; 0: none.
    pub normal: u64,
    /// Highest handled seq of lane bulk; 0: none.
    pub bulk: u64,
}

impl Position {
    /// A position from its numbers by lane.
    pub const fn new(epoch: u64, seqs: PerLane<u64>) -> Self {
        let PerLane([urgent, normal, bulk]) = seqs;
        Self { epoch, urgent, normal, bulk }
    }

    /// The numbers by lane.
    pub const fn seqs(self) -> PerLane<u64> {
        PerLane([self.urgent, self.normal, self.bulk])
    }

    /// The number of one lane.
    pub const fn seq(self, lane: DurableLane) -> u64 {
        match lane {
            DurableLane::Urgent => self.urgent,
            DurableLane::Normal => self.normal,
            DurableLane::Bulk => self.bulk,
        }
    }

    /// Sets the number of one lane.
    pub const fn set_seq(&mut self, lane: DurableLane, seq: u64) {
        match lane {
            DurableLane::Urgent => self.urgent = seq,
            DurableLane::Normal => self.normal = seq,
            DurableLane::Bulk => self.bulk = seq,
        }
    }

    /// This position with another number for one lane.
    #[must_use]
    pub const fn with_seq(mut self, lane: DurableLane, seq: u64) -> Self {
        self.set_seq(lane, seq);
        self
    }

    /// True if every number is below [`NUMBER_LIMIT`].
    pub const fn is_in_bounds(self) -> bool {
        self.epoch < NUMBER_LIMIT
            && self.urgent < NUMBER_LIMIT
            && self.normal < NUMBER_LIMIT
            && self.bulk < NUMBER_LIMIT
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.epoch, self.urgent, self.normal, self.bulk)
    }
}

impl FromStr for Position {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let [epoch, urgent, normal, bulk] = numbers(text)?;
        Ok(Self { epoch, urgent, normal, bulk })
    }
}

impl From<Position> for v1::Position {
    fn from(Position { epoch, urgent, normal, bulk }: Position) -> Self {
        Self { epoch, urgent, normal, bulk }
    }
}

impl TryFrom<&v1::Position> for Position {
    type Error = ParseError;

    /// Refuses numbers that are out of bounds (LC-TYPE-001).
    fn try_from(wire: &v1::Position) -> Result<Self, ParseError> {
        let position = Self { epoch: wire.epoch, urgent: wire.urgent, normal: wire.normal, bulk: wire.bulk };
        if position.is_in_bounds() { Ok(position) } else { Err(ParseError::TooLarge) }
    }
}

/// A place in a room's history across lanes. Text form: `epoch-order`, decimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The epoch in which `order` counts.
    pub epoch: u64,
    /// The order of an event; what it bounds is said where it is used.
    pub order: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.order)
    }
}

impl FromStr for Cursor {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let [epoch, order] = numbers(text)?;
        Ok(Self { epoch, order })
    }
}

impl From<Cursor> for v1::Cursor {
    fn from(Cursor { epoch, order }: Cursor) -> Self {
        Self { epoch, order }
    }
}

impl TryFrom<&v1::Cursor> for Cursor {
    type Error = ParseError;

    /// Refuses numbers that are out of bounds (LC-TYPE-001).
    fn try_from(wire: &v1::Cursor) -> Result<Self, ParseError> {
        let in_bounds = wire.epoch < NUMBER_LIMIT && wire.order < NUMBER_LIMIT;
        if in_bounds { Ok(Self { epoch: wire.epoch, order: wire.order }) } else { Err(ParseError::TooLarge) }
    }
}

/// Why a text is no position or cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not the right count of numbers joined by `-`.
    #[error("expected {expected} numbers joined by '-', got {got}")]
    Count {
        /// How many numbers the form has.
        expected: usize,
        /// How many parts the text has.
        got: usize,
    },
    /// A part is empty, has another character than `0` to `9`, or a leading zero.
    #[error("each part is a decimal number without sign or leading zero")]
    NotDecimal,
    /// A number is not below 2^53.
    #[error("each number is below 2^53")]
    TooLarge,
}

fn numbers<const N: usize>(text: &str) -> Result<[u64; N], ParseError> {
    let got = text.split('-').count();
    if got != N {
        return Err(ParseError::Count { expected: N, got });
    }
    let mut numbers = [0; N];
    for (number, part) in numbers.iter_mut().zip(text.split('-')) {
        *number = decimal(part)?;
    }
    Ok(numbers)
}

fn decimal(text: &str) -> Result<u64, ParseError> {
    let canonical = text == "0" || !text.starts_with('0');
    if text.is_empty() || !canonical || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseError::NotDecimal);
    }
    match text.parse() {
        Ok(number) if number < NUMBER_LIMIT => Ok(number),
        _ => Err(ParseError::TooLarge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        let position = Position { epoch: NUMBER_LIMIT - 1, urgent: 0, normal: 17, bulk: 1 };
        assert_eq!(position.to_string(), "9007199254740991-0-17-1");
        assert_eq!(position.to_string().parse(), Ok(position));
        let cursor = Cursor { epoch: 3, order: 90 };
        assert_eq!(cursor.to_string(), "3-90");
        assert_eq!("3-90".parse(), Ok(cursor));
    }

    #[test]
    fn only_the_canonical_text_is_taken() {
        let refused = |text: &str| text.parse::<Position>().expect_err(text);
        assert_eq!(refused(""), ParseError::Count { expected: 4, got: 1 });
        assert_eq!(refused("1-2-3"), ParseError::Count { expected: 4, got: 3 });
        assert_eq!(refused("1-2-3-4-5"), ParseError::Count { expected: 4, got: 5 });
        for text in ["+1-2-3-4", "1-02-3-4", "1- 2-3-4", "1--3-4", "1-2-3-4\n", "1-2-3-0x4", "1-2-3-٤"] {
            assert_eq!(refused(text), ParseError::NotDecimal, "{text:?}");
        }
        for text in ["9007199254740992-0-0-0", "1-0-0-99999999999999999999999"] {
            assert_eq!(refused(text), ParseError::TooLarge, "{text:?}");
        }
        assert_eq!("1-2-3".parse::<Cursor>(), Err(ParseError::Count { expected: 2, got: 3 }));
    }

    #[test]
    fn the_wire_form_is_checked_for_bounds() {
        let position = Position { epoch: 5, urgent: 1, normal: 2, bulk: 3 };
        let mut wire = v1::Position::from(position);
        assert_eq!(Position::try_from(&wire), Ok(position));
        wire.bulk = NUMBER_LIMIT;
        assert_eq!(Position::try_from(&wire), Err(ParseError::TooLarge));
        assert_eq!(Cursor::try_from(&v1::Cursor { epoch: 1, order: u64::MAX }), Err(ParseError::TooLarge));
    }

    #[test]
    fn lanes_and_numbers_belong_together() {
        let mut position = Position::default();
        for (index, lane) in DurableLane::ALL.into_iter().enumerate() {
            assert_eq!(lane.index(), index);
            assert_eq!(DurableLane::from_name(lane.name()), Some(lane));
            assert_eq!(DurableLane::from_wire(v1::Lane::from(lane) as i32), Some(lane));
            position.set_seq(lane, index as u64 + 1);
            assert_eq!(position.seq(lane), position.seqs()[lane]);
        }
        assert_eq!(position, Position::new(0, PerLane([1, 2, 3])));
        assert_eq!(DurableLane::from_wire(v1::Lane::Signal as i32), None);
        assert_eq!(DurableLane::from_wire(99), None);
    }
}
