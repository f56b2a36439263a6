//! The binding for transports with streams and datagrams: raw QUIC and WebTransport (areas QUIC and WT of the spec).
//!
//! ```text
//!  Output{route, record} ──▶ Sender ──▶ Target: control, lane stream, stream of its own, datagram
//!  bytes of a stream ──────▶ StreamReader ──▶ whole records and the lane on which they came
//! ```
//!
//! A session says on which route a record leaves; [`Sender`] turns that into streams and keeps what the routes promise:
//! how many streams are open, how far urgent events may overtake one another, which signal supersedes which. A driver
//! opens streams, moves bytes, and reports what was acknowledged.
//!
//! WebSocket needs none of this: it folds all routes into one pipe.

mod reader;
mod sender;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

pub use self::reader::{Piece, StreamReader};
pub use self::sender::{MESSAGES_MAX, SIGNALS_MAX, Sender, StreamId, Target};
use crate::codec::{CodecError, STREAM_HEADER};
use crate::codes::Code;
use crate::lane::Lane;
use crate::v1;

/// Largest record of a signal that travels as a datagram, bytes (LC-QUIC-009): with all headers it fits into the
/// smallest packet that every path carries.
pub const DATAGRAM_BYTES_MAX: usize = 1_000;

/// What a stream is for, from its header (LC-QUIC-001).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The one bidirectional stream that the client opens.
    Control,
    /// An ordered stream of a lane. A transfer is one, of lane bulk.
    Lane(Lane),
    /// A stream for one urgent message.
    Message,
    /// A stream for one signal that no datagram carries.
    Signal,
}

impl Purpose {
    /// The lane of all frames on the stream.
    pub const fn lane(self) -> Lane {
        match self {
            Self::Control => Lane::Control,
            Self::Lane(lane) => lane,
            Self::Message => Lane::Urgent,
            Self::Signal => Lane::Signal,
        }
    }

    /// Whether the stream carries one frame and ends.
    pub const fn is_single(self) -> bool {
        matches!(self, Self::Message | Self::Signal)
    }

    /// The record with which the stream begins.
    pub fn header(self) -> Bytes {
        let kind = match self {
            Self::Control => v1::StreamKind::Control,
            Self::Lane(_) => v1::StreamKind::Lane,
            Self::Message => v1::StreamKind::Message,
            Self::Signal => v1::StreamKind::Signal,
        };
        let header = v1::StreamHeader { kind: kind.into(), lane: self.lane().to_wire().into(), transfer: 0 };
        let mut record = BytesMut::new();
        encode_key(STREAM_HEADER, WireType::LengthDelimited, &mut record);
        encode_varint(header.encoded_len() as u64, &mut record);
        record.put(header.encode_to_vec().as_slice());
        record.freeze()
    }

    /// What a header says; `None`: a kind that this version does not know.
    fn of(header: &v1::StreamHeader) -> Result<Option<Self>, CodecError> {
        let Ok(kind) = v1::StreamKind::try_from(header.kind) else { return Ok(None) };
        let purpose = match kind {
            v1::StreamKind::Unspecified => return Ok(None),
            v1::StreamKind::Control => Self::Control,
            v1::StreamKind::Message => Self::Message,
            v1::StreamKind::Signal => Self::Signal,
            v1::StreamKind::Transfer => Self::Lane(Lane::Bulk),
            v1::StreamKind::Lane => match Lane::from_wire(header.lane) {
                Some(lane @ (Lane::Urgent | Lane::Normal | Lane::Bulk)) => Self::Lane(lane),
                Some(_) => return Err(fault("a lane without lane streams")),
                // A lane of a later version.
                None => return Ok(None),
            },
        };
        match Lane::from_wire(header.lane) {
            Some(lane) if lane == purpose.lane() => Ok(Some(purpose)),
            _ => Err(fault("a stream header whose kind and lane do not fit")),
        }
    }
}

/// Checks that a frame came on a stream of its lane (LC-QUIC-003). A transport that folds all lanes into one pipe has
/// no lane to say, and a frame of an unknown kind has none.
///
/// # Errors
/// PROTOCOL if it did not.
pub fn check_lane(stream: Option<Lane>, frame: Option<Lane>) -> Result<(), CodecError> {
    match (stream, frame) {
        (Some(stream), Some(frame)) if stream != frame => Err(fault("a frame on a stream of another lane")),
        _ => Ok(()),
    }
}

const fn fault(detail: &'static str) -> CodecError {
    CodecError { code: Code::Protocol, detail }
}
