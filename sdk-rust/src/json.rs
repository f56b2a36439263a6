//! What the client tells, as JSON: for logs, and for bridges to systems that have no client.
//!
//! The types implement [`serde::Serialize`]. Names are in camelCase and cases of enumerations in snake_case; times are ms since the
//! Unix epoch, positions and cursors their text forms, bytes Base64.

use std::fmt::{Debug, Display};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lanecast_protocol::codes::Code;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use crate::subscription::millis;
use crate::{Cause, Error, PublishError, Published, Sender, SignalChange};

pub(crate) fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(crate) fn maybe_text<S: Serializer>(value: &Option<impl Display>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

pub(crate) fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

pub(crate) fn unix_ms<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_u64(since.as_millis() as u64)
}

pub(crate) fn maybe_unix_ms<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => unix_ms(time, serializer),
        None => serializer.serialize_none(),
    }
}

pub(crate) fn maybe_cause<S: Serializer>(cause: &Option<Cause>, serializer: S) -> Result<S::Ok, S::Error> {
    cause.as_ref().unwrap_or(&Cause::default()).serialize(serializer)
}

pub(crate) fn stored_or_failed<S: Serializer>(
    result: &Result<Published, PublishError>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match result {
        Ok(published) => serializer.collect_map([("stored", published)]),
        Err(error) => serializer.collect_map([("failed", error)]),
    }
}

/// The name of a code that this version knows.
fn name(code: Option<Code>) -> Option<&'static str> {
    code.map(|code| code.row().name)
}

/// `code`, `codeName` and `detail`.
impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Cause", 3)?;
        fields.serialize_field("code", &self.code)?;
        fields.serialize_field("codeName", &name(self.known_code()))?;
        fields.serialize_field("detail", &self.detail)?;
        fields.end()
    }
}

/// `kind` by its name in Rust, `code`, `codeName`, `detail`, `retryable`, and `retryAfterMs` if the node said that.
impl<Kind: Debug> Serialize for Error<Kind> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Error", 5 + usize::from(self.retry_after.is_some()))?;
        fields.serialize_field("kind", &format_args!("{:?}", self.kind))?;
        fields.serialize_field("code", &self.code)?;
        fields.serialize_field("codeName", &name(self.known_code()))?;
        fields.serialize_field("detail", &self.detail)?;
        fields.serialize_field("retryable", &self.retryable)?;
        if let Some(after) = self.retry_after {
            fields.serialize_field("retryAfterMs", &millis(after))?;
        }
        fields.end()
    }
}

