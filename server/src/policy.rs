//! Policies: what the rooms of a pattern keep and allow.

use std::sync::Arc;

use lanecast_protocol::room::Pattern;

use crate::config::PolicyOptions;

/// What a room keeps and allows.
pub type Policy = PolicyOptions;

/// The node's policies, in order. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policies {
    listed: Arc<[(Pattern, Arc<Policy>)]>,
    other: Arc<Policy>,
}

impl Policies {
    /// Policies, the first that fits a room holds for it.
    pub fn new(listed: Vec<(Pattern, Policy)>) -> Self {
        let listed = listed.into_iter().map(|(pattern, policy)| (pattern, Arc::new(policy))).collect();
        Self { listed, other: Arc::new(Policy::default()) }
    }

    /// The policy of a room: the first whose pattern covers its name, else the defaults. A policy grants nothing, so
    /// its wildcards reach inboxes too.
    pub fn of(&self, room: &str) -> &Arc<Policy> {
        let listed = self.listed.iter().find(|(pattern, _)| pattern.covers(room, None));
        listed.map_or(&self.other, |(_, policy)| policy)
    }

    /// The largest `message_bytes` of any policy.
    pub fn message_bytes_max(&self) -> u32 {
        let listed = self.listed.iter().map(|(_, policy)| policy.message_bytes);
        listed.fold(self.other.message_bytes, u32::max)
    }
}

impl Default for Policies {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_fits_holds() {
        let policy = |message_bytes| Policy { message_bytes, ..Policy::default() };
        let pattern = |text| Pattern::new(text).unwrap();
        let policies = Policies::new(vec![
            (pattern("chat.vip"), policy(3)),
            (pattern("chat.*"), policy(2)),
            (pattern("user:*"), policy(1)),
        ]);
        assert_eq!(policies.of("chat.vip").message_bytes, 3);
        assert_eq!(policies.of("chat.x").message_bytes, 2);
        assert_eq!(policies.of("user:bob.smith").message_bytes, 1);
        assert_eq!(policies.of("other").message_bytes, Policy::default().message_bytes);
        assert_eq!(policies.message_bytes_max(), Policy::default().message_bytes);
    }
}
