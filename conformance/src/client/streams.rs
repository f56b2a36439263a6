//! The QUIC binding, raw or in a WebTransport session: one control stream, a stream per lane, a stream per urgent
//! message, datagrams for signals.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt};

use super::framing::{Fault, Piece, RecordReader, header_record};
use super::http3::{self, Said, SessionReader, Uni};
use super::lane::Lane;
use super::link::{ABNORMAL, Arrival, NO_CODE, Open, Place, Refused};
use super::{Transport, WireLog};
use crate::schema::{self, v1};
use crate::target::{Endpoint, Target};
use crate::verdict::{Outcome, Stop};

/// Signals up to this length go as datagrams (LC-QUIC-009).
pub const DATAGRAM_BYTES_MAX: usize = 1_000;
/// Bytes that are read of one stream before the others have their turn.
const TURN_BYTES: usize = 16 * 1024;
/// Bytes of a stream whose header is not known yet that are read at once, so that a paused lane stays unread.
const HEADER_BYTES: usize = 16;
/// The suite judges the length of records by the limit of Welcome, not by this one.
const RECORD_BYTES_MAX: u64 = 64 << 20;
/// The lanes of long-lived streams.
const LANE_STREAMS: [Lane; 3] = [Lane::Urgent, Lane::Normal, Lane::Bulk];

/// A future that lives as long as it waits.
type Waiting<T> = Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + Send + Sync>>;

/// What a stream of the server is, as far as its first bytes tell.
#[derive(Debug)]
enum Phase {
    /// In a session: the prefix has not come whole.
    Prefix(Vec<u8>),
    /// HTTP/3's own stream, or one of another session: read and passed over.
    Foreign,
    /// Records.
    Records,
}

/// A stream that the server sends on.
#[derive(Debug)]
struct Incoming {
    number: u64,
    stream: RecvStream,
    phase: Phase,
    reader: RecordReader,
    header: Option<v1::StreamHeader>,
    frames: u64,
}

/// The HTTP/3 side of a WebTransport session.
pub(super) struct Session {
    id: u64,
    send: SendStream,
    recv: RecvStream,
    reader: SessionReader,
    /// HTTP/3 forbids to close it.
    _settings: SendStream,
}

/// The streams and datagrams of one connection.
pub(crate) struct Streams {
    connection: Connection,
    session: Option<Session>,
    control: SendStream,
    lanes: [Option<SendStream>; LANE_STREAMS.len()],
    /// Streams that a case opened by hand.
    named: BTreeMap<String, SendStream>,
    incoming: Vec<Incoming>,
    /// Streams that the server has opened, the control stream left out.
    opened: u64,
    accepting: Waiting<RecvStream>,
    datagrams: Waiting<Bytes>,
    /// Lanes whose streams are not read.
    paused: Vec<Lane>,
    arrived: VecDeque<Arrival>,
    /// The code with which the session ended, while the connection below may go on.
    ended: Option<u16>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Streams").field("incoming", &self.incoming).finish_non_exhaustive()
    }
}

/// How a stream that a case opened by hand ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// It goes on.
    Open,
    /// All was sent.
    Finished,
    /// What was sent may be forgotten.
    Reset,
}

impl Incoming {
    fn new(number: u64, stream: RecvStream, phase: Phase) -> Self {
        Self { number, stream, phase, reader: RecordReader::new(RECORD_BYTES_MAX), header: None, frames: 0 }
    }

    fn lane(&self) -> Option<Lane> {
        self.header.as_ref().and_then(|header| Lane::from_wire(header.lane))
    }

    fn is_message(&self) -> bool {
        self.header.as_ref().is_some_and(|header| header.kind == v1::StreamKind::Message as i32)
    }

    fn place(&self) -> Place {
        let kind = self.header.as_ref().map_or(0, |header| header.kind);
        Place::Stream { number: self.number, kind, lane: self.lane() }
    }