/// The signal that lives, or of one that is gone who sent it, `type`, `key`, `gone: true` and `expired`.
impl Serialize for SignalChange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Gone<'a> {
            #[serde(flatten)]
            from: &'a Sender,
            r#type: &'a str,
            key: &'a str,
            gone: bool,
            expired: bool,
        }
        match self {
            Self::Live(signal) => signal.serialize(serializer),
            Self::Gone { from, r#type, key, expired } => {
                Gone { from, r#type, key, gone: true, expired: *expired }.serialize(serializer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::event::time;
    use crate::{
        Body, ClientState, Event, Gap, GapCause, HistoryErrorKind, Lane, Missing, Outcome, Page, PublishErrorKind,
        RoomState, Signal,
    };

    fn event(body: Body) -> Event {
        Event {
            room: "chat.1".into(),
            lane: Lane::Urgent,
            epoch: 7,
            seq: 2,
            order: 3,
            from: Sender { user: "ann".into(), service: String::new(), instance: "i".into() },
            time: time(1_000),
            expires_at: None,
            r#type: "msg".into(),
            key: "k".into(),
            content_type: "text/plain".into(),
            headers: BTreeMap::from([("h".into(), "v".into())]),
            body,
        }
    }

    #[test]
    fn what_a_room_hands_over_has_a_json_form() {
        let written = json!({"room": "chat.1", "lane": "urgent", "epoch": 7, "seq": 2, "order": 3, "user": "ann",
            "service": "", "instance": "i", "timeMs": 1_000, "expiresAtMs": null, "type": "msg", "key": "k",
            "contentType": "text/plain", "headers": {"h": "v"}, "body": {"text": "hello"}});
        assert_eq!(json!(event("hello".into())), written);
        let mut expiring = event(vec![0xff, 0xfe].into());
        expiring.expires_at = Some(time(2_000));
        let expiring = json!(expiring);
        assert_eq!((&expiring["body"], &expiring["expiresAtMs"]), (&json!({"data": "//4="}), &json!(2_000)));

        let missing = Missing::Seqs { lane: Lane::Bulk, epoch: 7, from: 4, to: None };
        let gap = Gap { room: "chat.1".into(), missing, cause: GapCause::RolledBack, refillable: false };
        let said = json!({"room": "chat.1", "lane": "bulk", "epoch": 7, "from": 4, "to": null, "cause": "rolled_back",
            "refillable": false});
        assert_eq!(json!(gap), said);
        let missing = Missing::Transients { lane: None, count: Some(2) };
        let transients = json!(Gap { missing, ..gap.clone() });
        assert_eq!((&transients["lane"], &transients["count"]), (&json!(null), &json!(2)));

        let head = Some("7-0-4-0".parse().unwrap());
        let page = Page { events: Vec::new(), gaps: vec![gap], next: Some("7-3".parse().unwrap()), head };
        assert_eq!(json!(page), json!({"events": [], "gaps": [said], "next": "7-3", "head": "7-0-4-0"}));
    }

    #[test]
    fn states_and_ends_have_a_json_form() {
        let cause = Cause { code: Some(4302), detail: "no".into() };
        let why = json!({"name": "closed", "code": 4302, "codeName": "FORBIDDEN", "detail": "no"});
        assert_eq!(json!(ClientState::Closed(cause)), why);
        assert_eq!(json!(ClientState::Connected), json!({"name": "connected"}));
        let catching_up = json!({"name": "catching_up", "recovered": true});
        assert_eq!(json!(RoomState::CatchingUp { recovered: true }), catching_up);
        let ended = json!({"name": "ended", "code": null, "codeName": null, "detail": ""});
        assert_eq!(json!(RoomState::Ended(None)), ended);

        let published = Published { epoch: 7, lane: Lane::Normal, seq: 1, order: 1, duplicate: true };
        let stored = json!({"epoch": 7, "lane": "normal", "seq": 1, "order": 1, "duplicate": true});
        assert_eq!(json!(published), stored);
        let told = |result| {
            json!(Outcome {
                room: "r".into(),
                lane: Lane::Bulk,
                r#type: "t".into(),
                key: "k".into(),
                body: "b".into(),
                result
            })
        };
        let about =
            json!({"room": "r", "lane": "bulk", "type": "t", "key": "k", "body": {"text": "b"}, "stored": stored});
        assert_eq!(told(Ok(published)), about);
        assert_eq!(told(Err(Error::local(PublishErrorKind::Closed, "over")))["failed"]["kind"], "Closed");
        let mut error = Error::refused(HistoryErrorKind::Refused, 4302, "no");
        let refused =
            json!({"kind": "Refused", "code": 4302, "codeName": "FORBIDDEN", "detail": "no", "retryable": false});
        assert_eq!(json!(error), refused);
        error.retry_after = Some(Duration::from_millis(20));
        assert_eq!(json!(error)["retryAfterMs"], 20);
    }

    #[test]
    fn changes_of_signals_have_a_json_form() {
        let from = Sender { user: "ann".into(), ..Sender::default() };
        let (r#type, key) = ("typing".to_owned(), "k".to_owned());
        let gone = SignalChange::Gone { from: from.clone(), r#type: r#type.clone(), key: key.clone(), expired: true };
        let written = json!({"user": "ann", "service": "", "instance": "", "type": "typing", "key": "k", "gone": true,
            "expired": true});
        assert_eq!(json!(gone), written);
        let (content_type, body) = (String::new(), "on".into());
        let live = SignalChange::Live(Signal { from, r#type, key, content_type, body, expires_at: time(5) });
        let written = json!({"user": "ann", "service": "", "instance": "", "type": "typing", "key": "k", "contentType": "",
            "body": {"text": "on"}, "expiresAtMs": 5});
        assert_eq!(json!(live), written);
    }
}
