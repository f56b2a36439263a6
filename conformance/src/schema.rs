//! The suite's own codec: JSON values ⇄ frames ⇄ records.
//!
//! Cases speak of frames as JSON values. In both encodings they become canonical protobuf here, by the descriptor set
//! that `build.rs` made, and what a server sends comes back as a value in which every plain field is present and
//! 64-bit integers are numbers (all are below 2^53), whatever the encoding was. Records are split by hand, so that a
//! framing fault of the server shows as one instead of being smoothed over by a protobuf parser.

use std::sync::OnceLock;

use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Value, json};

/// The prost types of the schema, envelopes as bytes.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/lanecast.v1.rs"));
}

/// The tag of a frame record: field 1, length-delimited.
const FRAME_TAG: u8 = 0x0a;

/// Why bytes or a value are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(pub String);

fn descriptor(name: &str) -> MessageDescriptor {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_slice())
            .expect("the descriptor set was written by build.rs")
    });
    let name = if name.contains('.') { name.to_owned() } else { format!("lanecast.v1.{name}") };
    pool.get_message_by_name(&name).expect("the schema has this message")
}

fn from_value(name: &str, value: &Value) -> Result<DynamicMessage, CodecError> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor(name), value, &options)
        .map_err(|error| CodecError(format!("not a {name}: {error}: {value}")))
}

fn to_value(message: &DynamicMessage) -> Result<Value, CodecError> {
    let options = SerializeOptions::new().stringify_64_bit_integers(false).skip_default_fields(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| CodecError(error.to_string()))
}

/// Encodes a message given as a value. A name without dots is one of the protocol.
pub fn encode(name: &str, value: &Value) -> Result<Vec<u8>, CodecError> {
    Ok(from_value(name, value)?.encode_to_vec())
}

/// Decodes a message into a value with all plain fields present.
pub fn decode(name: &str, bytes: &[u8]) -> Result<Value, CodecError> {
    let message = DynamicMessage::decode(descriptor(name), bytes)
        .map_err(|error| CodecError(format!("not a {name}: {error}")))?;
    to_value(&message)
}

/// Reads the canonical JSON of a message into a value with all plain fields present. Unknown fields are ignored, as they are in
/// protobuf.
pub fn from_text(name: &str, text: &str) -> Result<Value, CodecError> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(
        descriptor(name),
        &mut serde_json::Deserializer::from_str(text),
        &options,
    )
    .map_err(|error| CodecError(format!("not a {name}: {error}: {text}")))?;
    to_value(&message)
}

/// The canonical JSON of a message given as a value, with all plain fields present.
pub fn to_text(name: &str, value: &Value) -> Result<String, CodecError> {
    Ok(to_value(&from_value(name, value)?)?.to_string())
}

/// Encodes a frame as one record.
pub fn frame_record(frame: &Value) -> Result<Vec<u8>, CodecError> {
    Ok(record(&encode("Frame", frame)?))
}

/// Puts tag and length before the bytes of a frame.
pub fn record(frame: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame.len() + 6);
    out.push(FRAME_TAG);
    write_varint(&mut out, frame.len() as u64);
    out.extend_from_slice(frame);
    out
}

/// Bytes of the record of a frame of that length.
pub fn record_length(frame_bytes: usize) -> usize {
    let mut head = Vec::with_capacity(10);
    write_varint(&mut head, frame_bytes as u64);
    1 + head.len() + frame_bytes
}

/// Splits the bytes of a packet into its frames, without tag and length.
pub fn split_records(packet: &[u8]) -> Result<Vec<&[u8]>, CodecError> {
    let mut rest = packet;
    let mut frames = Vec::new();
    while let Some((&tag, after_tag)) = rest.split_first() {
        if tag != FRAME_TAG {
            return Err(CodecError(format!("a record begins with tag {tag:#04x} instead of {FRAME_TAG:#04x}")));
        }
        let (length, body) =
            read_varint(after_tag).ok_or_else(|| CodecError("the length of a record is cut off".into()))?;
        if length > body.len() as u64 {
            return Err(CodecError(format!("a record of {length} bytes has only {} left", body.len())));
        }
        let (frame, next) = body.split_at(length as usize);
        frames.push(frame);
        rest = next;
    }
    Ok(frames)
}

/// Appends a base-128 varint.
pub fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a base-128 varint and returns it with what follows.
pub fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

/// The canonical JSON text of a packet with these frames.
pub fn packet_text(frames: &[Value]) -> Result<String, CodecError> {
    let packet = from_value("Packet", &json!({ "frames": frames }))?;
    serde_json::to_string(&packet).map_err(|error| CodecError(error.to_string()))
}

