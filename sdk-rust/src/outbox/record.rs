//! The bytes of an outbox file, and reading them when some are wrong.
//!
//! ```text
//!  file    "LCOUTBOX" | version u32 | crc32 of both │ record │ record │ …
//!  record  marker (4) | length u32 | crc32 of both | crc32 of the payload │ payload, a protobuf message
//! ```
//!
//! Numbers are little-endian. The head has a checksum of its own, so that a wrong length is never followed: behind a
//! wrong payload reading goes on at the next record, behind a wrong head at the next marker with a right one.

use std::ops::Range;

use bytes::Bytes;
use prost::Message;

const MAGIC: [u8; 8] = *b"LCOUTBOX";
const VERSION: u32 = 1;
/// Bytes of the file's header.
pub(super) const HEADER: usize = 16;
/// 0xf5 is in no UTF-8 text, so that little of what people write looks like it.
const MARKER: [u8; 4] = *b"\xf5LCo";
/// Bytes before the payload.
const HEAD: usize = 16;

/// What a record says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Entry {
    /// Whose outbox it is. The last one holds.
    #[prost(message, tag = "1")]
    Identity(Identity),
    /// A publish was queued.
    #[prost(message, tag = "2")]
    Item(Item),
    /// The publish with this id has ended.
    #[prost(uint64, tag = "3")]
    Ended(u64),
}

/// Who publishes from the file.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Identity {
    /// The instance id.
    #[prost(string, tag = "1")]
    pub(super) instance: String,
    /// How often the outbox was opened.
    #[prost(uint64, tag = "2")]
    pub(super) start: u64,
    /// No publish has a higher number. Reaches the disk before a publish with a higher one is reported as queued.
    #[prost(uint64, tag = "3")]
    pub(super) reserved: u64,
    /// Whose publishes these are, as far as a node has said it.
    #[prost(string, optional, tag = "4")]
    pub(super) user: Option<String>,
}

/// A queued publish.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Item {
    /// Names it in this file; rises.
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(string, tag = "2")]
    pub(crate) room: String,
    /// As on the wire.
    #[prost(int32, tag = "3")]
    pub(crate) lane: i32,
    #[prost(uint64, tag = "4")]
    pub(crate) number: u64,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) envelope: Bytes,
    /// How long the event lives at the node, ms; 0: for ever.
    #[prost(uint32, tag = "6")]
    pub(crate) ttl_ms: u32,
    /// As on the wire.
    #[prost(int32, tag = "7")]
    pub(crate) ack: i32,
    /// When it was queued, ms by the device's clock.
    #[prost(uint64, tag = "8")]
    pub(crate) queued_at_ms: u64,
    /// How long it may wait for its node, ms.
    #[prost(uint64, tag = "9")]
    pub(crate) keep_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(oneof = "Entry", tags = "1, 2, 3")]
    entry: Option<Entry>,
}

/// What a file begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// This version's.
    Known,
    /// That of another version, the rest of which cannot be read.
    Version(u32),
    /// Neither.
    Damaged,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What every file begins with.
pub(super) fn header() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

pub(super) fn read_header(bytes: &[u8]) -> Header {
    match (bytes.get(..12), word(bytes, 8), word(bytes, 12)) {
        (Some(checked), Some(version), Some(checksum))
            if checked.starts_with(&MAGIC) && crc32fast::hash(checked) == checksum =>
        {
            if version == VERSION {
                Header::Known
            } else {
                Header::Version(version)
            }
        }
        _ => Header::Damaged,
    }
}

/// Appends a record.
pub(super) fn encode(entry: Entry, into: &mut Vec<u8>) {
    let payload = Record { entry: Some(entry) }.encode_to_vec();
    let at = into.len();
    into.extend(MARKER);
    // Records of an outbox hold one message of some kilobytes; 4 GiB do not come here.
    into.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    into.extend(crc32fast::hash(&into[at..]).to_le_bytes());
    into.extend(crc32fast::hash(&payload).to_le_bytes());
    into.extend(payload);
}

/// A record that is as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) place: Range<usize>,
    pub(super) entry: Entry,
}

/// What is in a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scan {
    pub(super) records: Vec<Found>,
    /// What cannot be read, and is no [torn](Self::torn) end.
    pub(super) damaged: Vec<Range<usize>>,
    /// Where the last record begins that was not written to its end.
    pub(super) torn: Option<usize>,
}

enum Step {
    Record(Found),
    /// Wrong, and where to go on.
    Wrong(usize),
    Torn,
}

/// Reads all records from an offset on.
pub(super) fn scan(bytes: &Bytes, from: usize) -> Scan {
    let (mut scan, mut at) = (Scan::default(), from);
    while at < bytes.len() {
        match step(bytes, at) {
            Step::Record(found) => {
                at = found.place.end;
                scan.records.push(found);
            }
            Step::Wrong(next) => {
                match scan.damaged.last_mut() {
                    Some(before) if before.end == at => before.end = next,
                    _ => scan.damaged.push(at..next),
                }
                at = next;
            }
            Step::Torn => {
                scan.torn = Some(at);
                break;
            }
        }
    }
    scan
}

fn step(bytes: &Bytes, at: usize) -> Step {
    let rest = &bytes[at..];
    if rest.len() < HEAD {
        // Too short for a checksum: whatever begins like a record is the beginning of one.
        let known = rest.len().min(MARKER.len());
        return if rest[..known] == MARKER[..known] { Step::Torn } else { Step::Wrong(resync(bytes, at)) };
    }
    let Some((length, payload_checksum)) = head(rest) else { return Step::Wrong(resync(bytes, at)) };
    let Some(payload) = rest.get(HEAD..HEAD + length) else { return Step::Torn };
    let end = at + HEAD + length;
    if crc32fast::hash(payload) != payload_checksum {
        return Step::Wrong(end);
    }
    match Record::decode(bytes.slice(at + HEAD..end)) {
        Ok(Record { entry: Some(entry) }) => Step::Record(Found { place: at..end, entry }),
        _ => Step::Wrong(end),
    }
}

/// Length and checksum of the payload, if the head is right.
fn head(rest: &[u8]) -> Option<(usize, u32)> {
    let is_right = rest.starts_with(&MARKER) && crc32fast::hash(rest.get(..8)?) == word(rest, 8)?;
    if is_right { Some((word(rest, 4)? as usize, word(rest, 12)?)) } else { None }
}

/// The next offset at which a record begins, or the end.
fn resync(bytes: &[u8], after: usize) -> usize {
    let next = (after + 1..bytes.len()).find(|&at| bytes[at] == MARKER[0] && head(&bytes[at..]).is_some());
    next.unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests;
