//! QUIC connections and WebTransport sessions of the reference server.
//!
//! A writer for each lane, each with its own stream, so that flow control keeps them apart; a reader for each stream
//! of the client, all of which hand frames to the one session.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::mutant::Mutant;
use super::outbox::{BULK, Outbox, SIGNAL, Turn, URGENT};
use super::session::{Clocks, Fatal, PROTOCOL, Session};
use super::{NO_PROGRESS, RECORD_BYTES, Shared};
use crate::carrier::{Peer, Receiving, Sending};
use crate::client::{DATAGRAM_BYTES_MAX, Fault, Lane, Piece, RecordReader, header_record};
use crate::schema::v1;

/// Urgent events on streams of their own at a time (LC-QUIC-004).
const MESSAGE_STREAMS_MAX: usize = 32;
/// How far an urgent seq may be above the lowest one that is not acknowledged.
const URGENT_WINDOW: u64 = 64;
/// How long a client may take to close after an Error (LC-QUIC-006).
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// What readers have read and the session has not handled.
const INPUTS_MAX: usize = 64;
const CHUNK_BYTES: usize = 16 * 1024;

/// Writes all bytes, and says while it waits for the transport. `None`: the stream is over.
async fn write(stream: &mut Sending, bytes: &[u8], progress: &Progress) -> Option<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let waiting = progress.wait();
        let written = stream.quic().write(rest).await.ok()?;
        drop(waiting);
        rest = &rest[written..];
    }
    Some(())
}

/// Whether what waits for the transport goes on (LC-FLOW-005).
#[derive(Clone, Default)]
struct Progress(Arc<Mutex<Watch>>);

#[derive(Default)]
struct Watch {
    /// Writers that wait for the transport.
    waiting: usize,
    /// Since when nothing was taken while something waited.
    since: Option<Instant>,
}

/// A writer that waits.
struct Waiting<'a>(&'a Progress);

impl Progress {
    fn lock(&self) -> std::sync::MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) -> Waiting<'_> {
        let mut watch = self.lock();
        watch.waiting += 1;
        watch.since.get_or_insert_with(Instant::now);
        Waiting(self)
    }

    /// Returns when nothing was taken for too long.
    async fn ended(&self) {
        loop {
            let since = self.lock().since;
            if since.is_some_and(|since| since.elapsed() >= NO_PROGRESS) {
                return;
            }
            tokio::time::sleep(NO_PROGRESS / 30).await;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut watch = self.0.lock();
        watch.waiting -= 1;
        watch.since = (watch.waiting > 0).then(Instant::now);
    }
}

/// What a reader found.
enum Input {
    Frame(Box<v1::Frame>),
    Packet(Bytes),
    Fault(Fatal),
}

/// Serves one connection until it ends.
pub(super) async fn run(peer: Peer, shared: Arc<Shared>) {
    let mut session = Session::new(shared.clone());
    let (say, mut inputs) = mpsc::channel(INPUTS_MAX);
    let (welcome, welcomed) = watch::channel(false);
    let reading = Reading { peer: peer.clone(), say, welcomed, shared: shared.clone() };
    let progress = Progress::default();
    let writing = Writing { peer: peer.clone(), outbox: session.outbox(), shared, progress: progress.clone() };
    let mut tasks = JoinSet::new();
    tasks.spawn(reading.clone().datagrams());
    tasks.spawn(reading.clone().unis());
    tasks.spawn(reading.bidis(writing.clone()));
    tasks.spawn(writing.clone().urgent());
    tasks.spawn(writing.clone().ordered(2));
    tasks.spawn(writing.clone().ordered(BULK));
    tasks.spawn(writing.signals());
    let quic = peer.quic().clone();
    tokio::select! {
        fatal = serve(&mut session, &mut inputs, &welcome) => {
            if let Some(fatal) = fatal {
                end(&session, &quic, fatal).await;
            }
        }
        () = progress.ended() => end(&session, &quic, Fatal(4202)).await,
        _ = quic.closed() => {}
    }
    session.leave();
}