    /// Reads once. What came is added to `out`; false: the stream is over.
    fn poll(&mut self, cx: &mut Context<'_>, session: u64, out: &mut Vec<Arrival>) -> Poll<bool> {
        let mut chunk = [0; TURN_BYTES];
        let turn = if self.header.is_some() { TURN_BYTES } else { HEADER_BYTES };
        let read = match self.stream.poll_read(cx, &mut chunk[..turn]) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(read) => read,
        };
        match read {
            Ok(0) => {
                self.finished(out);
                Poll::Ready(false)
            }
            Ok(read) => {
                self.take(&chunk[..read], session, out);
                Poll::Ready(true)
            }
            // A reset stream takes what was cut with it.
            Err(ReadError::Reset(_)) => Poll::Ready(false),
            Err(ReadError::ConnectionLost(_)) => Poll::Pending,
            Err(_) => Poll::Ready(false),
        }
    }

    fn finished(&self, out: &mut Vec<Arrival>) {
        if !matches!(self.phase, Phase::Records) {
            return;
        }
        if !self.reader.is_between_records() {
            out.push(Arrival::Broken("LC-FRM-001", format!("stream {} ends within a record", self.number)));
        }
        let kind = self.header.as_ref().map(|header| header.kind);
        if kind == Some(v1::StreamKind::Message as i32) && self.frames != 1 {
            let text = format!("message stream {} holds {} frames", self.number, self.frames);
            out.push(Arrival::Broken("LC-QUIC-004", text));
        }
    }

    fn take(&mut self, bytes: &[u8], session: u64, out: &mut Vec<Arrival>) {
        match &mut self.phase {
            Phase::Foreign => {}
            Phase::Records => self.records(bytes, out),
            Phase::Prefix(prefix) => {
                prefix.extend_from_slice(bytes);
                match http3::uni(prefix, session) {
                    None => {}
                    Some(Uni::Own) => self.phase = Phase::Foreign,
                    Some(Uni::Session(used)) => {
                        let rest = prefix.split_off(used);
                        self.phase = Phase::Records;
                        self.records(&rest, out);
                    }
                }
            }
        }
    }

    fn records(&mut self, bytes: &[u8], out: &mut Vec<Arrival>) {
        self.reader.push(bytes);
        let mut packet = BytesMut::new();
        loop {
            match self.reader.next() {
                Ok(None) => break,
                Ok(Some(Piece::Header(header))) if self.header.is_none() => self.header = Some(header),
                Ok(Some(Piece::Header(_))) => {
                    let text = format!("a second stream header on stream {}", self.number);
                    return out.push(Arrival::Broken("LC-QUIC-001", text));
                }
                Ok(Some(Piece::Frame(_))) if self.header.is_none() => {
                    let text = format!("stream {} does not begin with a stream header", self.number);
                    return out.push(Arrival::Broken("LC-QUIC-001", text));
                }
                Ok(Some(Piece::Frame(frame))) => {
                    self.frames += 1;
                    packet.extend_from_slice(&schema::record(&frame));
                }
                Err(Fault::Malformed(text)) => {
                    return out.push(Arrival::Broken("LC-FRM-001", format!("stream {}: {text}", self.number)));
                }
                Err(Fault::TooLarge(length)) => {
                    return out.push(Arrival::Broken("LC-FRM-005", format!("a record of {length} bytes")));
                }
            }
        }
        if !packet.is_empty() {
            out.push(Arrival::Packet(packet.freeze(), self.place()));
        }
    }
}

fn accept(connection: &Connection) -> Waiting<RecvStream> {
    let connection = connection.clone();
    Box::pin(async move { connection.accept_uni().await })
}

fn datagram(connection: &Connection) -> Waiting<Bytes> {
    let connection = connection.clone();
    Box::pin(async move { connection.read_datagram().await })
}

impl Streams {
    /// Connects, opens the session if there is one, and the control stream.
    pub(super) async fn open(target: &Target, open: &Open, log: &WireLog) -> Outcome<Result<Self, Refused>> {
        let web = open.transport == Transport::Webtransport;
        let endpoint = target.stream_endpoint(open.transport)?;
        log.add(&open.name, "→", &format!("handshake {} {}", open.transport.name(), endpoint.authority()));
        let dialer = target.dialer()?;
        let connection =
            dialer.connect(&endpoint.host, endpoint.port, web, open.receive_buffer).await.map_err(Stop::Harness)?;
        let lost = |error: ConnectionError| Stop::fail(format!("the connection ended during the handshake: {error}"));
        let mut early = Vec::new();
        let session = if web {
            match open_session(&connection, &endpoint, open, &mut early).await? {
                Ok(session) => Some(session),
                Err(status) => {
                    log.add(&open.name, "←", &format!("status {status}"));
                    connection.close(VarInt::from_u32(http3::NO_ERROR as u32), b"");
                    return Ok(Err(Refused { status, answer: format!("status {status}") }));
                }
            }
        } else {
            None
        };
        let mut streams = Self::begin(connection, session).await.map_err(lost)?;
        early.into_iter().for_each(|stream| streams.add(stream));
        Ok(Ok(streams))
    }

