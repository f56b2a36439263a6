//! What of HTTP/3 one WebTransport session needs, without I/O: RFC 9114, RFC 9204, RFC 9297 and draft-ietf-webtrans-http3.
//!
//! Refuses QPACK's dynamic table, which the node's settings forbid; skips what it does not know, as HTTP/3 wants.

use octets::Octets;

/// Types of unidirectional streams.
pub(super) mod stream {
    pub(in super::super) const CONTROL: u64 = 0x00;
    pub(in super::super) const PUSH: u64 = 0x01;
    pub(in super::super) const QPACK_ENCODER: u64 = 0x02;
    pub(in super::super) const QPACK_DECODER: u64 = 0x03;
    pub(in super::super) const WEBTRANSPORT: u64 = 0x54;
}

/// Types of frames.
mod frame {
    pub(super) const DATA: u64 = 0x00;
    pub(super) const HEADERS: u64 = 0x01;
    pub(super) const CANCEL_PUSH: u64 = 0x03;
    pub(super) const SETTINGS: u64 = 0x04;
    pub(super) const PUSH_PROMISE: u64 = 0x05;
    pub(super) const GOAWAY: u64 = 0x07;
    pub(super) const MAX_PUSH_ID: u64 = 0x0d;
    /// Not a frame: it marks a bidirectional stream as one of a session, whose number stands where frames have a length.
    pub(super) const WEBTRANSPORT: u64 = 0x41;
    /// Those of HTTP/2 that HTTP/3 has not.
    pub(super) const RETIRED: [u64; 4] = [0x02, 0x06, 0x08, 0x09];
}

/// Settings that are said or read.
mod setting {
    pub(super) const QPACK_MAX_TABLE_CAPACITY: u64 = 0x01;
    pub(super) const QPACK_BLOCKED_STREAMS: u64 = 0x07;
    pub(super) const ENABLE_CONNECT_PROTOCOL: u64 = 0x08;
    pub(super) const H3_DATAGRAM: u64 = 0x33;
    /// Of the drafts up to 6.
    pub(super) const ENABLE_WEBTRANSPORT: u64 = 0x2b60_3742;
    /// Of the drafts from 7.
    pub(super) const WEBTRANSPORT_MAX_SESSIONS: u64 = 0xc671_706a;
    /// Those of HTTP/2 that HTTP/3 has not.
    pub(super) const RETIRED: [u64; 5] = [0x00, 0x02, 0x03, 0x04, 0x05];
}

/// The capsule that ends a session.
const CLOSE_SESSION: u64 = 0x2843;

/// Bytes of a request's headers, as sent.
const HEADERS_BYTES_MAX: u64 = 4 * 1024;
/// Bytes of the client's settings.
const SETTINGS_BYTES_MAX: u64 = 1024;
/// Bytes of one header's value once it is decoded.
const VALUE_BYTES_MAX: usize = 4 * 1024;

/// What a peer did wrong, by the code that says so to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Fault {
    Datagram = 0x33,
    StreamCreation = 0x103,
    ClosedCriticalStream = 0x104,
    FrameUnexpected = 0x105,
    ExcessiveLoad = 0x107,
    Id = 0x108,
    Settings = 0x109,
    MissingSettings = 0x10a,
    RequestRejected = 0x10b,
    Message = 0x10e,
    Decompression = 0x200,
    BufferedStreamRejected = 0x3994_bd84,
}

/// Nothing is wrong: the code of an orderly end.
pub(super) const NO_ERROR: u32 = 0x100;

impl Fault {
    pub(super) fn code(self) -> quinn::VarInt {
        quinn::VarInt::from_u32(self as u32)
    }
}

/// A variable-length integer that comes byte by byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Integer {
    value: u64,
    /// Bytes that are missing, once the first has said how many there are.
    missing: Option<u8>,
}

