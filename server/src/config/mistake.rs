//! What is wrong with a configuration file: all of it, each with its place.

use std::fmt;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line in the file, from 1; `None` where the file as a whole is meant.
    pub line: Option<usize>,
    /// Dotted path of the key, for example `limits.record_bytes` or `policies[2].rooms`; empty for the file itself.
    pub path: String,
    /// What is wrong and what would be right, as a sentence.
    pub sentence: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.sentence)
    }
}

/// All mistakes of a file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    /// What the file is called in messages.
    pub origin: String,
    /// At least one.
    pub list: Vec<Mistake>,
}

impl Mistakes {
    /// Mistakes, sorted by line; those of the whole file last.
    pub(crate) fn new(origin: &str, mut list: Vec<Mistake>) -> Self {
        list.sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
        Self { origin: origin.to_owned(), list }
    }

    /// One mistake that has no line.
    pub(crate) fn whole(origin: &str, sentence: String) -> Self {
        Self::new(origin, vec![Mistake { line: None, path: String::new(), sentence }])
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.list.len() == 1 { "" } else { "s" };
        write!(f, "{} mistake{s} in {}", self.list.len(), self.origin)?;
        for mistake in &self.list {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The known word that an unknown one was most likely meant to be.
pub(crate) fn suggest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (unknown.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|word| (edits(unknown, word), word))
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, word)| word)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested() {
        let known = ["record_bytes", "rooms", "history_page"];
        assert_eq!(suggest("record_byte", known), Some("record_bytes"));
        assert_eq!(suggest("romos", known), None);
        assert_eq!(suggest("room", known), Some("rooms"));
        assert_eq!(suggest("colour", known), None);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
