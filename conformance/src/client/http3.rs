//! The little of HTTP/3 that a WebTransport client needs: settings, one CONNECT request, the prefixes of streams and
//! datagrams, the capsule that ends a session. Written by hand, with literal fields only, so that the suite shares no
//! HTTP/3 code with a server.

/// Stream types and frame types.
const STREAM_CONTROL: u64 = 0x00;
const STREAM_WEBTRANSPORT: u64 = 0x54;
const BIDI_WEBTRANSPORT: u64 = 0x41;
const FRAME_DATA: u64 = 0x00;
const FRAME_HEADERS: u64 = 0x01;
const FRAME_SETTINGS: u64 = 0x04;
const CAPSULE_CLOSE: u64 = 0x2843;
/// Bytes of a frame on the session's stream that are read at most.
const FRAME_BYTES_MAX: usize = 16 * 1024;

/// The application error code with which HTTP/3 ends a connection in order.
pub(crate) const NO_ERROR: u64 = 0x100;

/// Appends a QUIC varint.
fn write_varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// A QUIC varint at the start of the bytes and how many it takes; `None`: more bytes are needed.
fn read_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = 1usize << (first >> 6);
    let rest = bytes.get(1..length)?;
    Some((rest.iter().fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte)), length))
}

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(&mut out, kind);
    write_varint(&mut out, payload.len() as u64);
    out.extend_from_slice(payload);
    out
}

/// What a client sends on its control stream.
pub(crate) fn settings() -> Vec<u8> {
    // Extended CONNECT, datagrams, WebTransport, sessions at most: the names of several drafts, since servers differ.
    let settings = [(0x08, 1), (0x33, 1), (0x2b60_3742, 1), (0xc671_706a, 1)];
    let mut payload = Vec::new();
    for (name, value) in settings {
        write_varint(&mut payload, name);
        write_varint(&mut payload, value);
    }
    let mut out = Vec::new();
    write_varint(&mut out, STREAM_CONTROL);
    out.extend(frame(FRAME_SETTINGS, &payload));
    out
}

