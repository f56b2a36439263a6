//! The connections of the scripted server, below frames: tasks that hear, and what sends.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::conn::{Heard, What};
use crate::carrier::{Peer as Carrier, Receiving, Sending};
use crate::client::{
    ABNORMAL, DATAGRAM_BYTES_MAX, Fault, Lane, NO_CODE, Piece, Place, RecordReader, StreamEnd, header_record,
};
use crate::schema::{self, v1};
use crate::verdict::{Outcome, Stop};

/// What was heard and not taken; beyond it the connection is not read.
const HEARD_MAX: usize = 65_536;
/// Cases judge the length of records, not the reader.
const RECORD_BYTES_MAX: u64 = 16 << 20;
const CHUNK_BYTES: usize = 16 * 1024;
/// How long a control stream may take to come.
const CONTROL: Duration = Duration::from_secs(10);

/// Where frames of the server leave.
pub(super) enum Link {
    Socket { sink: SplitSink<WebSocketStream<TcpStream>, Message>, reading: watch::Sender<bool>, task: JoinHandle<()> },
    Streams(Box<Streams>),
}

/// The sending side of a connection with streams.
pub(super) struct Streams {
    carrier: Carrier,
    control: Control,
    lanes: BTreeMap<i32, Sending>,
    named: BTreeMap<String, Sending>,
    reading: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

enum Control {
    Coming(oneshot::Receiver<Sending>),
    Here(Sending),
}

/// Says what was heard; false: nobody listens any more.
#[derive(Clone)]
struct Ear {
    say: mpsc::Sender<Heard>,
    reading: watch::Receiver<bool>,
}

impl Ear {
    async fn hear(&self, what: What) -> bool {
        self.say.send(Heard { at: Instant::now(), what }).await.is_ok()
    }

    /// Waits while a case wants nothing to be read.
    async fn may_read(&mut self) {
        // Fails when the connection is being dropped.
        let _ = self.reading.wait_for(|reading| *reading).await;
    }

    /// Hears the frames of a packet.
    async fn packet(&self, bytes: &[u8]) {
        let size = bytes.len();
        match schema::split_records(bytes) {
            Err(error) => _ = self.hear(What::Broken("LC-FRM-001", error.0)).await,
            Ok(records) => {
                self.hear(What::Unit(size)).await;
                for record in records {
                    self.frame(record, Place::Message).await;
                }
            }
        }
    }

    async fn frame(&self, bytes: &[u8], place: Place) {
        let what = match schema::decode("Frame", bytes) {
            Err(error) => What::Broken("LC-FRM-001", error.0),
            Ok(frame) => match misplaced(&frame, place) {
                Some(text) => What::Broken("LC-LANE-002", text),
                None => What::Frame { frame, place, bytes: schema::record_length(bytes.len()) },
            },
        };
        self.hear(what).await;
    }
}

/// Why a frame may not stand where it stands.
fn misplaced(frame: &serde_json::Value, place: Place) -> Option<String> {
    let own = Lane::of(frame);
    let lane = match place {
        Place::Message => return None,
        Place::Datagram => Some(Lane::Signal),
        Place::Stream { lane, .. } => lane,
    };
    (lane != Some(own)).then(|| format!("a frame of lane {} on {place:?}", own.name()))
}

impl Link {
    pub(super) async fn websocket(tcp: TcpStream, rest: Vec<u8>) -> (Self, mpsc::Receiver<Heard>) {
        let bounds = WebSocketConfig::default()
            .max_message_size(Some(RECORD_BYTES_MAX as usize))
            .max_frame_size(Some(RECORD_BYTES_MAX as usize));
        let socket = WebSocketStream::from_partially_read(tcp, rest, Role::Server, Some(bounds)).await;
        let (sink, stream) = socket.split();
        let (say, heard) = mpsc::channel(HEARD_MAX);
        let (reading, read) = watch::channel(true);
        let task = tokio::spawn(hear_socket(stream, Ear { say, reading: read }));
        (Self::Socket { sink, reading, task }, heard)
    }

