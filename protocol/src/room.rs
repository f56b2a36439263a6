//! Room names and the patterns that rights and policies name rooms with.
//!
//! Promises: a [`RoomName`] that exists is valid; matching allocates nothing and takes time linear in the name; no user
//! id, whatever it contains, makes a pattern reach further than the pattern's author wrote.
//! Refuses: case folding and Unicode normalisation. Names are compared byte for byte (LC-ROOM-002).

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Longest room name and longest pattern, in bytes.
pub const ROOM_NAME_BYTES_MAX: usize = 255;
/// Longest user id, in bytes.
pub const USER_BYTES_MAX: usize = 200;
/// What the names of inboxes begin with.
pub const INBOX_PREFIX: &str = "user:";
/// What the names of the system's own rooms begin with.
pub const SYSTEM_PREFIX: &str = "$";

const USER: &str = "{user}";
const SEPARATORS: [char; 2] = ['.', ':'];

/// A valid room name (LC-ROOM-001): 1 to 255 bytes of UTF-8 in segments separated by `.` or `:`, none of them empty,
/// without control characters and without `*`.
///
/// After `user:` the rest of the name is one segment, the user id, so that every user has an inbox, also one whose id
/// ends in a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomName(Arc<str>);

/// Why a text is no room name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomNameError {
    /// It has no characters.
    #[error("a room name has at least one character")]
    Empty,
    /// It is longer than [`ROOM_NAME_BYTES_MAX`].
    #[error("a room name has at most 255 bytes")]
    TooLong,
    /// It contains a control character.
    #[error("a room name has no control characters")]
    ControlCharacter,
    /// It contains `*`.
    #[error("a room name has no `*`: that is for patterns")]
    Wildcard,
    /// A separator stands at an end or beside another one.
    #[error("a room name has no empty segment: `.` and `:` stand between two segments")]
    EmptySegment,
}

impl RoomName {
    /// Checks a name that came from outside.
    pub fn new(name: &str) -> Result<Self, RoomNameError> {
        Self::check(name).map(|()| Self(name.into()))
    }

    /// Says whether [`Self::new`] would take the name, without keeping it.
    pub fn check(name: &str) -> Result<(), RoomNameError> {
        if name.is_empty() {
            return Err(RoomNameError::Empty);
        }
        if name.len() > ROOM_NAME_BYTES_MAX {
            return Err(RoomNameError::TooLong);
        }
        if name.contains(char::is_control) {
            return Err(RoomNameError::ControlCharacter);
        }
        if name.contains('*') {
            return Err(RoomNameError::Wildcard);
        }
        if segments(name).any(|(_, segment)| segment.is_empty()) {
            return Err(RoomNameError::EmptySegment);
        }
        Ok(())
    }

    /// The inbox of a user; `None` for what is no user id (see [`check_user`]).
    pub fn inbox(user: &str) -> Option<Self> {
        check_user(user).ok()?;
        Some(Self(format!("{INBOX_PREFIX}{user}").into()))
    }

