//! Streams out: which record goes on which stream.
//!
//! ```text
//!                    fewer than 32 open            acknowledged to the end
//!  urgent record ──▶ message stream ─────────────────────────────────────▶ forgotten
//!        │  32 open
//!        ├─────────▶ ordered stream, until urgent is drained; then ended ─▶ forgotten
//!        │  too far above what is not acknowledged, or of a later epoch
//!        └─────────▶ held: nothing more is taken of lane urgent until an acknowledgement lets it go
//! ```
//!
//! A small event whose acknowledgement is overdue goes a second time, on another message stream: the client takes whichever
//! comes first.

use bytes::Bytes;
use prost::Message;

use super::DATAGRAM_BYTES_MAX;
use crate::codec;
use crate::lane::{Lane, Lanes};
use crate::outbox::{Output, Route};
use crate::tracker::URGENT_WINDOW;

/// Message streams of lane urgent that are open at once; beyond it one ordered stream carries the lane (LC-QUIC-004).
pub const MESSAGES_MAX: usize = 32;
/// Message streams, open at once, beyond which nothing is sent again: the others are for what was not sent at all.
const MESSAGES_WITH_COPIES_MAX: usize = MESSAGES_MAX / 2;
/// Largest record that is sent again, bytes: one that fits into a packet. A larger one is in several, and seldom lost whole.
const COPY_BYTES_MAX: usize = 1_000;
/// Streams for signals that are open at once; beyond it the lane waits, and signals conflate where they wait.
pub const SIGNALS_MAX: usize = 4;

/// Ordered streams of lane urgent that were ended and are not acknowledged, at most; beyond it the lane waits.
const ENDED_MAX: usize = 2;
/// Former handles of a room that are remembered: as many as a client tells apart.
const FORMER_MAX: usize = 4;

/// A stream that carries one message, or the ordered one of lane urgent, among those of this sender.
pub type StreamId = u64;

/// Where a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The bidirectional stream.
    Control,
    /// The ordered stream of the lane, which lives as long as the connection.
    Lane(Lane),
    /// A new stream for this message of lane urgent, which ends behind it. Report its end by [`Sender::acknowledged`].
    Message(StreamId),
    /// The ordered stream of lane urgent with this id, new if the id is. [`Sender::drained`] says when to end it; report
    /// its end by [`Sender::acknowledged`].
    Ordered(StreamId),
    /// A datagram.
    Datagram,
    /// A new stream for this signal, which ends behind it. Report its end by [`Sender::acknowledged`].
    Signal {
        /// The stream.
        stream: StreamId,
        /// A stream whose signal this one replaces: reset it.
        supersedes: Option<StreamId>,
    },
}

/// What of a room is under way on a stream.
#[derive(Clone, Copy, Debug)]
struct Span {
    handle: u64,
    /// Lowest seq; 0: only transient events.
    lowest: u64,
}

/// A stream of lane urgent whose end is not acknowledged.
#[derive(Debug)]
struct Urgent {
    id: StreamId,
    /// Message streams have one; the ordered one has one for each handle.
    spans: Vec<Span>,
    again: Option<Repeatable>,
}