    pub(super) fn streams(carrier: Carrier) -> (Self, mpsc::Receiver<Heard>) {
        let (say, heard) = mpsc::channel(HEARD_MAX);
        let (reading, read) = watch::channel(true);
        let ear = Ear { say, reading: read };
        let (found, control) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(hear_control(carrier.clone(), ear.clone(), found));
        tasks.spawn(hear_streams(carrier.clone(), ear.clone()));
        tasks.spawn(hear_datagrams(carrier.clone(), ear.clone()));
        tasks.spawn(hear_end(carrier.clone(), ear));
        let streams = Streams {
            carrier,
            control: Control::Coming(control),
            lanes: BTreeMap::new(),
            named: BTreeMap::new(),
            reading,
            tasks,
        };
        (Self::Streams(Box::new(streams)), heard)
    }

    /// Reads on, or stops reading: then what the client sends waits in its own queues.
    pub(super) fn set_reading(&self, read: bool) {
        let reading = match self {
            Self::Socket { reading, .. } => reading,
            Self::Streams(streams) => &streams.reading,
        };
        reading.send_replace(read);
    }

    /// Sends whole records of a lane where they belong. That the client is gone shows at hearing.
    pub(super) async fn send(&mut self, lane: Lane, records: Vec<u8>) {
        match self {
            Self::Socket { sink, .. } => _ = sink.send(Message::Binary(records.into())).await,
            Self::Streams(streams) => _ = streams.send(lane, records).await,
        }
    }

    /// Sends bytes on a stream that the case names; the first ones open it.
    pub(super) async fn send_named(&mut self, name: &str, bytes: &[u8], end: StreamEnd) -> Outcome {
        let Self::Streams(streams) = self else { return Err(Stop::harness("WebSocket has no streams")) };
        streams.send_named(name, bytes, end).await.ok_or_else(|| Stop::fail(format!("stream {name} cannot be sent on")))
    }

    /// Waits until the client stops a stream that the case names, or has all of it; true: it stopped it.
    pub(super) async fn stopped(&mut self, name: &str) -> Outcome<bool> {
        let Self::Streams(streams) = self else { return Err(Stop::harness("WebSocket has no streams")) };
        let stream = streams.named.get_mut(name).ok_or_else(|| Stop::harness(format!("there is no stream {name}")))?;
        Ok(matches!(stream.quic().stopped().await, Ok(Some(_))))
    }

    /// Sends a datagram.
    pub(super) fn send_datagram(&self, bytes: &[u8]) {
        if let Self::Streams(streams) = self {
            streams.carrier.send_datagram(bytes);
        }
    }

    /// Closes with a code.
    pub(super) async fn close(&mut self, code: u16) {
        match self {
            Self::Socket { sink, .. } => {
                let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
                let _ = sink.send(Message::Close(Some(frame))).await;
            }
            Self::Streams(streams) => streams.carrier.quic().close(u32::from(code).into(), b""),
        }
    }
}

impl Streams {
    async fn send(&mut self, lane: Lane, records: Vec<u8>) -> Option<()> {
        match lane {
            Lane::Control => self.control().await?.quic().write_all(&records).await.ok(),
            Lane::Signal if records.len() <= DATAGRAM_BYTES_MAX => {
                self.carrier.send_datagram(&records);
                Some(())
            }
            Lane::Signal => self.message(v1::StreamKind::Signal, lane, &records).await,
            Lane::Urgent => self.message(v1::StreamKind::Message, lane, &records).await,
            Lane::Normal | Lane::Bulk => {
                if !self.lanes.contains_key(&lane.to_wire()) {
                    let stream = self.open(v1::StreamKind::Lane, lane).await?;
                    self.lanes.insert(lane.to_wire(), stream);
                }
                self.lanes.get_mut(&lane.to_wire())?.quic().write_all(&records).await.ok()
            }
        }
    }

