//! Whether an application sees what the protocol tells it: every field of the messages below stands in
//! `sdk-bindings/ffi/fields.txt`, with the exported item that shows it, or with the reason why none does. A field that is new in
//! the schema is in no line, and fails the check until someone decides.

use std::collections::BTreeSet;
use std::path::Path;

use crate::schema;
use crate::surface::Surface;

/// The list.
const PATH: &str = "sdk-bindings/ffi/fields.txt";

/// Messages that tell an application something, or carry what it asks for; and enums whose values it sees or chooses.
const SUBJECTS: &[&str] = &[
    "ClientInfo",
    "Cursor",
    "Envelope",
    "Error",
    "Event",
    "Focus",
    "Gap",
    "GoAway",
    "Hello",
    "History",
    "HistoryPage",
    "Limits",
    "Position",
    "Publish",
    "Published",
    "Sender",
    "Signal",
    "Start",
    "Subscribe",
    "Subscribed",
    "TokenRefreshed",
    "Unsubscribed",
    "Welcome",
    "AckLevel",
    "Delivery",
    "FocusLevel",
    "GapCause",
    "HistoryDirection",
    "Lane",
];

/// Compares the list with the schema and the exports; returns what is wrong with it.
///
/// # Errors
///
/// If the schema cannot be read.
pub(crate) fn check(root: &Path, surface: &Surface) -> Result<Vec<String>, schema::Error> {
    let wanted = schema::members(&root.join("protocol/proto"), SUBJECTS)?;
    let list = std::fs::read_to_string(root.join(PATH)).unwrap_or_default();
    Ok(problems(&wanted, &list, &surface.items()))
}

fn problems(wanted: &BTreeSet<String>, list: &str, items: &BTreeSet<String>) -> Vec<String> {
    let (mut seen, mut problems) = (BTreeSet::new(), Vec::new());
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let field = line.split(' ').next().unwrap_or_default();
        if !wanted.contains(field) {
            problems.push(format!("{PATH}: {field} is not in the schema"));
        } else if !seen.insert(field.to_owned()) {
            problems.push(format!("{PATH}: {field} stands twice"));
        }
        match line[field.len()..].split_at_checked(4) {
            Some((" -> ", item)) if !items.contains(item) => {
                problems.push(format!("{PATH}: {field} is said to be shown by {item}, which is not exported"));
            }
            Some((" -> " | " -- ", text)) if !text.is_empty() => {}
            _ => problems
                .push(format!("{PATH}: {field}: a line is `Message.field -> item` or `Message.field -- reason`")),
        }
    }
    let missing = wanted.difference(&seen);
    problems.extend(
        missing.map(|field| format!("{PATH}: {field} is missing: what shows it to an application, or why not?")),
    );
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::repository;

    #[test]
    fn every_field_is_shown_or_has_a_reason() {
        let surface = Surface::load(&repository()).unwrap();
        assert_eq!(check(&repository(), &surface).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_new_field_and_a_wrong_line_are_found() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let (wanted, items) = (set(&["Event.seq", "Event.new"]), set(&["Event.seq"]));
        let found = |list| problems(&wanted, list, &items).len();
        assert_eq!(found("# list\nEvent.seq -> Event.seq\nEvent.new -- of no use\n"), 0);
        assert_eq!(found("Event.seq -> Event.seq\n"), 1, "one is missing");
        assert_eq!(found("Event.seq -> Event.gone\nEvent.new -- of no use\n"), 1, "not exported");
        assert_eq!(found("Event.seq -> Event.seq\nEvent.new -- \n"), 1, "no reason");
        assert_eq!(found("Event.seq -> Event.seq\nEvent.new -- a\nEvent.old -- b\n"), 1, "not in the schema");
        assert_eq!(found("Event.seq -> Event.seq\nEvent.new -- a\nEvent.new -- a\n"), 1, "twice");
    }
}
