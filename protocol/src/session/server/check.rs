//! What a node checks in a request before anybody acts on it: the fields, in the order of LC-ERR-009. Rights and policies
//! are the driver's business.

use bytes::Bytes;
use prost::Message;

use crate::codes::Code;
use crate::lane::Lane;
use crate::position::{DurableLane, NUMBER_LIMIT, Position};
use crate::room::RoomName;
use crate::session::Refusal;
use crate::session::server::VERSION;
use crate::v1;

/// Longest instance id and longest id of a replaced connection, bytes.
const ID_BYTES_MAX: usize = 64;
/// Longest device id, bytes.
const DEVICE_BYTES_MAX: usize = 128;
/// Longest token, bytes (LC-HS-005).
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest event type, bytes.
const TYPE_BYTES_MAX: usize = 128;
/// Longest key of an event or signal, bytes.
const KEY_BYTES_MAX: usize = 256;
/// Most headers of an event, and their bytes together.
const HEADERS_MAX: usize = 32;
const HEADER_BYTES_MAX: usize = 4 * 1024;

/// Checks in the order of LC-HS-007.
pub(super) fn check_hello(hello: &v1::Hello) -> Result<(), Refusal> {
    if hello.version_min > VERSION || hello.version_max < VERSION || hello.version_min > hello.version_max {
        return Err(Refusal::new(Code::Version, "this node speaks version 1"));
    }
    let bad = |detail: &str| Err(Refusal::new(Code::BadHello, detail));
    let id_char = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if hello.instance.is_empty() || hello.instance.len() > ID_BYTES_MAX || !hello.instance.chars().all(id_char) {
        return bad("instance must be 1 to 64 of A-Z a-z 0-9 - _");
    }
    if hello.replaces.len() > ID_BYTES_MAX || hello.device.len() > DEVICE_BYTES_MAX {
        return bad("replaces or device is too long");
    }
    if hello.token.len() > TOKEN_BYTES_MAX {
        return bad("the token is larger than 8 KiB");
    }
    Ok(())
}

pub(super) fn check_room(room: &str) -> Result<(), Refusal> {
    match RoomName::check(room) {
        Ok(_) => Ok(()),
        Err(fault) => Err(Refusal::new(Code::RoomName, fault.to_string())),
    }
}

/// Checks a Subscribe as far as the protocol goes; also for those that came in Hello.
///
/// # Errors
/// ROOM_NAME, INVALID or UNIMPLEMENTED.
pub fn check_subscribe(subscribe: &v1::Subscribe) -> Result<(), Refusal> {
    check_room(&subscribe.room)?;
    if subscribe.members || subscribe.presence || subscribe.markers || subscribe.unread {
        return Err(Refusal::new(Code::Unimplemented, "this node serves no members, presence, markers or unread"));
    }
    match subscribe.start.as_ref().and_then(|start| start.at.as_ref()) {
        Some(v1::start::At::Position(position)) => match Position::try_from(position) {
            Ok(position) if position.epoch > 0 => Ok(()),
            _ => Err(Refusal::new(Code::Invalid, "the position is out of bounds")),
        },
        Some(v1::start::At::Marker(_)) => Err(Refusal::new(Code::Unimplemented, "this node serves no markers")),
        _ => Ok(()),
    }
}

/// `replicates`: whether the node has the capability REPLICATED.
pub(super) fn check_publish(
    publish: &v1::Publish,
    limits: &v1::Limits,
    replicates: bool,
) -> Result<v1::Envelope, Refusal> {
    check_room(&publish.room)?;
    let invalid = |detail: &str| Err(Refusal::new(Code::Invalid, detail));
    if matches!(Lane::from_wire(publish.lane), Some(Lane::Control | Lane::Signal)) {
        return invalid("events travel on urgent, normal or bulk");
    }
    if publish.ack == v1::AckLevel::Replicated as i32 && !replicates {
        return Err(Refusal::new(Code::Unimplemented, "this node does not replicate"));
    }
    if publish.number >= NUMBER_LIMIT || publish.after >= NUMBER_LIMIT {
        return invalid("number or after is out of bounds");
    }
    check_envelope(&publish.envelope, limits)
}

pub(super) fn check_signal(signal: &v1::Signal, limits: &v1::Limits) -> Result<v1::Envelope, Refusal> {
    check_room(&signal.room)?;
    let envelope = check_envelope(&signal.envelope, limits)?;
    let invalid = |detail: &str| Err(Refusal::new(Code::Invalid, detail));
    if envelope.key.is_empty() {
        return invalid("a signal needs a key");
    }
    if signal.counter == 0 || signal.counter >= NUMBER_LIMIT || signal.start >= NUMBER_LIMIT {
        return invalid("start or counter is out of bounds");
    }
    Ok(envelope)
}

pub(super) fn check_history(history: &v1::History) -> Result<(), Refusal> {
    check_room(&history.room)?;
    let invalid = |detail: &str| Err(Refusal::new(Code::Invalid, detail));
    if history.lanes.len() > DurableLane::COUNT
        || history.lanes.iter().any(|lane| DurableLane::from_wire(*lane).is_none())
    {
        return invalid("only urgent, normal and bulk have a history");
    }
    if history.cursor.is_some_and(|cursor| cursor.epoch >= NUMBER_LIMIT || cursor.order >= NUMBER_LIMIT) {
        return invalid("the cursor is out of bounds");
    }
    Ok(())
}

/// Checks the numbers of a publish that turned out to be durable, once the room's policy is known.
///
/// # Errors
/// INVALID (LC-PUB-007).
pub fn check_numbers(publish: &v1::Publish) -> Result<(), Refusal> {
    if publish.number == 0 || publish.after >= publish.number {
        return Err(Refusal::new(Code::Invalid, "a durable publish has a number, and after is below it"));
    }
    Ok(())
}

/// Checks what a publisher wrote, as far as the protocol goes.
///
/// # Errors
/// INVALID or MESSAGE_TOO_LARGE (against the largest message of any room; a policy may allow less).
pub fn check_envelope(bytes: &Bytes, limits: &v1::Limits) -> Result<v1::Envelope, Refusal> {
    let invalid = |detail: &str| Err(Refusal::new(Code::Invalid, detail));
    let Ok(envelope) = v1::Envelope::decode(bytes.clone()) else { return invalid("the envelope is malformed") };
    if bytes.is_empty() {
        return invalid("there is no envelope");
    }
    if envelope.r#type.len() > TYPE_BYTES_MAX || envelope.key.len() > KEY_BYTES_MAX {
        return invalid("type or key is too long");
    }
    if envelope.r#type.starts_with('$') {
        return invalid("types that begin with $ are reserved");
    }
    let header_bytes: usize = envelope.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if envelope.headers.len() > HEADERS_MAX || header_bytes > HEADER_BYTES_MAX || envelope.content_type.len() > 256 {
        return invalid("too many headers, or too long ones");
    }
    if body_len(&envelope) > limits.message_bytes as usize {
        return Err(Refusal::new(Code::MessageTooLarge, format!("at most {} bytes", limits.message_bytes)));
    }
    Ok(envelope)
}

/// Bytes of the body.
pub fn body_len(envelope: &v1::Envelope) -> usize {
    match &envelope.body {
        Some(v1::envelope::Body::Data(data)) => data.len(),
        Some(v1::envelope::Body::Text(text)) => text.len(),
        None => 0,
    }
}
