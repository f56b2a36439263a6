//! The JSON twin of the wire: canonical protobuf JSON of the same messages (LC-JSON-001).
//!
//! The conversion goes by the descriptors of the schema, in which an envelope is a message and not the bytes that the
//! Rust types hold, so JSON shows it in full and a JSON publish is stored as the protobuf that it stands for.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::codec::CodecError;
use crate::codes::Code;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let descriptors: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    DescriptorPool::decode(descriptors).expect("the descriptors come from the build of this crate")
});

fn descriptor(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(&format!("lanecast.v1.{name}")).expect("callers name messages of the schema")
}

/// Turns an encoded message of the schema into JSON.
///
/// # Errors
/// If the bytes are not a message of that name.
///
/// # Panics
/// If the schema has no message `name`.
pub fn to_json(name: &str, encoded: &[u8]) -> Result<String, prost::DecodeError> {
    let message = DynamicMessage::decode(descriptor(name), encoded)?;
    let mut out = Vec::with_capacity(encoded.len() * 2);
    let mut serializer = serde_json::Serializer::new(&mut out);
    message
        .serialize_with_options(&mut serializer, &SerializeOptions::new())
        .expect("writing to memory does not fail, and a decoded message has a JSON form");
    Ok(String::from_utf8(out).expect("serde_json writes UTF-8"))
}

/// Turns JSON into an encoded message of the schema. Unknown names are ignored (LC-JSON-003).
///
/// # Errors
/// PROTOCOL if the text is not JSON of that message.
///
/// # Panics
/// If the schema has no message `name`.
pub fn from_json(name: &str, json: &[u8]) -> Result<Bytes, CodecError> {
    let malformed = |_| CodecError { code: Code::Protocol, detail: "not the JSON of this message" };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message =
        DynamicMessage::deserialize_with_options(descriptor(name), &mut deserializer, &options).map_err(malformed)?;
    deserializer.end().map_err(malformed)?;
    Ok(message.encode_to_vec().into())
}

/// The JSON of a message given as its Rust type, whose name in the schema is `name`.
///
/// # Panics
/// If the schema has no message `name`, or the type is another one.
pub fn message_to_json(name: &str, message: &impl Message) -> String {
    to_json(name, &message.encode_to_vec()).expect("the type's encoding is the message")
}

/// A message as its Rust type, from JSON.
///
/// # Errors
/// PROTOCOL if the text is not JSON of that message.
///
/// # Panics
/// If the schema has no message `name`.
pub fn message_from_json<M: Message + Default>(name: &str, json: &[u8]) -> Result<M, CodecError> {
    let malformed = |_| CodecError { code: Code::Protocol, detail: "not the JSON of this message" };
    M::decode(from_json(name, json)?).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;
    use crate::v1::frame::Body;

    #[test]
    fn a_packet_round_trips_and_shows_the_envelope() {
        // LC-JSON-001, LC-JSON-005
        let text = r#"{"frames":[{"id":3,"publish":{"room":"chat","lane":"LANE_URGENT","number":"9007199254740991","envelope":{"type":"t","text":"hi"}}}]}"#;
        let packet: v1::Packet = message_from_json("Packet", text.as_bytes()).unwrap();
        let Some(Body::Publish(publish)) = &packet.frames[0].body else { panic!("not a publish") };
        let envelope = v1::Envelope::decode(publish.envelope.clone()).unwrap();
        assert_eq!((envelope.r#type.as_str(), publish.number), ("t", (1 << 53) - 1));
        assert_eq!(message_to_json("Packet", &packet), text);
    }

    #[test]
    fn names_of_a_later_version_are_ignored() {
        // LC-JSON-003
        let text = r#"{"frames":[{"id":3,"teleport":{"to":"mars"}}],"mood":1}"#;
        let packet: v1::Packet = message_from_json("Packet", text.as_bytes()).unwrap();
        assert_eq!((packet.frames[0].id, &packet.frames[0].body), (3, &None));
    }

    #[test]
    fn what_is_not_a_packet_is_refused() {
        // LC-JSON-004
        for text in ["", "[]", "{", r#"{"frames":7}"#, r#"{"frames":[]} x"#, r#"{"frames":[{"id":-1}]}"#] {
            assert_eq!(from_json("Packet", text.as_bytes()).unwrap_err().code, Code::Protocol, "{text}");
        }
    }
}