impl Integer {
    /// The value, once it is whole.
    pub(super) fn push(&mut self, byte: u8) -> Option<u64> {
        let missing = match self.missing {
            Some(missing) => {
                self.value = self.value << 8 | u64::from(byte);
                missing - 1
            }
            None => {
                self.value = u64::from(byte & 0x3f);
                (1 << (byte >> 6)) - 1
            }
        };
        self.missing = Some(missing);
        (missing == 0).then_some(self.value)
    }
}

/// Whether a number can be a session's: the stream of its request is bidirectional, and the client's (RFC 9000, 2.1).
pub(super) fn is_session(id: u64) -> bool {
    id.is_multiple_of(4)
}

/// A part of a sequence of blocks.
#[derive(Debug, PartialEq, Eq)]
enum Block<'a> {
    Begins { kind: u64, length: u64 },
    Payload { kind: u64, bytes: &'a [u8], ends: bool },
}

#[derive(Clone, Copy, Debug)]
enum BlockState {
    Kind(Integer),
    Length(u64, Integer),
    Payload(u64, u64),
}

/// Reads type, length and payload, of which both frames and capsules consist, in pieces of any size.
#[derive(Debug)]
struct Blocks(BlockState);

impl Default for Blocks {
    fn default() -> Self {
        Self(BlockState::Kind(Integer::default()))
    }
}

impl Blocks {
    /// The next part; takes what it read off `bytes`.
    fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Block<'a>> {
        loop {
            if let BlockState::Payload(kind, left) = self.0 {
                if left == 0 {
                    *self = Self::default();
                    continue;
                }
                if bytes.is_empty() {
                    return None;
                }
                let taken = left.min(bytes.len() as u64);
                let (payload, rest) = bytes.split_at(taken as usize);
                *bytes = rest;
                self.0 = BlockState::Payload(kind, left - taken);
                return Some(Block::Payload { kind, bytes: payload, ends: left == taken });
            }
            let (first, rest) = bytes.split_first()?;
            *bytes = rest;
            match &mut self.0 {
                BlockState::Kind(integer) => {
                    if let Some(kind) = integer.push(*first) {
                        self.0 = BlockState::Length(kind, Integer::default());
                    }
                }
                BlockState::Length(kind, integer) => {
                    let kind = *kind;
                    if let Some(length) = integer.push(*first) {
                        self.0 = BlockState::Payload(kind, length);
                        return Some(Block::Begins { kind, length });
                    }
                }
                BlockState::Payload(..) => {}
            }
        }
    }

    /// How many bytes may be read without reading beyond the block.
    fn wants(&self) -> usize {
        match self.0 {
            BlockState::Payload(_, left) if left > 0 => left.min(HEADERS_BYTES_MAX) as usize,
            _ => 1,
        }
    }
}

/// The stream type and the settings, which are the first and the last that the node says on its control stream.
pub(super) fn settings() -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in [
        (setting::QPACK_MAX_TABLE_CAPACITY, 0),
        (setting::QPACK_BLOCKED_STREAMS, 0),
        (setting::ENABLE_CONNECT_PROTOCOL, 1),
        (setting::H3_DATAGRAM, 1),
        (setting::ENABLE_WEBTRANSPORT, 1),
        (setting::WEBTRANSPORT_MAX_SESSIONS, 1),
    ] {
        put_varint(id, &mut payload);
        put_varint(value, &mut payload);
    }
    let mut bytes = Vec::new();
    for part in [stream::CONTROL, frame::SETTINGS, payload.len() as u64] {
        put_varint(part, &mut bytes);
    }
    [bytes, payload].concat()
}

/// What the client's settings say that matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// It takes datagrams.
    pub(super) datagrams: bool,
}