    /// Opens the control stream.
    pub(super) async fn begin(connection: Connection, session: Option<Session>) -> Result<Self, ConnectionError> {
        let (mut control, answers) = connection.open_bi().await?;
        let mut first = session.as_ref().map_or_else(Vec::new, |session| http3::bidi_prefix(session.id));
        first.extend(header_record(v1::StreamKind::Control, Lane::Control.to_wire()));
        // That the server is gone shows at reading.
        let _ = control.write_all(&first).await;
        Ok(Self {
            accepting: accept(&connection),
            datagrams: datagram(&connection),
            connection,
            session,
            control,
            lanes: [const { None }; LANE_STREAMS.len()],
            named: BTreeMap::new(),
            incoming: vec![Incoming::new(0, answers, Phase::Records)],
            opened: 0,
            paused: Vec::new(),
            arrived: VecDeque::new(),
            ended: None,
        })
    }

    fn add(&mut self, stream: RecvStream) {
        self.opened += 1;
        let phase = if self.session.is_some() { Phase::Prefix(Vec::new()) } else { Phase::Records };
        self.incoming.push(Incoming::new(self.opened, stream, phase));
    }

    /// Sends records of that lane where they belong.
    pub(super) async fn send(&mut self, lane: Lane, records: Bytes) {
        // A connection that is gone shows at reading.
        let _ = match lane {
            Lane::Control => self.control.write_all(&records).await.is_ok(),
            Lane::Signal if records.len() <= DATAGRAM_BYTES_MAX => self.send_datagram(&records),
            Lane::Signal => {
                let mut bytes = header_record(v1::StreamKind::Signal, lane.to_wire());
                bytes.extend_from_slice(&records);
                self.send_stream(&bytes).await
            }
            Lane::Urgent | Lane::Normal | Lane::Bulk => self.send_lane(lane, &records).await.is_some(),
        };
    }

    /// Sends on the long-lived stream of a lane, which the first record opens.
    async fn send_lane(&mut self, lane: Lane, records: &[u8]) -> Option<()> {
        let place = LANE_STREAMS.iter().position(|known| *known == lane)?;
        if self.lanes[place].is_none() {
            let mut stream = self.open_uni().await?;
            stream.write_all(&header_record(v1::StreamKind::Lane, lane.to_wire())).await.ok()?;
            self.lanes[place] = Some(stream);
        }
        self.lanes[place].as_mut()?.write_all(records).await.ok()
    }

    /// Sends a stream of its own.
    async fn send_stream(&mut self, bytes: &[u8]) -> bool {
        let Some(mut stream) = self.open_uni().await else { return false };
        stream.write_all(bytes).await.is_ok() && stream.finish().is_ok()
    }

    async fn open_uni(&self) -> Option<SendStream> {
        let mut stream = self.connection.open_uni().await.ok()?;
        if let Some(session) = &self.session {
            stream.write_all(&http3::uni_prefix(session.id)).await.ok()?;
        }
        Some(stream)
    }

    /// Sends one datagram with these bytes.
    pub(crate) fn send_datagram(&self, bytes: &[u8]) -> bool {
        let mut datagram = self.session.as_ref().map_or_else(Vec::new, |session| http3::datagram_prefix(session.id));
        datagram.extend_from_slice(bytes);
        self.connection.send_datagram(datagram.into()).is_ok()
    }

