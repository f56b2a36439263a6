//! What raw QUIC and a WebTransport session do differently: how streams and datagrams are marked as the session's.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lanecast_protocol::codes::Code;

/// Type of the unidirectional streams of a WebTransport session (draft-ietf-webtrans-http3, section 4.2).
const WEBTRANSPORT_STREAM: u64 = 0x54;

/// A connection of either kind.
#[derive(Debug)]
pub(super) enum Link {
    /// Raw QUIC.
    Quic(quinn::Connection),
    /// A WebTransport session, which has its connection for itself.
    Web(wtransport::Connection),
}

/// A stream to read; one of a session is read past what marks it as such.
#[derive(Debug)]
pub(super) enum Reads {
    Quic(quinn::RecvStream),
    Web(wtransport::RecvStream),
}

impl Reads {
    pub(super) fn stream(&mut self) -> &mut quinn::RecvStream {
        match self {
            Self::Quic(stream) => stream,
            Self::Web(stream) => stream.quic_stream_mut(),
        }
    }
}

/// A stream to write.
#[derive(Debug)]
pub(super) enum Writes {
    Quic(quinn::SendStream),
    Web(wtransport::SendStream),
}

impl Writes {
    pub(super) fn stream(&mut self) -> &mut quinn::SendStream {
        match self {
            Self::Quic(stream) => stream,
            Self::Web(stream) => stream.quic_stream_mut(),
        }
    }
}

impl Link {
    pub(super) fn connection(&self) -> &quinn::Connection {
        match self {
            Self::Quic(connection) => connection,
            Self::Web(session) => session.quic_connection(),
        }
    }

    /// Waits for the client to open control; `None`: it left without.
    pub(super) async fn accept_control(&self) -> Option<(Writes, Reads)> {
        match self {
            Self::Quic(connection) => {
                let (writes, reads) = connection.accept_bi().await.ok()?;
                Some((Writes::Quic(writes), Reads::Quic(reads)))
            }
            Self::Web(session) => {
                let (writes, reads) = session.accept_bi().await.ok()?;
                Some((Writes::Web(writes), Reads::Web(reads)))
            }
        }
    }

    /// What stands before everything else on a stream that this side opens.
    pub(super) fn preamble(&self) -> Bytes {
        match self {
            Self::Quic(_) => Bytes::new(),
            Self::Web(session) => {
                let mut bytes = BytesMut::new();
                put_varint(WEBTRANSPORT_STREAM, &mut bytes);
                put_varint(session.session_id().into_u64(), &mut bytes);
                bytes.freeze()
            }
        }
    }

    /// The next unidirectional stream of the peer; `None`: the connection is gone.
    pub(super) fn accept(&self) -> BoxFuture<'static, Option<Reads>> {
        match self {
            Self::Quic(connection) => {
                let connection = connection.clone();
                async move { connection.accept_uni().await.ok().map(Reads::Quic) }.boxed()
            }
            Self::Web(session) => {
                let session = session.clone();
                async move { session.accept_uni().await.ok().map(Reads::Web) }.boxed()
            }
        }
    }

    /// The next datagram of the peer; `None`: the connection is gone.
    pub(super) fn receive_datagram(&self) -> BoxFuture<'static, Option<Bytes>> {
        match self {
            Self::Quic(connection) => {
                let connection = connection.clone();
                async move { connection.read_datagram().await.ok() }.boxed()
            }
            Self::Web(session) => {
                let session = session.clone();
                async move { session.receive_datagram().await.ok().map(|datagram| datagram.payload()) }.boxed()
            }
        }
    }

    /// Largest record that a datagram takes on this path, bytes; 0: the peer takes none.
    pub(super) fn datagram_bytes_max(&self) -> usize {
        match self {
            Self::Quic(connection) => connection.max_datagram_size().unwrap_or(0),
            Self::Web(session) => session.max_datagram_size().unwrap_or(0),
        }
    }

    /// A record as the datagram that carries it.
    pub(super) fn datagram(&self, record: Bytes) -> Bytes {
        match self {
            Self::Quic(_) => record,
            Self::Web(session) => {
                let mut bytes = BytesMut::with_capacity(record.len() + 8);
                // RFC 9297, section 2.1: the stream of the request, divided by four.
                put_varint(session.session_id().into_u64() / 4, &mut bytes);
                bytes.extend_from_slice(&record);
                bytes.freeze()
            }
        }
    }

    /// Closes at once.
    pub(super) fn close(&self, code: Code) {
        self.connection().close(u32::from(code.number()).into(), code.row().name.as_bytes());
    }
}

/// Writes a variable-length integer of QUIC (RFC 9000, section 16), which is below 2^62.
fn put_varint(value: u64, out: &mut BytesMut) {
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(0x4000 | value as u16),
        0x4000..0x4000_0000 => out.put_u32(0x8000_0000 | value as u32),
        _ => out.put_u64(0xc000_0000_0000_0000 | value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_those_of_rfc_9000() {
        // Appendix A.1.
        for (value, bytes) in [
            (37, &[0x25][..]),
            (15_293, &[0x7b, 0xbd]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (151_288_809_941_952_652, &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
        ] {
            let mut out = BytesMut::new();
            put_varint(value, &mut out);
            assert_eq!(out, bytes);
        }
    }
}