impl Settings {
    fn parse(payload: &[u8]) -> Result<Self, Fault> {
        let mut octets = Octets::with_slice(payload);
        let mut settings = Self::default();
        while octets.cap() > 0 {
            let mut next = || octets.get_varint().map_err(|_| Fault::Settings);
            match (next()?, next()?) {
                (setting::H3_DATAGRAM, value @ 0..=1) => settings.datagrams = value == 1,
                (setting::H3_DATAGRAM | setting::ENABLE_CONNECT_PROTOCOL, 2..) => return Err(Fault::Settings),
                (id, _) if setting::RETIRED.contains(&id) => return Err(Fault::Settings),
                _ => {}
            }
        }
        Ok(settings)
    }
}

/// Reads the client's control stream: settings first, then nothing that matters.
#[derive(Debug, Default)]
pub(super) struct Control {
    blocks: Blocks,
    payload: Vec<u8>,
    pub(super) settings: Option<Settings>,
}

impl Control {
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some(block) = self.blocks.next(&mut bytes) {
            match block {
                Block::Begins { kind, length } => self.begin(kind, length)?,
                Block::Payload { kind: frame::SETTINGS, bytes, ends } => {
                    self.payload.extend_from_slice(bytes);
                    if ends {
                        self.settings = Some(Settings::parse(&std::mem::take(&mut self.payload))?);
                    }
                }
                Block::Payload { .. } => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, kind: u64, length: u64) -> Result<(), Fault> {
        match (kind, &self.settings) {
            (frame::SETTINGS, None) if length > SETTINGS_BYTES_MAX => Err(Fault::ExcessiveLoad),
            (frame::SETTINGS, None) => {
                if length == 0 {
                    self.settings = Some(Settings::default());
                }
                Ok(())
            }
            (_, None) => Err(Fault::MissingSettings),
            (frame::CANCEL_PUSH | frame::GOAWAY | frame::MAX_PUSH_ID, Some(_)) => Ok(()),
            (kind, Some(_)) if is_known(kind) => Err(Fault::FrameUnexpected),
            _ => Ok(()),
        }
    }
}

/// Whether HTTP/3 says where a frame of this type may stand, or that it may not. All others are skipped.
fn is_known(kind: u64) -> bool {
    matches!(
        kind,
        frame::DATA
            | frame::HEADERS
            | frame::CANCEL_PUSH
            | frame::SETTINGS
            | frame::PUSH_PROMISE
            | frame::GOAWAY
            | frame::MAX_PUSH_ID
            | frame::WEBTRANSPORT
    ) || frame::RETIRED.contains(&kind)
}

/// What a bidirectional stream of the client turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Request(Request),
    /// A stream of the session with this number.
    Stream(u64),
}

/// Reads the beginning of a bidirectional stream of the client.
#[derive(Debug, Default)]
pub(super) struct Beginning {
    blocks: Blocks,
    payload: Vec<u8>,
}

impl Beginning {
    /// How many bytes may be read: what belongs to the session's stream is left there.
    pub(super) fn wants(&self) -> usize {
        self.blocks.wants()
    }

