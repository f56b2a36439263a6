//! Focus: which rooms of a connection go first (LC-FLOW-020).
//!
//! A subscriber raises the room that its user looks at, and lowers those that it does not. Among what waits of a lane the
//! rooms of the higher level have their turn before the others, but for one turn in [`GUARD_TURNS`], which goes to the
//! lowest that waits: a room in the background comes late, and it comes.

use crate::v1;

/// Of so many turns one is the lowest level's. So the rooms above lose a sixteenth to it at most, and what waits below
/// never waits for ever.
pub const GUARD_TURNS: u8 = 16;

/// How much a room matters to the user now, the most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Focus {
    /// The user looks at it.
    Foreground,
    /// As the lane says.
    #[default]
    Default,
    /// The user does not look.
    Background,
}

impl Focus {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// The level of a wire value. One of a later version is the default, as none is (LC-FRM-003).
    pub fn from_wire(value: i32) -> Self {
        match v1::FocusLevel::try_from(value) {
            Ok(v1::FocusLevel::Foreground) => Self::Foreground,
            Ok(v1::FocusLevel::Background) => Self::Background,
            Ok(v1::FocusLevel::Default | v1::FocusLevel::Unspecified) | Err(_) => Self::Default,
        }
    }

    /// The wire value.
    pub fn to_wire(self) -> v1::FocusLevel {
        match self {
            Self::Foreground => v1::FocusLevel::Foreground,
            Self::Default => v1::FocusLevel::Default,
            Self::Background => v1::FocusLevel::Background,
        }
    }
}

/// Counts the turns of a lane in which somebody was passed over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turns(u8);

impl Turns {
    /// The level whose turn it is among those that wait.
    pub(crate) fn next(&mut self, waiting: impl Iterator<Item = Focus>) -> Option<Focus> {
        let mut ends = None;
        for focus in waiting {
            let (first, last) = ends.unwrap_or((focus, focus));
            ends = Some((focus.min(first), focus.max(last)));
        }
        let (first, last) = ends?;
        if first == last {
            return Some(first);
        }
        self.0 = (self.0 + 1) % GUARD_TURNS;
        Some(if self.0 == 0 { last } else { first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_level_has_one_turn_in_sixteen() {
        // LC-FLOW-020
        let mut turns = Turns::default();
        let waiting = [Focus::Default, Focus::Background, Focus::Foreground];
        let order: Vec<_> = (0..32).filter_map(|_| turns.next(waiting.into_iter())).collect();
        assert_eq!(order.iter().filter(|focus| **focus == Focus::Foreground).count(), 30);
        assert_eq!((order[15], order[31]), (Focus::Background, Focus::Background));
        assert_eq!(turns.next([Focus::Background].into_iter()), Some(Focus::Background));
        assert_eq!(turns.next(std::iter::empty()), None);
    }

    #[test]
    fn wire_values_round_trip_and_strangers_are_the_default() {
        // LC-FRM-003
        for focus in [Focus::Foreground, Focus::Default, Focus::Background] {
            assert_eq!(Focus::from_wire(focus.to_wire().into()), focus);
        }
        assert_eq!([0, 17].map(Focus::from_wire), [Focus::Default; 2]);
    }
}
