//! The frame table of the spec as the suite reads it: which lane a frame travels on, and how lanes are written.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use v1::frame::Body;

use super::body_name;
use crate::schema::v1;

/// A lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// The protocol's own frames.
    Control,
    /// Events that overtake all others.
    Urgent,
    /// Ordinary events.
    Normal,
    /// Transfers and history pages.
    Bulk,
    /// Signals.
    Signal,
}

impl Lane {
    /// The value of the schema.
    pub fn to_wire(self) -> i32 {
        match self {
            Self::Control => 1,
            Self::Urgent => 2,
            Self::Normal => 3,
            Self::Bulk => 4,
            Self::Signal => 5,
        }
    }

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
            Self::Signal => "signal",
        }
    }

    /// The lane of a value of the schema; `None`: unspecified, or unknown.
    pub fn from_wire(value: i32) -> Option<Self> {
        [Self::Control, Self::Urgent, Self::Normal, Self::Bulk, Self::Signal]
            .into_iter()
            .find(|lane| lane.to_wire() == value)
    }

    /// The lane on which a frame of a server travels, as [`of`](Self::of) says it of values.
    pub(crate) fn of_body(body: &Body) -> Self {
        let named = |lane| Self::from_wire(lane).unwrap_or(Self::Normal);
        match body {
            Body::Event(event) => named(event.lane),
            Body::Gap(gap) => named(gap.lane),
            Body::Publish(publish) => named(publish.lane),
            Body::Fragment(fragment) => named(fragment.lane),
            Body::FragmentAbort(abort) => named(abort.lane),
            Body::Signal(_) => Self::Signal,
            Body::HistoryPage(_) => Self::Bulk,
            Body::PresencePage(_)
            | Body::PresenceDiff(_)
            | Body::MembersPage(_)
            | Body::Marked(_)
            | Body::UnreadCounts(_)
            | Body::MarkersPage(_) => Self::Normal,
            _ => Self::Control,
        }
    }

    /// The lane of a name of the schema, such as `LANE_BULK`, or of its number.
    fn of_field(value: &Value) -> Option<Self> {
        match value {
            Value::String(name) => Some(match name.as_str() {
                "LANE_CONTROL" => Self::Control,
                "LANE_URGENT" => Self::Urgent,
                "LANE_NORMAL" => Self::Normal,
                "LANE_BULK" => Self::Bulk,
                "LANE_SIGNAL" => Self::Signal,
                _ => return None,
            }),
            Value::Number(number) => Self::from_wire(number.as_i64().and_then(|number| i32::try_from(number).ok())?),
            _ => None,
        }
    }

    /// The lane on which a frame travels (LC-LANE-002). Where its own field names none it is normal.
    pub fn of(frame: &Value) -> Self {
        let Some(name) = body_name(frame) else { return Self::Control };
        match name {
            "publish" | "event" | "gap" | "fragment" | "fragmentAbort" => {
                Self::of_field(&frame[name]["lane"]).unwrap_or(Self::Normal)
            }
            "signal" => Self::Signal,
            "historyPage" => Self::Bulk,
            "presencePage" | "presenceDiff" | "membersPage" | "marked" | "unreadCounts" | "markersPage" => Self::Normal,
            _ => Self::Control,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn frames_have_the_lane_of_the_table() {
        for (frame, lane) in [
            (json!({"id": 1, "ping": {}}), Lane::Control),
            (json!({"id": 1}), Lane::Control),
            (json!({"id": 1, "publish": {"lane": "LANE_BULK"}}), Lane::Bulk),
            (json!({"id": 1, "publish": {"lane": 77}}), Lane::Normal),
            (json!({"publish": {"lane": 2}}), Lane::Urgent),
            (json!({"signal": {}}), Lane::Signal),
            (json!({"historyPage": {}}), Lane::Bulk),
        ] {
            assert_eq!(Lane::of(&frame), lane, "{frame}");
        }
    }
}
