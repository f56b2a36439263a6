//! Compiles the schema, twice over one descriptor set: as it is for the JSON twin, and with every `Envelope` field
//! turned into bytes for the Rust types.
//!
//! A node must store and deliver what a publisher wrote byte for byte (LC-PUB-010), and prost drops unknown fields
//! when it re-encodes a message. A message field and a bytes field are the same on the wire, so the Rust types hold
//! the envelope as the bytes that came, and whoever needs a look inside decodes an `Envelope` from them.
#![allow(clippy::disallowed_methods, reason = "a build script reads and writes files")]

use std::path::PathBuf;

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from("proto");
    println!("cargo:rerun-if-changed=proto");
    let mut descriptors = protox::compile(["lanecast/v1/packet.proto", "lanecast/v1/api.proto"], [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    for message in descriptors.file.iter_mut().flat_map(|file| &mut file.message_type) {
        for field in &mut message.field {
            if field.type_name() == ".lanecast.v1.Envelope" {
                field.set_type(Type::Bytes);
                field.type_name = None;
            }
        }
    }
    // The service describes routes; no code is generated for it.
    for file in &mut descriptors.file {
        file.service.clear();
    }
    prost_build::Config::new().bytes(["."]).btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
