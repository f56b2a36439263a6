//! The bytes of a file that outlives the process, and reading them when some are wrong.
//!
//! ```text
//!  file    magic (8) | version u32 | crc32 of both │ record │ record │ …
//!  record  marker (4) | length u32 | crc32 of both | crc32 of the payload │ payload, a protobuf message
//! ```
//!
//! Numbers are little-endian. The head has a checksum of its own, so that a wrong length is never followed: behind a
//! wrong payload reading goes on at the next record, behind a wrong head at the next marker with a right one.

use std::ops::Range;

use bytes::Bytes;
use prost::Message;

/// Bytes of the file's header.
pub(crate) const HEADER: usize = 16;
/// 0xf5 is in no UTF-8 text, so that little of what people write looks like it.
const MARKER: [u8; 4] = *b"\xf5LCo";
/// Bytes before the payload.
const HEAD: usize = 16;

/// What kind of file it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
}

/// What a file begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header {
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
pub(crate) fn header(format: Format) -> Vec<u8> {
    let mut bytes = format.magic.to_vec();
    bytes.extend(format.version.to_le_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

/// Reads it.
pub(crate) fn read_header(format: Format, bytes: &[u8]) -> Header {
    match (bytes.get(..12), word(bytes, 8), word(bytes, 12)) {
        (Some(checked), Some(version), Some(checksum))
            if checked.starts_with(&format.magic) && crc32fast::hash(checked) == checksum =>
        {
            if version == format.version { Header::Known } else { Header::Version(version) }
        }
        _ => Header::Damaged,
    }
}

/// Appends a record.
pub(crate) fn encode(message: &impl Message, into: &mut Vec<u8>) {
    let payload = message.encode_to_vec();
    let at = into.len();
    into.extend(MARKER);
    // A record holds one event of some kilobytes at most; 4 GiB do not come here.
    into.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    into.extend(crc32fast::hash(&into[at..]).to_le_bytes());
    into.extend(crc32fast::hash(&payload).to_le_bytes());
    into.extend(payload);
}

/// A record that is as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found<E> {
    pub(crate) place: Range<usize>,
    pub(crate) entry: E,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scan<E> {
    pub(crate) records: Vec<Found<E>>,
    /// What cannot be read, and is no [torn](Self::torn) end.
    pub(crate) damaged: Vec<Range<usize>>,
    /// Where the last record begins that was not written to its end.
    pub(crate) torn: Option<usize>,
}

enum Step<E> {
    Record(Found<E>),
    /// Wrong, and where to go on.
    Wrong(usize),
    Torn,
}

/// Reads all records from an offset on. `decode` makes an entry of a payload; one of which it makes none is damaged.
pub(crate) fn scan<E>(bytes: &Bytes, from: usize, decode: impl Fn(Bytes) -> Option<E>) -> Scan<E> {
    let (mut scan, mut at) = (Scan { records: Vec::new(), damaged: Vec::new(), torn: None }, from);
    while at < bytes.len() {
        match step(bytes, at, &decode) {
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

fn step<E>(bytes: &Bytes, at: usize, decode: impl Fn(Bytes) -> Option<E>) -> Step<E> {
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
    match decode(bytes.slice(at + HEAD..end)) {
        Some(entry) => Step::Record(Found { place: at..end, entry }),
        None => Step::Wrong(end),
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
