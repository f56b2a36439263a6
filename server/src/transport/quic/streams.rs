//! A connection with streams and datagrams as the node's sessions see it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lanecast_pacing::quic::{Figures, Meter};
use lanecast_protocol::binding::{Piece, Purpose, Sender, StreamId, StreamReader, Target};
use lanecast_protocol::codec::{self, CodecError};
use lanecast_protocol::codes::Code;
use lanecast_protocol::lane::{Lane, Lanes};
use lanecast_protocol::outbox::Output;
use quinn::{ReadError, RecvStream, SendDatagramError, SendStream};

use tokio::time::{Sleep, sleep};

use super::link::{Link, poll_chunk};
use super::outgoing::{Outgoing, Progress, Written};
use super::overdue::Overdue;
use super::share::Share;
use crate::node::Node;
use crate::transport::{Gone, Received, Source, Transport};

/// Bytes that are taken of the session at once, unless a single record is longer: what is handed over can no longer be
/// reordered. That part of the congestion window, which a sixteenth of a round trip frees, within bounds.
const WRITE_BYTES_MIN: usize = 1024;
const WRITE_BYTES_MAX: usize = 16 * 1024;
const WRITE_PARTS: u64 = 16;
/// Bytes of a stream that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// Bytes of all streams that were written and are not acknowledged: the memory that a slow client holds.
pub(super) const SEND_WINDOW_BYTES: u64 = SHARED_WINDOW_BYTES_MAX + 64 * 1024;
/// How much of it lanes other than control and urgent may use, so that those always find room: at most, the most that is
/// under way, 40 Mbit/s at 50 ms, and at least.
const SHARED_WINDOW_BYTES_MAX: u64 = 256 * 1024;
const SHARED_WINDOW_BYTES_MIN: u64 = 16 * 1024;
/// How much of it they use: beyond what is under way as much as leaves in this time, and a few packets; what quinn has is
/// beyond our queues.
const SHARED_AHEAD: Duration = Duration::from_millis(4);
const SHARED_AHEAD_BYTES_MIN: u64 = 3 * 1024;
/// While a lost packet is repeated, quinn keeps what came behind it on its stream, more than a round trip until the loss shows
/// and one until its end. So then they use so many congestion windows; without losses that room would be a queue.
const SHARED_WINDOWS_LOSSY: u64 = 3;
/// What fits into a packet: with less room than that the path is full.
const PACKET_BYTES: u64 = 1_500;
/// Parts of a full path: urgent before all others (LC-LANE-006), signals, whose datagrams go before all streams, and normal
/// before bulk. By the weights of the outbox.
const URGENT_SHARE: Share = Share::new(50, 64 * 1024);
const SIGNAL_SHARE: Share = Share::new(28, 8 * 1024);
const NORMAL_SHARE: Share = Share::new(80, 16 * 1024);
/// How soon a lane that has used up its share looks again whether the path is still full.
const SHARE_AGAIN: Duration = Duration::from_millis(5);

type Sending = BoxFuture<'static, Result<(), SendDatagramError>>;
type Ended = BoxFuture<'static, StreamId>;

/// A connection over raw QUIC or WebTransport. Its queues are bounded by what one [`Transport::send`] takes for each
/// lane, and by the [`Sender`]; its readers hold one record for each stream that the peer may open.
pub(super) struct StreamsTransport {
    link: Link,
    node: Arc<Node>,
    record_bytes: usize,
    /// Whether something came on control: before that nothing else is read, so that Hello comes first (LC-QUIC-002).
    begun: bool,
    /// Of which lanes something got through since it was asked.
    moved: Lanes,
    control: RecvStream,
    control_reader: StreamReader,
    incoming: Vec<(RecvStream, StreamReader)>,
    sender: Sender,
    /// Control, and the ordered streams of lanes once something went there, in the order of the lanes.
    lanes: Vec<(Lane, Outgoing)>,
    /// The ordered stream of lane urgent.
    urgent: Option<(StreamId, Outgoing)>,
    /// Streams that end, until their end is acknowledged.
    ending: Vec<(StreamId, Outgoing)>,
    ends: FuturesUnordered<Ended>,
    overdue: Overdue,
    /// A datagram for which there was no room.
    datagram: Option<Sending>,
    /// The congestion controller; `None`: another than ours.
    meter: Option<Meter>,
    is_paced: bool,
    /// What quinn takes now.
    send_window: u64,
    urgent_share: Share,
    signal_share: Share,
    normal_share: Share,
    again: Option<Pin<Box<Sleep>>>,
    code: Option<Code>,
}

