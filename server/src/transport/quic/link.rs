//! What raw QUIC and a WebTransport session do differently: how streams and datagrams are marked as the session's.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lanecast_protocol::codes::Code;
use quinn::{Connection, ReadError, RecvStream, SendStream};

use super::web::{self, Web};

/// A connection of either kind, and what it waits for of the client.
pub(super) struct Link {
    kind: Kind,
    datagrams: BoxFuture<'static, Option<Bytes>>,
    /// Whether QUIC is told which lanes go first.
    pub(super) is_prioritized: bool,
}

enum Kind {
    Quic(Connection, BoxFuture<'static, Option<RecvStream>>),
    /// A WebTransport session, which has its connection for itself.
    Web(Box<Web>),
}

impl Link {
    pub(super) fn quic(connection: Connection) -> Self {
        let (accept, datagrams) = (accept_uni(&connection), read_datagram(&connection));
        Self { kind: Kind::Quic(connection, accept), datagrams, is_prioritized: true }
    }

    pub(super) fn web(web: Web) -> Self {
        Self { datagrams: read_datagram(web.connection()), kind: Kind::Web(Box::new(web)), is_prioritized: true }
    }

    pub(super) fn connection(&self) -> &Connection {
        match &self.kind {
            Kind::Quic(connection, _) => connection,
            Kind::Web(web) => web.connection(),
        }
    }

    /// Waits for the client to open control; `None`: it left without.
    pub(super) async fn accept_control(&mut self) -> Option<(SendStream, RecvStream)> {
        match &mut self.kind {
            Kind::Quic(connection, _) => connection.accept_bi().await.ok(),
            Kind::Web(web) => poll_fn(|cx| web.poll_control(cx)).await,
        }
    }

    /// What stands before everything else on a stream that this side opens.
    pub(super) fn preamble(&self) -> Bytes {
        match &self.kind {
            Kind::Quic(..) => Bytes::new(),
            Kind::Web(web) => web::stream_preamble(web.session_id()),
        }
    }

    /// The next unidirectional stream of the peer; `None`: the connection is gone, or its session.
    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<RecvStream>> {
        match &mut self.kind {
            Kind::Quic(connection, accept) => {
                let accepted = ready!(accept.poll_unpin(cx));
                *accept = accept_uni(connection);
                Poll::Ready(accepted)
            }
            Kind::Web(web) => web.poll_accept(cx),
        }
    }

    /// Resolves when the session is over while nothing else is waited for.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.kind {
            // Shows on control.
            Kind::Quic(..) => Poll::Pending,
            Kind::Web(web) => web.poll_closed(cx),
        }
    }

    /// The next datagram of the peer; `None`: the connection is gone.
    pub(super) fn poll_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let Some(datagram) = ready!(self.datagrams.poll_unpin(cx)) else { return Poll::Ready(None) };
            self.datagrams = read_datagram(self.connection());
            match &self.kind {
                Kind::Quic(..) => return Poll::Ready(Some(datagram)),
                Kind::Web(web) => match web.datagram(datagram) {
                    Ok(None) => {}
                    Ok(datagram) => return Poll::Ready(datagram),
                    Err(()) => return Poll::Ready(None),
                },
            }
        }
    }

    /// Largest record that a datagram takes on this path, bytes; 0: the peer takes none.
    pub(super) fn datagram_bytes_max(&self) -> usize {
        let bytes = self.connection().max_datagram_size().unwrap_or(0);
        match &self.kind {
            Kind::Quic(..) => bytes,
            Kind::Web(web) if web.takes_datagrams() => {
                bytes.saturating_sub(web::datagram_preamble(web.session_id()).len())
            }
            Kind::Web(_) => 0,
        }
    }

    /// A record as the datagram that carries it.
    pub(super) fn datagram(&self, record: Bytes) -> Bytes {
        match &self.kind {
            Kind::Quic(..) => record,
            Kind::Web(web) => [web::datagram_preamble(web.session_id()), record].concat().into(),
        }
    }

    /// Closes at once.
    pub(super) fn close(&self, code: Code) {
        self.connection().close(u32::from(code.number()).into(), code.row().name.as_bytes());
    }
}

/// What a stream has next; `Ok(None)`: its end.
pub(super) fn poll_chunk(
    stream: &mut RecvStream,
    bytes_max: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Bytes>, ReadError>> {
    // The stream, not the future, keeps who is to be woken.
    let chunk = ready!(pin!(stream.read_chunk(bytes_max, true)).poll(cx));
    Poll::Ready(chunk.map(|chunk| chunk.map(|chunk| chunk.bytes)))
}

/// The next unidirectional stream of the peer; `None`: the connection is gone.
pub(super) fn accept_uni(connection: &Connection) -> BoxFuture<'static, Option<RecvStream>> {
    let connection = connection.clone();
    async move { connection.accept_uni().await.ok() }.boxed()
}

fn read_datagram(connection: &Connection) -> BoxFuture<'static, Option<Bytes>> {
    let connection = connection.clone();
    async move { connection.read_datagram().await.ok() }.boxed()
}
