//! What the ranges of codes say, for numbers that a version does not know.

use std::ops::RangeInclusive;

use lanecast_protocol::codes::{Action, action_of};

/// The hundreds whose unknown numbers ask for something else than [`Action::Retry`], which all others do.
pub(crate) fn ranges() -> impl Iterator<Item = (RangeInclusive<u32>, Action)> {
    // No code ends in 99, so what is said of that number is said of the range.
    let hundreds = (4000..5000).step_by(100).map(|first| (first..=first + 99, action_of(first + 99)));
    hundreds.filter(|(_, action)| *action != Action::Retry)
}

#[cfg(test)]
mod tests {
    use lanecast_protocol::codes::TABLE;

    #[test]
    fn no_code_ends_in_99() {
        assert!(TABLE.iter().all(|row| row.code.number() % 100 != 99));
    }
}