/// An integer of QPACK with a prefix of that many bits, the rest of the first byte being `flags`.
fn qpack_integer(out: &mut Vec<u8>, flags: u8, bits: u32, value: usize) {
    let max = (1usize << bits) - 1;
    if value < max {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | max as u8);
    let mut rest = value - max;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A QPACK integer and what follows it.
fn read_qpack_integer(bytes: &[u8], bits: u32) -> Option<(usize, &[u8])> {
    let max = (1usize << bits) - 1;
    let (first, mut rest) = bytes.split_first()?;
    let mut value = usize::from(*first) & max;
    if value < max {
        return Some((value, rest));
    }
    for shift in (0..28).step_by(7) {
        let (byte, after) = rest.split_first()?;
        value += (usize::from(*byte) & 0x7f) << shift;
        rest = after;
        if byte & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// The CONNECT request of a WebTransport session.
pub(crate) fn connect(authority: &str, path: &str, headers: &[(String, String)]) -> Vec<u8> {
    // No dynamic table.
    let mut fields = vec![0, 0];
    let pseudo =
        [(":method", "CONNECT"), (":protocol", "webtransport"), (":scheme", "https"), (":authority", authority)];
    let plain = [(":path", path), ("sec-webtransport-http3-draft02", "1")];
    let more = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in pseudo.into_iter().chain(plain).chain(more) {
        let name = name.to_ascii_lowercase();
        qpack_integer(&mut fields, 0x20, 3, name.len());
        fields.extend_from_slice(name.as_bytes());
        qpack_integer(&mut fields, 0, 7, value.len());
        fields.extend_from_slice(value.as_bytes());
    }
    frame(FRAME_HEADERS, &fields)
}

/// The status in the fields of a response.
fn status(fields: &[u8]) -> Option<u16> {
    let (_, rest) = read_qpack_integer(fields, 8)?;
    let (_, mut rest) = read_qpack_integer(rest, 7)?;
    loop {
        let first = *rest.first()?;
        let named = match first {
            0x80.. => {
                let (index, after) = read_qpack_integer(rest, 6)?;
                if first & 0x40 != 0
                    && let Some(status) = static_status(index)
                {
                    return status;
                }
                rest = after;
                continue;
            }
            0x40.. => {
                let (index, after) = read_qpack_integer(rest, 4)?;
                rest = after;
                first & 0x10 != 0 && static_status(index).is_some()
            }
            0x20.. => {
                let (length, after) = read_qpack_integer(rest, 3)?;
                let name = after.get(..length)?;
                rest = &after[length..];
                first & 0x08 == 0 && name == b":status"
            }
            _ => return None,
        };
        let huffman = rest.first()? & 0x80 != 0;
        let (length, after) = read_qpack_integer(rest, 7)?;
        let value = after.get(..length)?;
        if named {
            let digits = if huffman { huffman_digits(value) } else { String::from_utf8_lossy(value).into_owned() };
            return digits.parse().ok();
        }
        rest = &after[length..];
    }
}

/// The status of an entry of the static table, if it is one.
fn static_status(index: usize) -> Option<Option<u16>> {
    let known = [(24, 103), (25, 200), (26, 304), (27, 404), (28, 503), (63, 100), (64, 204), (65, 206), (66, 302)];
    let more = [(67, 400), (68, 403), (69, 421), (70, 425), (71, 500)];
    known.into_iter().chain(more).find(|(place, _)| *place == index).map(|(_, status)| Some(status))
}

/// The digits of a Huffman-coded text; other characters end it.
fn huffman_digits(bytes: &[u8]) -> String {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let value = |bits: &[u8]| bits.iter().fold(0u8, |value, bit| value << 1 | bit);
    let (mut rest, mut text) = (bits.as_slice(), String::new());
    // 0, 1 and 2 have five bits, the other digits six; what fills the last byte is shorter or ones.
    while let Some((five, after)) = rest.split_first_chunk::<5>() {
        let (digit, after) = match (value(five), after.split_first()) {
            (digit @ 0..=2, _) => (digit, after),
            (start @ 12..=15, Some((bit, after))) if start << 1 | bit > 24 => ((start << 1 | bit) - 22, after),
            _ => break,
        };
        text.push(char::from(b'0' + digit));
        rest = after;
    }
    text
}

/// What the stream of a session said.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// The response to CONNECT.
    Status(u16),
    /// The session ended, with this code.
    Closed(u32),
}

/// Reads the stream of a session.
#[derive(Debug, Default)]
pub(crate) struct SessionReader {
    buffer: Vec<u8>,
    capsules: Vec<u8>,
}

impl SessionReader {
    /// Adds what came and returns what it said.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Said> {
        self.buffer.extend_from_slice(bytes);
        let mut said = Vec::new();
        while let Some((kind, payload, used)) = whole(&self.buffer) {
            match kind {
                FRAME_HEADERS => said.extend(status(payload).map(Said::Status)),
                FRAME_DATA => self.capsules.extend_from_slice(payload),
                _ => {}
            }
            self.buffer.drain(..used);
        }
        while let Some((kind, payload, used)) = whole(&self.capsules) {
            if kind == CAPSULE_CLOSE
                && let Some(code) = payload.first_chunk()
            {
                said.push(Said::Closed(u32::from_be_bytes(*code)));
            }
            self.capsules.drain(..used);
        }
        said
    }
}

/// The frame or capsule at the start of the bytes, and how many it takes. One that is too long is never whole.
fn whole(bytes: &[u8]) -> Option<(u64, &[u8], usize)> {
    let (kind, kind_bytes) = read_varint(bytes)?;
    let (length, length_bytes) = read_varint(&bytes[kind_bytes..])?;
    let head = kind_bytes + length_bytes;
    let length = usize::try_from(length).ok().filter(|length| *length <= FRAME_BYTES_MAX)?;
    Some((kind, bytes.get(head..head + length)?, head + length))
}

/// What a client sends to end a session with a code.
pub(crate) fn close_capsule(code: u32) -> Vec<u8> {
    let mut capsule = Vec::new();
    write_varint(&mut capsule, CAPSULE_CLOSE);
    write_varint(&mut capsule, 4);
    capsule.extend_from_slice(&code.to_be_bytes());
    frame(FRAME_DATA, &capsule)
}

/// The first bytes of a unidirectional stream of a session.
pub(crate) fn uni_prefix(session: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(&mut out, STREAM_WEBTRANSPORT);
    write_varint(&mut out, session);
    out
}

/// The first bytes of a bidirectional stream that the client opens in a session.
pub(crate) fn bidi_prefix(session: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(&mut out, BIDI_WEBTRANSPORT);
    write_varint(&mut out, session);
    out
}

/// The first bytes of a datagram of a session.
pub(crate) fn datagram_prefix(session: u64) -> Vec<u8> {
    let mut out = Vec::new();
    write_varint(&mut out, session / 4);
    out
}

/// What a unidirectional stream of the server is for.
#[derive(Debug, PartialEq)]
pub(crate) enum Uni {
    /// The bytes after that many belong to a stream of the session.
    Session(usize),
    /// HTTP/3's own.
    Own,
}

/// Reads the first bytes of a unidirectional stream; `None`: more bytes are needed.
pub(crate) fn uni(bytes: &[u8], session: u64) -> Option<Uni> {
    let (kind, kind_bytes) = read_varint(bytes)?;
    if kind != STREAM_WEBTRANSPORT {
        return Some(Uni::Own);
    }
    let (id, id_bytes) = read_varint(&bytes[kind_bytes..])?;
    Some(if id == session { Uni::Session(kind_bytes + id_bytes) } else { Uni::Own })
}

/// The payload of a datagram of the session.
pub(crate) fn datagram(bytes: &[u8], session: u64) -> Option<usize> {
    let (id, used) = read_varint(bytes)?;
    (id == session / 4).then_some(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_those_of_rfc_9000() {
        for (value, bytes) in [
            (37, vec![0x25]),
            (15_293, vec![0x7b, 0xbd]),
            (494_878_333, vec![0x9d, 0x7f, 0x3e, 0x7d]),
            (151_288_809_941_952_652, vec![0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
        ] {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(read_varint(&bytes), Some((value, bytes.len())));
            assert_eq!(read_varint(&bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn a_status_is_read_in_every_form() {
        assert_eq!(status(&[0, 0, 0xc0 | 25]), Some(200), "indexed");
        assert_eq!(status(&[0, 0, 0xff, 68 - 63]), Some(403), "indexed beyond the prefix");
        assert_eq!(status(&[0, 0, 0x50 | 0x0f, 24 - 15, 3, b'4', b'2', b'9']), Some(429), "name of the table");
        let mut literal = vec![0, 0, 0x27, 0];
        literal.extend_from_slice(b":status");
        // 503: 011011 00000 011001, filled with ones.
        literal.extend([0x83, 0b0110_1100, 0b0000_1100, 0b1111_1111]);
        assert_eq!(status(&literal), Some(503), "Huffman");
        assert_eq!(huffman_digits(&[0b0001_0000, 0b0000_0001]), "200", "15 bits, and one that fills the byte");
        assert_eq!(status(&[0, 0, 0x23, b'a', b'b', b'c', 1, b'x', 0xc0 | 27]), Some(404), "after another field");
    }

    #[test]
    fn a_session_says_its_status_and_its_end() {
        let mut reader = SessionReader::default();
        let mut bytes = frame(FRAME_HEADERS, &[0, 0, 0xc0 | 25]);
        bytes.extend(frame(0x21, b"grease"));
        bytes.extend(close_capsule(4001));
        let said: Vec<Said> = bytes.chunks(2).flat_map(|chunk| reader.push(chunk)).collect();
        assert_eq!(said, [Said::Status(200), Said::Closed(4001)]);
    }

    #[test]
    fn streams_and_datagrams_name_their_session() {
        assert_eq!(uni(&uni_prefix(4), 4), Some(Uni::Session(3)));
        assert_eq!(uni(&uni_prefix(4), 8), Some(Uni::Own));
        assert_eq!(uni(&settings(), 4), Some(Uni::Own));
        assert_eq!(uni(&[0x40], 4), None);
        assert_eq!(datagram(&datagram_prefix(8), 8), Some(1));
        assert_eq!(datagram(&datagram_prefix(8), 0), None);
    }
}
