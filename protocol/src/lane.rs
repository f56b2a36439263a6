//! Lanes: the priority classes that every queue and every wire keeps apart.

use crate::position::DurableLane;
use crate::v1;
use crate::v1::frame::Body;

/// A lane. The order is that of strict priority, which holds for control and urgent; the others share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The protocol's own frames.
    Control,
    /// Events that overtake all others.
    Urgent,
    /// Ordinary events, and state such as presence.
    Normal,
    /// Signals.
    Signal,
    /// Transfers, imports and history pages.
    Bulk,
}

impl Lane {
    /// All lanes, in the order of the enum.
    pub const ALL: [Self; 5] = [Self::Control, Self::Urgent, Self::Normal, Self::Signal, Self::Bulk];

    /// Place of the lane in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name used in config, metrics and HTTP queries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Signal => "signal",
            Self::Bulk => "bulk",
        }
    }

    /// The lane of a wire value; `None` for unspecified and for values of a later version.
    pub fn from_wire(value: i32) -> Option<Self> {
        match v1::Lane::try_from(value).ok()? {
            v1::Lane::Unspecified => None,
            v1::Lane::Control => Some(Self::Control),
            v1::Lane::Urgent => Some(Self::Urgent),
            v1::Lane::Normal => Some(Self::Normal),
            v1::Lane::Bulk => Some(Self::Bulk),
            v1::Lane::Signal => Some(Self::Signal),
        }
    }

    /// The wire value.
    pub fn to_wire(self) -> v1::Lane {
        match self {
            Self::Control => v1::Lane::Control,
            Self::Urgent => v1::Lane::Urgent,
            Self::Normal => v1::Lane::Normal,
            Self::Signal => v1::Lane::Signal,
            Self::Bulk => v1::Lane::Bulk,
        }
    }

    /// The lane on which a frame travels: the frame table of the spec (LC-LANE-002).
    ///
    /// Where the frame carries a lane field that cannot be used, it is normal.
    pub fn of(body: &Body) -> Self {
        let own = |value: i32| Self::from_wire(value).unwrap_or(Self::Normal);
        match body {
            Body::Hello(_)
            | Body::Welcome(_)
            | Body::Error(_)
            | Body::Ping(_)
            | Body::Pong(_)
            | Body::Subscribe(_)
            | Body::Subscribed(_)
            | Body::Unsubscribe(_)
            | Body::Unsubscribed(_)
            | Body::Published(_)
            | Body::History(_)
            | Body::Done(_)
            | Body::RefreshToken(_)
            | Body::TokenRefreshed(_)
            | Body::Limits(_)
            | Body::GoAway(_)
            | Body::Credit(_)
            | Body::Focus(_)
            | Body::PresenceEnter(_)
            | Body::PresenceUpdate(_)
            | Body::PresenceLeave(_)
            | Body::PresenceGet(_)
            | Body::Members(_)
            | Body::ChangeMembers(_)
            | Body::Mark(_)
            | Body::Unread(_)
            | Body::Markers(_) => Self::Control,
            Body::Publish(publish) => own(publish.lane),
            Body::Event(event) => own(event.lane),
            Body::Gap(gap) => own(gap.lane),
            Body::Fragment(fragment) => own(fragment.lane),
            Body::FragmentAbort(abort) => own(abort.lane),
            Body::Signal(_) => Self::Signal,
            Body::HistoryPage(_) => Self::Bulk,
            Body::PresencePage(_)
            | Body::PresenceDiff(_)
            | Body::MembersPage(_)
            | Body::Marked(_)
            | Body::UnreadCounts(_)
            | Body::MarkersPage(_) => Self::Normal,
        }
    }
}

/// A set of lanes: those that may leave now.
///
/// It also tells apart, among those that may not, which are *held*: they wait for nothing but room in the window that all
/// lanes share, so lane urgent, which no window holds, must leave them their part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lanes {
    now: u8,
    held: u8,
}

impl Lanes {
    /// No lane.
    pub const NONE: Self = Self { now: 0, held: 0 };
    /// All lanes.
    pub const ALL: Self = Self { now: 0b1_1111, held: 0 };

    /// Whether the lane is in the set.
    pub const fn contains(self, lane: Lane) -> bool {
        self.now & Self::bit(lane) != 0
    }

    /// Whether the lane is held.
    pub const fn is_held(self, lane: Lane) -> bool {
        self.held & Self::bit(lane) != 0
    }

    /// The set and this lane.
    #[must_use]
    pub const fn with(self, lane: Lane) -> Self {
        Self { now: self.now | Self::bit(lane), held: self.held & !Self::bit(lane) }
    }

    /// The set but this lane, which is not held either.
    #[must_use]
    pub const fn without(self, lane: Lane) -> Self {
        Self { now: self.now & !Self::bit(lane), held: self.held & !Self::bit(lane) }
    }

    /// The set but this lane, which is held if it was in the set.
    #[must_use]
    pub const fn hold(self, lane: Lane) -> Self {
        Self { now: self.now & !Self::bit(lane), held: self.held | self.now & Self::bit(lane) }
    }

    /// The lanes that are in both; of those that are held, the ones that are in the other.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { now: self.now & other.now, held: self.held & other.now }
    }

    /// Whether no lane is in the set.
    pub const fn is_empty(self) -> bool {
        self.now == 0
    }

    const fn bit(lane: Lane) -> u8 {
        1 << lane.index()
    }
}

impl From<DurableLane> for Lane {
    fn from(lane: DurableLane) -> Self {
        match lane {
            DurableLane::Urgent => Self::Urgent,
            DurableLane::Normal => Self::Normal,
            DurableLane::Bulk => Self::Bulk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_values_round_trip_and_strangers_are_none() {
        for lane in Lane::ALL {
            assert_eq!(Lane::from_wire(lane.to_wire() as i32), Some(lane));
        }
        assert_eq!(Lane::from_wire(0), None);
        assert_eq!(Lane::from_wire(17), None);
    }

    #[test]
    fn a_lane_is_held_only_if_it_would_be_taken() {
        let lanes = Lanes::ALL.without(Lane::Signal).hold(Lane::Bulk).hold(Lane::Signal);
        assert!(lanes.contains(Lane::Normal) && !lanes.contains(Lane::Bulk) && !lanes.contains(Lane::Signal));
        assert!(lanes.is_held(Lane::Bulk) && !lanes.is_held(Lane::Signal) && !lanes.is_held(Lane::Normal));
        assert!(lanes.and(Lanes::ALL).is_held(Lane::Bulk));
        assert!(!lanes.and(Lanes::ALL.without(Lane::Bulk)).is_held(Lane::Bulk), "nobody takes it when there is room");
        assert_eq!(lanes.with(Lane::Bulk), Lanes::ALL.without(Lane::Signal));
    }
}
