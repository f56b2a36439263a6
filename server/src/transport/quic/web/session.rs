//! The streams of an HTTP/3 connection that carries one session.
//!
//! ```text
//!                   ┌─ control, QPACK ─▶ critical: read for as long as the connection lives
//!  unidirectional ──┼─ of a session ───▶ wait for the request ─┬─ its own: the transport's
//!                   └─ other types ────▶ stopped               └─ another's: stopped
//!                   ┌─ a request ──────▶ the first: the session, which ends with it; others: refused
//!  bidirectional ───┴─ of a session ───▶ wait for the request ─── its own: control
//! ```
//!
//! What comes before the request waits in the stream or in QUIC's buffer of datagrams, whose windows bound it. There is
//! no task for all this: who waits for a stream or a datagram drives it.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quinn::{Connection, ReadError, RecvStream, SendStream};

use super::http3::{self, Beginning, Capsules, Control, Fault, Integer, Opening, Request, stream};
use crate::transport::quic::link::{accept_uni, poll_chunk};

/// Bytes that a client may send in all on one of the streams that HTTP/3 itself needs. Settings and the end of a session
/// take some dozens.
const OVERHEAD_BYTES_MAX: usize = 64 * 1024;

/// Why there is no session any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed it, or is gone.
    Closed,
    Fault(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

type Bidirectional = (SendStream, RecvStream);

/// A unidirectional stream of the client whose beginning is being read.
struct Arriving {
    stream: RecvStream,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Unknown(Integer),
    /// Of a session whose number is being read.
    Session(Integer),
    Of(u64),
    /// One that HTTP/3 needs, or does not know.
    Http(u64),
}

/// A bidirectional stream of the client.
struct Opened {
    streams: Bidirectional,
    beginning: Beginning,
    opening: Option<Opening>,
}

/// A stream that ends with the connection.
struct Critical<T> {
    stream: RecvStream,
    bytes: usize,
    reader: T,
}

impl<T> Critical<T> {
    fn new(stream: RecvStream, reader: T) -> Self {
        Self { stream, bytes: 0, reader }
    }

    /// What came next; `None`: its end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, End>> {
        match std::task::ready!(poll_chunk(&mut self.stream, OVERHEAD_BYTES_MAX, cx)) {
            Ok(Some(bytes)) => {
                self.bytes += bytes.len();
                Poll::Ready(if self.bytes > OVERHEAD_BYTES_MAX {
                    Err(Fault::ExcessiveLoad.into())
                } else {
                    Ok(Some(bytes))
                })
            }
            Err(ReadError::ConnectionLost(_)) => Poll::Ready(Err(End::Closed)),
            Ok(None) | Err(_) => Poll::Ready(Ok(None)),
        }
    }
}

/// Where the request of the session came.
struct Session {
    id: u64,
    /// Its end would be that of the session.
    _answer: SendStream,
    request: Critical<Capsules>,
}

/// The HTTP/3 side of a session.
pub(in super::super) struct Web {
    connection: Connection,
    unidirectional: BoxFuture<'static, Option<RecvStream>>,
    /// At most as many as the client may open.
    arriving: Vec<Arriving>,
    /// `None` once the session has its stream: a client may open no third one.
    bidirectional: Option<BoxFuture<'static, Option<Bidirectional>>>,
    opened: Vec<Opened>,
    /// The node's control stream, which may not end before the connection.
    _settings: SendStream,
    control: Option<Critical<Control>>,
    encoder: Option<Critical<()>>,
    decoder: Option<Critical<()>>,
    session: Option<Session>,
}

impl Web {
    /// Says the node's settings on a new connection. `None`: it is gone.
    pub(super) async fn open(connection: Connection) -> Option<Self> {
        let mut settings = connection.open_uni().await.ok()?;
        settings.write_all(&http3::settings()).await.ok()?;
        Some(Self {
            unidirectional: accept_uni(&connection),
            bidirectional: Some(accept_bi(&connection)),
            connection,
            arriving: Vec::new(),
            opened: Vec::new(),
            _settings: settings,
            control: None,
            encoder: None,
            decoder: None,
            session: None,
        })
    }