/// A record that may be sent again: a client knows by its seq that it has it.
#[derive(Debug)]
struct Repeatable {
    record: Bytes,
    /// By the sender's clock, ms since the Unix epoch; 0: never.
    expires_at_ms: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct SignalKey {
    handle: u64,
    instance: String,
    kind: String,
    key: String,
}

/// The handles of a room.
#[derive(Debug)]
struct RoomHandles {
    room: Box<str>,
    newest: u64,
    /// Handles of the epochs before, of which something may wait or be under way; at most [`FORMER_MAX`].
    former: Vec<u64>,
}

/// Decides where records go, for one direction of one connection. Not more than [`MESSAGES_MAX`] message streams,
/// [`SIGNALS_MAX`] signal streams and one held record are open at a time; rooms are as many as are subscribed.
///
/// Take an output only of [`Self::lanes`], [`offer`](Self::offer) it, and carry out the target. When a stream's end is
/// acknowledged call [`acknowledged`](Self::acknowledged), then [`release`](Self::release) until it is `None`.
#[derive(Debug, Default)]
pub struct Sender {
    next_id: StreamId,
    messages: Vec<Urgent>,
    /// The ordered stream that is being written.
    ordered: Option<Urgent>,
    /// Ordered streams that were ended and are not acknowledged.
    ended: Vec<Urgent>,
    held: Option<Output>,
    signals: Vec<(StreamId, SignalKey)>,
    rooms: Vec<RoomHandles>,
}

/// The parts of a frame that decide; everything else is skipped without a copy.
#[derive(Clone, PartialEq, Message)]
struct Glance {
    #[prost(message, optional, tag = "8")]
    subscribed: Option<SubscribedGlance>,
    #[prost(message, optional, tag = "10")]
    unsubscribed: Option<RoomGlance>,
    #[prost(message, optional, tag = "13")]
    event: Option<EventGlance>,
    #[prost(message, optional, tag = "14")]
    gap: Option<GapGlance>,
    #[prost(message, optional, tag = "15")]
    signal: Option<SignalGlance>,
}

#[derive(Clone, PartialEq, Message)]
struct SubscribedGlance {
    #[prost(string, tag = "1")]
    room: String,
    #[prost(uint64, tag = "2")]
    handle: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RoomGlance {
    #[prost(string, tag = "1")]
    room: String,
}

#[derive(Clone, PartialEq, Message)]
struct EventGlance {
    #[prost(uint64, tag = "1")]
    handle: u64,
    #[prost(uint64, tag = "3")]
    seq: u64,
    #[prost(uint64, tag = "8")]
    expires_at_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct GapGlance {
    #[prost(uint64, tag = "1")]
    handle: u64,
    #[prost(uint64, tag = "4")]
    from: u64,
    #[prost(uint64, tag = "5")]
    to: u64,
}

#[derive(Clone, PartialEq, Message)]
struct SignalGlance {
    #[prost(uint64, tag = "1")]
    handle: u64,
    #[prost(message, optional, tag = "7")]
    from: Option<InstanceGlance>,
    #[prost(message, optional, tag = "9")]
    envelope: Option<KeyGlance>,
}

#[derive(Clone, PartialEq, Message)]
struct InstanceGlance {
    #[prost(string, tag = "3")]
    instance: String,
}

#[derive(Clone, PartialEq, Message)]
struct KeyGlance {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    key: String,
}

impl Glance {
    /// Looks into a record that this side has encoded.
    fn at(record: &Bytes) -> Self {
        let frame = codec::records(record.clone(), usize::MAX).next().and_then(Result::ok);
        frame.and_then(|frame| Self::decode(frame).ok()).unwrap_or_default()
    }

    /// Handle, first and last seq of what stands in lane urgent; seq 0: transient.
    fn urgent(&self) -> (u64, u64, u64) {
        match (&self.event, &self.gap) {
            (Some(event), _) => (event.handle, event.seq, event.seq),
            (None, Some(gap)) => (gap.handle, gap.from, gap.to),
            (None, None) => (0, 0, 0),
        }
    }
}

impl Sender {
    /// The lanes of which an output may be taken.
    pub fn lanes(&self) -> Lanes {
        let mut lanes = Lanes::ALL;
        if self.held.is_some() {
            lanes = lanes.without(Lane::Urgent);
        }
        if self.signals.len() == SIGNALS_MAX {
            lanes = lanes.without(Lane::Signal);
        }
        lanes
    }

