//! A room on the client's side: its subscription, what was received and what waits for the application.

use super::signals::Heard;
use crate::focus::Focus;
use crate::inbox::{Delivery, Inbox};
use crate::position::{DurableLane, Position};
use crate::tracker::{Misbehaviour, Tracker, Verdict};
use crate::v1;

/// Items and bytes that wait for the application; beyond them the room is left until half was taken, and then
/// resumed from the log, so that an application that does not read costs no memory and no other room waits for it.
const ITEMS_MAX: usize = 1024;
const BYTES_MAX: usize = 1024 * 1024;
/// A room that has to subscribe again because of a hole does so at most this often.
const AGAIN_AFTER_MS: u64 = 1000;

/// How a room stands.
#[derive(Clone, Debug, PartialEq)]
pub enum RoomState {
    /// Asked for, not answered, or the connection is gone.
    Subscribing,
    /// Subscribed; events from before the subscription are still coming.
    CatchingUp {
        /// Whether the room was resumed without loss.
        recovered: bool,
        /// What is known of missed transient events.
        missed_transients: Option<v1::MissedTransients>,
    },
    /// Subscribed, and everything up to the head at that time has come.
    Live {
        /// Whether the room was resumed without loss.
        recovered: bool,
        /// What is known of missed transient events.
        missed_transients: Option<v1::MissedTransients>,
    },
    /// Subscribed, but the node cannot reach the log.
    Degraded,
    /// Over: unsubscribed, or refused with this code of the table.
    Ended {
        /// The code; `None`: unsubscribed by the application.
        code: Option<u32>,
    },
}

/// What a room is subscribed for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscribeOptions {
    /// Where to begin; `None`: live. A resume always goes on where the client was.
    pub start: Option<v1::start::At>,
    /// Also get signals.
    pub signals: bool,
}

#[derive(Debug)]
pub(super) struct Room {
    pub(super) tracker: Tracker,
    pub(super) inbox: Inbox,
    pub(super) options: SubscribeOptions,
    pub(super) state: RoomState,
    /// How much it matters to the user.
    pub(super) focus: Focus,
    /// The id of the Subscribe that is not answered; 0 for one in Hello.
    pub(super) asked: Option<u32>,
    /// Left because the application does not read.
    pub(super) paused: bool,
    /// Left, and not yet back: what is still under way is dropped, and read from the log later.
    pub(super) muted: bool,
    pub(super) heard: Heard,
    /// Subscribe again then, monotonic ms.
    pub(super) again_at_ms: Option<u64>,
    last_again_ms: Option<u64>,
    /// Something of this subscription was dropped before its answer came, which streams let happen.
    pub(super) hole_unseen: bool,
    head: Option<Position>,
    /// What the last answer said of the resume, for when the log is back.
    standing: Option<(bool, Option<v1::MissedTransients>)>,
}

/// What a frame did to a room.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Effect {
    /// The room's state changed.
    pub(super) state: bool,
    /// Something waits for the application.
    pub(super) items: bool,
}

impl Room {
    pub(super) fn new(options: SubscribeOptions) -> Self {
        let (mut tracker, mut inbox) = (Tracker::new(), Inbox::default());
        if let Some(v1::start::At::Position(position)) = &options.start
            && let Ok(position) = Position::try_from(position)
            && position.epoch != 0
        {
            tracker = Tracker::at(position);
            inbox.begin(position);
        }
        Self {
            tracker,
            inbox,
            options,
            state: RoomState::Subscribing,
            focus: Focus::Default,
            asked: None,
            paused: false,
            muted: false,
            heard: Heard::default(),
            again_at_ms: None,
            last_again_ms: None,
            hole_unseen: false,
            head: None,
            standing: None,
        }
    }

    /// Whether a new connection should subscribe to it.
    pub(super) fn wanted(&self) -> bool {
        !self.paused && !matches!(self.state, RoomState::Ended { .. })
    }

    /// The Subscribe frame: from the options at first, then from where the client is.
    pub(super) fn subscribe(&self, room: &str) -> v1::Subscribe {
        let at = match self.tracker.position() {
            Some(position) => Some(v1::start::At::Position(position.into())),
            None => self.options.start.clone(),
        };
        v1::Subscribe {
            room: room.to_owned(),
            start: at.map(|at| v1::Start { at: Some(at) }),
            transients: self.tracker.transient_mark(),
            signals: self.options.signals,
            ..Default::default()
        }
    }

    pub(super) fn disconnected(&mut self) {
        self.tracker.disconnected();
        self.asked = None;
        self.again_at_ms = None;
        self.muted = false;
        self.hole_unseen = false;
        if self.wanted() {
            self.state = RoomState::Subscribing;
        }
    }

    /// Takes a Subscribed that says only whether the node reaches the log (LC-SUB-024).
    pub(super) fn degraded(&mut self, frame: &v1::Subscribed) -> Effect {
        if self.tracker.handle() != frame.handle || matches!(self.state, RoomState::Ended { .. }) {
            return Effect::default();
        }
        let before = self.state.clone();
        if frame.degraded {
            self.state = RoomState::Degraded;
        } else if self.state == RoomState::Degraded {
            let (recovered, missed_transients) = self.standing.unwrap_or_default();
            self.state = RoomState::CatchingUp { recovered, missed_transients };
            self.caught_up();
        }
        Effect { state: self.state != before, items: false }
    }