/// Has the writer of lane control say why and close; without a control stream only the code can say it.
async fn end(session: &Session, quic: &quinn::Connection, Fatal(code): Fatal) {
    session.close(Fatal(code));
    let _ = timeout(LINGER * 2, quic.closed()).await;
    quic.close(u32::from(code).into(), b"");
}

/// Handles what the readers find until a fault ends the connection.
async fn serve(
    session: &mut Session,
    inputs: &mut mpsc::Receiver<Input>,
    welcome: &watch::Sender<bool>,
) -> Option<Fatal> {
    let mut clocks = Clocks::start();
    loop {
        let result = match session.wait(&clocks, inputs.recv()).await {
            Err(fatal) => return Some(fatal),
            Ok(None) => return None,
            Ok(Some(Input::Frame(frame))) => session.take(*frame),
            Ok(Some(Input::Packet(bytes))) => session.packet(&bytes),
            Ok(Some(Input::Fault(fatal))) => Err(fatal),
        };
        clocks.last_record = Instant::now();
        if let Err(fatal) = result.and_then(|()| session.check_outbox()) {
            return Some(fatal);
        }
        if session.is_welcome() {
            welcome.send_replace(true);
        }
    }
}

/// What readers share.
#[derive(Clone)]
struct Reading {
    peer: Peer,
    say: mpsc::Sender<Input>,
    /// Frames of other lanes than control wait until Hello was accepted.
    welcomed: watch::Receiver<bool>,
    shared: Arc<Shared>,
}

impl Reading {
    async fn fault(&self, fatal: Fatal) {
        // Fails only when the connection is over.
        let _ = self.say.send(Input::Fault(fatal)).await;
    }

    async fn until_welcome(&self) {
        if !self.shared.is(Mutant::EarlyFramesHandled) {
            let _ = self.welcomed.clone().wait_for(|welcomed| *welcomed).await;
        }
    }

    async fn datagrams(self) {
        while let Some(bytes) = self.peer.datagram().await {
            let frames = v1::Packet::decode(bytes.clone()).map(|packet| packet.frames).unwrap_or_default();
            let misplaced = frames.iter().any(|frame| lane_of(frame).is_some_and(|lane| lane != Lane::Signal));
            if misplaced && !self.shared.is(Mutant::WrongLaneTaken) {
                self.fault(PROTOCOL).await;
            }
            self.until_welcome().await;
            let _ = self.say.send(Input::Packet(bytes)).await;
        }
    }

    async fn unis(self) {
        let mut readers = JoinSet::new();
        while let Some(stream) = self.peer.accept_uni().await {
            while readers.try_join_next().is_some() {}
            readers.spawn(self.clone().stream(stream, false));
        }
    }

    async fn bidis(self, writing: Writing) {
        let mut tasks = JoinSet::new();
        let Some((send, stream)) = self.peer.accept_bi().await else { return };
        tasks.spawn(self.clone().stream(stream, true));
        tasks.spawn(writing.control(send));
        if self.peer.accept_bi().await.is_some() {
            self.fault(PROTOCOL).await;
        }
        std::future::pending().await
    }

    async fn stream(self, mut stream: Receiving, control: bool) {
        if let Err(fatal) = self.read(&mut stream, control).await {
            self.fault(fatal).await;
        }
    }

