//! Compiles the schema and collects the requirements of the spec.
//!
//! The suite makes its own descriptor set and types from the `.proto` files, so that it shares no line of code with
//! what it tests. `Envelope` fields become bytes in the Rust types of the reference server, which has to deliver them
//! as they came (LC-PUB-010).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PROTO: &str = "../protocol/proto";
/// What the suite and drivers of clients say to each other.
const DRIVER: &str = "proto";
const SPEC: &str = "../protocol/spec";

/// What is compiled, and what of it is only read by its descriptors.
const FILES: [&str; 3] = ["lanecast/v1/packet.proto", UNTYPED[0], UNTYPED[1]];
const UNTYPED: [&str; 2] = ["lanecast/v1/api.proto", "lanecast/driver/v1/driver.proto"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed={PROTO}");
    println!("cargo:rerun-if-changed={DRIVER}");
    println!("cargo:rerun-if-changed={SPEC}");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    compile_schema(&out)?;
    std::fs::write(out.join("requirements.rs"), requirements()?)?;
    Ok(())
}

fn compile_schema(out: &Path) -> Result<()> {
    let mut descriptors = protox::compile(FILES, [PROTO, DRIVER])?;
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    descriptors.file.retain(|file| !UNTYPED.contains(&file.name()));
    for message in descriptors.file.iter_mut().flat_map(|file| &mut file.message_type) {
        for field in &mut message.field {
            if field.type_name() == ".lanecast.v1.Envelope" {
                field.set_type(Type::Bytes);
                field.type_name = None;
            }
        }
    }
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}

/// Every requirement line of the spec, `**LC-HS-002** (MUST, server, all): text`, as Rust source. The text goes on to
/// the next empty line, list item or requirement.
fn requirements() -> Result<String> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(SPEC) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => Vec::new(),
    };
    files.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    let mut source = String::from("&[\n");
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let text = std::fs::read_to_string(&path)?;
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let Some((id, words, first)) = parse(line) else { continue };
            let mut sentence = first.to_owned();
            for more in lines[number + 1..].iter().map(|line| line.trim_end()) {
                if more.is_empty() || more.starts_with(['#', '|', '`']) || parse(more).is_some() {
                    break;
                }
                sentence.push(' ');
                sentence.push_str(more);
            }
            let words: Vec<&str> = words.split(',').map(str::trim).collect();
            let word = |index: usize| words.get(index).copied().unwrap_or_default();
            writeln!(
                source,
                "Requirement {{ id: {id:?}, level: {:?}, role: {:?}, transports: {:?}, served: {}, file: {name:?}, \
                 line: {}, text: {sentence:?} }},",
                word(0),
                word(1),
                word(2),
                !words.contains(&"unserved"),
                number + 1,
            )?;
        }
    }
    source.push_str("]\n");
    Ok(source)
}

/// Splits a requirement line into id, words in brackets and text. An indented one is an example.
fn parse(line: &str) -> Option<(&str, &str, &str)> {
    let (id, rest) = line.strip_prefix("**")?.split_once("**")?;
    if !id.starts_with("LC-") {
        return None;
    }
    let (words, text) = rest.trim_start().strip_prefix('(')?.split_once(')')?;
    Some((id, words, text.trim_start_matches(':').trim()))
}
