//! Golden packets: what every implementation must read and write, in any language.
//!
//! `vectors/<frame>.json` holds packets of each frame kind as hex and as canonical JSON. They are made from the schema
//! and compared with the files; with UPDATE_VECTORS=1 the files are written anew. A name that begins with `unknown`
//! says that the bytes hold fields of a later version, which the JSON cannot show.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "vectors are files")]

mod schema;

use std::path::PathBuf;

use bytes::Bytes;
use lanecast_protocol::{codec, json, v1};
use proptest::prelude::*;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use self::schema::{Source, bodies, make, message, packet};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn vector(name: &str, packet: &[u8]) -> Value {
    let json: Value = serde_json::from_str(&json::to_json("Packet", packet).unwrap()).unwrap();
    json!({ "name": name, "hex": hex(packet), "json": json })
}

/// Bytes with field 99 (a string) behind them.
fn with_unknown(mut message: Vec<u8>) -> Vec<u8> {
    message.extend_from_slice(&[0x9a, 0x06, 0x03]);
    message.extend_from_slice(b"new");
    message
}

/// How many alternatives the largest oneof below a message has.
fn alternatives(descriptor: &prost_reflect::MessageDescriptor, depth: u32) -> usize {
    let own = descriptor.oneofs().map(|oneof| oneof.fields().count()).max().unwrap_or(1);
    let below = descriptor.fields().filter_map(|field| field.kind().as_message().cloned());
    let below = below.filter(|_| depth < 4).map(|of| alternatives(&of, depth + 1)).max().unwrap_or(1);
    own.max(below)
}

fn frame_vectors(body: &prost_reflect::FieldDescriptor) -> Vec<Value> {
    let of = body.kind().as_message().unwrap().clone();
    let mut vectors = vec![vector("empty", &packet(0, body, prost_reflect::DynamicMessage::new(of.clone())))];
    for number in 0..alternatives(&of, 0) {
        let full = make(&of, &mut Source::Ordinary(number), 0);
        vectors.push(vector(&format!("full-{number}"), &packet(7, body, full)));
    }
    vectors.push(vector("edges", &packet(u32::MAX, body, make(&of, &mut Source::Edge, 0))));
    let envelope = of.fields().find(|field| field.name() == "envelope");
    if let Some(envelope) = envelope {
        // LC-PUB-010: fields of the envelope that this version does not know pass through.
        let inner = make(envelope.kind().as_message().unwrap(), &mut Source::Ordinary(0), 0);
        let mut outer = prost_reflect::DynamicMessage::new(of);
        let unknown = prost_reflect::DynamicMessage::decode(
            envelope.kind().as_message().unwrap().clone(),
            with_unknown(inner.encode_to_vec()).as_slice(),
        );
        outer.set_field(&envelope, prost_reflect::Value::Message(unknown.unwrap()));
        vectors.push(vector("unknown-in-envelope", &packet(7, body, outer)));
    }
    vectors
}

fn packet_vectors() -> Vec<Value> {
    let ping = |stamp| codec::encode_body(0, v1::frame::Body::Ping(v1::Ping { stamp }));
    let header = v1::StreamHeader { kind: v1::StreamKind::Transfer.into(), lane: v1::Lane::Bulk.into(), transfer: 3 };
    let header = v1::Packet { frames: Vec::new(), stream_header: Some(header) }.encode_to_vec();
    vec![
        vector("empty", &[]),
        vector("two-frames", &[ping(1), ping(2)].concat()),
        vector("stream-header", &header),
        vector("unknown-field", &with_unknown(ping(1).to_vec())),
        vector("unknown-frame", &[0x0a, 0x06, 0x08, 0x2a, 0x82, 0x7d, 0x01, 0x00]),
    ]
}

/// File name and vectors of each.
fn all() -> Vec<(String, Vec<Value>)> {
    let frames = bodies().into_iter().map(|body| (body.name().to_owned(), frame_vectors(&body)));
    frames.chain([("packet".to_owned(), packet_vectors())]).collect()
}

