//! Streams in: bytes to whole records.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::{Purpose, fault};
use crate::codec::{CodecError, FRAMES, STREAM_HEADER};
use crate::codes::Code;
use crate::lane::Lane;
use crate::v1;

/// Longest header of a stream, bytes. Those of this version have at most 17; later ones may say more.
const HEADER_BYTES_MAX: usize = 256;

/// What the bytes of a stream have become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Nothing yet: a record is not complete.
    Nothing,
    /// A packet of whole records, for [`crate::codec::records`], all of which have this lane.
    Records(Lane, Bytes),
    /// The stream is of a kind that this version does not know: stop reading it (LC-QUIC-001).
    Unknown,
}

/// Cuts one incoming stream into records. Holds at most one record that is not complete, so a stream costs no more than
/// `limits.record_bytes`.
#[derive(Debug)]
pub struct StreamReader {
    purpose: Option<Purpose>,
    /// Only control may have the header of control, and must.
    control: bool,
    unknown: bool,
    /// Frames so far.
    frames: u64,
    /// A record whose end has not come.
    partial: BytesMut,
    limit: usize,
}

impl StreamReader {
    /// Reads the bidirectional stream. `limit` bounds the encoded size of one record, bytes (LC-FRM-004).
    pub fn control(limit: usize) -> Self {
        Self { control: true, ..Self::unidirectional(limit) }
    }

    /// Reads a unidirectional stream.
    pub fn unidirectional(limit: usize) -> Self {
        Self { purpose: None, control: false, unknown: false, frames: 0, partial: BytesMut::new(), limit }
    }

    /// What the stream is for, once its header has come.
    pub fn purpose(&self) -> Option<Purpose> {
        self.purpose
    }

    /// Takes the next bytes. After an error, or [`Piece::Unknown`], nothing more should be read.
    ///
    /// # Errors
    /// PROTOCOL or TOO_LARGE, with which the connection closes.
    pub fn feed(&mut self, bytes: Bytes) -> Result<Piece, CodecError> {
        if self.unknown {
            return Ok(Piece::Unknown);
        }
        let mut rest = if self.partial.is_empty() {
            bytes
        } else {
            self.partial.extend_from_slice(&bytes);
            self.partial.split().freeze()
        };
        if self.purpose.is_none() {
            let Some(header) = self.header(&mut rest)? else {
                self.keep(&rest);
                return Ok(Piece::Nothing);
            };
            match header {
                Some(purpose) if self.control != (purpose == Purpose::Control) => {
                    return Err(fault("the header of control stands on control and nowhere else"));
                }
                Some(purpose) => self.purpose = Some(purpose),
                None if self.control => return Err(fault("control begins with the header of another stream")),
                None => {
                    self.unknown = true;
                    return Ok(Piece::Unknown);
                }
            }
        }
        let Some(purpose) = self.purpose else { return Ok(Piece::Nothing) };
        let whole = self.whole(&rest)?;
        let records = rest.split_to(whole);
        if purpose.is_single() && self.frames > 1 {
            return Err(fault("a second frame on a stream for one"));
        }
        self.keep(&rest);
        Ok(if records.is_empty() { Piece::Nothing } else { Piece::Records(purpose.lane(), records) })
    }

    /// The peer has ended the stream.
    ///
    /// # Errors
    /// PROTOCOL if it ended within a record or before its header.
    pub fn finish(&self) -> Result<(), CodecError> {
        if self.unknown || (self.purpose.is_some() && self.partial.is_empty()) {
            return Ok(());
        }
        Err(fault("a stream that ends within a record"))
    }

    fn keep(&mut self, rest: &[u8]) {
        // A stream between records keeps no memory.
        self.partial = BytesMut::from(rest);
    }

    /// Cuts off the header; the outer `None`: it is not complete.
    fn header(&self, rest: &mut Bytes) -> Result<Option<Option<Purpose>>, CodecError> {
        let Some(record) = Record::peek(rest)? else { return Ok(None) };
        if record.field != STREAM_HEADER {
            return Err(fault("a stream without a header"));
        }
        if record.length > HEADER_BYTES_MAX {
            return Err(CodecError { code: Code::TooLarge, detail: "stream header above the limit" });
        }
        if record.end() > rest.len() {
            return Ok(None);
        }
        rest.advance(record.head);
        let header =
            v1::StreamHeader::decode(rest.split_to(record.length)).map_err(|_| fault("not a stream header"))?;
        Purpose::of(&header).map(Some)
    }

    /// How many of the bytes are whole records.
    fn whole(&mut self, bytes: &Bytes) -> Result<usize, CodecError> {
        let mut whole = 0;
        while let Some(record) = Record::peek(&bytes.slice(whole..))? {
            match record.field {
                STREAM_HEADER => return Err(fault("a second header on a stream")),
                FRAMES if record.end() > self.limit => {
                    return Err(CodecError { code: Code::TooLarge, detail: "record above the limit" });
                }
                // Fields of a later version are skipped like frames; they are bounded like them too.
                _ if record.end() > self.limit => return Err(fault("unknown field above the limit")),
                _ => {}
            }
            if whole + record.end() > bytes.len() {
                break;
            }
            whole += record.end();
            self.frames += u64::from(record.field == FRAMES);
        }
        Ok(whole)
    }
}

