//! Rules that a mutant of the model client breaks, one each.

use clap::ValueEnum;

/// A mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientMutant {
    /// Hands over what comes twice.
    DoubledTaken,
    /// Passes over holes.
    HolesPassed,
    /// Shows no gaps.
    GapsHidden,
    /// Subscribes anew instead of resuming.
    ResumesLive,
    /// Moves the position when an event arrives.
    PositionAtArrival,
    /// Takes numbers of 2^53 and more.
    LargeNumbersTaken,
    /// Gives all requests one id.
    OneId,
    /// Sends no Ping.
    NoPing,
    /// Waits for a Pong for ever.
    PongNotNeeded,
    /// Answers a Ping with another stamp.
    WrongStamp,
    /// Comes back after it was replaced.
    ComesBack,
    /// Comes back at once after GoAway.
    GoAwayHurried,
    /// Waits equally long before each attempt.
    NoJitter,
    /// Sends the token that was refused again.
    RefusedTokenAgain,
    /// Puts the token into the address.
    TokenInUrl,
    /// Does not number publishes over reconnects.
    NumbersBeginAnew,
    /// Sends unanswered publishes again, the newest first.
    AgainReversed,
    /// Says stored when it has sent.
    StoredWhenSent,
    /// Repeats what was refused for now at once.
    RepeatsAtOnce,
    /// Keeps transient publishes.
    TransientKept,
    /// Stops at codes of 4200–4299 that it does not know.
    UnknownCodeStops,
}

impl ClientMutant {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::DoubledTaken,
        Self::HolesPassed,
        Self::GapsHidden,
        Self::ResumesLive,
        Self::PositionAtArrival,
        Self::LargeNumbersTaken,
        Self::OneId,
        Self::NoPing,
        Self::PongNotNeeded,
        Self::WrongStamp,
        Self::ComesBack,
        Self::GoAwayHurried,
        Self::NoJitter,
        Self::RefusedTokenAgain,
        Self::TokenInUrl,
        Self::NumbersBeginAnew,
        Self::AgainReversed,
        Self::StoredWhenSent,
        Self::RepeatsAtOnce,
        Self::TransientKept,
        Self::UnknownCodeStops,
    ];

    /// The rule that it breaks.
    pub fn rule(self) -> &'static str {
        match self {
            Self::DoubledTaken => "LC-SDK-001",
            Self::HolesPassed => "LC-SDK-002",
            Self::GapsHidden => "LC-SDK-003",
            Self::ResumesLive => "LC-SDK-005",
            Self::PositionAtArrival => "LC-RES-004",
            Self::LargeNumbersTaken => "LC-FRM-020",
            Self::OneId => "LC-FRM-016",
            Self::NoPing => "LC-LIFE-001",
            Self::PongNotNeeded => "LC-LIFE-004",
            Self::WrongStamp => "LC-LIFE-005",
            Self::ComesBack => "LC-LIFE-013",
            Self::GoAwayHurried => "LC-LIFE-022",
            Self::NoJitter => "LC-LIFE-023",
            Self::RefusedTokenAgain => "LC-AUTH-022",
            Self::TokenInUrl => "LC-SEC-002",
            Self::NumbersBeginAnew => "LC-PUB-026",
            Self::AgainReversed => "LC-PUB-027",
            Self::StoredWhenSent => "LC-PUB-028",
            Self::RepeatsAtOnce => "LC-FLOW-008",
            Self::TransientKept => "LC-SDK-012",
            Self::UnknownCodeStops => "LC-ERR-003",
        }
    }
}