impl StreamsTransport {
    /// A connection whose client has opened control.
    pub(super) fn new(node: Arc<Node>, link: Link, control: (SendStream, RecvStream)) -> Self {
        let (writes, reads) = control;
        let record_bytes = node.config.limits.record_bytes as usize;
        Self {
            node,
            record_bytes,
            begun: false,
            moved: Lanes::NONE,
            control: reads,
            control_reader: StreamReader::control(record_bytes),
            incoming: Vec::new(),
            sender: Sender::default(),
            lanes: vec![(Lane::Control, Outgoing::control(writes))],
            urgent: None,
            ending: Vec::new(),
            ends: FuturesUnordered::new(),
            overdue: Overdue::default(),
            datagram: None,
            meter: Meter::of(link.connection()),
            is_paced: true,
            send_window: SEND_WINDOW_BYTES,
            urgent_share: URGENT_SHARE,
            signal_share: SIGNAL_SHARE,
            normal_share: NORMAL_SHARE,
            again: None,
            code: None,
            link,
        }
    }

    // Input.

    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        loop {
            match poll_chunk(&mut self.control, READ_BYTES, cx) {
                Poll::Pending => return Poll::Pending,
                // A client that ends control, or whose connection is gone, has left.
                Poll::Ready(Err(_) | Ok(None)) => return Poll::Ready(Received::Closed),
                Poll::Ready(Ok(Some(bytes))) => match self.control_reader.feed(bytes) {
                    Ok(Piece::Records(lane, packet)) => {
                        self.begun = true;
                        return Poll::Ready(self.records(packet, lane));
                    }
                    Ok(Piece::Nothing | Piece::Unknown) => {}
                    Err(fault) => return Poll::Ready(Received::Fault(fault)),
                },
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        // The peer's streams are bounded by the connection's limit.
        while let Poll::Ready(accepted) = self.link.poll_accept(cx) {
            let Some(stream) = accepted else { return Poll::Ready(Received::Closed) };
            self.incoming.push((stream, StreamReader::unidirectional(self.record_bytes)));
        }
        Poll::Pending
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        let mut at = 0;
        while let Some((stream, reader)) = self.incoming.get_mut(at) {
            let read = poll_chunk(stream, READ_BYTES, cx);
            let fed = match read {
                Poll::Pending => {
                    at += 1;
                    continue;
                }
                Poll::Ready(Ok(Some(bytes))) => reader.feed(bytes),
                Poll::Ready(Ok(None)) => {
                    let finished = reader.finish();
                    self.incoming.swap_remove(at);
                    match finished {
                        Ok(()) => continue,
                        Err(fault) => return Poll::Ready(Received::Fault(fault)),
                    }
                }
                Poll::Ready(Err(ReadError::ConnectionLost(_))) => return Poll::Ready(Received::Closed),
                // The peer took it back.
                Poll::Ready(Err(_)) => {
                    self.incoming.swap_remove(at);
                    continue;
                }
            };
            match fed {
                Ok(Piece::Records(lane, packet)) => {
                    // Whose turn it was is last the next time, so that no stream keeps the others waiting.
                    let last = self.incoming.len() - 1;
                    self.incoming.swap(at, last);
                    return Poll::Ready(self.records(packet, lane));
                }
                Ok(Piece::Nothing) => {}
                Ok(Piece::Unknown) => {
                    let (mut stream, _) = self.incoming.swap_remove(at);
                    // Fails if it has ended, which is as good.
                    let _ = stream.stop(0u32.into());
                }
                Err(fault) => return Poll::Ready(Received::Fault(fault)),
            }
        }
        Poll::Pending
    }

    fn poll_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        match self.link.poll_datagram(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Received::Closed),
            Poll::Ready(Some(packet)) => {
                if packet.len() > self.record_bytes {
                    let detail = "datagram above the limit";
                    return Poll::Ready(Received::Fault(CodecError { code: Code::TooLarge, detail }));
                }
                Poll::Ready(self.records(packet, Lane::Signal))
            }
        }
    }

    fn records(&self, packet: Bytes, lane: Lane) -> Received {
        Received::Records(codec::records(packet, self.record_bytes), Some(lane))
    }

    // Output.

    fn put(&mut self, output: Output, target: Target) {
        let Output { record, .. } = output;
        match target {
            Target::Control => self.lane(Lane::Control).push(record),
            Target::Lane(lane) => self.lane(lane).push(record),
            Target::Message(stream) => match Outgoing::open_now(&self.link, Purpose::Message) {
                Some(outgoing) => {
                    self.put_single(stream, outgoing, record);
                    // Where nothing is lost an acknowledgement is late for other reasons.
                    if self.is_paced && self.figures().is_some_and(|figures| figures.is_unreliable) {
                        self.overdue.watch(stream, self.link.connection().rtt());
                    }
                }
                None => match self.sender.fall_back(stream) {
                    Target::Ordered(stream) => self.put_ordered(stream, record),
                    target => debug_assert!(false, "fell back to {target:?}"),
                },
            },
            Target::Ordered(stream) => self.put_ordered(stream, record),
            Target::Signal { stream, supersedes } => {
                if let Some(at) = self.ending.iter().position(|(id, _)| Some(*id) == supersedes) {
                    self.ending.swap_remove(at).1.reset();
                }
                let outgoing = Outgoing::open(&self.link, Purpose::Signal);
                self.put_single(stream, outgoing, record);
            }
            Target::Datagram => {
                let connection = self.link.connection().clone();
                let datagram = self.link.datagram(record);
                self.earn(datagram.len());
                if connection.datagram_send_buffer_space() >= datagram.len() {
                    // What the path does not take any more is lost, as datagrams may be.
                    let _ = connection.send_datagram(datagram);
                } else {
                    self.datagram = Some(async move { connection.send_datagram_wait(datagram).await }.boxed());
                }
            }
        }
    }

    fn lane(&mut self, lane: Lane) -> &mut Outgoing {
        let at = self.lanes.partition_point(|(known, _)| known.index() < lane.index());
        if self.lanes.get(at).is_none_or(|(known, _)| *known != lane) {
            self.lanes.insert(at, (lane, Outgoing::open(&self.link, Purpose::Lane(lane))));
        }
        &mut self.lanes[at].1
    }

    fn put_single(&mut self, stream: StreamId, mut outgoing: Outgoing, record: Bytes) {
        outgoing.push(record);
        outgoing.end();
        self.ending.push((stream, outgoing));
    }

    fn put_ordered(&mut self, stream: StreamId, record: Bytes) {
        if self.urgent.as_ref().is_none_or(|(known, _)| *known != stream) {
            self.end_ordered();
            self.urgent = Some((stream, Outgoing::open(&self.link, Purpose::Lane(Lane::Urgent))));
        }
        if let Some((_, outgoing)) = &mut self.urgent {
            outgoing.push(record);
        }
    }

    fn end_ordered(&mut self) {
        if let Some((stream, mut outgoing)) = self.urgent.take() {
            outgoing.end();
            self.ending.push((stream, outgoing));
        }
    }

    /// Sends again what may be lost, beside what it is a copy of: it is there before the loss is found, and the window stays.
    fn repeat_overdue(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(message) = self.overdue.poll_next(cx) {
            let is_sent = self.ending.iter().any(|(id, outgoing)| *id == message && !outgoing.is_pending());
            if is_sent && !self.urgent_share.is_spent() {
                self.repeat(message);
            }
        }
    }

    fn repeat(&mut self, message: StreamId) {
        let Some((record, copy)) = self.sender.repeat(message, self.node.clock.now_ms()) else { return };
        match Outgoing::open_now(&self.link, Purpose::Message) {
            Some(outgoing) => {
                self.node.metrics.urgent_copies.inc();
                self.hurry(Lane::Urgent, record.len());
                self.charge(Lane::Urgent, record.len());
                self.put_single(copy, outgoing, record);
            }
            // The client allows no further stream: nothing of it is under way.
            None => self.sender.acknowledged(copy),
        }
    }

    /// Writes all streams as far as the connection takes it: control and urgent first, and into room that the others may
    /// not use.
    fn write_all(&mut self, cx: &mut Context<'_>, progress: &mut Progress) -> Result<(), Gone> {
        let first = [Lane::Control, Lane::Urgent];
        self.write_lanes(&first, cx, progress)?;
        if self.outgoing().any(|outgoing| first.contains(&outgoing.lane()) && outgoing.is_pending()) {
            self.set_send_window(SEND_WINDOW_BYTES);
            self.write_lanes(&first, cx, progress)?;
        }
        if self.is_holding() {
            self.set_send_window(self.shared_window());
            let is_bulk_waiting = self.is_waiting(Lane::Bulk);
            if is_bulk_waiting && self.normal_share.is_spent() && self.is_paced {
                self.write_lanes(&[Lane::Bulk], cx, progress)?;
            }
            let mut normal = Progress::default();
            self.write_lanes(&[Lane::Normal], cx, &mut normal)?;
            if is_bulk_waiting {
                self.normal_share.spend(normal.bytes);
            }
            if normal.is_some {
                progress.add(Lane::Normal, normal.bytes);
            }
            self.write_lanes(&[Lane::Signal, Lane::Bulk], cx, progress)?;
        }
        if let Some(sending) = &mut self.datagram
            && sending.poll_unpin(cx).is_ready()
        {
            progress.add(Lane::Signal, 0);
            self.datagram = None;
        }
        self.earn(progress.bytes);
        Ok(())
    }

    fn write_lanes(&mut self, lanes: &[Lane], cx: &mut Context<'_>, progress: &mut Progress) -> Result<(), Gone> {
        let is_due = |outgoing: &Outgoing| lanes.contains(&outgoing.lane()) && outgoing.is_pending();
        let ordered = self.urgent.as_mut().map(|(_, outgoing)| outgoing);
        for outgoing in self.lanes.iter_mut().map(|(_, outgoing)| outgoing).chain(ordered) {
            if is_due(outgoing)
                && let Poll::Ready(Written::Stopped) = outgoing.poll_write(cx, progress)?
            {
                // Lanes are not a client's to refuse.
                return Err(Gone);
            }
        }
        for (stream, outgoing) in &mut self.ending {
            if is_due(outgoing) && outgoing.poll_write(cx, progress)?.is_ready() {
                let stream = *stream;
                let end = outgoing.acknowledged();
                self.ends.push(
                    async move {
                        if let Some(end) = end {
                            // An error is the end of the connection, which shows elsewhere.
                            let _ = end.await;
                        }
                        stream
                    }
                    .boxed(),
                );
            }
        }
        Ok(())
    }

    // Pacing.

    fn outgoing(&self) -> impl Iterator<Item = &Outgoing> {
        let ordered = self.urgent.iter().chain(&self.ending).map(|(_, outgoing)| outgoing);
        self.lanes.iter().map(|(_, outgoing)| outgoing).chain(ordered)
    }

    fn is_waiting(&self, lane: Lane) -> bool {
        self.outgoing().any(|outgoing| outgoing.lane() == lane && outgoing.is_pending())
    }

    /// Whether a lane that shares the path waits for room on it.
    fn is_holding(&self) -> bool {
        [Lane::Normal, Lane::Signal, Lane::Bulk].into_iter().any(|lane| self.is_waiting(lane))
    }

    fn figures(&self) -> Option<Figures> {
        self.meter.as_ref().map(|meter| meter.read(self.link.connection()))
    }

    /// What lanes other than control and urgent may have in QUIC, bytes.
    fn shared_window(&self) -> u64 {
        match self.figures() {
            Some(figures) if self.is_paced && figures.is_lossy => {
                let bytes = figures.window.saturating_mul(SHARED_WINDOWS_LOSSY);
                bytes.clamp(SHARED_WINDOW_BYTES_MIN, SHARED_WINDOW_BYTES_MAX)
            }
            Some(figures) if self.is_paced => (figures.in_flight + ahead(&figures)).min(SHARED_WINDOW_BYTES_MAX),
            _ => SHARED_WINDOW_BYTES_MAX,
        }
    }

    /// Waits until half of what waits in quinn, of what lanes share, is under way, if more may be then.
    fn poll_ahead(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_paced || !self.is_holding() || self.send_window >= SHARED_WINDOW_BYTES_MAX {
            return Poll::Pending;
        }
        match (&self.meter, self.figures()) {
            (Some(meter), Some(figures)) if !figures.is_lossy => {
                let bytes = self.send_window.saturating_sub(ahead(&figures) / 2);
                meter.poll_in_flight(self.link.connection(), bytes, cx)
            }
            _ => Poll::Pending,
        }
    }

    /// What is taken of the session at once, bytes.
    fn write_bytes(&self) -> usize {
        match self.figures() {
            Some(figures) if self.is_paced => {
                ((figures.window / WRITE_PARTS) as usize).clamp(WRITE_BYTES_MIN, WRITE_BYTES_MAX)
            }
            _ => WRITE_BYTES_MAX,
        }
    }

    fn set_send_window(&mut self, bytes: u64) {
        if self.send_window != bytes {
            self.send_window = bytes;
            self.link.connection().set_send_window(bytes);
        }
    }

    fn earn(&mut self, bytes: usize) {
        for share in [&mut self.urgent_share, &mut self.signal_share, &mut self.normal_share] {
            share.earn(bytes);
        }
    }

    /// Lets lanes that go first leave although the path is full: what they displace waits.
    fn hurry(&self, lane: Lane, bytes: usize) {
        if let (Some(meter), Lane::Control | Lane::Urgent) = (&self.meter, lane)
            && self.is_paced
        {
            meter.hurry(bytes);
        }
    }

    /// Lanes that go first take no more than their share while others wait for a path that is full.
    fn charge(&mut self, lane: Lane, bytes: usize) {
        // Who waits inside quinn does not show; on a full path somebody may.
        let is_contended = self.is_holding() || self.is_full();
        let share = match lane {
            Lane::Urgent => &mut self.urgent_share,
            Lane::Signal => &mut self.signal_share,
            _ => return,
        };
        if is_contended {
            share.spend(bytes);
        }
    }

    /// Whether no further packet fits on the path.
    fn is_full(&self) -> bool {
        self.figures().is_some_and(|figures| figures.in_flight + PACKET_BYTES > figures.window)
    }

    /// The lanes but those that have used up their share of a full path.
    fn without_spent(&self, mut lanes: Lanes) -> Lanes {
        let shares = [(Lane::Urgent, &self.urgent_share), (Lane::Signal, &self.signal_share)];
        if self.is_paced && shares.iter().any(|(_, share)| share.is_spent()) && self.is_full() {
            for (lane, _) in shares.into_iter().filter(|(_, share)| share.is_spent()) {
                lanes = lanes.without(lane);
            }
        }
        lanes
    }

    /// Resolves from time to time while a lane has used up its share, since the path may be full no more: a stream that
    /// waits for the client, and not for the path, tells nothing.
    fn poll_again(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.without_spent(Lanes::ALL) == Lanes::ALL {
            self.again = None;
            return Poll::Pending;
        }
        let again = self.again.get_or_insert_with(|| Box::pin(sleep(SHARE_AGAIN)));
        std::task::ready!(again.as_mut().poll(cx));
        self.again = None;
        Poll::Ready(())
    }

    /// Takes the ends that were acknowledged.
    fn take_ends(&mut self, cx: &mut Context<'_>, progress: &mut Progress) {
        while let Poll::Ready(Some(stream)) = self.ends.poll_next_unpin(cx) {
            if let Some(at) = self.ending.iter().position(|(id, _)| *id == stream) {
                progress.add(self.ending.swap_remove(at).1.lane(), 0);
            }
            self.overdue.acknowledged(stream);
            self.sender.acknowledged(stream);
            while let Some((output, target)) = self.sender.release() {
                self.put(output, target);
            }
        }
    }
}

