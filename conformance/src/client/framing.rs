//! Records out of the bytes of a stream, however they are cut.
//!
//! A stream is a packet that does not end: its first record is a stream header, the others are frames. Fields that
//! nobody knows are passed over. What follows a fault is not looked at any more.

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;

use crate::schema::v1;

/// Field numbers of `Packet`.
const FRAMES: u64 = 1;
const STREAM_HEADER: u64 = 2;
/// Bytes of the longest varint.
const VARINT_BYTES_MAX: usize = 10;

/// What a stream brought.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece {
    /// A stream header.
    Header(v1::StreamHeader),
    /// The bytes of a frame, without tag and length.
    Frame(Bytes),
}

/// Why a stream cannot be read on.
#[derive(Debug, PartialEq)]
pub(crate) enum Fault {
    /// The bytes are no packet.
    Malformed(String),
    /// A record is longer than allowed, as its length shows.
    TooLarge(u64),
}

/// Cuts one stream into records.
#[derive(Debug)]
pub(crate) struct RecordReader {
    buffer: BytesMut,
    record_bytes_max: u64,
}

/// A varint at the start of the bytes and how many it takes; `None`: more bytes are needed.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Fault> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if bytes.len() < VARINT_BYTES_MAX { Ok(None) } else { Err(Fault::Malformed("a varint does not end".into())) }
}

impl RecordReader {
    /// A reader that takes records up to that length, tag and length included.
    pub(crate) fn new(record_bytes_max: u64) -> Self {
        Self { buffer: BytesMut::new(), record_bytes_max }
    }

    /// Adds what came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the bytes so far end between two records.
    pub(crate) fn is_between_records(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next whole record; `None`: more bytes are needed.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, Fault> {
        loop {
            let Some((tag, tag_bytes)) = varint(&self.buffer)? else { return Ok(None) };
            let (field, wire_type) = (tag >> 3, tag & 7);
            let known = matches!(field, FRAMES | STREAM_HEADER);
            let rest = &self.buffer[tag_bytes..];
            let (head, body) = match wire_type {
                2 => {
                    let Some((length, length_bytes)) = varint(rest)? else { return Ok(None) };
                    let head = tag_bytes + length_bytes;
                    if length.saturating_add(head as u64) > self.record_bytes_max {
                        return Err(Fault::TooLarge(length));
                    }
                    (head, length as usize)
                }
                _ if known || field == 0 => {
                    return Err(Fault::Malformed(format!("field {field} has wire type {wire_type}")));
                }
                0 => match varint(rest)? {
                    Some((_, bytes)) => (tag_bytes, bytes),
                    None => return Ok(None),
                },
                1 => (tag_bytes, 8),
                5 => (tag_bytes, 4),
                _ => return Err(Fault::Malformed(format!("field {field} has wire type {wire_type}"))),
            };
            if field == 0 {
                return Err(Fault::Malformed("a field has number 0".into()));
            }
            if self.buffer.len() < head + body {
                return Ok(None);
            }
            self.buffer.advance(head);
            let body = self.buffer.split_to(body).freeze();
            match field {
                FRAMES => return Ok(Some(Piece::Frame(body))),
                STREAM_HEADER => {
                    let header = v1::StreamHeader::decode(body)
                        .map_err(|error| Fault::Malformed(format!("not a stream header: {error}")))?;
                    return Ok(Some(Piece::Header(header)));
                }
                _ => {}
            }
        }
    }
}

/// The record of a stream header.
pub(crate) fn header_record(kind: v1::StreamKind, lane: i32) -> Vec<u8> {
    let header = v1::StreamHeader { kind: kind as i32, lane, transfer: 0 }.encode_to_vec();
    let mut out = vec![(STREAM_HEADER << 3 | 2) as u8, header.len() as u8];
    out.extend(header);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(bytes: &[u8], cut: usize) -> Result<Vec<Piece>, Fault> {
        let mut reader = RecordReader::new(100);
        let mut pieces = Vec::new();
        for chunk in bytes.chunks(cut.max(1)) {
            reader.push(chunk);
            while let Some(piece) = reader.next()? {
                pieces.push(piece);
            }
        }
        Ok(pieces)
    }

    #[test]
    fn records_come_whole_however_they_are_cut() {
        let mut bytes = header_record(v1::StreamKind::Lane, 3);
        bytes.extend([0x78, 1, 0x0a, 3, 1, 2, 3, 0x0a, 0, 0xa2, 0x06, 1, 7]);
        for cut in 1..bytes.len() {
            let pieces = pieces(&bytes, cut).unwrap();
            assert!(matches!(pieces[0], Piece::Header(header) if header.lane == 3), "{pieces:?}");
            assert_eq!(pieces[1..], [Piece::Frame(vec![1, 2, 3].into()), Piece::Frame(Bytes::new())]);
        }
    }

    #[test]
    fn faults_show_as_soon_as_they_can() {
        assert!(matches!(pieces(&[0x08, 5], 1), Err(Fault::Malformed(_))), "a frame that is a number");
        assert!(matches!(pieces(&[0xff; 12], 12), Err(Fault::Malformed(_))));
        assert!(matches!(pieces(&[0x02, 0], 2), Err(Fault::Malformed(_))), "field 0");
        assert_eq!(pieces(&[0x0a, 99], 2), Err(Fault::TooLarge(99)));
        assert_eq!(pieces(&[0x0a, 98], 2), Ok(Vec::new()), "100 bytes with tag and length");
    }
}