    pub(in super::super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The number of the session; before there is one that of no session.
    pub(in super::super) fn session_id(&self) -> u64 {
        self.session.as_ref().map_or(u64::MAX, |session| session.id)
    }

    /// Whether the client said that it takes datagrams (RFC 9297, 2.1.1).
    pub(in super::super) fn takes_datagrams(&self) -> bool {
        self.control.as_ref().and_then(|control| control.reader.settings).is_some_and(|settings| settings.datagrams)
    }

    /// The first request, once the client's settings are there. `None`: there will be none.
    pub(super) fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Request, Bidirectional)>> {
        if self.drive(cx).is_err() {
            return Poll::Ready(None);
        }
        let has_settings = self.control.as_ref().is_some_and(|control| control.reader.settings.is_some());
        let request = self.opened.iter().position(|opened| matches!(opened.opening, Some(Opening::Request(_))));
        if let Some(at) = request.filter(|_| has_settings) {
            let opened = self.opened.remove(at);
            if let Some(Opening::Request(request)) = opened.opening {
                return Poll::Ready(Some((request, opened.streams)));
            }
        }
        Poll::Pending
    }

    /// The request is accepted: the session begins.
    pub(super) fn begin(&mut self, (answer, request): Bidirectional) {
        let id = request.id().into();
        self.session = Some(Session { id, _answer: answer, request: Critical::new(request, Capsules::default()) });
    }

    /// The session's bidirectional stream; `None`: the session is over. Other requests and streams of other sessions are
    /// refused.
    pub(in super::super) fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bidirectional>> {
        if self.drive(cx).is_err() {
            return Poll::Ready(None);
        }
        let session = self.session_id();
        let mut at = 0;
        while let Some(opened) = self.opened.get(at) {
            let fault = match &opened.opening {
                None => {
                    at += 1;
                    continue;
                }
                Some(Opening::Stream(id)) if *id == session => {
                    let streams = self.opened.swap_remove(at).streams;
                    self.bidirectional = None;
                    return Poll::Ready(Some(streams));
                }
                Some(Opening::Stream(_)) => Fault::BufferedStreamRejected,
                Some(Opening::Request(_)) => Fault::RequestRejected,
            };
            let (mut send, mut receive) = self.opened.swap_remove(at).streams;
            // Both fail on streams that have ended, which is as good.
            let _ = (send.reset(fault.code()), receive.stop(fault.code()));
        }
        Poll::Pending
    }