/// What lanes may have in QUIC beyond what is under way, bytes.
fn ahead(figures: &Figures) -> u64 {
    let window = u128::from(figures.window);
    let part = window * SHARED_AHEAD.as_nanos() / figures.least_rtt.max(SHARED_AHEAD).as_nanos();
    u64::try_from(part).unwrap_or(u64::MAX).max(SHARED_AHEAD_BYTES_MIN)
}

impl Transport for StreamsTransport {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        if let ready @ Poll::Ready(_) = self.poll_control(cx) {
            return ready;
        }
        if !self.begun {
            return self.link.poll_closed(cx).map(|()| Received::Closed);
        }
        for poll in [Self::poll_accept, Self::poll_incoming, Self::poll_datagram] {
            if let ready @ Poll::Ready(_) = poll(self, cx) {
                return ready;
            }
        }
        Poll::Pending
    }

    fn takes(&self) -> Lanes {
        let mut lanes = self.sender.lanes();
        for (lane, _) in self.lanes.iter().filter(|(_, outgoing)| outgoing.is_pending()) {
            lanes = lanes.without(*lane);
        }
        if self.urgent.as_ref().is_some_and(|(_, outgoing)| outgoing.is_pending()) {
            lanes = lanes.without(Lane::Urgent);
        }
        // Signals that wait for a stream conflate where they are now; so do those that wait for a datagram.
        for (_, outgoing) in self.ending.iter().filter(|(_, outgoing)| outgoing.is_pending()) {
            lanes = lanes.without(outgoing.lane());
        }
        if self.datagram.is_some() {
            lanes = lanes.without(Lane::Signal);
        }
        self.without_spent(lanes)
    }

    fn send(&mut self, bytes_max: usize, next: &mut Source<'_>) -> usize {
        let lanes = self.takes();
        let datagram_bytes = self.link.datagram_bytes_max();
        let bytes_max = bytes_max.min(self.write_bytes());
        let mut bytes = 0;
        while bytes < bytes_max && !lanes.is_empty() {
            let mut now = lanes.and(self.sender.lanes());
            if self.datagram.is_some() {
                now = now.without(Lane::Signal);
            }
            let Some(output) = next(now) else {
                if now.contains(Lane::Urgent) && self.sender.drained().is_some() {
                    self.end_ordered();
                }
                break;
            };
            bytes += output.record.len();
            self.hurry(output.lane, output.record.len());
            self.charge(output.lane, output.record.len());
            if let Some((output, target)) = self.sender.offer(output, datagram_bytes) {
                self.put(output, target);
            }
        }
        bytes
    }

    fn is_busy(&self) -> bool {
        let lanes = self.lanes.iter().map(|(_, outgoing)| outgoing);
        let ordered = self.urgent.iter().map(|(_, outgoing)| outgoing);
        self.datagram.is_some() || !self.ending.is_empty() || lanes.chain(ordered).any(Outgoing::is_pending)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let mut progress = Progress::default();
        self.repeat_overdue(cx);
        self.write_all(cx, &mut progress)?;
        self.take_ends(cx, &mut progress);
        for lane in Lane::ALL.into_iter().filter(|lane| progress.lanes.contains(*lane)) {
            self.moved = self.moved.with(lane);
        }
        let is_due = progress.is_some || self.poll_again(cx).is_ready() || self.poll_ahead(cx).is_ready();
        if is_due { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn moved(&mut self) -> Lanes {
        std::mem::take(&mut self.moved)
    }

    fn window(&self) -> Option<u64> {
        self.figures().map(|figures| figures.window)
    }

    fn set_paced(&mut self, is_paced: bool) {
        self.is_paced = is_paced;
        self.link.is_prioritized = is_paced;
        if let Some(meter) = &self.meter {
            meter.set_paced(is_paced);
        }
        let ordered = self.urgent.iter_mut().chain(&mut self.ending).map(|(_, outgoing)| outgoing);
        for outgoing in self.lanes.iter_mut().map(|(_, outgoing)| outgoing).chain(ordered) {
            outgoing.set_prioritized(is_paced);
        }
    }

    fn start_close(&mut self, code: Code) {
        self.code = Some(code);
        // The Error is out; a client that understands it closes the connection.
        self.lane(Lane::Control).end();
    }
}

impl Drop for StreamsTransport {
    fn drop(&mut self) {
        // Dropping a stream ends it in good order, which a half-sent record is not: the connection goes first.
        self.link.close(self.code.unwrap_or(Code::Normal));
    }
}