    /// Says where an output goes; `None`: it is held here until [`Self::release`] gives it back. `datagram_bytes` is the
    /// largest datagram that the path takes now.
    pub fn offer(&mut self, output: Output, datagram_bytes: usize) -> Option<(Output, Target)> {
        let target = match output.route {
            Route::Control => {
                self.note_rooms(&output.record);
                Target::Control
            }
            Route::Stream(lane) => Target::Lane(lane),
            Route::Datagram if output.record.len() <= DATAGRAM_BYTES_MAX.min(datagram_bytes) => Target::Datagram,
            Route::Datagram => self.signal_stream(&output.record),
            Route::Message => {
                let glance = Glance::at(&output.record);
                let (handle, from, to) = glance.urgent();
                if !self.may_start(handle, from, to) {
                    self.held = Some(output);
                    return None;
                }
                let event = glance.event.filter(|event| event.seq != 0 && output.record.len() <= COPY_BYTES_MAX);
                let again =
                    event.map(|event| Repeatable { record: output.record.clone(), expires_at_ms: event.expires_at_ms });
                self.start_urgent(Span { handle, lowest: from }, again)
            }
        };
        Some((output, target))
    }

    /// No stream can be opened for a message now: it goes on the ordered stream of lane urgent.
    pub fn fall_back(&mut self, message: StreamId) -> Target {
        match self.messages.iter().position(|urgent| urgent.id == message) {
            Some(at) => {
                let urgent = self.messages.swap_remove(at);
                self.append(urgent.spans)
            }
            None => self.append(Vec::new()),
        }
    }

    /// The acknowledgement of a message stream is overdue. Returns the record that it carries, and the message stream that is to
    /// carry it too (LC-QUIC-014); `None`: there is nothing to send again, or no stream to spare. Each once.
    pub fn repeat(&mut self, message: StreamId, now_ms: u64) -> Option<(Bytes, StreamId)> {
        if self.messages.len() >= MESSAGES_WITH_COPIES_MAX {
            return None;
        }
        let overdue = self.messages.iter_mut().find(|urgent| urgent.id == message)?;
        // L8: late is not sent, and not sent again.
        let again = overdue.again.take().filter(|again| again.expires_at_ms == 0 || now_ms < again.expires_at_ms)?;
        let spans = overdue.spans.clone();
        let id = self.next_id();
        self.messages.push(Urgent { id, spans, again: None });
        Some((again.record, id))
    }

    /// The end of a stream was acknowledged, or the stream was reset or stopped: nothing of it is under way.
    pub fn acknowledged(&mut self, stream: StreamId) {
        self.messages.retain(|urgent| urgent.id != stream);
        self.ended.retain(|urgent| urgent.id != stream);
        self.signals.retain(|(id, _)| *id != stream);
    }

    /// What was held and may start now.
    pub fn release(&mut self) -> Option<(Output, Target)> {
        let held = self.held.take()?;
        self.offer(held, 0)
    }

    /// Nothing of lane urgent waits any more. Returns the ordered stream, if there is one: end it, so that its end can be
    /// acknowledged and messages have streams of their own again.
    pub fn drained(&mut self) -> Option<StreamId> {
        if self.held.is_some() {
            return None;
        }
        let ordered = self.ordered.take()?;
        let id = ordered.id;
        self.ended.push(ordered);
        Some(id)
    }

    /// Whether `from..=to` of a handle may start beside what is under way.
    fn may_start(&self, handle: u64, from: u64, to: u64) -> bool {
        let former = self.rooms.iter().find(|room| room.newest == handle).map_or(&[][..], |room| &room.former);
        let overflows = self.ordered.is_none() && self.messages.len() == MESSAGES_MAX;
        if overflows && self.ended.len() == ENDED_MAX {
            return false;
        }
        // An ordered stream takes what comes, in order behind what it carries; all other streams may be overtaken.
        let mut others = self.messages.iter().chain(&self.ended).flat_map(|urgent| &urgent.spans);
        // L2: a client takes seqs up to 64 above its lowest missing one, which is at least the lowest under way.
        let near = |span: &Span| {
            span.handle != handle || from == 0 || span.lowest == 0 || to < span.lowest.saturating_add(URGENT_WINDOW)
        };
        // LC-QUIC-007
        others.all(|span| near(span) && !former.contains(&span.handle))
    }