    /// Takes no more than it [`wants`](Self::wants).
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Opening>, Fault> {
        while let Some(block) = self.blocks.next(&mut bytes) {
            match block {
                Block::Begins { kind: frame::WEBTRANSPORT, length: id } if is_session(id) => {
                    return Ok(Some(Opening::Stream(id)));
                }
                Block::Begins { kind: frame::WEBTRANSPORT, .. } => return Err(Fault::Id),
                Block::Begins { kind: frame::HEADERS, length: 0 } => return Err(Fault::Decompression),
                Block::Begins { kind: frame::HEADERS, length: ..=HEADERS_BYTES_MAX } => {}
                Block::Begins { kind: frame::HEADERS, .. } => return Err(Fault::ExcessiveLoad),
                Block::Begins { kind, .. } if is_known(kind) => return Err(Fault::FrameUnexpected),
                Block::Payload { kind: frame::HEADERS, bytes, ends } => {
                    self.payload.extend_from_slice(bytes);
                    if ends {
                        return Request::parse(&std::mem::take(&mut self.payload)).map(|it| Some(Opening::Request(it)));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Reads what follows a request: capsules in frames of data.
#[derive(Debug, Default)]
pub(super) struct Capsules {
    frames: Blocks,
    capsules: Blocks,
}

impl Capsules {
    /// Whether the client closes the session.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<bool, Fault> {
        while let Some(block) = self.frames.next(&mut bytes) {
            match block {
                Block::Payload { kind: frame::DATA, mut bytes, .. } => {
                    while let Some(capsule) = self.capsules.next(&mut bytes) {
                        if let Block::Begins { kind: CLOSE_SESSION, .. } = capsule {
                            return Ok(true);
                        }
                    }
                }
                Block::Begins { kind, .. } if kind != frame::DATA && is_known(kind) => {
                    return Err(Fault::FrameUnexpected);
                }
                _ => {}
            }
        }
        Ok(false)
    }
}

/// The answer to a request, which is its status.
pub(super) fn response(status: u16) -> Vec<u8> {
    // No insertions needed; a literal value with the name 24 of the static table, ":status" (RFC 9204, 4.5.4).
    let mut section = vec![0, 0, 0x5f, 24 - 15];
    let status = status.to_string();
    section.push(status.len() as u8);
    section.extend_from_slice(status.as_bytes());
    let mut bytes = Vec::new();
    put_varint(frame::HEADERS, &mut bytes);
    put_varint(section.len() as u64, &mut bytes);
    [bytes, section].concat()
}

/// A request, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    method: Option<String>,
    scheme: Option<String>,
    protocol: Option<String>,
    authority: Option<String>,
    path: Option<String>,
    pub(super) origin: Option<String>,
}

impl Request {
    /// Whether it asks for a session.
    pub(super) fn is_session(&self) -> bool {
        self.method.as_deref() == Some("CONNECT") && self.protocol.as_deref() == Some("webtransport")
    }

    pub(super) fn authority(&self) -> &str {
        self.authority.as_deref().unwrap_or_default()
    }

    pub(super) fn path(&self) -> &str {
        self.path.as_deref().unwrap_or_default()
    }

    /// Reads a field section that refers to no dynamic table (RFC 9204, 4.5).
    fn parse(section: &[u8]) -> Result<Self, Fault> {
        let mut octets = Octets::with_slice(section);
        let insertions = integer(&mut octets, 8)?;
        integer(&mut octets, 7)?;
        if insertions != 0 {
            return Err(Fault::Decompression);
        }
        let (mut request, mut regular) = (Self::default(), false);
        while octets.cap() > 0 {
            let (name, value) = field(&mut octets)?;
            let Some(name) = name else {
                regular = true;
                continue;
            };
            request.set(&name, value, &mut regular)?;
        }
        let is_whole =
            request.scheme.as_deref() == Some("https") && request.authority.is_some() && request.path.is_some();
        if request.is_session() && !is_whole { Err(Fault::Message) } else { Ok(request) }
    }

    fn set(&mut self, name: &[u8], value: Option<Vec<u8>>, regular: &mut bool) -> Result<(), Fault> {
        let slot = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":protocol" => &mut self.protocol,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            b"origin" => &mut self.origin,
            [] | [b':', ..] => return Err(Fault::Message),
            // RFC 9114, 4.2: else "Origin" would be another field than "origin".
            _ if name.iter().any(u8::is_ascii_uppercase) => return Err(Fault::Message),
            _ => {
                *regular = true;
                return Ok(());
            }
        };
        let is_pseudo = name.starts_with(b":");
        if slot.is_some() || (is_pseudo && *regular) {
            return Err(Fault::Message);
        }
        *regular |= !is_pseudo;
        *slot = Some(String::from_utf8(value.ok_or(Fault::Message)?).map_err(|_| Fault::Message)?);
        Ok(())
    }
}

/// A name, unless it is one of the static table that does not matter, and a value, unless it is one of such a name.
type Field = (Option<Vec<u8>>, Option<Vec<u8>>);

/// One field line.
fn field(octets: &mut Octets<'_>) -> Result<Field, Fault> {
    let first = octets.peek_u8().map_err(|_| Fault::Decompression)?;
    match first {
        // Both from the static table.
        0xc0.. => {
            let (name, value) = known(integer(octets, 6)?)?.unzip();
            Ok((name.map(Into::into), value.map(Into::into)))
        }
        // The name from the static table.
        0x50..=0x5f | 0x70..=0x7f => {
            let name = known(integer(octets, 4)?)?.map(|(name, _)| name.into());
            Ok((name, Some(string(octets, 7)?)))
        }
        // Neither.
        0x20..=0x3f => Ok((Some(string(octets, 3)?), Some(string(octets, 7)?))),
        // The dynamic table.
        _ => Err(Fault::Decompression),
    }
}

/// A field of the static table; `None`: one that does not matter (RFC 9204, appendix A).
fn known(index: u64) -> Result<Option<(&'static str, &'static str)>, Fault> {
    Ok(Some(match index {
        0 => (":authority", ""),
        1 => (":path", "/"),
        15 => (":method", "CONNECT"),
        // Those of all other methods say that it is no session.
        16..=21 => (":method", ""),
        22 => (":scheme", "http"),
        23 => (":scheme", "https"),
        90 => ("origin", ""),
        2..=14 | 24..=89 | 91..=98 => return Ok(None),
        99.. => return Err(Fault::Decompression),
    }))
}

/// An integer that begins in the low `bits` of a byte (RFC 7541, 5.1). None that is allowed here takes more than 4 bytes.
fn integer(octets: &mut Octets<'_>, bits: u32) -> Result<u64, Fault> {
    let mut next = || octets.get_u8().map(u64::from).map_err(|_| Fault::Decompression);
    let mask = (1 << bits) - 1;
    let mut value = next()? & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14] {
        let byte = next()?;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Fault::Decompression)
}

/// A string whose length begins in the low `bits` of a byte, behind the bit that says whether it is compressed.
fn string(octets: &mut Octets<'_>, bits: u32) -> Result<Vec<u8>, Fault> {
    let is_compressed = octets.peek_u8().map_err(|_| Fault::Decompression)? >> bits & 1 == 1;
    let length = integer(octets, bits)?;
    let mut bytes = octets.get_bytes(length as usize).map_err(|_| Fault::Decompression)?;
    if is_compressed {
        bytes.get_huffman_decoded_with_max_length(VALUE_BYTES_MAX).map_err(|_| Fault::Decompression)
    } else {
        Ok(bytes.to_vec())
    }
}

/// Takes the number of its session off a datagram (RFC 9297, 2.1).
pub(super) fn datagram(bytes: &mut bytes::Bytes) -> Result<u64, Fault> {
    let mut octets = Octets::with_slice(bytes);
    let quarter = octets.get_varint().map_err(|_| Fault::Datagram)?;
    let length = octets.off();
    bytes::Buf::advance(bytes, length);
    quarter.checked_mul(4).filter(|id| *id < 1 << 62).ok_or(Fault::Datagram)
}

/// Writes a variable-length integer of QUIC (RFC 9000, section 16), which is below 2^62.
pub(super) fn put_varint(value: u64, out: &mut Vec<u8>) {
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | value as u16).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(0x8000_0000 | value as u32).to_be_bytes()),
        _ => out.extend_from_slice(&(0xc000_0000_0000_0000 | value).to_be_bytes()),
    }
}