    /// The user whose inbox this is.
    pub fn inbox_of(&self) -> Option<&str> {
        self.0.strip_prefix(INBOX_PREFIX)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for RoomName {
    type Error = RoomNameError;

    fn try_from(name: &str) -> Result<Self, RoomNameError> {
        Self::new(name)
    }
}

impl Deref for RoomName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for RoomName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for RoomName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether no wildcard of a right reaches the name (LC-ROOM-003).
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(INBOX_PREFIX) || name.starts_with(SYSTEM_PREFIX)
}

/// Why a text is no user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user id has 1 to 200 bytes, no control characters and no `*`")]
pub struct UserIdError;

/// Checks a user id (LC-AUTH-031): 1 to 200 bytes, no control characters, no `*`.
///
/// Separators are allowed, since ids come from elsewhere: mail addresses, `tenant:name`.
pub fn check_user(user: &str) -> Result<(), UserIdError> {
    let fits = (1..=USER_BYTES_MAX).contains(&user.len());
    if fits && !user.contains(|c: char| c.is_control() || c == '*') { Ok(()) } else { Err(UserIdError) }
}

/// What names rooms, or types, in rights and policies (LC-AUTH-011): `chat.*`, `room.{user}.**`, `user:{user}`.
///
/// - `*` stands for exactly one segment, `**`, at the end only, for one or more.
/// - `{user}` stands for the user id, compared as one literal, whatever characters it has. An id that contains a
///   separator is inserted only at the end of a pattern. Anywhere else such a pattern reaches nothing for that user:
///   with `room.{user}.**`, user `alice.private` would otherwise own a part of what belongs to user `alice`.
/// - Everything else, separators included, matches byte for byte.
///
/// A pattern stays text: matching walks it beside the name, so that thousands of connections can share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Box<str>);

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It would not be a room name if its wildcards were words.
    #[error("a pattern is written like a room name: {0}")]
    Name(RoomNameError),
    /// `*` shares a segment with something else.
    #[error("`*` and `**` stand for whole segments")]
    PartOfSegment,
    /// `**` is not at the end.
    #[error("`**` stands at the end only")]
    RestNotLast,
    /// A brace that is not part of a segment `{user}`.
    #[error("`{{user}}` is a whole segment, and the only word in braces")]
    Brace,
}

