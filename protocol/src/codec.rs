//! Packets to frames and back.
//!
//! A packet is a concatenation of records, each a length-delimited field of `Packet` (LC-FRM-001). This module cuts
//! a packet into records before anything is decoded, so that sizes are checked first and one record that went out
//! before can be shared by every connection that it goes to.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, skip_field};

use crate::codes::Code;
use crate::lane::Lane;
use crate::v1;
use crate::v1::frame::Body;

/// Field of `Packet` that holds a frame.
pub(crate) const FRAMES: u32 = 1;
/// Field of `Packet` that holds the header of a QUIC stream.
pub(crate) const STREAM_HEADER: u32 = 2;
/// Field of `Frame` that holds an event.
const EVENT: u32 = 13;

/// Field of `Frame` that holds a signal.
const SIGNAL: u32 = 15;

/// A record was refused; `code` is what the peer is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct CodecError {
    /// What the peer is told.
    pub code: Code,
    /// What was wrong, for the log.
    pub detail: &'static str,
}

const fn malformed(detail: &'static str) -> CodecError {
    CodecError { code: Code::Protocol, detail }
}

/// Encodes a frame as one record of a packet.
pub fn encode(frame: &v1::Frame) -> Bytes {
    let len = frame.encoded_len();
    let mut out = BytesMut::with_capacity(record_len(len));
    encode_key(FRAMES, WireType::LengthDelimited, &mut out);
    encode_varint(len as u64, &mut out);
    frame.encode_raw(&mut out);
    out.freeze()
}

/// Bytes of the record of a frame whose encoding has so many: what [`encode`] makes of it.
pub fn record_len(frame_len: usize) -> usize {
    1 + encoded_len_varint(frame_len as u64) + frame_len
}

/// Encodes a body under a request id (0: none) as one record.
pub fn encode_body(id: u32, body: Body) -> Bytes {
    encode(&v1::Frame { id, body: Some(body) })
}

/// The fields that a node puts in front of a stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFront {
    /// Handle of (room, epoch); 0 in pages.
    pub handle: u64,
    /// The lane.
    pub lane: Lane,
    /// The seq; 0: transient.
    pub seq: u64,
    /// The order; 0: transient.
    pub order: u64,
    /// The epoch, in pages only; else 0.
    pub epoch: u64,
}

impl EventFront {
    fn message(&self) -> v1::Event {
        v1::Event {
            handle: self.handle,
            lane: self.lane.to_wire() as i32,
            seq: self.seq,
            order: self.order,
            epoch: self.epoch,
            ..Default::default()
        }
    }

    /// The event that a stored tail stands for, decoded.
    ///
    /// # Errors
    /// If the tail is not what [`event_tail`] wrote.
    pub fn decode(&self, tail: &Bytes) -> Result<v1::Event, prost::DecodeError> {
        let mut event = self.message();
        event.merge(tail.clone())?;
        Ok(event)
    }
}

/// Encodes what is the same for an event wherever it goes: sender, times and the envelope as it was published.
///
/// In protobuf a message is the concatenation of its fields, so the fields of [`EventFront`] followed by this tail
/// are an `Event`. The log stores the tail and never needs to touch it.
pub fn event_tail(from: v1::Sender, time_ms: u64, expires_at_ms: u64, envelope: Bytes) -> Bytes {
    v1::Event { from: Some(from), time_ms, expires_at_ms, envelope, ..Default::default() }.encode_to_vec().into()
}

/// The record of an event: a `Frame` without id, whose `Event` is front and tail.
pub fn event_record(front: EventFront, tail: &[u8]) -> Bytes {
    spliced_record(EVENT, &front.message(), tail)
}

/// The fields in front of an event, from the first bytes of its encoded `Frame`, of which the rest may be missing; `None`:
/// another frame, or too few bytes.
pub fn event_front(mut frame: &[u8]) -> Option<v1::Event> {
    let (field, wire_type) = decode_key(&mut frame).ok()?;
    if (field, wire_type) != (EVENT, WireType::LengthDelimited) {
        return None;
    }
    decode_varint(&mut frame).ok()?;
    let mut event = v1::Event::default();
    while frame.has_remaining() {
        let (field, wire_type) = decode_key(&mut frame).ok()?;
        if wire_type != WireType::Varint {
            // The sender comes next: what follows is the tail.
            return Some(event);
        }
        event.merge_field(field, wire_type, &mut frame, Default::default()).ok()?;
    }
    None
}

/// Encodes what is the same for a signal wherever it goes. The fields that only a client sends are left out.
pub fn signal_tail(signal: &v1::Signal) -> Bytes {
    let shared = v1::Signal { handle: 0, room: String::new(), ttl_ms: 0, ..signal.clone() };
    shared.encode_to_vec().into()
}

/// The record of a signal: a `Frame` without id, whose `Signal` is handle and tail.
pub fn signal_record(handle: u64, tail: &[u8]) -> Bytes {
    spliced_record(SIGNAL, &v1::Signal { handle, ..Default::default() }, tail)
}

fn spliced_record(field: u32, front: &impl Message, tail: &[u8]) -> Bytes {
    let body_len = front.encoded_len() + tail.len();
    let frame_len = 1 + encoded_len_varint(body_len as u64) + body_len;
    let mut out = BytesMut::with_capacity(record_len(frame_len));
    encode_key(FRAMES, WireType::LengthDelimited, &mut out);
    encode_varint(frame_len as u64, &mut out);
    // Both fields are below 16, so their key is one byte.
    encode_key(field, WireType::LengthDelimited, &mut out);
    encode_varint(body_len as u64, &mut out);
    front.encode_raw(&mut out);
    out.extend_from_slice(tail);
    out.freeze()
}

