//! Room names, patterns and rights of the reference server.

use serde_json::Value;

/// Who is connected, and what the token allows.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub user: String,
    pub device: Option<String>,
    pub expires_at_ms: u64,
    pub rights: Vec<Value>,
    /// Signals per second, in place of what others may send.
    pub signals: Option<u32>,
    pub star_matches_all: bool,
}

const VERBS: [&str; 9] = crate::target::ALL_RIGHTS;

/// What a check says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    Yes,
    No,
    LaneTooHigh,
}

impl Identity {
    /// From the claims of a token; `None`: another shape.
    pub(super) fn from_claims(claims: &Value) -> Option<Self> {
        let user = claims["sub"].as_str()?;
        if !claims["exp"].is_number() || !claims["aud"].is_null() {
            return None;
        }
        if user.is_empty() || user.len() > 200 || user.chars().any(|c| c.is_control() || c == '*') {
            return None;
        }
        let rights = match claims.get("lanecast") {
            None => Vec::new(),
            Some(claim) => claim.as_object()?.get("rights")?.as_array()?.clone(),
        };
        let strings =
            |right: &Value, name: &str| right[name].as_array().is_some_and(|list| list.iter().all(Value::is_string));
        let known = rights.iter().all(|right| {
            strings(right, "allow")
                && strings(right, "rooms")
                && right["allow"].as_array().into_iter().flatten().all(|verb| VERBS.iter().any(|known| verb == known))
        });
        known.then(|| Self {
            user: user.to_owned(),
            device: claims["device"].as_str().map(str::to_owned),
            expires_at_ms: claims["exp"].as_u64().unwrap_or(0) * 1000,
            rights,
            signals: claims["lanecast"]["signals_per_second"].as_u64().and_then(|rate| u32::try_from(rate).ok()),
            star_matches_all: false,
        })
    }

    /// The types that a subscriber of the room may see; `None`: all.
    pub(super) fn visible_types(&self, room: &str) -> Option<Vec<String>> {
        let mut types = Vec::new();
        for right in &self.rights {
            let list = |name: &str| right[name].as_array().into_iter().flatten().filter_map(Value::as_str);
            if list("allow").any(|verb| verb == "subscribe") && list("rooms").any(|pattern| self.covers(pattern, room))
            {
                if right["types"].is_null() {
                    return None;
                }
                types.extend(list("types").map(str::to_owned));
            }
        }
        (!types.is_empty()).then_some(types)
    }

    /// Whether one of the patterns covers a type.
    pub(super) fn sees(&self, types: &Option<Vec<String>>, kind: &str) -> bool {
        types.as_ref().is_none_or(|types| types.iter().any(|pattern| self.covers(pattern, kind)))
    }

    pub(super) fn allows(&self, verb: &str, room: &str, kind: &str, lane: usize) -> Allowed {
        if matches!(verb, "subscribe" | "history") && room == format!("user:{}", self.user) {
            return Allowed::Yes;
        }
        let mut answer = Allowed::No;
        for right in &self.rights {
            let list = |name: &str| right[name].as_array().into_iter().flatten().filter_map(Value::as_str);
            let typed = right["types"].is_null()
                || verb == "subscribe"
                || list("types").any(|pattern| self.covers(pattern, kind));
            if !list("allow").any(|allowed| allowed == verb)
                || !list("rooms").any(|pattern| self.covers(pattern, room))
                || !typed
            {
                continue;
            }
            let highest = match right["lane"].as_str() {
                Some("normal") => 2,
                Some("bulk") => 3,
                _ => 1,
            };
            if verb != "publish" || lane >= highest {
                return Allowed::Yes;
            }
            answer = Allowed::LaneTooHigh;
        }
        answer
    }

    fn covers(&self, pattern: &str, name: &str) -> bool {
        let (pattern, name) = (pieces(pattern), pieces(name));
        let inbox = name[0] == "user" && name.get(1) == Some(&":");
        if (inbox || name[0].starts_with('$')) && pattern[0] != name[0] {
            return false;
        }
        if inbox && pattern.iter().any(|piece| matches!(*piece, "*" | "**")) {
            return false;
        }
        self.covers_pieces(&pattern, &name)
    }

    fn covers_pieces(&self, pattern: &[&str], name: &[&str]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some(&"**"), Some(_)) => pattern.len() == 1,
            (Some(&"*"), Some(_)) if self.star_matches_all => true,
            (Some(&"*"), Some(piece)) if !matches!(*piece, "." | ":") => self.covers_pieces(&pattern[1..], &name[1..]),
            (Some(&"{user}"), Some(_)) => {
                let user = pieces(&self.user);
                let placed = user.len() == 1 || pattern.len() == 1;
                placed && name.starts_with(&user) && self.covers_pieces(&pattern[1..], &name[user.len()..])
            }
            (Some(literal), Some(piece)) if literal == piece => self.covers_pieces(&pattern[1..], &name[1..]),
            _ => false,
        }
    }
}

/// Segments and separators.
fn pieces(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['.', ':']) {
        if at > 0 {
            out.push(&rest[..at]);
        }
        out.push(&rest[at..=at]);
        rest = &rest[at + 1..];
    }
    if !rest.is_empty() || out.is_empty() {
        out.push(rest);
    }
    out
}

/// LC-ROOM-001.
pub(super) fn is_room_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.chars().any(|c| c.is_control() || c == '*')
        && match name.strip_prefix("user:") {
            Some(user) => !user.is_empty(),
            None => name.split(['.', ':']).all(|segment| !segment.is_empty()),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_what_the_spec_says() {
        let identity = Identity {
            user: "ann".into(),
            device: None,
            expires_at_ms: 0,
            signals: None,
            rights: Vec::new(),
            star_matches_all: false,
        };
        for (pattern, name, covers) in [
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.*", "a:b", false),
            ("a.**", "a.b:c", true),
            ("a.**", "a", false),
            ("**", "a.b", true),
            ("**", "user:ann", false),
            ("*:ann", "user:ann", false),
            ("user:*", "user:ann", false),
            ("user:bob", "user:bob", true),
            ("$x.*", "$x.y", true),
            ("*.y", "$x.y", false),
            ("r.{user}.x", "r.ann.x", true),
            ("r.{user}", "r.bob", false),
        ] {
            assert_eq!(identity.covers(pattern, name), covers, "{pattern} over {name}");
        }
    }
}