impl Pattern {
    /// Checks a pattern.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        // Every wildcard is replaced by one letter before the rules of names are asked, since names have no `*`.
        RoomName::check(&pattern.replace('*', "x")).map_err(PatternError::Name)?;
        let mut parts = segments(pattern).peekable();
        while let Some((_, segment)) = parts.next() {
            match segment {
                "*" | USER => {}
                "**" if parts.peek().is_none() => {}
                "**" => return Err(PatternError::RestNotLast),
                _ if segment.contains('*') => return Err(PatternError::PartOfSegment),
                _ if segment.contains(['{', '}']) => return Err(PatternError::Brace),
                _ => {}
            }
        }
        Ok(Self(pattern.into()))
    }

    /// The text of the pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a right with this pattern reaches the room, for a user or, with `None`, for a service.
    ///
    /// A reserved room is reached only by a pattern that writes the first segment out, and after `user:` only by one
    /// without wildcards (LC-AUTH-012).
    pub fn grants(&self, room: &str, user: Option<&str>) -> bool {
        self.may_reach(room) && self.covers(room, user)
    }

    /// Whether the pattern fits the name, reserved or not: for policies, which grant nothing, and for types.
    pub fn covers(&self, name: &str, user: Option<&str>) -> bool {
        let mut rest = name;
        let mut parts = segments(&self.0).peekable();
        while let Some((separator, segment)) = parts.next() {
            if let Some(separator) = separator {
                match rest.strip_prefix(separator) {
                    Some(after) => rest = after,
                    None => return false,
                }
            }
            let last = parts.peek().is_none();
            let taken = match segment {
                "**" => rest.len(),
                "*" => next_segment_bytes(name, rest),
                USER => match user {
                    Some(user) if last || !user.contains(SEPARATORS) => literal_bytes(rest, user),
                    _ => return false,
                },
                literal => literal_bytes(rest, literal),
            };
            if taken == 0 {
                return false;
            }
            rest = &rest[taken..];
        }
        rest.is_empty()
    }

    fn may_reach(&self, room: &str) -> bool {
        if !is_reserved(room) {
            return true;
        }
        if room.starts_with(INBOX_PREFIX) {
            return self.0.starts_with(INBOX_PREFIX) && !self.0.contains('*');
        }
        self.0.starts_with(SYSTEM_PREFIX)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The segments of a name or pattern, each with the separator before it. After `user:` all is one segment.
fn segments(name: &str) -> impl Iterator<Item = (Option<char>, &str)> {
    let mut rest = Some((None, name));
    std::iter::from_fn(move || {
        let (separator, text) = rest.take()?;
        let is_user_id = separator == Some(':') && name.len() - text.len() == INBOX_PREFIX.len() && is_inbox(name);
        let end = if is_user_id { None } else { text.find(SEPARATORS) };
        let Some(end) = end else { return Some((separator, text)) };
        // Separators are ASCII: one byte.
        rest = text[end..].chars().next().map(|next| (Some(next), &text[end + 1..]));
        Some((separator, &text[..end]))
    })
}

fn is_inbox(name: &str) -> bool {
    name.starts_with(INBOX_PREFIX)
}

/// Bytes of the segment with which `rest`, the end of `name`, begins.
fn next_segment_bytes(name: &str, rest: &str) -> usize {
    if is_inbox(name) && name.len() - rest.len() == INBOX_PREFIX.len() {
        return rest.len();
    }
    rest.find(SEPARATORS).unwrap_or(rest.len())
}

/// Bytes of `literal` if `rest` begins with it, else 0. What follows is judged by the next part of the pattern.
fn literal_bytes(rest: &str, literal: &str) -> usize {
    if rest.starts_with(literal) { literal.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn grants(text: &str, room: &str, user: &str) -> bool {
        pattern(text).grants(room, Some(user))
    }

    #[test]
    fn room_names_are_checked() {
        // LC-ROOM-001
        for good in ["a", "chat.general", "a:b.c", "é", "with space", "user:bob.", "user:a..b", "user:.", "user", "$x"]
        {
            assert_eq!(RoomName::check(good), Ok(()), "{good:?}");
        }
        let long = "x".repeat(ROOM_NAME_BYTES_MAX + 1);
        let bad = [
            ("", RoomNameError::Empty),
            (&long, RoomNameError::TooLong),
            ("a\nb", RoomNameError::ControlCharacter),
            ("a\u{85}b", RoomNameError::ControlCharacter),
            ("a.*", RoomNameError::Wildcard),
            (".a", RoomNameError::EmptySegment),
            ("a.", RoomNameError::EmptySegment),
            ("a..b", RoomNameError::EmptySegment),
            ("a.:b", RoomNameError::EmptySegment),
            ("user:", RoomNameError::EmptySegment),
        ];
        for (name, error) in bad {
            assert_eq!(RoomName::new(name), Err(error), "{name:?}");
        }
        assert_eq!(RoomName::check(&"x".repeat(ROOM_NAME_BYTES_MAX)), Ok(()));
    }

    #[test]
    fn every_user_has_an_inbox() {
        for user in ["bob", "bob@example.org.", "..", "a:b", "user:bob", &"x".repeat(USER_BYTES_MAX)] {
            let inbox = RoomName::inbox(user).unwrap();
            assert_eq!(RoomName::new(&inbox), Ok(inbox.clone()));
            assert_eq!(inbox.inbox_of(), Some(user));
            assert!(grants("user:{user}", &inbox, user), "{user}");
        }
        for user in ["", "a*", "a\tb", &"x".repeat(USER_BYTES_MAX + 1)] {
            assert_eq!(RoomName::inbox(user), None, "{user:?}");
        }
    }

    #[test]
    fn patterns_are_checked() {
        for good in ["*", "**", "a.*", "a.**", "*.*", "{user}", "a.{user}.**", "user:{user}", "user:a.b", "$sys.*"] {
            pattern(good);
        }
        let bad = [
            ("", PatternError::Name(RoomNameError::Empty)),
            ("a.", PatternError::Name(RoomNameError::EmptySegment)),
            ("a*", PatternError::PartOfSegment),
            ("***", PatternError::PartOfSegment),
            ("**.a", PatternError::RestNotLast),
            ("user:a.*", PatternError::PartOfSegment),
            ("{user}x", PatternError::Brace),
            ("{room}", PatternError::Brace),
            ("a}", PatternError::Brace),
        ];
        for (text, error) in bad {
            assert_eq!(Pattern::new(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn wildcards_stand_for_segments() {
        // LC-AUTH-011
        assert!(grants("chat.*", "chat.a", "u"));
        assert!(!grants("chat.*", "chat.a.b", "u"));
        assert!(!grants("chat.*", "chat", "u"));
        assert!(!grants("chat.*", "chat:a", "u"), "separators match byte for byte");
        assert!(!grants("chat", "chatter", "u"));
        assert!(!grants("chat.a", "chat.ab", "u"));
        assert!(grants("*.a", "x.a", "u"));
        assert!(grants("chat.**", "chat.a", "u"));
        assert!(grants("chat.**", "chat.a:b.c", "u"));
        assert!(!grants("chat.**", "chat", "u"));
        assert!(grants("**", "anything:at.all", "u"));
        assert!(grants("a.*.c", "a.b.c", "u"));
        assert!(!grants("a.*.c", "a.b.d", "u"));
    }

    #[test]
    fn the_user_is_a_literal() {
        assert!(grants("room.{user}.**", "room.bob.x", "bob"));
        assert!(!grants("room.{user}.**", "room.bobby.x", "bob"));
        assert!(!grants("room.{user}.**", "room.bob", "bob"));
        assert!(grants("room.{user}", "room.a.b", "a.b"));
        assert!(!grants("room.{user}", "room.a.b", "a"));
        assert!(!grants("room.{user}.**", "room.alice.private.x", "alice.private"), "alice's, not theirs");
        assert!(!grants("room.{user}", "room.anything", "*"));
        assert!(!grants("room.{user}", "room.anything", "**"));
        assert!(!grants("room.{user}", "room.x", "{user}"));
        assert!(!pattern("room.{user}").grants("room.x", None), "a service is no user");
    }

    #[test]
    fn nothing_but_its_own_text_reaches_a_reserved_room() {
        // LC-AUTH-012
        for text in ["**", "*", "*:*", "*.**", "user:*", "user:**", "{user}", "{user}:{user}"] {
            for user in ["user", "bob", "user:bob", "$sys", "$sys.x"] {
                for room in ["user:bob", "user:bob.x", "$sys", "$sys.x"] {
                    assert!(!grants(text, room, user), "{text} {room} {user}");
                }
            }
        }
        assert!(grants("user:bob", "user:bob", "eve"));
        assert!(!grants("user:{user}", "user:bob", "eve"));
        assert!(grants("$sys.*", "$sys.x", "eve"));
        assert!(!grants("$other.*", "$sys.x", "eve"));
    }

    #[test]
    fn a_policy_covers_reserved_rooms() {
        assert!(pattern("**").covers("user:bob", None));
        assert!(pattern("user:*").covers("user:bob.smith", None));
        assert!(!pattern("user:*").covers("user.bob", None));
    }

    fn name() -> impl Strategy<Value = String> {
        "[a-c$]{1,2}([.:][a-c]{1,2}){0,3}"
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_and_its_wildcard(name in name()) {
            prop_assert!(grants(&name, &name, "u"));
            prop_assert!(pattern("**").covers(&name, None));
            let wild: String = segments(&name)
                .flat_map(|(separator, _)| separator.into_iter().chain(['*']))
                .collect();
            prop_assert!(pattern(&wild).covers(&name, None));
            prop_assert_eq!(grants(&wild, &name, "u"), !is_reserved(&name));
        }

        #[test]
        fn a_literal_matches_only_itself(a in name(), b in name()) {
            prop_assert_eq!(grants(&a, &b, "u"), a == b);
        }

        /// What a `{user}` pattern gives two users never overlaps, whatever their ids.
        #[test]
        fn users_never_share_a_room(
            a in "[a-b.:*$]{1,5}", b in "[a-b.:*$]{1,5}", room in "(room|user)([.:][a-b.:]{1,2}){1,3}",
            text in prop::sample::select(vec!["room.{user}.**", "room.{user}", "user:{user}", "room.{user}.*", "{user}"]),
        ) {
            prop_assume!(a != b);
            prop_assert!(!(grants(text, &room, &a) && grants(text, &room, &b)));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}", room in ".{0,20}", user in ".{0,20}") {
            let _ = RoomName::new(&room);
            if let Ok(pattern) = Pattern::new(&text) {
                let _ = pattern.grants(&room, Some(&user));
            }
        }
    }
}
