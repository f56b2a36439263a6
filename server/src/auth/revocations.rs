//! The revocations that this node knows: what the engine keeps, as far as it was read or told.
//!
//! While the engine is away what is known goes on to hold. What was revoked meanwhile elsewhere is learnt when it is back.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::engine::{Revocation, RevocationTable, Subject};

/// What says whether a token is meant by a revocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMark {
    /// When it was made, ms since the Unix epoch; 0: it does not say, and counts as old.
    pub issued_at_ms: u64,
    /// Its id.
    pub token_id: Option<Arc<str>>,
}

/// The table of this node.
#[derive(Debug, Default)]
pub struct Revocations(RwLock<RevocationTable>);

impl Revocations {
    /// Takes changes; gives those that this node did not know.
    pub fn learn(&self, changes: Vec<Revocation>) -> Vec<Revocation> {
        let mut table = self.0.write();
        changes.into_iter().filter(|change| table.merge(change.clone())).collect()
    }

    /// Whether a token of the user, used on the device, was revoked. An empty device is none.
    pub fn cover(&self, user: &Arc<str>, device: &str, mark: &TokenMark, now_ms: u64) -> bool {
        let table = self.0.read();
        if table.is_empty() {
            return false;
        }
        let by_time = |subject| {
            table.find(&subject, now_ms).is_some_and(|revocation| mark.issued_at_ms <= revocation.issued_through_ms)
        };
        let token = mark.token_id.clone().map(Subject::Token);
        token.is_some_and(|token| table.find(&token, now_ms).is_some())
            || by_time(Subject::User(Arc::clone(user)))
            || !device.is_empty() && by_time(Subject::Device(Arc::clone(user), device.into()))
    }

    /// Whether one holds for the subject.
    pub fn holds(&self, subject: &Subject, now_ms: u64) -> bool {
        self.0.read().find(subject, now_ms).is_some()
    }

    /// Those that hold, after a subject, in the order of subjects; at most so many, and whether there are more.
    pub fn page(&self, after: Option<&Subject>, max: usize, now_ms: u64) -> (Vec<Revocation>, bool) {
        let table = self.0.read();
        let holds = |known: &&Revocation| !known.lifted && known.until_ms > now_ms;
        let mut found: Vec<&Revocation> =
            table.iter().filter(holds).filter(|known| after.is_none_or(|after| known.subject > *after)).collect();
        found.sort_unstable_by(|one, other| one.subject.cmp(&other.subject));
        let more = found.len() > max;
        (found.into_iter().take(max).cloned().collect(), more)
    }

    /// All that is known, lifted ones too: for a store that lost some.
    pub fn all(&self) -> Vec<Revocation> {
        self.0.read().iter().cloned().collect()
    }

    /// Forgets what has run out.
    pub fn sweep(&self, now_ms: u64) {
        self.0.write().sweep(now_ms);
    }

    /// Subjects that are known.
    pub fn len(&self) -> usize {
        self.0.read().len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_000_000;

    fn revoked(subject: Subject) -> Revocations {
        let revocations = Revocations::default();
        revocations.learn(vec![Revocation {
            subject,
            issued_through_ms: 500_000,
            until_ms: NOW_MS + 1,
            changed_ms: 1,
            lifted: false,
        }]);
        revocations
    }

    fn mark(issued_at_ms: u64, id: &str) -> TokenMark {
        TokenMark { issued_at_ms, token_id: Some(id.into()) }
    }

    #[test]
    fn the_table_of_who_is_meant() {
        // LC-AUTH-003
        let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
        let by_user = revoked(Subject::User(ann.clone()));
        let by_device = revoked(Subject::Device(ann.clone(), "phone".into()));
        let by_token = revoked(Subject::Token("t1".into()));
        for (user, device, mark, expected) in [
            (&ann, "phone", mark(500_000, "t1"), [true, true, true]),
            (&ann, "phone", mark(500_001, "t2"), [false, false, false]),
            (&ann, "phone", mark(500_001, "t1"), [false, false, true]),
            (&ann, "", mark(499_999, "t2"), [true, false, false]),
            (&ann, "tablet", mark(0, "t2"), [true, false, false]),
            (&ann, "phone", TokenMark::default(), [true, true, false]),
            (&bob, "phone", mark(0, "t1"), [false, false, true]),
        ] {
            let found = [&by_user, &by_device, &by_token].map(|known| known.cover(user, device, &mark, NOW_MS));
            assert_eq!(found, expected, "{user} {device} {mark:?}");
            assert!(!by_user.cover(user, device, &mark, NOW_MS + 1), "it ran out");
        }
    }
}