    async fn read(&self, stream: &mut Receiving, control: bool) -> Result<(), Fatal> {
        let limit = if self.shared.is(Mutant::SizeUnchecked) { 16 << 20 } else { RECORD_BYTES };
        let mut reader = RecordReader::new(limit.into());
        let mut header: Option<v1::StreamHeader> = None;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut frames = 0;
        loop {
            match reader.next() {
                Ok(Some(Piece::Header(found))) if header.is_none() => {
                    if !self.takes(&found, control)? {
                        let _ = stream.quic().stop(0u32.into());
                        return Ok(());
                    }
                    header = Some(found);
                    continue;
                }
                Ok(Some(Piece::Header(_))) => return Err(PROTOCOL),
                Ok(Some(Piece::Frame(bytes))) => {
                    let header = header.as_ref().ok_or(PROTOCOL)?;
                    frames += 1;
                    let single = [v1::StreamKind::Message as i32, v1::StreamKind::Signal as i32].contains(&header.kind);
                    if single && frames > 1 {
                        return Err(PROTOCOL);
                    }
                    self.frame(&bytes, header).await?;
                    continue;
                }
                Ok(None) => {}
                Err(Fault::Malformed(_)) if self.shared.is(Mutant::BrokenBytesIgnored) => return Ok(()),
                Err(Fault::Malformed(_)) => return Err(PROTOCOL),
                Err(Fault::TooLarge(_)) => return Err(Fatal(4003)),
            }
            match stream.quic().read(&mut chunk).await {
                Ok(Some(read)) => reader.push(&chunk[..read]),
                // Control must not end before the connection does.
                Ok(None) if !reader.is_between_records() || header.is_none() || control => return Err(PROTOCOL),
                Ok(None) => return Ok(()),
                // A reset stream takes what was cut with it.
                Err(quinn::ReadError::Reset(_)) if control => return Err(PROTOCOL),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Whether a stream of that kind is read; a fault if it may not be there.
    fn takes(&self, header: &v1::StreamHeader, control: bool) -> Result<bool, Fatal> {
        let kind = v1::StreamKind::try_from(header.kind).unwrap_or_default();
        let lane = Lane::from_wire(header.lane);
        let fits = match kind {
            v1::StreamKind::Unspecified if self.shared.is(Mutant::UnknownStreamFatal) => false,
            v1::StreamKind::Unspecified => return if control { Err(PROTOCOL) } else { Ok(false) },
            v1::StreamKind::Control => control,
            v1::StreamKind::Lane => !control && matches!(lane, Some(Lane::Urgent | Lane::Normal | Lane::Bulk)),
            v1::StreamKind::Message => !control && lane == Some(Lane::Urgent),
            v1::StreamKind::Transfer => !control && lane == Some(Lane::Bulk),
            v1::StreamKind::Signal => !control && lane == Some(Lane::Signal),
        };
        if fits { Ok(true) } else { Err(PROTOCOL) }
    }

    async fn frame(&self, bytes: &[u8], header: &v1::StreamHeader) -> Result<(), Fatal> {
        let Ok(frame) = v1::Frame::decode(bytes) else {
            return if self.shared.is(Mutant::BrokenBytesIgnored) { Ok(()) } else { Err(PROTOCOL) };
        };
        let control = header.kind == v1::StreamKind::Control as i32;
        let lane = if control { Some(Lane::Control) } else { Lane::from_wire(header.lane) };
        if lane_of(&frame).is_some_and(|own| Some(own) != lane) && !self.shared.is(Mutant::WrongLaneTaken) {
            return Err(PROTOCOL);
        }
        if !control {
            self.until_welcome().await;
        }
        let _ = self.say.send(Input::Frame(Box::new(frame))).await;
        Ok(())
    }
}

/// The lane of a frame that a client sends; `None`: one of an unknown kind, which may stand anywhere.
fn lane_of(frame: &v1::Frame) -> Option<Lane> {
    use v1::frame::Body;
    let own = |lane| Lane::from_wire(lane).unwrap_or(Lane::Normal);
    Some(match frame.body.as_ref()? {
        Body::Publish(publish) => own(publish.lane),
        Body::Event(event) => own(event.lane),
        Body::Gap(gap) => own(gap.lane),
        Body::Fragment(fragment) => own(fragment.lane),
        Body::FragmentAbort(abort) => own(abort.lane),
        Body::Signal(_) => Lane::Signal,
        Body::HistoryPage(_) => Lane::Bulk,
        Body::PresencePage(_)
        | Body::PresenceDiff(_)
        | Body::MembersPage(_)
        | Body::Marked(_)
        | Body::UnreadCounts(_)
        | Body::MarkersPage(_) => Lane::Normal,
        _ => Lane::Control,
    })
}

/// What writers share.
#[derive(Clone)]
struct Writing {
    peer: Peer,
    outbox: Arc<Outbox>,
    shared: Arc<Shared>,
    progress: Progress,
}

impl Writing {
    fn header(&self, kind: v1::StreamKind, lane: Lane) -> Vec<u8> {
        if self.shared.is(Mutant::HeaderLeftOut) { Vec::new() } else { header_record(kind, lane.to_wire()) }
    }

    /// Opens a stream and sends its header.
    async fn open(&self, kind: v1::StreamKind, lane: Lane, priority: i32) -> Option<Sending> {
        let mut stream = self.peer.open_uni().await?;
        let _ = stream.quic().set_priority(priority);
        write(&mut stream, &self.header(kind, lane), &self.progress).await?;
        Some(stream)
    }

    async fn control(self, mut stream: Sending) {
        let _ = stream.quic().set_priority(4);
        let header = header_record(v1::StreamKind::Control, Lane::Control.to_wire());
        if write(&mut stream, &header, &self.progress).await.is_none() {
            return;
        }
        loop {
            let (bytes, code) = match self.outbox.control_turn().await {
                Turn::Send(bytes) => (bytes, None),
                Turn::Close(bytes, code) => (bytes, Some(code)),
            };
            if write(&mut stream, &bytes, &self.progress).await.is_none() {
                return;
            }
            if let Some(code) = code {
                let _ = timeout(LINGER, self.peer.quic().closed()).await;
                let code = if self.shared.is(Mutant::CloseCodeZero) { 0 } else { code };
                return self.peer.quic().close(u32::from(code).into(), b"");
            }
        }
    }

    /// The writer of an ordered lane.
    async fn ordered(self, lane: usize) {
        let wire = match lane {
            BULK if !self.shared.is(Mutant::BulkOnNormal) => Lane::Bulk,
            _ => Lane::Normal,
        };
        let mut stream = None;
        loop {
            let out = self.outbox.lane_turn(lane).await;
            if stream.is_none() {
                stream = self.open(v1::StreamKind::Lane, wire, if lane == BULK { 1 } else { 2 }).await;
            }
            let Some(stream) = &mut stream else { return };
            if write(stream, &out.record, &self.progress).await.is_none() {
                return;
            }
        }
    }

    /// The writer of lane urgent: a stream for each record while few are open, else one for all the others.
    async fn urgent(self) {
        let (acknowledge, mut acknowledged) = mpsc::unbounded_channel();
        let mut open = Open::default();
        let mut rest: Option<(Sending, Vec<Key>)> = None;
        let mut room = 0;
        for number in 0u64.. {
            let out = self.outbox.lane_turn(URGENT).await;
            let key = (out.room, out.seq, number);
            while let Ok(done) = acknowledged.try_recv() {
                open.end(&done);
            }
            loop {
                // A handle is a room in one epoch. Waiting at each change of it is more than LC-QUIC-007 asks.
                let next_epoch = out.room != room && !open.keys.is_empty() && !self.shared.is(Mutant::EpochsOvertake);
                let beyond = open.is_beyond(key) && !self.shared.is(Mutant::UrgentWindowUnchecked);
                if !next_epoch && !beyond {
                    break;
                }
                end_rest(&mut rest, &acknowledge);
                let Some(done) = acknowledged.recv().await else { return };
                open.end(&done);
            }
            room = out.room;
            open.keys.insert(key);
            if open.messages < MESSAGE_STREAMS_MAX && !self.shared.is(Mutant::UrgentOnOneStream) {
                end_rest(&mut rest, &acknowledge);
                let Some(stream) = self.open(v1::StreamKind::Message, Lane::Urgent, 3).await else { return };
                open.messages += 1;
                tokio::spawn(message(stream, out.record, self.progress.clone(), key, acknowledge.clone()));
                continue;
            }
            if rest.is_none() {
                let stream = self.open(v1::StreamKind::Lane, Lane::Urgent, 3).await;
                rest = stream.map(|stream| (stream, Vec::new()));
            }
            let Some((stream, keys)) = &mut rest else { return };
            keys.push(key);
            if write(stream, &out.record, &self.progress).await.is_none() {
                return;
            }
        }
    }

    async fn signals(self) {
        // By key: what makes the stream of an older signal end.
        let mut streams: HashMap<String, oneshot::Sender<()>> = HashMap::new();
        loop {
            let out = self.outbox.lane_turn(SIGNAL).await;
            let small = out.record.len() <= DATAGRAM_BYTES_MAX && !self.shared.is(Mutant::SignalsOnStreams);
            streams.retain(|_, superseded| !superseded.is_closed());
            if small {
                self.peer.send_datagram(&out.record);
                continue;
            }
            let Some(stream) = self.open(v1::StreamKind::Signal, Lane::Signal, 0).await else { return };
            let (superseded, supersede) = oneshot::channel();
            if let Some(older) = streams.insert(out.key.unwrap_or_default(), superseded)
                && !self.shared.is(Mutant::SupersededSignalsSent)
            {
                // Fails if the older one has left.
                let _ = older.send(());
            }
            tokio::spawn(signal(stream, out.record, self.progress.clone(), supersede));
        }
    }
}

/// Room, seq, and a number of its own, of an urgent record on its way.
type Key = (u64, u64, u64);

/// What was acknowledged to the end: a message stream, or the ordered one.
enum Done {
    Message(Key),
    Rest(Vec<Key>),
}

/// Urgent records that are not acknowledged.
#[derive(Default)]
struct Open {
    keys: BTreeSet<Key>,
    messages: usize,
}

impl Open {
    fn end(&mut self, done: &Done) {
        match done {
            Done::Message(key) => {
                self.messages -= 1;
                self.keys.remove(key);
            }
            Done::Rest(keys) => self.keys.retain(|key| !keys.contains(key)),
        }
    }

    fn is_beyond(&self, (room, seq, _): Key) -> bool {
        let lowest = self.keys.range((room, 1, 0)..(room, u64::MAX, 0)).next();
        lowest.is_some_and(|(_, lowest, _)| seq > lowest + URGENT_WINDOW)
    }
}

/// Ends the ordered stream of lane urgent, if there is one, so that it can be acknowledged.
fn end_rest(rest: &mut Option<(Sending, Vec<Key>)>, acknowledge: &mpsc::UnboundedSender<Done>) {
    let Some((mut stream, keys)) = rest.take() else { return };
    let acknowledge = acknowledge.clone();
    tokio::spawn(async move {
        let _ = stream.quic().finish();
        let _ = stream.quic().stopped().await;
        // Fails only when the connection is over.
        let _ = acknowledge.send(Done::Rest(keys));
    });
}

/// Sends one record on a stream of its own and says when all of it was acknowledged.
async fn message(
    mut stream: Sending,
    record: Vec<u8>,
    progress: Progress,
    key: Key,
    acknowledge: mpsc::UnboundedSender<Done>,
) {
    if write(&mut stream, &record, &progress).await.is_some() {
        let _ = stream.quic().finish();
        let _ = stream.quic().stopped().await;
    }
    // Fails only when the connection is over.
    let _ = acknowledge.send(Done::Message(key));
}

/// Sends one signal on a stream, which is reset if a newer one supersedes it before all was acknowledged.
async fn signal(mut stream: Sending, record: Vec<u8>, progress: Progress, supersede: oneshot::Receiver<()>) {
    let sending = async {
        if write(&mut stream, &record, &progress).await.is_some() {
            let _ = stream.quic().finish();
            let _ = stream.quic().stopped().await;
        }
    };
    let superseded = async {
        if supersede.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = sending => return,
        () = superseded => {}
    }
    let _ = stream.quic().reset(0u32.into());
}
