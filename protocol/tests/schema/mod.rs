//! Messages of the schema, made from its descriptors: so that a frame that is added has vectors and a round trip, too.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use rand::Rng;
use rand::rngs::SmallRng;

/// Depth to which messages hold messages.
const DEPTH_MAX: u32 = 5;
/// Every number of the protocol is below 2^53.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let descriptors: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    DescriptorPool::decode(descriptors).unwrap()
});

pub fn message(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(&format!("lanecast.v1.{name}")).unwrap()
}

/// The fields of Frame that are its bodies.
pub fn bodies() -> Vec<FieldDescriptor> {
    message("Frame").oneofs().next().unwrap().fields().collect()
}

/// Where the values of a message come from.
pub enum Source<'a> {
    /// Every field is set to something ordinary; of each oneof, and of each enum, the one with this number.
    Ordinary(usize),
    /// Every field is set to the utmost that it takes.
    Edge,
    /// Drawn.
    Drawn(&'a mut SmallRng),
}

impl Source<'_> {
    fn choose(&mut self, count: usize) -> usize {
        match self {
            Self::Ordinary(number) => *number % count,
            Self::Edge => count - 1,
            Self::Drawn(rng) => rng.random_range(0..count),
        }
    }

    fn sets(&mut self) -> bool {
        match self {
            Self::Ordinary(_) | Self::Edge => true,
            Self::Drawn(rng) => rng.random_bool(0.7),
        }
    }

    fn number(&mut self, max: u64, ordinary: u64) -> u64 {
        match self {
            Self::Ordinary(_) => ordinary,
            Self::Edge => max,
            Self::Drawn(rng) => rng.random::<u64>() >> rng.random_range(0..64) & max,
        }
    }

    fn text(&mut self, name: &str) -> String {
        match self {
            Self::Ordinary(_) if name == "room" => "chat.a".into(),
            Self::Ordinary(_) => name.into(),
            Self::Edge => "\"\\\n\u{1}ä\u{1F388}".into(),
            Self::Drawn(rng) => (0..rng.random_range(0..12)).map(|_| rng.random::<char>()).collect(),
        }
    }
}

/// A message with values from the source.
pub fn make(descriptor: &MessageDescriptor, source: &mut Source<'_>, depth: u32) -> DynamicMessage {
    let mut made = DynamicMessage::new(descriptor.clone());
    for oneof in descriptor.oneofs() {
        let field = oneof.fields().nth(source.choose(oneof.fields().count())).unwrap();
        if source.sets() {
            let value = single(&field, source, depth);
            made.set_field(&field, value);
        }
    }
    for field in descriptor.fields().filter(|field| field.containing_oneof().is_none()) {
        if !source.sets() || (depth == DEPTH_MAX && matches!(field.kind(), Kind::Message(_))) {
            continue;
        }
        let value = if field.is_map() {
            Value::Map([(MapKey::String(source.text("traceparent")), Value::String(source.text("00")))].into())
        } else if field.cardinality() == Cardinality::Repeated {
            Value::List((0..2).map(|_| single(&field, source, depth)).collect())
        } else {
            single(&field, source, depth)
        };
        made.set_field(&field, value);
    }
    if descriptor.name() == "Envelope" && made.encoded_len() == 0 {
        // The Rust types hold it as bytes, in which an empty one is none: either is refused (LC-PUB-008).
        made.set_field_by_name("type", Value::String("t".into()));
    }
    made
}

fn single(field: &FieldDescriptor, source: &mut Source<'_>, depth: u32) -> Value {
    let ordinary = u64::from(field.number()) + 40;
    match field.kind() {
        Kind::Uint64 => Value::U64(source.number(NUMBER_MAX, ordinary)),
        Kind::Uint32 => Value::U32(source.number(u32::MAX.into(), ordinary) as u32),
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String(source.text(field.name())),
        Kind::Bytes => Value::Bytes(source.text(field.name()).into_bytes().into()),
        // The edge of an enum is a number of a later version.
        Kind::Enum(_) if matches!(source, Source::Edge) => Value::EnumNumber(99),
        Kind::Enum(of) => Value::EnumNumber(of.values().nth(source.choose(of.values().count())).unwrap().number()),
        Kind::Message(of) => Value::Message(make(&of, source, depth + 1)),
        other => panic!("the schema has no {other:?}"),
    }
}

/// An encoded Packet of one Frame with this body.
pub fn packet(id: u32, body: &FieldDescriptor, message: DynamicMessage) -> Vec<u8> {
    let mut frame = DynamicMessage::new(self::message("Frame"));
    if id != 0 {
        frame.set_field_by_number(1, Value::U32(id));
    }
    frame.set_field(body, Value::Message(message));
    let mut packet = DynamicMessage::new(self::message("Packet"));
    packet.set_field_by_number(1, Value::List(vec![Value::Message(frame)]));
    packet.encode_to_vec()
}