/// The head of a record.
struct Record {
    field: u32,
    /// Bytes of its key and length.
    head: usize,
    /// Bytes of its body.
    length: usize,
}

impl Record {
    /// Longest key and length.
    const HEAD_BYTES_MAX: usize = 5 + 10;

    fn end(&self) -> usize {
        self.head.saturating_add(self.length)
    }

    /// Reads the head of the record at the front; `None`: it is not complete.
    fn peek(bytes: &Bytes) -> Result<Option<Self>, CodecError> {
        let mut rest = bytes.slice(..bytes.len().min(Self::HEAD_BYTES_MAX));
        let complete = rest.len() == Self::HEAD_BYTES_MAX;
        let incomplete = |fault| if complete { Err(fault) } else { Ok(None) };
        // A varint that is cut off and one that is malformed look alike; with enough bytes only the latter remains.
        let Ok((field, wire_type)) = decode_key(&mut rest) else {
            return incomplete(fault("bad record key")).and_then(|none| well_begun(bytes).map(|()| none));
        };
        let key = bytes.len().min(Self::HEAD_BYTES_MAX) - rest.len();
        let fixed = |length| Ok(Some(Self { field, head: key, length }));
        match wire_type {
            _ if matches!(field, FRAMES | STREAM_HEADER) && wire_type != WireType::LengthDelimited => {
                Err(fault("field not allowed on a stream"))
            }
            // Fields of a later version (LC-FRM-003).
            WireType::ThirtyTwoBit => fixed(4),
            WireType::SixtyFourBit => fixed(8),
            WireType::StartGroup | WireType::EndGroup => Err(fault("a group on a stream")),
            WireType::Varint | WireType::LengthDelimited => {
                let Ok(value) = decode_varint(&mut rest) else { return incomplete(fault("bad record length")) };
                let head = bytes.len().min(Self::HEAD_BYTES_MAX) - rest.len();
                let length =
                    if wire_type == WireType::Varint { 0 } else { usize::try_from(value).unwrap_or(usize::MAX) };
                Ok(Some(Self { field, head, length }))
            }
        }
    }
}

