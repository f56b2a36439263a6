//! Revocations: which tokens are not taken any more though they have not expired.
//!
//! A revocation is forgotten when every token that it is about has expired, and not before: a full table refuses further
//! ones. A lifted one stays in its place as a change that others must learn of.

use std::collections::HashMap;
use std::sync::Arc;

/// Revocations that an engine keeps at most; one more is refused.
pub const REVOCATIONS_MAX: usize = 100_000;
/// Changes in a page.
pub const REVOCATIONS_PAGE: usize = 1_000;

/// Which tokens are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Those of a user.
    User(Arc<str>),
    /// Those on a device of a user.
    Device(Arc<str>, Arc<str>),
    /// The one with this id.
    Token(Arc<str>),
}

impl Subject {
    /// The subject as one text, for stores and cursors. The length tells where a user's id ends, which may hold any other
    /// character.
    pub fn to_text(&self) -> String {
        match self {
            Self::User(user) => format!("u:{user}"),
            Self::Device(user, device) => format!("d:{}:{user}{device}", user.len()),
            Self::Token(id) => format!("t:{id}"),
        }
    }

    /// The subject of a text.
    pub fn from_text(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        Some(match kind {
            "u" => Self::User(rest.into()),
            "t" => Self::Token(rest.into()),
            "d" => {
                let (bytes, rest) = rest.split_once(':')?;
                let (user, device) = rest.split_at_checked(bytes.parse().ok()?)?;
                Self::Device(user.into(), device.into())
            }
            _ => return None,
        })
    }
}

/// A revocation, or that it was lifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Which tokens are meant.
    pub subject: Subject,
    /// Those made at or before this time, ms since the Unix epoch; it says nothing to one token.
    pub issued_through_ms: u64,
    /// When all of them have expired, ms since the Unix epoch.
    pub until_ms: u64,
    /// Grows with each change of the subject; the greatest one holds. About when it was changed, ms since the Unix epoch.
    pub changed_ms: u64,
    /// It does not hold any more.
    pub lifted: bool,
}

/// Up to where a node has read the changes of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationCursor {
    /// Names the life of the store's data in which the serial counts.
    pub life: Arc<str>,
    /// The newest serial that was read.
    pub serial: u64,
}

/// What changed after a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationPage {
    /// The newest state of each subject that changed, oldest change first.
    pub changes: Vec<Revocation>,
    /// Where to go on.
    pub cursor: RevocationCursor,
    /// There are more.
    pub more: bool,
    /// The cursor is of another life of the data, which may have lost some: this page begins at the first change.
    pub anew: bool,
}

/// No room for another subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevocationsFull;

/// Revocations by subject.
#[derive(Clone, Debug, Default)]
pub struct RevocationTable {
    by_subject: HashMap<Subject, Kept>,
    serial: u64,
}

#[derive(Clone, Debug)]
struct Kept {
    revocation: Revocation,
    serial: u64,
}

impl RevocationTable {
    /// Revokes or lifts, after whatever was said of the subject before. What is revoked twice stays revoked for as far and as
    /// long as both say. Gives what holds now.
    pub fn change(
        &mut self,
        now_ms: u64,
        mut change: Revocation,
        subjects_max: usize,
    ) -> Result<Revocation, RevocationsFull> {
        self.sweep(now_ms);
        let known = self.by_subject.get(&change.subject).map(|kept| &kept.revocation);
        change.changed_ms = now_ms;
        match known {
            Some(known) => {
                change.changed_ms = change.changed_ms.max(known.changed_ms + 1);
                if change.lifted || !known.lifted {
                    change.until_ms = change.until_ms.max(known.until_ms);
                    change.issued_through_ms = change.issued_through_ms.max(known.issued_through_ms);
                }
            }
            None if self.by_subject.len() >= subjects_max => return Err(RevocationsFull),
            None => {}
        }
        self.put(change.clone());
        Ok(change)
    }

    /// Takes what was changed elsewhere, if it is newer than what is known. Whether it was.
    pub fn merge(&mut self, change: Revocation) -> bool {
        let known = self.by_subject.get(&change.subject);
        let newer = known.is_none_or(|known| known.revocation.changed_ms < change.changed_ms);
        if newer {
            self.put(change);
        }
        newer
    }

