//! What carries a connection of clients that have streams: QUIC, raw or below a WebTransport session.

use bytes::Bytes;

/// The connection below.
#[derive(Clone)]
pub(crate) enum Peer {
    /// Raw QUIC.
    Quic(quinn::Connection),
    /// A WebTransport session.
    Web(wtransport::Connection),
}

/// A stream to the client.
pub(crate) enum Sending {
    Quic(quinn::SendStream),
    Web(wtransport::SendStream),
}

/// A stream from the client.
pub(crate) enum Receiving {
    Quic(quinn::RecvStream),
    Web(wtransport::RecvStream),
}

impl Sending {
    pub(crate) fn quic(&mut self) -> &mut quinn::SendStream {
        match self {
            Self::Quic(stream) => stream,
            Self::Web(stream) => stream.quic_stream_mut(),
        }
    }
}

impl Receiving {
    pub(crate) fn quic(&mut self) -> &mut quinn::RecvStream {
        match self {
            Self::Quic(stream) => stream,
            Self::Web(stream) => stream.quic_stream_mut(),
        }
    }
}

impl Peer {
    pub(crate) fn quic(&self) -> &quinn::Connection {
        match self {
            Self::Quic(connection) => connection,
            Self::Web(connection) => connection.quic_connection(),
        }
    }

    pub(crate) async fn open_uni(&self) -> Option<Sending> {
        Some(match self {
            Self::Quic(connection) => Sending::Quic(connection.open_uni().await.ok()?),
            Self::Web(connection) => Sending::Web(connection.open_uni().await.ok()?.await.ok()?),
        })
    }

    pub(crate) async fn accept_uni(&self) -> Option<Receiving> {
        Some(match self {
            Self::Quic(connection) => Receiving::Quic(connection.accept_uni().await.ok()?),
            Self::Web(connection) => Receiving::Web(connection.accept_uni().await.ok()?),
        })
    }

    pub(crate) async fn accept_bi(&self) -> Option<(Sending, Receiving)> {
        match self {
            Self::Quic(connection) => {
                let (send, recv) = connection.accept_bi().await.ok()?;
                Some((Sending::Quic(send), Receiving::Quic(recv)))
            }
            Self::Web(connection) => {
                let (send, recv) = connection.accept_bi().await.ok()?;
                Some((Sending::Web(send), Receiving::Web(recv)))
            }
        }
    }

    pub(crate) async fn datagram(&self) -> Option<Bytes> {
        match self {
            Self::Quic(connection) => connection.read_datagram().await.ok(),
            Self::Web(connection) => Some(connection.receive_datagram().await.ok()?.payload()),
        }
    }

    pub(crate) fn send_datagram(&self, bytes: &[u8]) {
        // Lossy: what does not leave is superseded sooner or later.
        let _ = match self {
            Self::Quic(connection) => connection.send_datagram(Bytes::copy_from_slice(bytes)).is_ok(),
            Self::Web(connection) => connection.send_datagram(bytes).is_ok(),
        };
    }
}