    /// Sends bytes on a stream that the case names; the first ones open it.
    pub(crate) async fn send_named(&mut self, name: &str, bidi: bool, bytes: &[u8], end: StreamEnd) -> Outcome {
        if !self.named.contains_key(name) {
            let stream = if bidi { self.open_bidi().await } else { self.open_uni().await };
            let stream = stream.ok_or_else(|| Stop::fail(format!("stream {name} could not be opened")))?;
            self.named.insert(name.to_owned(), stream);
        }
        let Some(stream) = self.named.get_mut(name) else { return Ok(()) };
        // The server may have stopped the stream, which a case asks about if it matters.
        let _ = stream.write_all(bytes).await;
        match end {
            StreamEnd::Open => {}
            StreamEnd::Finished => {
                let _ = stream.finish();
            }
            StreamEnd::Reset => {
                let _ = stream.reset(VarInt::from_u32(0));
            }
        }
        Ok(())
    }

    async fn open_bidi(&mut self) -> Option<SendStream> {
        let (mut send, answers) = self.connection.open_bi().await.ok()?;
        if let Some(session) = &self.session {
            send.write_all(&http3::bidi_prefix(session.id)).await.ok()?;
        }
        self.opened += 1;
        self.incoming.push(Incoming::new(self.opened, answers, Phase::Records));
        Some(send)
    }

    /// Waits until the server stops a stream that the case names, or has all of it; true: it stopped it.
    pub(crate) async fn stopped(&mut self, name: &str) -> Outcome<bool> {
        let stream = self.named.get_mut(name).ok_or_else(|| Stop::Harness(format!("there is no stream {name}")))?;
        Ok(matches!(stream.stopped().await, Ok(Some(_))))
    }

    /// Does not read the streams of these lanes any more.
    pub(crate) fn pause(&mut self, lanes: &[Lane]) {
        self.paused = lanes.to_vec();
    }

    /// Streams of a lane that the server has open, as far as their headers came: number and kind.
    pub(crate) fn open_streams(&self, lane: Lane) -> Vec<(u64, i32)> {
        let of_lane = self.incoming.iter().filter(|incoming| incoming.lane() == Some(lane));
        of_lane.filter_map(|incoming| Some((incoming.number, incoming.header.as_ref()?.kind))).collect()
    }

    /// Closes with a code: the connection, or the session.
    pub(super) async fn close(&mut self, code: u16) {
        match &mut self.session {
            None => self.connection.close(VarInt::from_u32(code.into()), b""),
            Some(session) => {
                let _ = session.send.write_all(&http3::close_capsule(code.into())).await;
                let _ = session.send.finish();
            }
        }
    }