/// What a client says.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(in super::super::super) fn block(kind: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_varint(kind, &mut bytes);
        put_varint(payload.len() as u64, &mut bytes);
        [bytes, payload.to_vec()].concat()
    }

    /// A field with neither name nor value from a table.
    pub(in super::super::super) fn literal(name: &str, value: &str) -> Vec<u8> {
        assert!(name.len() < 100 && value.len() < 127);
        let mut bytes = if name.len() < 7 { vec![0x20 | name.len() as u8] } else { vec![0x27, name.len() as u8 - 7] };
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(value.len() as u8);
        bytes.extend_from_slice(value.as_bytes());
        bytes
    }

    pub(in super::super::super) fn headers(fields: &[Vec<u8>]) -> Vec<u8> {
        block(frame::HEADERS, &[vec![0, 0], fields.concat()].concat())
    }

    /// Method CONNECT, scheme https, path and authority by the static table.
    pub(in super::super::super) fn connect() -> Vec<Vec<u8>> {
        vec![
            vec![0xc0 | 15],
            vec![0xc0 | 23],
            literal(":protocol", "webtransport"),
            [&[0x50, 4][..], b"node"].concat(),
            [&[0x51, 11][..], b"/v1/connect"].concat(),
        ]
    }

    /// A request for a session.
    pub(in super::super::super) fn request(authority: &str, path: &str, origin: Option<&str>) -> Vec<u8> {
        let mut fields = connect();
        fields.truncate(3);
        fields.extend([literal(":authority", authority), literal(":path", path)]);
        fields.extend(origin.map(|origin| literal("origin", origin)));
        headers(&fields)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{block, connect, headers, literal};
    use super::*;

    fn pairs(pairs: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, value) in pairs {
            put_varint(*id, &mut bytes);
            put_varint(*value, &mut bytes);
        }
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Option<Opening>, Fault> {
        let mut beginning = Beginning::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(beginning.wants().min(rest.len()));
            rest = behind;
            if let Some(opening) = beginning.feed(piece)? {
                return Ok(Some(opening));
            }
        }
        Ok(None)
    }

    fn control(bytes: &[u8]) -> Result<Option<Settings>, Fault> {
        let mut control = Control::default();
        control.feed(bytes)?;
        Ok(control.settings)
    }

    #[test]
    fn integers_are_those_of_rfc_9000() {
        // Appendix A.1.
        for (value, bytes) in [
            (37, &[0x25][..]),
            (15_293, &[0x7b, 0xbd]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (151_288_809_941_952_652, &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
        ] {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            assert_eq!(out, bytes);
            let mut integer = Integer::default();
            let (last, front) = bytes.split_last().unwrap();
            assert!(front.iter().all(|byte| integer.push(*byte).is_none()));
            assert_eq!(integer.push(*last), Some(value));
        }
    }

    #[test]
    fn the_nodes_settings_are_settings() {
        let bytes = settings();
        assert_eq!(bytes[0], stream::CONTROL as u8);
        assert_eq!(control(&bytes[1..]), Ok(Some(Settings { datagrams: true })));
    }

    #[test]
    fn settings_come_first_and_once() {
        let good = block(frame::SETTINGS, &pairs(&[(setting::H3_DATAGRAM, 1), (0x21, 7), (0x1f * 9 + 0x21, 1 << 40)]));
        assert_eq!(control(&good), Ok(Some(Settings { datagrams: true })));
        assert_eq!(control(&block(frame::SETTINGS, &[])), Ok(Some(Settings { datagrams: false })));
        assert_eq!(control(&good[..good.len() - 1]), Ok(None), "cut off");
        let after = |kind, payload: &[u8]| control(&[good.clone(), block(kind, payload)].concat());
        for skipped in [0x21, 0xf0700, frame::GOAWAY, frame::MAX_PUSH_ID, frame::CANCEL_PUSH] {
            assert!(after(skipped, &[1; 300]).is_ok(), "{skipped}");
        }
        for unexpected in [frame::SETTINGS, frame::DATA, frame::HEADERS, frame::PUSH_PROMISE, 0x02, 0x08] {
            assert_eq!(after(unexpected, &[]), Err(Fault::FrameUnexpected), "{unexpected}");
        }
        assert_eq!(control(&block(0x21, &[])), Err(Fault::MissingSettings));
        for (payload, fault) in [
            (pairs(&[(setting::H3_DATAGRAM, 2)]), Fault::Settings),
            (pairs(&[(0x02, 1)]), Fault::Settings),
            (vec![0x33], Fault::Settings),
            (vec![0x33, 0xc0, 1], Fault::Settings),
            (vec![0x21; 1_025], Fault::ExcessiveLoad),
        ] {
            assert_eq!(control(&block(frame::SETTINGS, &payload)), Err(fault), "{payload:?}");
        }
    }

    #[test]
    fn a_request_is_read_by_its_fields() {
        // LC-WT-001, LC-WT-003
        let origin = [&[0x5f, 90 - 15, 8][..], b"https://"].concat();
        let others = [vec![0xc0 | 29], literal("user-agent", "x"), vec![0x5f, 95 - 15, 0x82, 0x94, 0xe7]];
        let section = headers(&[connect(), vec![origin], others.to_vec()].concat());
        // Frames of types that nobody knows may stand before it.
        for bytes in [section.clone(), [block(0x21, &[9; 40]), section].concat()] {
            let Ok(Some(Opening::Request(request))) = open(&bytes) else { panic!("{:?}", open(&bytes)) };
            assert!(request.is_session());
            assert_eq!((request.authority(), request.path()), ("node", "/v1/connect"));
            assert_eq!(request.origin.as_deref(), Some("https://"));
        }
        let get = headers(&[vec![0xc0 | 17], vec![0xc0 | 23], vec![0xc0 | 1], [&[0x50, 1][..], b"n"].concat()]);
        assert!(matches!(open(&get), Ok(Some(Opening::Request(request))) if !request.is_session()));
    }

    #[test]
    fn compressed_values_are_read() {
        // RFC 7541, C.4.1: "www.example.com".
        let huffman = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        let mut fields = connect();
        fields[3] = [&[0x50, 0x80 | 12][..], &huffman].concat();
        let Ok(Some(Opening::Request(request))) = open(&headers(&fields)) else { panic!() };
        assert_eq!(request.authority(), "www.example.com");
    }

    #[test]
    fn malformed_requests_are_refused() {
        // LC-WT-001
        let with = |field: Vec<u8>| [connect(), vec![field]].concat();
        for (fields, fault) in [
            (with(literal(":path", "/")), Fault::Message),
            (with(literal(":fragment", "x")), Fault::Message),
            (with(literal("Origin", "https://a")), Fault::Message),
            (with(literal("", "x")), Fault::Message),
            (with([literal("origin", "a"), literal("origin", "b")].concat()), Fault::Message),
            (with([&[0x2e][..], b"origin", &[1, 0xff]].concat()), Fault::Decompression),
            (with([&[0x26][..], b"origin", &[1, 0xff]].concat()), Fault::Message),
            ([vec![literal("a", "b")], connect()].concat(), Fault::Message),
            (connect()[..4].to_vec(), Fault::Message),
            (with(vec![0x80]), Fault::Decompression),
            (with(vec![0x40, 0]), Fault::Decompression),
            (with(vec![0x10]), Fault::Decompression),
            (with(vec![0x00, 0]), Fault::Decompression),
            (with(vec![0xff, 99 - 63]), Fault::Decompression),
            (with(vec![0xff; 30]), Fault::Decompression),
            (with(vec![0x20, 0x7f, 0xff, 0xff, 0xff, 0x7f]), Fault::Decompression),
            (with(vec![0x20, 5, 1]), Fault::Decompression),
        ] {
            assert_eq!(open(&headers(&fields)), Err(fault), "{fields:x?}");
        }
        assert_eq!(open(&block(frame::HEADERS, &[])), Err(Fault::Decompression));
        assert_eq!(open(&block(frame::HEADERS, &[0])), Err(Fault::Decompression));
        assert_eq!(open(&block(frame::HEADERS, &[1, 0])), Err(Fault::Decompression), "needs an insertion");
        assert_eq!(open(&block(frame::HEADERS, &[0; 5_000])), Err(Fault::ExcessiveLoad));
        assert_eq!(open(&[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Err(Fault::ExcessiveLoad));
        for kind in [frame::DATA, frame::SETTINGS, frame::GOAWAY, 0x06] {
            assert_eq!(open(&block(kind, &[])), Err(Fault::FrameUnexpected), "{kind}");
        }
        let whole = headers(&connect());
        for length in 0..whole.len() {
            assert_eq!(open(&whole[..length]), Ok(None), "cut off");
        }
    }

    #[test]
    fn streams_of_sessions_are_told_from_requests() {
        // LC-WT-001
        assert_eq!(open(&[0x40, 0x41, 8, 1, 2, 3]), Ok(Some(Opening::Stream(8))));
        let mut beginning = Beginning::default();
        assert_eq!(beginning.wants(), 1, "nothing is read that belongs to the stream");
        assert_eq!(beginning.feed(&[0x40]), Ok(None));
        for id in [1, 2, 3] {
            assert_eq!(open(&[0x40, 0x41, id]), Err(Fault::Id));
        }
    }

    #[test]
    fn a_session_ends_by_its_capsule() {
        let close = block(CLOSE_SESSION, &[0, 0, 0, 0]);
        let unknown = block(0x78ae, &[7; 100]);
        for capsules in [close.clone(), [unknown.clone(), close.clone()].concat()] {
            let data = block(frame::DATA, &capsules);
            assert_eq!(Capsules::default().feed(&data), Ok(true));
            // A capsule need not fit into a frame.
            let mut reader = Capsules::default();
            let cut: Vec<_> = capsules.iter().map(|byte| reader.feed(&block(frame::DATA, &[*byte]))).collect();
            assert!(cut.contains(&Ok(true)), "{cut:?}");
        }
        assert_eq!(Capsules::default().feed(&[block(0x21, &close), block(frame::DATA, &unknown)].concat()), Ok(false));
        assert_eq!(Capsules::default().feed(&block(frame::HEADERS, &[])), Err(Fault::FrameUnexpected));
    }

    #[test]
    fn datagrams_name_their_session() {
        let read = |bytes: &'static [u8]| {
            let mut bytes = bytes::Bytes::from_static(bytes);
            datagram(&mut bytes).map(|id| (id, bytes))
        };
        assert_eq!(read(&[2, 9]), Ok((8, bytes::Bytes::from_static(&[9]))));
        assert_eq!(read(&[]), Err(Fault::Datagram));
        assert_eq!(read(&[0x40]), Err(Fault::Datagram));
        assert_eq!(read(&[0xff; 8]), Err(Fault::Datagram));
    }

    #[test]
    fn an_answer_is_its_status() {
        assert_eq!(response(403), [0x01, 8, 0, 0, 0x5f, 9, 3, b'4', b'0', b'3']);
    }

    proptest! {
        /// Whatever comes, in whatever pieces: no panic, and the same outcome.
        #[test]
        fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
            let (front, back) = bytes.split_at(at.index(bytes.len() + 1));
            let whole = control(&bytes);
            let mut cut = Control::default();
            prop_assert_eq!(cut.feed(front).and_then(|()| cut.feed(back)).map(|()| cut.settings), whole);
            let whole = Capsules::default().feed(&bytes);
            let mut cut = Capsules::default();
            prop_assert_eq!(cut.feed(front).and_then(|closes| Ok(closes || cut.feed(back)?)), whole);
            let _ = open(&bytes);
            let _ = open(&block(frame::HEADERS, &bytes));
            let _ = open(&block(frame::HEADERS, &[&[0, 0], &bytes[..]].concat()));
            let _ = datagram(&mut bytes.into());
        }
    }
}