    async fn control(&mut self) -> Option<&mut Sending> {
        if let Control::Coming(coming) = &mut self.control {
            let mut stream = timeout(CONTROL, coming).await.ok()?.ok()?;
            let header = header_record(v1::StreamKind::Control, Lane::Control.to_wire());
            stream.quic().write_all(&header).await.ok()?;
            self.control = Control::Here(stream);
        }
        match &mut self.control {
            Control::Here(stream) => Some(stream),
            Control::Coming(_) => None,
        }
    }

    async fn open(&self, kind: v1::StreamKind, lane: Lane) -> Option<Sending> {
        let mut stream = self.carrier.open_uni().await?;
        stream.quic().write_all(&header_record(kind, lane.to_wire())).await.ok()?;
        Some(stream)
    }

    async fn message(&self, kind: v1::StreamKind, lane: Lane, record: &[u8]) -> Option<()> {
        let mut stream = self.open(kind, lane).await?;
        stream.quic().write_all(record).await.ok()?;
        stream.quic().finish().ok()
    }

    async fn send_named(&mut self, name: &str, bytes: &[u8], end: StreamEnd) -> Option<()> {
        if name == "control" {
            return self.control().await?.quic().write_all(bytes).await.ok();
        }
        if !self.named.contains_key(name) {
            let stream = self.carrier.open_uni().await?;
            self.named.insert(name.to_owned(), stream);
        }
        let stream = self.named.get_mut(name)?.quic();
        // The client may have stopped the stream, which a case asks about if it matters.
        let _ = stream.write_all(bytes).await;
        match end {
            StreamEnd::Open => {}
            StreamEnd::Finished => _ = stream.finish(),
            StreamEnd::Reset => _ = stream.reset(0u32.into()),
        }
        Some(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        match self {
            Self::Socket { task, .. } => task.abort(),
            // The clones of the connection in its tasks would keep it open.
            Self::Streams(streams) => {
                streams.tasks.abort_all();
                streams.carrier.quic().close(0u32.into(), b"");
            }
        }
    }
}

async fn hear_socket(mut stream: SplitStream<WebSocketStream<TcpStream>>, mut ear: Ear) {
    loop {
        ear.may_read().await;
        match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => ear.packet(&bytes).await,
            Some(Ok(Message::Text(_))) => _ = ear.hear(What::Broken("LC-WS-004", "a text message".into())).await,
            Some(Ok(Message::Close(frame))) => {
                ear.hear(What::Closed(frame.map_or(NO_CODE, |frame| frame.code.into()))).await;
                return;
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => {
                ear.hear(What::Closed(ABNORMAL)).await;
                return;
            }
        }
    }
}

async fn hear_end(carrier: Carrier, ear: Ear) {
    let code = match &carrier {
        Carrier::Quic(connection) => close_code(&connection.closed().await),
        Carrier::Web(connection) => {
            connection.closed().await;
            NO_CODE
        }
    };
    ear.hear(What::Closed(code)).await;
}

fn close_code(reason: &quinn::ConnectionError) -> u16 {
    match reason {
        quinn::ConnectionError::ApplicationClosed(close) => {
            u16::try_from(close.error_code.into_inner()).unwrap_or(ABNORMAL)
        }
        _ => ABNORMAL,
    }
}

async fn hear_control(carrier: Carrier, ear: Ear, found: oneshot::Sender<Sending>) {
    let Some((send, recv)) = carrier.accept_bi().await else { return };
    let mut tasks = JoinSet::new();
    tasks.spawn(hear_stream(recv, ear.clone(), 0, true));
    // Fails when the connection is being dropped.
    let _ = found.send(send);
    if carrier.accept_bi().await.is_some() {
        ear.hear(What::Broken("LC-QUIC-002", "a second bidirectional stream".into())).await;
    }
    while tasks.join_next().await.is_some() {}
}

async fn hear_streams(carrier: Carrier, ear: Ear) {
    let mut tasks = JoinSet::new();
    let mut number = 0;
    while let Some(stream) = carrier.accept_uni().await {
        while tasks.try_join_next().is_some() {}
        number += 1;
        tasks.spawn(hear_stream(stream, ear.clone(), number, false));
    }
}

async fn hear_datagrams(carrier: Carrier, ear: Ear) {
    while let Some(bytes) = carrier.datagram().await {
        match schema::split_records(&bytes) {
            Err(error) => _ = ear.hear(What::Broken("LC-FRM-001", error.0)).await,
            Ok(records) => {
                for record in records {
                    ear.frame(record, Place::Datagram).await;
                }
            }
        }
    }
}

async fn hear_stream(mut stream: Receiving, mut ear: Ear, number: u64, control: bool) {
    let early = stream.quic().is_0rtt();
    let mut reader = RecordReader::new(RECORD_BYTES_MAX);
    let mut header: Option<v1::StreamHeader> = None;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match next_piece(&mut reader, &header, control) {
            Ok(Some(Piece::Header(found))) => {
                let place = Place::Stream { number, kind: found.kind, lane: Lane::from_wire(found.lane) };
                header = Some(found);
                ear.hear(What::Opened { place, early }).await;
            }
            Ok(Some(Piece::Frame(bytes))) => {
                let place = header.as_ref().map(|header| place_of(number, header));
                ear.frame(&bytes, place.unwrap_or(Place::Message)).await;
            }
            Err((rule, text)) => {
                ear.hear(What::Broken(rule, format!("stream {number}: {text}"))).await;
                return;
            }
            Ok(None) => {
                ear.may_read().await;
                match stream.quic().read(&mut chunk).await {
                    Ok(Some(read)) => reader.push(&chunk[..read]),
                    end => return ear.stream_over(end, number, reader.is_between_records()).await,
                }
            }
        }
    }
}

fn place_of(number: u64, header: &v1::StreamHeader) -> Place {
    Place::Stream { number, kind: header.kind, lane: Lane::from_wire(header.lane) }
}

impl Ear {
    async fn stream_over(&self, end: Result<Option<usize>, quinn::ReadError>, number: u64, whole: bool) {
        let what = match end {
            Ok(_) if !whole => What::Broken("LC-QUIC-013", format!("stream {number} ends within a record")),
            Ok(_) => What::StreamEnded { number, reset: false },
            Err(quinn::ReadError::Reset(_)) => What::StreamEnded { number, reset: true },
            Err(_) => return,
        };
        self.hear(what).await;
    }
}

/// The next record of a stream, if it may stand there.
fn next_piece(
    reader: &mut RecordReader,
    header: &Option<v1::StreamHeader>,
    control: bool,
) -> Result<Option<Piece>, (&'static str, String)> {
    match (reader.next(), header) {
        (Ok(Some(Piece::Header(found))), None) => {
            let is_control = found.kind == v1::StreamKind::Control as i32;
            if is_control == control && fits(&found) {
                Ok(Some(Piece::Header(found)))
            } else {
                Err(("LC-QUIC-001", format!("{found:?} may not stand there")))
            }
        }
        (Ok(Some(Piece::Header(_))), Some(_)) => Err(("LC-QUIC-001", "a second header".into())),
        (Ok(Some(Piece::Frame(_))), None) => Err(("LC-QUIC-001", "a frame before the header".into())),
        (Ok(piece), _) => Ok(piece),
        (Err(Fault::Malformed(text)), _) => Err(("LC-FRM-001", text)),
        (Err(Fault::TooLarge(length)), _) => Err(("LC-FRM-031", format!("a record of {length} bytes"))),
    }
}

/// Whether a kind of stream and a lane go together.
fn fits(header: &v1::StreamHeader) -> bool {
    use v1::StreamKind;
    let lane = Lane::from_wire(header.lane);
    match StreamKind::try_from(header.kind) {
        Ok(StreamKind::Control) => lane == Some(Lane::Control),
        Ok(StreamKind::Lane) => matches!(lane, Some(Lane::Urgent | Lane::Normal | Lane::Bulk)),
        Ok(StreamKind::Message) => lane == Some(Lane::Urgent),
        Ok(StreamKind::Transfer) => lane == Some(Lane::Bulk),
        Ok(StreamKind::Signal) => lane == Some(Lane::Signal),
        _ => false,
    }
}
