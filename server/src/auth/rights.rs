//! Rights: which verbs, in which rooms, for which types and up to which lane.
//!
//! Promises: what no right names is forbidden; no verb implies another (LC-AUTH-010); one set of rights, once parsed, is
//! shared by all connections that carry it.
//! Refuses: rights that take away. A user's rights are the sum of what is written.

use std::sync::Arc;

use lanecast_protocol::position::DurableLane;
use lanecast_protocol::room::Pattern;
use serde::{Deserialize, Serialize};

/// The reserved name in which `control` covers the connections of all users.
pub const CONNECTIONS: &str = "$connections";
/// The reserved name in which `control` covers the nodes.
pub const NODES: &str = "$nodes";

/// What can be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verb {
    /// Subscribe to a room.
    Subscribe,
    /// Publish events.
    Publish,
    /// Send signals.
    Signal,
    /// Read history and positions.
    History,
    /// Appear as present.
    PresenceEnter,
    /// See who is present.
    PresenceWatch,
    /// Read the members.
    MembersRead,
    /// Change the members.
    MembersManage,
    /// Move one's markers.
    Mark,
    /// Command connections: those of a room, or in the reserved names `$connections` and `$nodes` all.
    Control,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 10] = [
        Self::Subscribe,
        Self::Publish,
        Self::Signal,
        Self::History,
        Self::PresenceEnter,
        Self::PresenceWatch,
        Self::MembersRead,
        Self::MembersManage,
        Self::Mark,
        Self::Control,
    ];

    /// The word in tokens and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Signal => "signal",
            Self::History => "history",
            Self::PresenceEnter => "presence.enter",
            Self::PresenceWatch => "presence.watch",
            Self::MembersRead => "members.read",
            Self::MembersManage => "members.manage",
            Self::Mark => "mark",
            Self::Control => "control",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

/// A right as it is written in tokens, on the command line and in configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RightSpec {
    /// Verbs. Those that this version does not know allow nothing, so that a token of a later version still works.
    pub allow: Vec<String>,
    /// Room patterns.
    pub rooms: Vec<String>,
    /// Type patterns; absent: all types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// The highest lane; absent: urgent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
}

impl RightSpec {
    /// Refuses what a token may have from a later version but a file or a command line has only by mistake.
    pub fn check_strictly(&self) -> Result<(), String> {
        if self.allow.is_empty() || self.rooms.is_empty() {
            return Err("a right needs `allow` and `rooms`, each with at least one entry".to_owned());
        }
        if let Some(unknown) = self.allow.iter().find(|word| Verb::from_name(word).is_none()) {
            let known = Verb::ALL.map(Verb::name).join(", ");
            return Err(format!("`allow` has {unknown:?}, which is none of {known}"));
        }
        Right::from_spec(self.clone()).map(drop)
    }
}

/// A sum of rights. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Rights(Arc<[Right]>);

#[derive(Debug)]
struct Right {
    verbs: u16,
    rooms: Box<[Pattern]>,
    types: Option<Arc<[Pattern]>>,
    lane_max: DurableLane,
}

impl Right {
    fn from_spec(spec: RightSpec) -> Result<Self, String> {
        let verbs = spec.allow.iter().filter_map(|word| Verb::from_name(word)).fold(0, |bits, verb| bits | verb.bit());
        let lane_max = match &spec.lane {
            None => DurableLane::Urgent,
            Some(name) => DurableLane::from_name(name)
                .ok_or_else(|| format!("`lane` is {name:?}, which is none of urgent, normal, bulk"))?,
        };
        let types = spec.types.map(|types| patterns(&types, "types")).transpose()?;
        Ok(Self { verbs, rooms: patterns(&spec.rooms, "rooms")?.into(), types: types.map(Into::into), lane_max })
    }

    fn reaches(&self, verb: Verb, room: &str, user: Option<&str>) -> bool {
        self.verbs & verb.bit() != 0 && self.rooms.iter().any(|pattern| pattern.grants(room, user))
    }

    fn takes_type(&self, event_type: &str) -> bool {
        self.types.as_ref().is_none_or(|types| types.iter().any(|pattern| pattern.covers(event_type, None)))
    }
}

fn patterns(list: &[String], key: &str) -> Result<Vec<Pattern>, String> {
    list.iter().map(|text| Pattern::new(text).map_err(|why| format!("`{key}` has {text:?}: {why}"))).collect()
}

/// Which types of a room's events someone may have.
#[derive(Clone, Debug)]
pub enum TypeFilter {
    /// All.
    All,
    /// Those that one of the patterns of one of the lists covers; none where there is no list.
    Only(Vec<Arc<[Pattern]>>),
}

impl TypeFilter {
    /// Whether events of the type pass.
    pub fn passes(&self, event_type: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(lists) => {
                lists.iter().flat_map(|list| list.iter()).any(|pattern| pattern.covers(event_type, None))
            }
        }
    }

    /// Whether it takes a look at the type at all.
    pub fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

/// Whether someone may publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishVerdict {
    /// Yes.
    Allowed,
    /// No right names the room and the type: FORBIDDEN.
    Forbidden,
    /// Only in a lower lane: LANE_NOT_ALLOWED (LC-AUTH-014).
    LaneTooHigh,
}

impl Rights {
    /// Rights as written, or what is wrong with them.
    pub fn from_specs(specs: Vec<RightSpec>) -> Result<Self, String> {
        let rights: Result<Vec<Right>, String> = specs.into_iter().map(Right::from_spec).collect();
        rights.map(|rights| Self(rights.into()))
    }