    fn put(&mut self, revocation: Revocation) {
        self.serial += 1;
        let kept = Kept { serial: self.serial, revocation };
        self.by_subject.insert(kept.revocation.subject.clone(), kept);
    }

    /// The newest serial.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Changes after a serial in their order, at most so many, and the serial of the last.
    pub fn after(&self, serial: u64, max: usize) -> (Vec<Revocation>, u64) {
        let mut found: Vec<&Kept> = self.by_subject.values().filter(|kept| kept.serial > serial).collect();
        found.sort_unstable_by_key(|kept| kept.serial);
        found.truncate(max);
        let last = found.last().map_or(serial, |kept| kept.serial);
        (found.into_iter().map(|kept| kept.revocation.clone()).collect(), last)
    }

    /// What holds of a subject.
    pub fn find(&self, subject: &Subject, now_ms: u64) -> Option<&Revocation> {
        let known = &self.by_subject.get(subject)?.revocation;
        (!known.lifted && known.until_ms > now_ms).then_some(known)
    }

    /// All that is known, lifted ones too, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Revocation> {
        self.by_subject.values().map(|kept| &kept.revocation)
    }

    /// Forgets what has run out.
    pub fn sweep(&mut self, now_ms: u64) {
        self.by_subject.retain(|_, kept| kept.revocation.until_ms > now_ms);
    }

    /// Subjects that are known.
    pub fn len(&self) -> usize {
        self.by_subject.len()
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.by_subject.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation(user: &str, issued_through_ms: u64, until_ms: u64, lifted: bool) -> Revocation {
        Revocation { subject: Subject::User(user.into()), issued_through_ms, until_ms, changed_ms: 0, lifted }
    }

    #[test]
    fn every_subject_comes_back_from_its_text() {
        let subjects = [
            Subject::User("a:b".into()),
            Subject::User("#".into()),
            Subject::Device("a:1".into(), "2:b".into()),
            Subject::Device("é".into(), "".into()),
            Subject::Token("u:ann".into()),
        ];
        for subject in subjects {
            assert_eq!(Subject::from_text(&subject.to_text()), Some(subject));
        }
        assert!(["#", "x:1", "d:9:ab", "d:x:ab"].iter().all(|text| Subject::from_text(text).is_none()));
    }

    #[test]
    fn the_newest_change_holds_and_none_shortens_another() {
        let mut table = RevocationTable::default();
        let first = table.change(10, revocation("ann", 10, 100, false), 2).unwrap();
        let second = table.change(5, revocation("ann", 5, 50, false), 2).unwrap();
        assert_eq!((second.issued_through_ms, second.until_ms, second.changed_ms), (10, 100, 11));
        assert!(!table.merge(first), "older");
        let lifted = table.change(20, revocation("ann", 0, 0, true), 2).unwrap();
        assert_eq!((lifted.until_ms, lifted.changed_ms), (100, 20));
        assert_eq!(table.find(&lifted.subject, 20), None);
        let again = table.change(20, revocation("ann", 20, 60, false), 2).unwrap();
        assert_eq!((again.issued_through_ms, again.until_ms), (20, 60), "what was lifted counts no more");
        assert_eq!(table.after(0, 9), (vec![again], 4));
        assert_eq!(table.after(4, 9), (vec![], 4));
    }

    #[test]
    fn a_full_table_refuses_and_forgets_nothing_early() {
        let mut table = RevocationTable::default();
        for (user, until_ms) in [("ann", 30), ("bob", 20)] {
            table.change(1, revocation(user, 1, until_ms, false), 2).unwrap();
        }
        assert_eq!(table.change(19, revocation("eve", 1, 99, false), 2), Err(RevocationsFull));
        assert!(table.change(19, revocation("ann", 1, 99, false), 2).is_ok(), "a known subject");
        assert!(table.change(20, revocation("eve", 1, 99, false), 2).is_ok());
        assert!(table.find(&Subject::User("bob".into()), 20).is_none());
        assert_eq!(table.len(), 2);
    }
}
