//! What is stored in Redis and sent over its channels, byte by byte.
//!
//! A stored event:  length of what follows (u32) | format (u8) | publisher (16 bytes; zeros: none) | number (u64) | time (u64)
//! | expiry (u64) | length of the type (u16) | type | tail. All numbers are big-endian. Events delimit themselves, so a
//! script joins a group by putting them side by side.
//!
//! A message on a channel: a line of text, a line end, then records: `1 e <epoch> <lane> <seq> <order> <count>` for events,
//! with the records up to the first one that is too large, so with fewer than `count`, or none; `1 t <epoch> <lane> <count>` for a transient event; `1 s <serial>` for a signal.
//!
//! The format stands in every record and message. A node that meets one of a later version treats it as unreadable and
//! says so; nodes of version N write what N - 1 reads.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use lanecast_protocol::log::{Append, Origin, Publisher, Record};
use lanecast_protocol::lossy::SignalKey;
use lanecast_protocol::position::DurableLane;
use sha2::{Digest, Sha256};

use crate::engine::{Signal, Transient};

/// The format of everything in this file.
pub(super) const FORMAT: u8 = 1;
/// Bytes by which a publisher is told apart from others.
pub(super) const PUBLISHER_BYTES: usize = 16;
/// Bytes of an event before its type, from the format on.
const FIXED_BYTES: usize = 1 + PUBLISHER_BYTES + 3 * 8 + 2;

/// A publisher, shortened to 128 bits.
pub(super) fn publisher(of: &Publisher) -> [u8; PUBLISHER_BYTES] {
    let mut digest = Sha256::new();
    digest.update((of.user.len() as u64).to_be_bytes());
    digest.update(&of.user);
    digest.update(&of.instance);
    let mut short = [0; PUBLISHER_BYTES];
    short.copy_from_slice(&digest.finalize()[..PUBLISHER_BYTES]);
    short
}

/// An event, ready to be stored.
pub(super) fn event(append: &Append) -> Vec<u8> {
    let (publisher, number) = match &append.origin {
        Origin::Numbered { publisher: of, number, .. } => (publisher(of), *number),
        Origin::Keyed { .. } | Origin::Unmarked => ([0; PUBLISHER_BYTES], 0),
    };
    encode(publisher, number, append.time_ms, append.expires_at_ms, &append.event_type, &append.tail)
}

/// A transient event, ready to be passed on.
pub(super) fn transient(event: &Transient) -> Vec<u8> {
    encode([0; PUBLISHER_BYTES], 0, 0, event.expires_at_ms, &event.event_type, &event.tail)
}

fn encode(
    publisher: [u8; PUBLISHER_BYTES],
    number: u64,
    time_ms: u64,
    expires_at_ms: u64,
    event_type: &str,
    tail: &[u8],
) -> Vec<u8> {
    let length = FIXED_BYTES + event_type.len() + tail.len();
    let mut out = Vec::with_capacity(4 + length);
    // Records and types are bounded far below these widths when they come in.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    out.put_u8(FORMAT);
    out.put_slice(&publisher);
    out.put_u64(number);
    out.put_u64(time_ms);
    out.put_u64(expires_at_ms);
    out.put_u16(u16::try_from(event_type.len()).unwrap_or(u16::MAX));
    out.put_slice(event_type.as_bytes());
    out.put_slice(tail);
    out
}

/// An event as it is stored, without its seq and order.
pub(super) struct Decoded {
    pub(super) publisher: [u8; PUBLISHER_BYTES],
    pub(super) number: u64,
    time_ms: u64,
    expires_at_ms: u64,
    event_type: Arc<str>,
    tail: Bytes,
}

impl Decoded {
    pub(super) fn record(self, lane: DurableLane, seq: u64, order: u64) -> Record {
        let Self { time_ms, expires_at_ms, event_type, tail, .. } = self;
        Record { lane, seq, order, time_ms, expires_at_ms, event_type, tail }
    }

    pub(super) fn transient(self, lane: DurableLane) -> Transient {
        let Self { expires_at_ms, event_type, tail, .. } = self;
        Transient { lane, expires_at_ms, event_type, tail }
    }
}

/// Takes one event from the front; `None` if it is not one that this version can read.
pub(super) fn take(bytes: &mut Bytes) -> Option<Decoded> {
    let length = bytes.try_get_u32().ok()? as usize;
    if length < FIXED_BYTES || length > bytes.len() {
        return None;
    }
    let mut event = bytes.split_to(length);
    if event.get_u8() != FORMAT {
        return None;
    }
    let mut publisher = [0; PUBLISHER_BYTES];
    event.copy_to_slice(&mut publisher);
    let (number, time_ms, expires_at_ms) = (event.get_u64(), event.get_u64(), event.get_u64());
    let type_length = usize::from(event.get_u16());
    if type_length > event.len() {
        return None;
    }
    let event_type = std::str::from_utf8(&event.split_to(type_length)).ok()?.into();
    Some(Decoded { publisher, number, time_ms, expires_at_ms, event_type, tail: event })
}

/// A signal, ready to be kept. The script looks into the first numbers.
pub(super) fn signal(signal: &Signal) -> Vec<u8> {
    let SignalKey { sender, kind, key } = &signal.key;
    let mut out = Vec::with_capacity(64 + sender.len() + kind.len() + key.len() + signal.tail.len());
    out.put_u8(FORMAT);
    out.put_u64(signal.start);
    out.put_u64(signal.counter);
    out.put_u64(signal.expires_at_ms);
    out.put_u8(signal.clear.into());
    for part in [sender, kind, key] {
        out.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
        out.put_slice(part.as_bytes());
    }
    out.put_slice(&signal.tail);
    out
}