    pub(super) fn subscribed(&mut self, now_ms: u64, frame: v1::Subscribed) -> Result<Effect, Misbehaviour> {
        let first = self.tracker.position().is_none();
        let change = self.tracker.subscribed(&frame)?;
        if frame.cause == v1::SubscribedCause::Unspecified as i32 {
            self.muted = false;
        }
        let head = frame.head.as_ref().and_then(|head| Position::try_from(head).ok());
        if first && let Some(position) = self.tracker.position() {
            self.inbox.begin(position);
        }
        let mut items = change.as_ref().is_some_and(|change| !change.gaps.is_empty());
        if let Some(change) = change {
            self.inbox.change_epoch(change);
        }
        items |= self.missed(frame.missed_transients.as_ref());
        self.head = head;
        self.asked = None;
        self.again_at_ms = None;
        let (recovered, missed_transients) = (frame.recovered, frame.missed_transients);
        self.standing = Some((recovered, missed_transients));
        self.state = match frame.degraded {
            true => RoomState::Degraded,
            false => RoomState::CatchingUp { recovered, missed_transients },
        };
        self.caught_up();
        if std::mem::take(&mut self.hole_unseen) {
            self.ask_again(now_ms);
        }
        Ok(Effect { state: true, items })
    }

    /// Hands on what was missed of transient events while the client was away (LC-SDK-007).
    fn missed(&mut self, missed: Option<&v1::MissedTransients>) -> bool {
        let Some(missed) = missed else { return false };
        let count = match v1::MissedKnowledge::try_from(missed.knowledge) {
            Ok(v1::MissedKnowledge::Unspecified | v1::MissedKnowledge::None) => return false,
            Ok(v1::MissedKnowledge::Count) if missed.count == 0 => return false,
            Ok(v1::MissedKnowledge::Count) => Some(missed.count),
            Ok(v1::MissedKnowledge::Unknown) | Err(_) => None,
        };
        self.inbox.transient_gap(None, count, v1::GapCause::Unspecified);
        true
    }

    /// Becomes live once the head at subscription has come.
    fn caught_up(&mut self) -> bool {
        let RoomState::CatchingUp { recovered, missed_transients } = self.state else { return false };
        let (Some(head), Some(position)) = (self.head, self.tracker.position()) else { return false };
        let there = head.epoch != position.epoch
            || DurableLane::ALL.into_iter().all(|lane| position.seq(lane) >= head.seq(lane));
        if there {
            self.state = RoomState::Live { recovered, missed_transients };
        }
        there
    }

    /// Takes an Event. `ordered` says whether the transport keeps the order of lane urgent; the other lanes have it always.
    pub(super) fn event(&mut self, now_ms: u64, event: v1::Event, ordered: bool) -> Effect {
        let Some(lane) = DurableLane::from_wire(event.lane).filter(|_| !self.muted) else { return Effect::default() };
        let delivery = Delivery { epoch: self.tracker.epoch(), event };
        if delivery.event.seq == 0 {
            if self.tracker.transient(delivery.event.handle, lane) {
                self.inbox.transient(lane, delivery);
                return Effect { items: true, state: false };
            }
            return Effect::default();
        }
        let (streams, ordered) = (!ordered, ordered || lane != DurableLane::Urgent);
        match self.tracker.event(delivery.event.handle, lane, delivery.event.seq, ordered) {
            Verdict::Deliver => {
                self.inbox.event(lane, delivery);
                Effect { items: true, state: self.caught_up() }
            }
            Verdict::Hole => self.hole(now_ms, streams),
            Verdict::Duplicate | Verdict::Revoked | Verdict::UnknownHandle => Effect::default(),
        }
    }

    /// Takes a Gap, as [`Self::event`].
    pub(super) fn gap(&mut self, now_ms: u64, gap: &v1::Gap, ordered: bool) -> Effect {
        if self.muted {
            return Effect::default();
        }
        if gap.from == 0 {
            let cause = v1::GapCause::try_from(gap.cause).unwrap_or(v1::GapCause::Unknown);
            let Some(lane) = DurableLane::from_wire(gap.lane) else { return Effect::default() };
            if self.tracker.transient_gap(gap.handle, lane, gap.count) {
                self.inbox.transient_gap(Some(lane), (gap.count > 0).then_some(gap.count), cause);
                return Effect { items: true, state: false };
            }
            return Effect::default();
        }
        let streams = !ordered;
        let ordered = ordered || DurableLane::from_wire(gap.lane) != Some(DurableLane::Urgent);
        let (verdict, news) = self.tracker.gap(gap, ordered);
        if !news.is_empty() {
            news.into_iter().for_each(|gap| self.inbox.gap(gap));
            return Effect { items: true, state: self.caught_up() };
        }
        if verdict == Verdict::Hole { self.hole(now_ms, streams) } else { Effect::default() }
    }

    /// Something is missing without a Gap: subscribe again from *received*, soon but not in a loop.
    fn hole(&mut self, now_ms: u64, streams: bool) -> Effect {
        if self.asked.is_none() {
            self.ask_again(now_ms);
        } else if streams {
            // What follows the answer may have overtaken it, so the answer is not known to cure this.
            self.hole_unseen = true;
        }
        Effect::default()
    }

    fn ask_again(&mut self, now_ms: u64) {
        if self.again_at_ms.is_none() {
            let earliest = self.last_again_ms.map_or(now_ms, |last| now_ms.max(last + AGAIN_AFTER_MS));
            self.again_at_ms = Some(earliest);
            self.last_again_ms = Some(earliest);
        }
    }

    /// Whether so much waits for the application that the room should be left for a while.
    pub(super) fn is_full(&self) -> bool {
        self.inbox.len() >= ITEMS_MAX || self.inbox.bytes() >= BYTES_MAX
    }

    /// Whether a room that was left may come back.
    pub(super) fn has_drained(&self) -> bool {
        self.inbox.len() <= ITEMS_MAX / 2 && self.inbox.bytes() <= BYTES_MAX / 2
    }
}