    fn start_urgent(&mut self, span: Span, again: Option<Repeatable>) -> Target {
        if self.ordered.is_some() || self.messages.len() == MESSAGES_MAX {
            return self.append(vec![span]);
        }
        let id = self.next_id();
        self.messages.push(Urgent { id, spans: vec![span], again });
        Target::Message(id)
    }

    fn append(&mut self, spans: Vec<Span>) -> Target {
        let fresh = match self.ordered {
            Some(_) => 0,
            None => self.next_id(),
        };
        let ordered = self.ordered.get_or_insert(Urgent { id: fresh, spans: Vec::new(), again: None });
        for span in spans {
            match ordered.spans.iter_mut().find(|known| known.handle == span.handle) {
                // A transient event has no seq.
                Some(known) if known.lowest == 0 => known.lowest = span.lowest,
                Some(known) if span.lowest != 0 => known.lowest = known.lowest.min(span.lowest),
                Some(_) => {}
                None => ordered.spans.push(span),
            }
        }
        Target::Ordered(ordered.id)
    }

    fn next_id(&mut self) -> StreamId {
        self.next_id += 1;
        self.next_id
    }

    fn signal_stream(&mut self, record: &Bytes) -> Target {
        let signal = Glance::at(record).signal.unwrap_or_default();
        let envelope = signal.envelope.unwrap_or_default();
        let key = SignalKey {
            handle: signal.handle,
            instance: signal.from.unwrap_or_default().instance,
            kind: envelope.kind,
            key: envelope.key,
        };
        let former = self.signals.iter().position(|(_, known)| *known == key);
        let supersedes = former.map(|at| self.signals.swap_remove(at).0);
        let stream = self.next_id();
        self.signals.push((stream, key));
        Target::Signal { stream, supersedes }
    }

