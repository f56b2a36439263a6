//! Mistakes by which the model proves that it can fail.

/// Mistakes that the model must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A node does not tell what was trimmed.
    TrimmedInSilence,
    /// A node forgets what a fork revoked.
    ForkInSilence,
    /// A node goes on in the old epoch.
    EpochUnnoticed,
    /// `recovered` is always said.
    FalseComfort,
    /// The log does not look at publish numbers.
    NoWatermark,
    /// The log does not look at `after`.
    NoAfter,
    /// A node answers before it stores, and sometimes does not store.
    AckUnstored,
    /// A client delivers duplicates.
    DuplicatesPass,
    /// A client delivers what a fork revoked.
    RevokedPass,
    /// A client subscribes again without its position.
    PositionForgotten,
    /// A client takes a Subscribed that comes while its own Subscribe is not answered.
    AnyAnswerCounts,
}

impl Planted {
    pub const ALL: [Self; 11] = [
        Self::TrimmedInSilence,
        Self::ForkInSilence,
        Self::EpochUnnoticed,
        Self::FalseComfort,
        Self::NoWatermark,
        Self::NoAfter,
        Self::AckUnstored,
        Self::DuplicatesPass,
        Self::RevokedPass,
        Self::PositionForgotten,
        Self::AnyAnswerCounts,
    ];
}