    /// The next thing that arrives.
    pub(super) async fn next(&mut self) -> Arrival {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Arrival> {
        if let Some(arrival) = self.arrived.pop_front() {
            return Poll::Ready(arrival);
        }
        // Asked before the streams are, so that all of them were empty after it.
        let lost = self.connection.close_reason();
        let over = self.ended.or(lost.map(|reason| close_code(&reason)));
        self.poll_datagrams(cx);
        self.poll_accept(cx);
        self.poll_session(cx);
        let read = self.poll_streams(cx);
        match (self.arrived.pop_front(), over) {
            (Some(arrival), _) => Poll::Ready(arrival),
            (None, Some(code)) if !read => Poll::Ready(Arrival::Closed(code)),
            (None, _) => Poll::Pending,
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(accepted) = self.accepting.as_mut().poll(cx) {
            // After its end a connection has no streams; the loss itself is seen elsewhere.
            let Ok(stream) = accepted else { return self.accepting = Box::pin(std::future::pending()) };
            self.add(stream);
            self.accepting = accept(&self.connection);
        }
    }

    fn poll_datagrams(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(read) = self.datagrams.as_mut().poll(cx) {
            let Ok(bytes) = read else { return self.datagrams = Box::pin(std::future::pending()) };
            self.datagrams = datagram(&self.connection);
            let start = match &self.session {
                None => Some(0),
                Some(session) => http3::datagram(&bytes, session.id),
            };
            if let Some(start) = start {
                self.arrived.push_back(Arrival::Packet(bytes.slice(start..), Place::Datagram));
            }
        }
    }

    fn poll_session(&mut self, cx: &mut Context<'_>) {
        let Some(session) = &mut self.session else { return };
        let mut chunk = [0; 1024];
        while let Poll::Ready(read) = session.recv.poll_read(cx, &mut chunk) {
            match read {
                Ok(read) if read > 0 => {
                    for said in session.reader.push(&chunk[..read]) {
                        if let Said::Closed(code) = said {
                            self.ended = Some(u16::try_from(code).unwrap_or(ABNORMAL));
                            cx.waker().wake_by_ref();
                        }
                    }
                }
                // A session whose stream ends without a capsule was closed without a code.
                Ok(_) => {
                    if self.ended.is_none() {
                        self.ended = Some(NO_CODE);
                        cx.waker().wake_by_ref();
                    }
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// Reads a turn of every stream, of message streams all that is there, and those once more before the last that had
    /// something: what came whole of an earlier message before a later one was begun is then never seen after it.
    /// True: something was read.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> bool {
        let session = self.session.as_ref().map_or(0, |session| session.id);
        let mut found: BTreeMap<usize, Vec<Arrival>> = BTreeMap::new();
        let mut over = BTreeSet::new();
        let mut last = self.incoming.len();
        for again in [false, true] {
            for (place, incoming) in self.incoming.iter_mut().enumerate().take(last) {
                loop {
                    let is_paused = incoming.lane().is_some_and(|lane| self.paused.contains(&lane));
                    if is_paused || over.contains(&place) || again && !incoming.is_message() {
                        break;
                    }
                    let out = found.entry(place).or_default();
                    match incoming.poll(cx, session, out) {
                        Poll::Pending if out.is_empty() => {
                            found.remove(&place);
                            break;
                        }
                        Poll::Pending => break,
                        Poll::Ready(goes_on) => {
                            // A turn without a whole record has more to come, perhaps at once.
                            cx.waker().wake_by_ref();
                            if !goes_on {
                                over.insert(place);
                            }
                        }
                    }
                    if !incoming.is_message() {
                        break;
                    }
                }
            }
            last = found.keys().next_back().copied().unwrap_or(0);
        }
        let read = !found.is_empty() || !over.is_empty();
        self.arrived.extend(found.into_values().flatten());
        for place in over.into_iter().rev() {
            self.incoming.remove(place);
        }
        read
    }
}

/// The close code that a lost connection stands for.
fn close_code(reason: &ConnectionError) -> u16 {
    match reason {
        ConnectionError::ApplicationClosed(close) => match close.error_code.into_inner() {
            0 | http3::NO_ERROR => NO_CODE,
            code @ 1000..5000 => code as u16,
            _ => ABNORMAL,
        },
        ConnectionError::LocallyClosed => NO_CODE,
        _ => ABNORMAL,
    }
}

/// Opens a WebTransport session: settings, CONNECT, and the answer's status. `early` gets the streams that the server
/// opened meanwhile. `Err`: the status of a refusal.
async fn open_session(
    connection: &Connection,
    endpoint: &Endpoint,
    open: &Open,
    early: &mut Vec<RecvStream>,
) -> Outcome<Result<Session, u16>> {
    let lost = |error: &dyn std::fmt::Display| Stop::fail(format!("the session did not open: {error}"));
    let mut settings = connection.open_uni().await.map_err(|error| lost(&error))?;
    settings.write_all(&http3::settings()).await.map_err(|error| lost(&error))?;
    // A server need not take the request before it sent its own settings, on the first stream that it opens.
    early.push(connection.accept_uni().await.map_err(|error| lost(&error))?);
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| lost(&error))?;
    let path = open.path.as_deref().unwrap_or(&endpoint.path);
    let request = http3::connect(&endpoint.authority(), path, &open.headers);
    send.write_all(&request).await.map_err(|error| lost(&error))?;
    let mut reader = SessionReader::default();
    let mut chunk = [0; 1024];
    loop {
        let read = recv.read(&mut chunk).await.map_err(|error| lost(&error))?;
        let read = read.ok_or_else(|| lost(&"its stream ended without an answer"))?;
        let status = reader.push(&chunk[..read]).into_iter().find_map(|said| match said {
            Said::Status(status) if status >= 200 => Some(status),
            _ => None,
        });
        match status {
            None => {}
            Some(200..300) => {
                let id = VarInt::from(send.id()).into_inner();
                return Ok(Ok(Session { id, send, recv, reader, _settings: settings }));
            }
            Some(status) => return Ok(Err(status)),
        }
    }
}