    /// Learns from control which handles are one room's.
    fn note_rooms(&mut self, record: &Bytes) {
        let glance = Glance::at(record);
        if let Some(SubscribedGlance { room, handle }) = glance.subscribed {
            match self.rooms.iter_mut().find(|known| *known.room == *room) {
                Some(known) if known.newest != handle => {
                    if known.former.len() == FORMER_MAX {
                        known.former.remove(0);
                    }
                    known.former.push(std::mem::replace(&mut known.newest, handle));
                }
                Some(_) => {}
                None => self.rooms.push(RoomHandles { room: room.into(), newest: handle, former: Vec::new() }),
            }
        }
        if let Some(RoomGlance { room }) = glance.unsubscribed {
            self.rooms.retain(|known| *known.room != *room);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::codec::EventFront;
    use crate::tracker::SeqWindow;
    use crate::v1;
    use crate::v1::frame::Body;

    const BIG: usize = 1_200;

    fn output(route: Route, lane: Lane, record: Bytes) -> Output {
        Output { route, lane, record, waited_ms: 0 }
    }

    fn urgent(handle: u64, seq: u64) -> Output {
        let front = EventFront { handle, lane: Lane::Urgent, seq, order: seq, epoch: 0 };
        output(Route::Message, Lane::Urgent, codec::event_record(front, &[]))
    }

    fn gap(handle: u64, from: u64, to: u64) -> Output {
        let gap = v1::Gap { handle, lane: v1::Lane::Urgent.into(), from, to, ..Default::default() };
        output(Route::Message, Lane::Urgent, codec::encode_body(0, Body::Gap(gap)))
    }

    fn subscribed(room: &str, handle: u64) -> Output {
        let frame = v1::Subscribed { room: room.into(), handle, ..Default::default() };
        output(Route::Control, Lane::Control, codec::encode_body(0, Body::Subscribed(frame)))
    }

    fn signal(key: &str, bytes: usize) -> Output {
        let envelope = v1::Envelope { r#type: "t".into(), key: key.into(), ..Default::default() };
        let mut envelope = envelope.encode_to_vec();
        prost::encoding::bytes::encode(99, &vec![0; bytes], &mut envelope);
        let signal = v1::Signal { handle: 1, envelope: envelope.into(), ..Default::default() };
        output(Route::Datagram, Lane::Signal, codec::encode_body(0, Body::Signal(signal)))
    }

    fn target(sender: &mut Sender, output: Output) -> Option<Target> {
        sender.offer(output, BIG).map(|(_, target)| target)
    }

    #[test]
    fn lanes_have_streams_and_urgent_messages_their_own() {
        // LC-QUIC-003, LC-QUIC-004, LC-QUIC-009
        let mut sender = Sender::default();
        let bulk = output(Route::Stream(Lane::Bulk), Lane::Bulk, Bytes::new());
        assert_eq!(target(&mut sender, bulk), Some(Target::Lane(Lane::Bulk)));
        let upload = output(Route::Stream(Lane::Urgent), Lane::Urgent, Bytes::new());
        assert_eq!(target(&mut sender, upload), Some(Target::Lane(Lane::Urgent)));
        assert_eq!(target(&mut sender, subscribed("a", 1)), Some(Target::Control));
        assert_eq!(target(&mut sender, signal("k", 900)), Some(Target::Datagram));
        assert_eq!(sender.offer(signal("k", 900), 800).unwrap().1, Target::Signal { stream: 1, supersedes: None });
        for seq in 1..=32 {
            assert_eq!(target(&mut sender, urgent(1, seq)), Some(Target::Message(seq + 1)));
        }
        assert_eq!(target(&mut sender, urgent(1, 33)), Some(Target::Ordered(34)));
        assert_eq!(target(&mut sender, urgent(2, 1)), Some(Target::Ordered(34)));
        sender.acknowledged(2);
        assert_eq!(target(&mut sender, urgent(1, 34)), Some(Target::Ordered(34)), "in order behind 33");
        assert_eq!(sender.drained(), Some(34));
        assert_eq!(target(&mut sender, urgent(1, 35)), Some(Target::Message(35)));
        assert_eq!(sender.drained(), None);
    }

    #[test]
    fn no_seq_starts_too_far_above_one_under_way() {
        // L2, LC-QUIC-004
        let mut sender = Sender::default();
        let Some(Target::Message(first)) = target(&mut sender, urgent(1, 5)) else { panic!("held") };
        assert!(target(&mut sender, urgent(1, 68)).is_some());
        assert_eq!(target(&mut sender, urgent(1, 69)), None);
        assert!(!sender.lanes().contains(Lane::Urgent) && sender.lanes().contains(Lane::Normal));
        assert_eq!(sender.release(), None, "nothing was acknowledged");
        assert_eq!(sender.drained(), None);
        sender.acknowledged(first);
        assert_eq!(sender.release().map(|(output, _)| output.record), Some(urgent(1, 69).record));
        assert!(sender.lanes().contains(Lane::Urgent));
        assert!(target(&mut sender, urgent(2, 999)).is_some(), "another room");
        assert!(target(&mut sender, urgent(1, 0)).is_some(), "a transient event");
        assert_eq!(target(&mut sender, gap(1, 70, 5_000)), None, "a gap reaches beyond the window");
    }

    #[test]
    fn a_later_epoch_waits_for_the_earlier_ones() {
        // LC-QUIC-007
        let mut sender = Sender::default();
        target(&mut sender, subscribed("a", 1));
        target(&mut sender, subscribed("b", 2));
        let Some(Target::Message(old)) = target(&mut sender, urgent(1, 1)) else { panic!("held") };
        target(&mut sender, urgent(2, 1)).unwrap();
        target(&mut sender, subscribed("a", 3));
        let Some(Target::Message(late)) = target(&mut sender, urgent(1, 2)) else { panic!("held") };
        assert_eq!(target(&mut sender, urgent(3, 2)), None);
        sender.acknowledged(old);
        assert_eq!(sender.release(), None, "seq 2 of the earlier epoch is under way");
        sender.acknowledged(late);
        assert!(sender.release().is_some());
        target(&mut sender, subscribed("a", 1));
        assert_eq!(target(&mut sender, urgent(1, 1)), None, "whichever handle came last");
    }

    #[test]
    fn a_newer_signal_supersedes_and_a_full_lane_waits() {
        // LC-QUIC-009
        let mut sender = Sender::default();
        let big = |sender: &mut Sender, key: &str| target(sender, signal(key, 2_000));
        assert_eq!(big(&mut sender, "a"), Some(Target::Signal { stream: 1, supersedes: None }));
        assert_eq!(big(&mut sender, "b"), Some(Target::Signal { stream: 2, supersedes: None }));
        assert_eq!(big(&mut sender, "a"), Some(Target::Signal { stream: 3, supersedes: Some(1) }));
        big(&mut sender, "c");
        big(&mut sender, "d");
        assert!(!sender.lanes().contains(Lane::Signal));
        sender.acknowledged(2);
        assert!(sender.lanes().contains(Lane::Signal));
    }

    #[test]
    fn a_stream_that_cannot_be_opened_leaves_the_message_to_the_ordered_one() {
        let mut sender = Sender::default();
        let Some(Target::Message(message)) = target(&mut sender, urgent(1, 1)) else { panic!("held") };
        assert_eq!(sender.fall_back(message), Target::Ordered(2));
        assert_eq!(target(&mut sender, urgent(1, 2)), Some(Target::Ordered(2)));
    }

    #[test]
    fn an_overdue_event_goes_once_more() {
        // LC-QUIC-014
        let mut sender = Sender::default();
        target(&mut sender, subscribed("a", 1));
        let Some(Target::Message(first)) = target(&mut sender, urgent(1, 5)) else { panic!("held") };
        let (record, copy) = sender.repeat(first, 1).unwrap();
        assert_eq!(record, urgent(1, 5).record);
        assert_eq!((sender.repeat(first, 1), sender.repeat(copy, 1)), (None, None), "once");
        sender.acknowledged(first);
        assert_eq!(target(&mut sender, urgent(1, 69)), None, "the copy is under way");
        sender.acknowledged(copy);
        assert!(sender.release().is_some());

        // A client cannot tell a transient event from its copy, and an acknowledged one is there.
        let Some(Target::Message(transient)) = target(&mut sender, urgent(1, 0)) else { panic!("held") };
        let Some(Target::Message(covered)) = target(&mut sender, gap(1, 70, 72)) else { panic!("held") };
        let Some(Target::Message(there)) = target(&mut sender, urgent(1, 73)) else { panic!("held") };
        sender.acknowledged(there);
        let front = EventFront { handle: 1, lane: Lane::Urgent, seq: 74, order: 74, epoch: 0 };
        let long = output(Route::Message, Lane::Urgent, codec::event_record(front, &[0; COPY_BYTES_MAX]));
        let Some(Target::Message(long)) = target(&mut sender, long) else { panic!("held") };
        assert_eq!([transient, covered, there, long].map(|message| sender.repeat(message, 1)), [const { None }; 4]);
        assert_eq!(sender.fall_back(long), Target::Ordered(8));
        assert_eq!(sender.repeat(long, 1), None);

        // L8
        let mut sender = Sender::default();
        let mut expiring = |expires_at_ms: u64, now_ms: u64| {
            let event =
                v1::Event { handle: 1, lane: v1::Lane::Urgent.into(), seq: 1, expires_at_ms, ..Default::default() };
            let output = output(Route::Message, Lane::Urgent, codec::encode_body(0, Body::Event(event)));
            let Some(Target::Message(message)) = target(&mut sender, output) else { panic!("held") };
            sender.repeat(message, now_ms).is_some()
        };
        assert_eq!([(10, 9), (10, 10), (0, 10)].map(|(at, now)| expiring(at, now)), [true, false, true]);

        // Nothing of a later epoch beside a copy.
        let Some(Target::Message(old)) = target(&mut Sender::default(), urgent(1, 1)) else { panic!("held") };
        let mut sender = Sender::default();
        target(&mut sender, subscribed("a", 1));
        target(&mut sender, urgent(1, 1));
        let (_, copy) = sender.repeat(old, 1).unwrap();
        sender.acknowledged(old);
        target(&mut sender, subscribed("a", 2));
        assert_eq!(target(&mut sender, urgent(2, 1)), None);
        sender.acknowledged(copy);
        assert!(sender.release().is_some());
    }

    #[test]
    fn copies_leave_half_of_the_streams() {
        let mut sender = Sender::default();
        let started: Vec<_> =
            (1..=MESSAGES_WITH_COPIES_MAX as u64).map(|seq| target(&mut sender, urgent(1, seq))).collect();
        let Some(Target::Message(first)) = started[0] else { panic!("held") };
        let Some(Target::Message(second)) = started[1] else { panic!("held") };
        assert_eq!(sender.repeat(second, 1), None);
        sender.acknowledged(first);
        assert!(sender.repeat(second, 1).is_some());
    }

    proptest! {
        /// Whatever overtakes whatever: a client of the protocol takes every seq, and meets no hole.
        #[test]
        fn a_clients_window_always_suffices(
            steps in prop::collection::vec((0..5u8, any::<prop::sample::Index>()), 1..400),
            gaps in prop::collection::vec(1..90u64, 1..8),
        ) {
            let mut sender = Sender::default();
            // By stream: what it carries in order, and whether the client has its end.
            let mut streams: BTreeMap<StreamId, Vec<(u64, u64)>> = BTreeMap::new();
            let mut client = SeqWindow::default();
            let (mut next, mut sizes) = (1u64, gaps.iter().cycle());
            let carry = |streams: &mut BTreeMap<StreamId, Vec<(u64, u64)>>, output: &Output, target| {
                let (Target::Message(id) | Target::Ordered(id)) = target else { panic!("{target:?}") };
                let (_, from, to) = Glance::at(&output.record).urgent();
                streams.entry(id).or_default().push((from, to));
            };
            for (kind, pick) in steps {
                match kind {
                    0 | 1 if sender.lanes().contains(Lane::Urgent) => {
                        let to = if kind == 0 { next } else { next + sizes.next().unwrap() };
                        let output = if kind == 0 { urgent(1, next) } else { gap(1, next, to) };
                        next = to + 1;
                        if let Some((output, target)) = sender.offer(output, 0) {
                            carry(&mut streams, &output, target);
                        }
                    }
                    2 => {
                        if let Some(ordered) = sender.drained() {
                            streams.entry(ordered).or_default().push((0, 0));
                        }
                    }
                    3 if !streams.is_empty() => {
                        let id = *streams.keys().nth(pick.index(streams.len())).unwrap();
                        if let Some((_, copy)) = sender.repeat(id, 1) {
                            let carried = streams[&id].clone();
                            streams.insert(copy, carried);
                        }
                    }
                    _ if !streams.is_empty() => {
                        let id = *streams.keys().nth(pick.index(streams.len())).unwrap();
                        let parts = streams.remove(&id).unwrap();
                        let ended = parts.last() == Some(&(0, 0)) || sender.messages.iter().any(|urgent| urgent.id == id);
                        for (from, to) in parts.into_iter().filter(|part| part.0 != 0) {
                            prop_assert!(client.insert(from, to), "{from}..={to} beyond {client:?}");
                        }
                        if ended {
                            sender.acknowledged(id);
                            if let Some((output, target)) = sender.release() {
                                carry(&mut streams, &output, target);
                            }
                        }
                    }
                    _ => {}
                }
                prop_assert!(sender.messages.len() <= MESSAGES_MAX && sender.ended.len() <= ENDED_MAX);
            }
        }
    }
}