/// The canonical JSON text of a packet given as bytes.
pub fn packet_bytes_to_text(packet: &[u8]) -> Result<String, CodecError> {
    let message = DynamicMessage::decode(descriptor("Packet"), packet)
        .map_err(|error| CodecError(format!("not a Packet: {error}")))?;
    serde_json::to_string(&message).map_err(|error| CodecError(error.to_string()))
}

/// The bytes of a packet given as JSON text, unknown names ignored, those of enum values too (LC-FRM-003): what a
/// server does with a text message.
pub fn packet_text_to_bytes(text: &str) -> Result<Vec<u8>, CodecError> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(descriptor("Packet"), &mut parser, &options)
        .and_then(|message| parser.end().map(|()| message))
        .map_err(|error| CodecError(format!("not a Packet: {error}")))?;
    Ok(message.encode_to_vec())
}

/// Parses a text message of a server. Strict: unknown names are a fault of this suite's schema or of the server, and
/// 64-bit integers must come as strings (LC-JSON-001).
pub fn parse_packet_text(text: &str) -> Result<Vec<Value>, CodecError> {
    let raw: Value = serde_json::from_str(text).map_err(|error| CodecError(format!("not JSON: {error}")))?;
    let message = from_value("Packet", &raw)?;
    let canonical = serde_json::to_value(&message).map_err(|error| CodecError(error.to_string()))?;
    is_canonical(&raw, &canonical, "$")?;
    match to_value(&message)?.get_mut("frames") {
        Some(Value::Array(frames)) => Ok(std::mem::take(frames)),
        _ => Ok(Vec::new()),
    }
}

/// Whether each value of `raw` stands in its canonical form. Default values may be present or absent.
fn is_canonical(raw: &Value, canonical: &Value, path: &str) -> Result<(), CodecError> {
    match (raw, canonical) {
        (Value::Object(raw), Value::Object(canonical)) => {
            for (name, value) in raw {
                match canonical.get(name) {
                    Some(expected) => is_canonical(value, expected, &format!("{path}.{name}"))?,
                    None if is_default(value) => {}
                    None => return Err(CodecError(format!("{path}.{name} is not a canonical JSON name"))),
                }
            }
            Ok(())
        }
        (Value::Array(raw), Value::Array(canonical)) => {
            raw.iter().zip(canonical).try_for_each(|(raw, canonical)| is_canonical(raw, canonical, path))
        }
        (raw, canonical) if raw == canonical => Ok(()),
        (raw, canonical) => Err(CodecError(format!("{path} is {raw}, canonical JSON says {canonical}"))),
    }
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty() || text == "0" || text.ends_with("_UNSPECIFIED"),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_both_encodings() {
        let frame = json!({"id": 7, "publish": {"room": "a.b", "lane": "LANE_URGENT", "number": 3, "envelope":
            {"type": "t", "text": "hi"}}});
        let bytes = frame_record(&frame).unwrap();
        let records = split_records(&bytes).unwrap();
        let back = decode("Frame", records[0]).unwrap();
        assert_eq!(back["publish"]["number"], 3);
        assert_eq!(back["publish"]["ttlMs"], 0, "plain fields are present");
        let text = packet_text(&[frame]).unwrap();
        assert!(text.contains("\"number\":\"3\""), "{text}");
        assert_eq!(parse_packet_text(&text).unwrap()[0], back);
    }

    #[test]
    fn records_are_split_strictly() {
        assert_eq!(split_records(&[]).unwrap().len(), 0);
        assert_eq!(split_records(&[0x0a, 1, 9, 0x0a, 0]).unwrap(), [&[9u8][..], &[]]);
        assert!(split_records(&[0x12, 0]).is_err(), "a stream header");
        assert!(split_records(&[0x0a, 2, 1]).is_err(), "cut");
        assert!(split_records(&[0x0a, 0x80]).is_err(), "length cut");
    }

    #[test]
    fn text_must_be_canonical() {
        assert!(parse_packet_text(r#"{"frames":[{"pong":{"stamp":"5"}}]}"#).is_ok());
        assert!(parse_packet_text(r#"{"frames":[{"pong":{"stamp":"5","serverTimeMs":"0"}}]}"#).is_ok());
        assert!(parse_packet_text(r#"{"frames":[{"pong":{"stamp":5}}]}"#).is_err());
        assert!(parse_packet_text(r#"{"frames":[{"pong":{"stamp":"5","server_time_ms":"1"}}]}"#).is_err());
    }
}