#[test]
fn the_vectors_are_those_of_the_schema() {
    let update = std::env::var_os("UPDATE_VECTORS").is_some();
    for (name, vectors) in all() {
        assert!(vectors.len() >= 3, "{name}");
        let path = folder().join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(&Value::Array(vectors)).unwrap() + "\n";
        if update {
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(written, text, "{name}: the schema changed; write with UPDATE_VECTORS=1");
    }
    assert_eq!(std::fs::read_dir(folder()).unwrap().count(), all().len(), "a file of no frame");
}

#[test]
fn every_vector_reads_and_writes_alike_in_every_form() {
    // LC-FRM-001, LC-FRM-003, LC-JSON-001, LC-JSON-003
    for (file, vectors) in all() {
        for vector in vectors {
            let name = vector["name"].as_str().unwrap();
            let bytes = from_hex(vector["hex"].as_str().unwrap());
            let unknown = name.starts_with("unknown");
            let json: Value = serde_json::from_str(&json::to_json("Packet", &bytes).unwrap()).unwrap();
            assert_eq!(json, vector["json"], "{file} {name}");
            let back = json::from_json("Packet", vector["json"].to_string().as_bytes()).unwrap();
            assert!(unknown || back == bytes, "{file} {name}: JSON to binary");
            let typed = v1::Packet::decode(bytes.as_slice()).unwrap();
            assert!(name.starts_with("unknown-f") || typed.encode_to_vec() == bytes, "{file} {name}: Rust types");
            if typed.stream_header.is_none() {
                assert_eq!(records(&bytes), typed.frames, "{file} {name}: records");
            }
        }
    }
}

fn records(bytes: &[u8]) -> Vec<v1::Frame> {
    let records = codec::records(Bytes::copy_from_slice(bytes), 1 << 20);
    records.map(|record| codec::decode(record.unwrap()).unwrap()).collect()
}

/// An encoded packet of one drawn frame of the kind with that index.
fn drawn(kind: usize, seed: u64) -> Vec<u8> {
    let bodies = bodies();
    let body = &bodies[kind % bodies.len()];
    let mut rng = SmallRng::seed_from_u64(seed);
    packet(seed as u32, body, make(body.kind().as_message().unwrap(), &mut Source::Drawn(&mut rng), 0))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_survives_the_rust_types_and_json(kind in 0..bodies().len(), seed: u64) {
        // LC-JSON-001, LC-JSON-005
        let bytes = drawn(kind, seed);
        let typed = v1::Packet::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(&typed.encode_to_vec(), &bytes);
        let frame = &records(&bytes)[0];
        prop_assert_eq!(&codec::encode(frame), &bytes);
        let text = json::to_json("Packet", &bytes).unwrap();
        prop_assert_eq!(&json::from_json("Packet", text.as_bytes()).unwrap(), &bytes);
    }

    #[test]
    fn a_packet_splits_and_joins_at_its_records(frames in prop::collection::vec((0..100usize, any::<u64>()), 0..8), at in 0..9usize) {
        // LC-FRM-001
        let packets: Vec<Vec<u8>> = frames.iter().map(|(kind, seed)| drawn(*kind, *seed)).collect();
        let whole = packets.concat();
        let (first, second) = packets.split_at(at.min(packets.len()));
        let apart = [records(&first.concat()), records(&second.concat())].concat();
        prop_assert_eq!(&records(&whole), &apart);
        prop_assert_eq!(&v1::Packet::decode(whole.as_slice()).unwrap().frames, &apart);
    }

    #[test]
    fn a_packet_cut_inside_a_record_is_refused(kind in 0..100usize, seed: u64, cut in 1..1000usize) {
        // LC-FRM-002
        let bytes = drawn(kind, seed);
        let cut = &bytes[..bytes.len() - cut.min(bytes.len() - 1)];
        let refused = codec::records(Bytes::copy_from_slice(cut), 1 << 20).any(|record| record.is_err());
        prop_assert!(refused);
    }
}

#[test]
fn the_schema_has_the_frames_that_the_lanes_know() {
    // LC-LANE-002
    assert_eq!(message("Frame").full_name(), "lanecast.v1.Frame");
    assert_eq!(bodies().len(), 40);
}