    /// All verbs in all rooms that are not reserved, and control over connections and nodes: for development.
    pub fn development() -> Self {
        let all = Verb::ALL.into_iter().fold(0, |bits, verb| bits | verb.bit());
        let right = |verbs, rooms: &[&str]| {
            let rooms = rooms.iter().filter_map(|room| Pattern::new(room).ok()).collect();
            Right { verbs, rooms, types: None, lane_max: DurableLane::Urgent }
        };
        Self([right(all, &["**"]), right(Verb::Control.bit(), &[CONNECTIONS, NODES])].into())
    }

    /// Whether the verb is allowed in the room, for some type at least.
    pub fn allow(&self, verb: Verb, room: &str, user: Option<&str>) -> bool {
        self.0.iter().any(|right| right.reaches(verb, room, user))
    }

    /// Whether the verb is allowed in the room for the type.
    pub fn allow_type(&self, verb: Verb, room: &str, user: Option<&str>, event_type: &str) -> bool {
        self.0.iter().any(|right| right.takes_type(event_type) && right.reaches(verb, room, user))
    }

    /// Whether an event of the type may be published in the lane.
    pub fn allow_publish(&self, room: &str, user: Option<&str>, event_type: &str, lane: DurableLane) -> PublishVerdict {
        let fitting =
            self.0.iter().filter(|right| right.takes_type(event_type) && right.reaches(Verb::Publish, room, user));
        // Lanes are ordered from the highest down.
        match fitting.map(|right| right.lane_max).min() {
            None => PublishVerdict::Forbidden,
            Some(highest) if lane < highest => PublishVerdict::LaneTooHigh,
            Some(_) => PublishVerdict::Allowed,
        }
    }

    /// For which types the verb is allowed in the room.
    pub fn types(&self, verb: Verb, room: &str, user: Option<&str>) -> TypeFilter {
        let mut lists = Vec::new();
        for right in self.0.iter().filter(|right| right.reaches(verb, room, user)) {
            match &right.types {
                None => return TypeFilter::All,
                Some(types) => lists.push(types.clone()),
            }
        }
        TypeFilter::Only(lists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(json: &str) -> Rights {
        Rights::from_specs(serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn no_verb_implies_another() {
        // LC-AUTH-010
        for verb in Verb::ALL {
            let rights = rights(&format!(r#"[{{"allow":["{}"],"rooms":["a"]}}]"#, verb.name()));
            for other in Verb::ALL {
                assert_eq!(rights.allow(other, "a", Some("u")), verb == other, "{verb:?} {other:?}");
            }
            assert!(!rights.allow(verb, "b", Some("u")));
        }
    }

    #[test]
    fn lanes_are_limited_from_above() {
        // LC-AUTH-014
        let rights = rights(
            r#"[{"allow":["publish"],"rooms":["a"],"lane":"normal"},
                {"allow":["publish"],"rooms":["a"],"types":["call.*"]},
                {"allow":["publish"],"rooms":["b"],"lane":"bulk"}]"#,
        );
        let verdict = |room, event_type, lane| rights.allow_publish(room, Some("u"), event_type, lane);
        assert_eq!(verdict("a", "msg", DurableLane::Urgent), PublishVerdict::LaneTooHigh);
        assert_eq!(verdict("a", "msg", DurableLane::Normal), PublishVerdict::Allowed);
        assert_eq!(verdict("a", "msg", DurableLane::Bulk), PublishVerdict::Allowed);
        assert_eq!(verdict("a", "call.offer", DurableLane::Urgent), PublishVerdict::Allowed);
        assert_eq!(verdict("b", "call.offer", DurableLane::Normal), PublishVerdict::LaneTooHigh);
        assert_eq!(verdict("c", "msg", DurableLane::Bulk), PublishVerdict::Forbidden);
    }

    #[test]
    fn types_are_limited() {
        // LC-AUTH-013
        let rights = rights(
            r#"[{"allow":["subscribe","publish"],"rooms":["a"],"types":["msg.*"]},
                {"allow":["subscribe"],"rooms":["a"],"types":["note"]},
                {"allow":["subscribe"],"rooms":["b"]}]"#,
        );
        let filter = rights.types(Verb::Subscribe, "a", Some("u"));
        assert!(filter.passes("msg.text") && filter.passes("note") && !filter.passes("msg") && !filter.passes(""));
        assert!(rights.types(Verb::Subscribe, "b", Some("u")).is_all());
        assert!(!rights.types(Verb::Subscribe, "c", Some("u")).passes("msg.text"));
        assert!(rights.allow_type(Verb::Publish, "a", Some("u"), "msg.text"));
        assert!(!rights.allow_type(Verb::Publish, "a", Some("u"), "note"));
    }

    #[test]
    fn a_later_verb_allows_nothing_and_a_typo_in_a_file_is_refused() {
        let spec = RightSpec { allow: vec!["fly".into()], rooms: vec!["**".into()], types: None, lane: None };
        assert!(spec.check_strictly().unwrap_err().contains("\"fly\""));
        let rights = Rights::from_specs(vec![spec]).unwrap();
        assert!(Verb::ALL.into_iter().all(|verb| !rights.allow(verb, "a", None)));
    }

    #[test]
    fn bad_patterns_and_lanes_are_named() {
        let spec = |rooms: &str, lane: &str| RightSpec {
            allow: vec!["publish".into()],
            rooms: vec![rooms.into()],
            types: None,
            lane: Some(lane.into()),
        };
        assert!(Rights::from_specs(vec![spec("a*", "bulk")]).unwrap_err().contains("a*"));
        assert!(Rights::from_specs(vec![spec("a", "control")]).unwrap_err().contains("control"));
    }
}