/// The records of a packet, each cut out without a copy.
///
/// Yields the encoded `Frame`s in order; a fault ends the iteration after its error.
#[derive(Debug)]
pub struct Records {
    rest: Bytes,
    limit: usize,
}

/// Cuts a whole packet, as a WebSocket message or a datagram carries it, into encoded frames.
///
/// `limit` bounds the encoded size of one record, in bytes (LC-FRM-004).
pub fn records(packet: Bytes, limit: usize) -> Records {
    Records { rest: packet, limit }
}

impl Records {
    fn cut(&mut self) -> Result<Option<Bytes>, CodecError> {
        while self.rest.has_remaining() {
            let (field, wire_type) = decode_key(&mut self.rest).map_err(|_| malformed("bad record key"))?;
            match (field, wire_type) {
                (FRAMES, WireType::LengthDelimited) => {
                    let len = decode_varint(&mut self.rest).map_err(|_| malformed("bad record length"))?;
                    if len > self.limit as u64 {
                        return Err(CodecError { code: Code::TooLarge, detail: "record above the limit" });
                    }
                    let len = len as usize;
                    if len > self.rest.remaining() {
                        return Err(malformed("truncated record"));
                    }
                    return Ok(Some(self.rest.split_to(len)));
                }
                (FRAMES | STREAM_HEADER, _) => return Err(malformed("field not allowed in this packet")),
                (_, wire_type) => skip_field(wire_type, field, &mut self.rest, Default::default())
                    .map_err(|_| malformed("bad unknown field"))?,
            }
        }
        Ok(None)
    }
}

impl Iterator for Records {
    type Item = Result<Bytes, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        let cut = self.cut();
        if cut.is_err() {
            self.rest.clear();
        }
        cut.transpose()
    }
}

/// Decodes one frame. A body of a kind that this version does not know is `None` (LC-FRM-010).
///
/// # Errors
/// PROTOCOL if the bytes are not a `Frame`.
pub fn decode(record: Bytes) -> Result<v1::Frame, CodecError> {
    v1::Frame::decode(record).map_err(|_| malformed("not a frame"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(stamp: u64) -> v1::Frame {
        v1::Frame { id: 0, body: Some(Body::Ping(v1::Ping { stamp })) }
    }

    fn all(packet: &[u8]) -> Result<Vec<v1::Frame>, CodecError> {
        records(Bytes::copy_from_slice(packet), 1024).map(|record| decode(record?)).collect()
    }

    #[test]
    fn a_packet_is_the_concatenation_of_its_records() {
        // LC-FRM-001
        let packet = v1::Packet { frames: vec![ping(1), ping(2)], stream_header: None }.encode_to_vec();
        assert_eq!(packet, [encode(&ping(1)), encode(&ping(2))].concat());
        assert_eq!(encode(&ping(1)).len(), record_len(ping(1).encoded_len()));
        assert_eq!(all(&packet).unwrap(), [ping(1), ping(2)]);
    }

    #[test]
    fn an_event_is_front_and_tail_and_keeps_unknown_fields_of_the_envelope() {
        // LC-PUB-010: field 99 of the envelope is of a later version.
        let mut envelope = v1::Envelope { r#type: "chat".into(), ..Default::default() }.encode_to_vec();
        encode_key(99, WireType::LengthDelimited, &mut envelope);
        encode_varint(3, &mut envelope);
        envelope.extend_from_slice(b"new");
        let from = v1::Sender { user: "ann".into(), ..Default::default() };
        let tail = event_tail(from.clone(), 5, 0, envelope.clone().into());
        let front = EventFront { handle: 7, lane: Lane::Urgent, seq: 3, order: 9, epoch: 0 };
        let frames = all(&event_record(front, &tail)).unwrap();
        let Some(Body::Event(event)) = &frames[0].body else { panic!("not an event") };
        assert_eq!((event.handle, event.seq, event.order, event.time_ms), (7, 3, 9, 5));
        assert_eq!(event.from, Some(from));
        assert_eq!(event.envelope, envelope);
        assert_eq!(front.decode(&tail).unwrap(), *event);
    }

    #[test]
    fn a_signal_is_handle_and_tail() {
        let signal = v1::Signal {
            room: "r".into(),
            counter: 2,
            ttl_ms: 9,
            envelope: Bytes::from("\n\x01t"),
            ..Default::default()
        };
        let frames = all(&signal_record(7, &signal_tail(&signal))).unwrap();
        let expected = v1::Signal { handle: 7, room: String::new(), ttl_ms: 0, ..signal };
        assert_eq!(frames[0].body, Some(Body::Signal(expected)));
    }

    #[test]
    fn unknown_packet_fields_are_skipped_and_bad_bytes_refused() {
        let mut packet = vec![0x18, 0x05]; // field 3, varint
        packet.extend_from_slice(&encode(&ping(4)));
        assert_eq!(all(&packet).unwrap(), [ping(4)]);
        assert_eq!(all(&[0x0a, 0x05, 0x01]).unwrap_err().code, Code::Protocol);
        assert_eq!(all(&[0x12, 0x00]).unwrap_err().code, Code::Protocol);
        assert_eq!(all(&[0xff; 12]).unwrap_err().code, Code::Protocol);
        assert_eq!(all(&[0x0a, 0x81, 0x08]).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn an_unknown_body_keeps_its_id() {
        // LC-FRM-010: field 2000 of Frame.
        let mut frame = vec![0x08, 0x2a];
        encode_key(2000, WireType::LengthDelimited, &mut frame);
        encode_varint(0, &mut frame);
        let frame = decode(frame.into()).unwrap();
        assert_eq!((frame.id, frame.body), (42, None));
    }
}