/// The field of the hash of live signals in which a key's newest one stands.
pub(super) fn signal_field(key: &SignalKey) -> Vec<u8> {
    let SignalKey { sender, kind, key } = key;
    // The first letter keeps it apart from the serial's field.
    [b"k".as_slice(), sender.as_bytes(), b"\n", kind.as_bytes(), b"\n", key.as_bytes()].concat()
}

/// Reads a signal.
pub(super) fn decode_signal(mut bytes: Bytes) -> Option<Signal> {
    if bytes.len() < 26 || bytes.get_u8() != FORMAT {
        return None;
    }
    let (start, counter, expires_at_ms) = (bytes.get_u64(), bytes.get_u64(), bytes.get_u64());
    let clear = bytes.get_u8() != 0;
    let mut part = || -> Option<Arc<str>> {
        let length = bytes.try_get_u32().ok()? as usize;
        if length > bytes.len() {
            return None;
        }
        Some(std::str::from_utf8(&bytes.split_to(length)).ok()?.into())
    };
    let key = SignalKey { sender: part()?, kind: part()?, key: part()? };
    Some(Signal { key, start, counter, expires_at_ms, clear, tail: bytes })
}

/// A message on a room's channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Events were stored: `count` of them from `seq` and `order` on. Those whose records are missing are only in the log.
    Events { epoch: u64, lane: DurableLane, seq: u64, order: u64, count: u64, records: Bytes },
    /// A transient event, the `count`th of its lane in the epoch.
    Transient { epoch: u64, lane: DurableLane, count: u64, record: Bytes },
    /// A signal, the `serial`th of the room.
    Signal { serial: u64, record: Bytes },
}

impl Message {
    /// Reads a message; `None` if this version cannot.
    pub(super) fn parse(mut payload: Bytes) -> Option<Self> {
        let end = payload.iter().take(128).position(|byte| *byte == b'\n')?;
        let line = payload.split_to(end);
        payload.advance(1);
        let mut words = std::str::from_utf8(&line).ok()?.split(' ');
        if words.next()? != "1" {
            return None;
        }
        let kind = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(match kind {
            "s" => Self::Signal { serial: number()?, record: payload },
            "e" | "t" => {
                let epoch = number()?;
                let lane = lane(words.next()?)?;
                let mut number = || words.next()?.parse::<u64>().ok();
                let first = number()?;
                if kind == "t" {
                    Self::Transient { epoch, lane, count: first, record: payload }
                } else {
                    Self::Events { epoch, lane, seq: first, order: number()?, count: number()?, records: payload }
                }
            }
            _ => return None,
        })
    }
}

/// A lane from the letter that scripts use.
pub(super) fn lane(letter: &str) -> Option<DurableLane> {
    DurableLane::ALL.into_iter().find(|lane| super::keys::letter(*lane) == letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use DurableLane::{Normal, Urgent};

    fn append(number: u64) -> Append {
        let publisher = Publisher { user: "ann".into(), instance: "i".into() };
        Append {
            lane: Normal,
            origin: Origin::Numbered { publisher, number, after: 0 },
            time_ms: 7,
            expires_at_ms: 9,
            event_type: "msg".into(),
            tail: Bytes::from("tail"),
        }
    }

    #[test]
    fn events_side_by_side_are_read_one_by_one() {
        let mut both = Bytes::from([event(&append(1)), event(&append(2))].concat());
        for number in 1..=2 {
            let decoded = take(&mut both).unwrap();
            assert_eq!(decoded.number, number);
            let record = decoded.record(Normal, 5, 6);
            assert_eq!((record.time_ms, record.expires_at_ms), (7, 9));
            assert_eq!((&*record.event_type, &record.tail[..]), ("msg", &b"tail"[..]));
        }
        assert!(both.is_empty());
    }

    #[test]
    fn what_is_cut_or_of_another_format_is_not_read() {
        let whole = event(&append(1));
        for length in 0..whole.len() {
            assert!(take(&mut Bytes::copy_from_slice(&whole[..length])).is_none(), "{length}");
        }
        let mut other = whole;
        other[4] = 2;
        assert!(take(&mut Bytes::from(other)).is_none());
    }

    #[test]
    fn signals_come_back_as_they_were() {
        let key = SignalKey { sender: "ann".into(), kind: "typing".into(), key: "k".into() };
        let given = Signal { key, start: 1, counter: 2, expires_at_ms: 3, clear: true, tail: Bytes::from("tail") };
        let bytes = signal(&given);
        assert_eq!(decode_signal(Bytes::from(bytes.clone())), Some(given));
        for length in 0..bytes.len() - 4 {
            assert!(decode_signal(Bytes::copy_from_slice(&bytes[..length])).is_none(), "{length}");
        }
    }

    #[test]
    fn messages_are_read_and_others_refused() {
        let events =
            Message::Events { epoch: 9, lane: Urgent, seq: 1, order: 2, count: 3, records: Bytes::from("x\ny") };
        assert_eq!(Message::parse(Bytes::from("1 e 9 u 1 2 3\nx\ny")), Some(events));
        let transient = Message::Transient { epoch: 9, lane: Normal, count: 4, record: Bytes::from("x") };
        assert_eq!(Message::parse(Bytes::from("1 t 9 n 4\nx")), Some(transient));
        assert_eq!(
            Message::parse(Bytes::from("1 s 0000000000000007\nx")),
            Some(Message::Signal { serial: 7, record: Bytes::from("x") })
        );
        for other in ["", "\n", "2 e 9 u 1 2 3\n", "1 e 9 q 1 2 3\n", "1 e 9 u 1 2\n", "1 z 1\n", "1 e 9 u 1 2 3"] {
            assert_eq!(Message::parse(Bytes::from(other)), None, "{other}");
        }
    }
}