    /// The next unidirectional stream of the session, past what marks it as such; `None`: the session is over.
    pub(in super::super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<RecvStream>> {
        if self.drive(cx).is_err() {
            return Poll::Ready(None);
        }
        let session = self.session_id();
        while let Some(at) = self.arriving.iter().position(|arriving| matches!(arriving.kind, Kind::Of(_))) {
            let Arriving { mut stream, kind } = self.arriving.swap_remove(at);
            if matches!(kind, Kind::Of(id) if id == session) {
                return Poll::Ready(Some(stream));
            }
            // Fails if it has ended.
            let _ = stream.stop(Fault::BufferedStreamRejected.code());
        }
        Poll::Pending
    }

    /// Resolves when the session is over. Drives all that waits before it has begun.
    pub(in super::super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drive(cx).is_err() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A datagram of the session; `Ok(None)`: one of another, which is lost as datagrams may be.
    pub(in super::super) fn datagram(&self, mut datagram: Bytes) -> Result<Option<Bytes>, ()> {
        match http3::datagram(&mut datagram) {
            Ok(id) => Ok((id == self.session_id()).then_some(datagram)),
            Err(fault) => {
                self.fail(fault);
                Err(())
            }
        }
    }

    fn fail(&self, fault: Fault) {
        tracing::debug!(peer = %self.connection.remote_address(), ?fault, "HTTP/3 is not kept to");
        self.connection.close(fault.code(), b"");
    }

    /// Reads what has come, but for the streams and datagrams of the session.
    fn drive(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let driven = self.drive_all(cx);
        match driven {
            Err(End::Fault(fault)) => self.fail(fault),
            // The connection was the session's alone; of one that is gone nothing is left to close.
            Err(End::Closed) => self.connection.close(http3::NO_ERROR.into(), b""),
            Ok(()) => {}
        }
        driven
    }

    fn drive_all(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while let Poll::Ready(accepted) = self.unidirectional.poll_unpin(cx) {
            let stream = accepted.ok_or(End::Closed)?;
            self.arriving.push(Arriving { stream, kind: Kind::Unknown(Integer::default()) });
            self.unidirectional = accept_uni(&self.connection);
        }
        self.drive_arriving(cx)?;
        self.drive_critical(cx)?;
        self.drive_session(cx)?;
        self.drive_bidirectional(cx)
    }

    fn drive_arriving(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let mut at = 0;
        while let Some(arriving) = self.arriving.get_mut(at) {
            match arriving.poll_kind(cx) {
                Poll::Pending | Poll::Ready(Ok(Some(Kind::Of(_)))) => at += 1,
                Poll::Ready(Ok(Some(kind))) => {
                    let stream = self.arriving.swap_remove(at).stream;
                    if let Kind::Http(kind) = kind {
                        self.place(kind, stream)?;
                    }
                }
                // RFC 9114, 6.2: it may end before it has begun.
                Poll::Ready(Ok(None)) => drop(self.arriving.swap_remove(at)),
                Poll::Ready(Err(end)) => return Err(end),
            }
        }
        Ok(())
    }

    /// A stream of a type that HTTP/3 has, or that nobody knows.
    fn place(&mut self, kind: u64, mut stream: RecvStream) -> Result<(), Fault> {
        let was_known = match kind {
            stream::CONTROL => self.control.replace(Critical::new(stream, Control::default())).is_some(),
            stream::QPACK_ENCODER => self.encoder.replace(Critical::new(stream, ())).is_some(),
            stream::QPACK_DECODER => self.decoder.replace(Critical::new(stream, ())).is_some(),
            stream::PUSH => true,
            _ => {
                // Fails if it has ended.
                let _ = stream.stop(Fault::StreamCreation.code());
                false
            }
        };
        if was_known { Err(Fault::StreamCreation) } else { Ok(()) }
    }

    fn drive_critical(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if let Some(control) = &mut self.control {
            while let Poll::Ready(read) = control.poll_read(cx) {
                control.reader.feed(&read?.ok_or(Fault::ClosedCriticalStream)?)?;
            }
        }
        // Without a dynamic table nothing on these matters.
        for qpack in [&mut self.encoder, &mut self.decoder].into_iter().flatten() {
            while let Poll::Ready(read) = qpack.poll_read(cx) {
                read?.ok_or(Fault::ClosedCriticalStream)?;
            }
        }
        Ok(())
    }

    fn drive_session(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(session) = &mut self.session else { return Ok(()) };
        while let Poll::Ready(read) = session.request.poll_read(cx) {
            let closes = match read? {
                Some(bytes) => session.request.reader.feed(&bytes)?,
                None => true,
            };
            if closes {
                return Err(End::Closed);
            }
        }
        Ok(())
    }

    fn drive_bidirectional(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while let Some(accept) = &mut self.bidirectional {
            let Poll::Ready(accepted) = accept.poll_unpin(cx) else { break };
            let streams = accepted.ok_or(End::Closed)?;
            self.opened.push(Opened { streams, beginning: Beginning::default(), opening: None });
            self.bidirectional = Some(accept_bi(&self.connection));
        }
        let mut at = 0;
        while let Some(opened) = self.opened.get_mut(at) {
            if opened.poll_opening(cx)? {
                at += 1;
            } else {
                drop(self.opened.swap_remove(at));
            }
        }
        Ok(())
    }
}

impl Arriving {
    /// What it is; `None`: it ended before it said so.
    fn poll_kind(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Kind>, End>> {
        loop {
            let integer = match &mut self.kind {
                Kind::Unknown(integer) | Kind::Session(integer) => integer,
                kind => return Poll::Ready(Ok(Some(*kind))),
            };
            // One by one: what follows belongs to the session.
            let byte = match std::task::ready!(poll_chunk(&mut self.stream, 1, cx)) {
                Ok(Some(bytes)) => bytes.first().copied(),
                Err(ReadError::ConnectionLost(_)) => return Poll::Ready(Err(End::Closed)),
                Ok(None) | Err(_) => return Poll::Ready(Ok(None)),
            };
            let Some(value) = byte.and_then(|byte| integer.push(byte)) else { continue };
            self.kind = match self.kind {
                Kind::Unknown(_) if value == stream::WEBTRANSPORT => Kind::Session(Integer::default()),
                Kind::Unknown(_) => Kind::Http(value),
                _ if http3::is_session(value) => Kind::Of(value),
                _ => return Poll::Ready(Err(Fault::Id.into())),
            };
        }
    }
}

impl Opened {
    /// Reads its beginning; `false`: it ended before.
    fn poll_opening(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        while self.opening.is_none() {
            let Poll::Ready(read) = poll_chunk(&mut self.streams.1, self.beginning.wants(), cx) else { break };
            match read {
                Ok(Some(bytes)) => self.opening = self.beginning.feed(&bytes)?,
                Err(ReadError::ConnectionLost(_)) => return Err(End::Closed),
                Ok(None) | Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}

fn accept_bi(connection: &Connection) -> BoxFuture<'static, Option<Bidirectional>> {
    let connection = connection.clone();
    async move { connection.accept_bi().await.ok() }.boxed()
}