/// Whether the bytes can become a key: all of them say that more follow, and they are few.
fn well_begun(bytes: &[u8]) -> Result<(), CodecError> {
    let open = bytes.iter().take_while(|byte| **byte & 0x80 != 0).count();
    if open == bytes.len() && open < 5 { Ok(()) } else { Err(fault("bad record key")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec;
    use crate::v1::frame::Body;

    const LIMIT: usize = 64;

    fn ping(stamp: u64) -> Bytes {
        codec::encode_body(0, Body::Ping(v1::Ping { stamp }))
    }

    fn joined(parts: &[Bytes]) -> Bytes {
        parts.concat().into()
    }

    /// Feeds in pieces of these lengths, the rest at once.
    fn fed(reader: &mut StreamReader, bytes: &Bytes, cuts: &[usize]) -> Result<Vec<(Lane, Bytes)>, CodecError> {
        let (mut rest, mut got) = (bytes.clone(), Vec::new());
        let mut pieces: Vec<Bytes> = cuts.iter().map(|cut| rest.split_to(rest.len().min(*cut))).collect();
        pieces.push(rest);
        for piece in pieces {
            if let Piece::Records(lane, records) = reader.feed(piece)? {
                for record in codec::records(records, LIMIT) {
                    got.push((lane, record?));
                }
            }
        }
        Ok(got)
    }

    fn code_of(mut reader: StreamReader, bytes: &[Bytes]) -> Option<Code> {
        fed(&mut reader, &joined(bytes), &[]).err().map(|error| error.code)
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(cuts in prop::collection::vec(0..9usize, 0..40), count in 1..12u64) {
            let mut parts = vec![Purpose::Lane(Lane::Normal).header()];
            parts.extend((0..count).map(|n| ping(n << (n * 5))));
            let bytes = joined(&parts);
            let mut whole = StreamReader::unidirectional(LIMIT);
            let mut cut = StreamReader::unidirectional(LIMIT);
            let expected = fed(&mut whole, &bytes, &[]).unwrap();
            prop_assert_eq!(expected.len() as u64, count);
            prop_assert_eq!(fed(&mut cut, &bytes, &cuts).unwrap(), expected);
            prop_assert!(cut.finish().is_ok() && cut.partial.is_empty());
        }

        #[test]
        fn no_bytes_make_it_hold_more_than_a_record(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20)) {
            let mut reader = StreamReader::unidirectional(LIMIT);
            for (at, mut chunk) in chunks.into_iter().enumerate() {
                if at == 0 {
                    chunk.splice(0..0, Purpose::Lane(Lane::Bulk).header());
                }
                if reader.feed(chunk.into()).is_err() {
                    break;
                }
                prop_assert!(reader.partial.len() <= LIMIT);
            }
        }
    }

    #[test]
    fn a_stream_begins_with_its_header() {
        // LC-QUIC-001
        let uni = || StreamReader::unidirectional(LIMIT);
        let control = || StreamReader::control(LIMIT);
        assert_eq!(code_of(control(), &[Purpose::Control.header(), ping(1)]), None);
        for purpose in [Purpose::Lane(Lane::Urgent), Purpose::Lane(Lane::Bulk), Purpose::Message, Purpose::Signal] {
            assert_eq!(code_of(uni(), &[purpose.header()]), None, "{purpose:?}");
            assert_eq!(code_of(control(), &[purpose.header()]), Some(Code::Protocol), "{purpose:?}");
        }
        assert_eq!(code_of(uni(), &[Purpose::Control.header()]), Some(Code::Protocol));
        assert_eq!(code_of(uni(), &[ping(1)]), Some(Code::Protocol));
        assert_eq!(code_of(control(), &[ping(1)]), Some(Code::Protocol));
        let twice = [Purpose::Lane(Lane::Bulk).header(), Purpose::Lane(Lane::Bulk).header()];
        assert_eq!(code_of(uni(), &twice), Some(Code::Protocol));
        assert_eq!(uni().finish().unwrap_err().code, Code::Protocol);
    }

    #[test]
    fn unknown_kinds_are_left_alone_and_contradictions_refused() {
        // LC-QUIC-001
        let read = |kind, lane| {
            let header = v1::StreamHeader { kind, lane, transfer: 9 }.encode_to_vec();
            let bytes = [vec![0x12, header.len() as u8], header].concat();
            StreamReader::unidirectional(LIMIT).feed(bytes.into())
        };
        let lane = |lane: Lane| lane.to_wire() as i32;
        assert_eq!(read(77, 1), Ok(Piece::Unknown));
        assert_eq!(read(0, 0), Ok(Piece::Unknown));
        assert_eq!(read(v1::StreamKind::Lane.into(), 99), Ok(Piece::Unknown));
        assert_eq!(read(v1::StreamKind::Transfer.into(), lane(Lane::Bulk)), Ok(Piece::Nothing));
        for (kind, lane) in [
            (v1::StreamKind::Lane, Lane::Control),
            (v1::StreamKind::Lane, Lane::Signal),
            (v1::StreamKind::Message, Lane::Normal),
            (v1::StreamKind::Transfer, Lane::Urgent),
            (v1::StreamKind::Signal, Lane::Bulk),
        ] {
            assert_eq!(read(kind.into(), lane.to_wire().into()).unwrap_err().code, Code::Protocol, "{kind:?} {lane:?}");
        }
        let mut reader = StreamReader::unidirectional(LIMIT);
        assert_eq!(reader.feed(Bytes::from_static(&[0x12, 2, 8, 77])), Ok(Piece::Unknown));
        assert_eq!(reader.feed(Bytes::from_static(&[0xff; 99])), Ok(Piece::Unknown));
        assert!(reader.finish().is_ok());
    }

    #[test]
    fn lengths_are_checked_before_the_bytes_come() {
        // LC-FRM-004, LC-SEC-003
        let mut reader = StreamReader::unidirectional(LIMIT);
        reader.feed(Purpose::Lane(Lane::Normal).header()).unwrap();
        assert_eq!(reader.feed(Bytes::from_static(&[0x0a, 0xff, 0xff, 0x7f])).unwrap_err().code, Code::TooLarge);
        let huge = Bytes::from_static(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(StreamReader::unidirectional(LIMIT).feed(huge).unwrap_err().code, Code::TooLarge);
        for known in [&[0x18, 5][..], &[0x1d, 1, 2, 3, 4], &[0x19, 1, 2, 3, 4, 5, 6, 7, 8], &[0x1a, 1, 7]] {
            let parts = [Purpose::Lane(Lane::Normal).header(), Bytes::copy_from_slice(known)];
            assert_eq!(code_of(StreamReader::unidirectional(LIMIT), &parts), None, "a field of a later version");
        }
        for bad in [&[0xff; 16][..], &[0x08, 1], &[0x00], &[0xff, 0xff, 0xff, 0xff, 0xff]] {
            let mut reader = StreamReader::unidirectional(LIMIT);
            assert_eq!(reader.feed(Bytes::from_static(bad)).unwrap_err().code, Code::Protocol, "{bad:?}");
        }
    }

    #[test]
    fn a_message_stream_carries_one_frame_and_ends() {
        let header = Purpose::Message.header();
        assert_eq!(
            code_of(StreamReader::unidirectional(LIMIT), &[header.clone(), ping(1), ping(2)]),
            Some(Code::Protocol)
        );
        let mut reader = StreamReader::unidirectional(LIMIT);
        assert_eq!(fed(&mut reader, &joined(&[header.clone(), ping(1)]), &[3, 1]).unwrap().len(), 1);
        assert!(reader.finish().is_ok());
        let mut cut = StreamReader::unidirectional(LIMIT);
        fed(&mut cut, &joined(&[header, ping(300)]).slice(..8), &[]).unwrap();
        assert_eq!(cut.finish().unwrap_err().code, Code::Protocol);
    }
}
