//! Publishes: on their way out, and back from an outbox that outlives the process.

use bytes::Bytes;

use super::{Client, CommandError, Event, Link, Pending, UPLOAD_BYTES};
use crate::codec;
use crate::codes::Code;
use crate::lane::{Lane, Lanes};
use crate::outbox::{Output, Route};
use crate::position::DurableLane;
use crate::publisher::{Settled, Terms, Ticket, ttl_ms};
use crate::session::Now;
use crate::v1;
use crate::v1::frame::Body;

/// What a durable publish asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishOptions {
    /// How long the event lives at the node, ms; 0: for ever. It does not wait for its node for longer either.
    pub ttl_ms: u32,
    /// How long it may wait for its node, ms; `None`: as the client's options say.
    pub keep_ms: Option<u64>,
    /// What has to be true before it counts as stored.
    pub ack: v1::AckLevel,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self { ttl_ms: 0, keep_ms: None, ack: v1::AckLevel::Stored }
    }
}

/// A durable publish that the client took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its name towards the application.
    pub ticket: Ticket,
    /// Its number in its room and lane.
    pub number: u64,
    /// How long it may wait for its node, ms.
    pub keep_ms: u64,
}

/// A publish that an earlier process left in its outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its name, no other publish's; those that follow are higher.
    pub ticket: Ticket,
    /// The room.
    pub room: String,
    /// The lane.
    pub lane: DurableLane,
    /// Its number in room and lane.
    pub number: u64,
    /// The envelope, encoded.
    pub envelope: Bytes,
    /// How long the event still lives, ms; 0: for ever.
    pub ttl_ms: u32,
    /// As in [`PublishOptions`].
    pub ack: v1::AckLevel,
    /// How long it may still wait, ms.
    pub keep_ms: u64,
}

/// What an outbox that outlives the process brings along.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OldOutbox {
    /// How often it was opened, this time included: the start of the signals (LC-SIG-012).
    pub start: u64,
    /// No publish of an earlier process had a higher number.
    pub floor: u64,
    /// The user whose publishes these are; `None`: not known.
    pub user: Option<String>,
    /// What is not settled, in the order in which it was published.
    pub publishes: Vec<Kept>,
}

/// Until when something lives that does so for `ttl_ms` from now, monotonic ms; `None`: for ever.
fn expires_at_ms(now: Now, ttl_ms: u32) -> Option<u64> {
    (ttl_ms != 0).then(|| now.monotonic_ms.saturating_add(ttl_ms.into()))
}

/// The record of a request with the time to live that is left of it.
pub(super) fn stamped(record: &Bytes, left_ms: u64) -> Bytes {
    let frame = codec::records(record.clone(), usize::MAX).next().and_then(|frame| codec::decode(frame.ok()?).ok());
    let Some(mut frame) = frame else { return record.clone() };
    match &mut frame.body {
        Some(Body::Publish(publish)) => publish.ttl_ms = ttl_ms(left_ms),
        Some(Body::Signal(signal)) => signal.ttl_ms = ttl_ms(left_ms),
        _ => return record.clone(),
    }
    codec::encode(&frame)
}

/// Whose publishes an outbox holds.
#[derive(Debug)]
pub(super) struct OutboxUser(Option<String>);

impl Client {
    /// Takes over an outbox that outlives the process: call it before all else. From now on every publish has to be
    /// [written](Self::written) or [withdrawn](Self::withdraw), and of one that settled without being stored it has to be
    /// said that its [end is written](Self::end_written).
    pub fn take_over(&mut self, now: Now, outbox: OldOutbox) {
        self.publisher.outlive(outbox.floor);
        self.signals.set_start(outbox.start);
        // With nothing left to send it does not matter who it was.
        self.outbox_user = Some(OutboxUser(outbox.user.filter(|_| !outbox.publishes.is_empty())));
        for kept in outbox.publishes {
            self.next_ticket = self.next_ticket.max(kept.ticket.0);
            let give_up_at_ms = now.monotonic_ms.saturating_add(kept.keep_ms);
            let terms = Terms {
                expires_at_ms: expires_at_ms(now, kept.ttl_ms),
                ack: kept.ack,
                give_up_at_ms,
                asked_at_ms: None,
            };
            self.publisher.restore(kept.ticket, &kept.room, kept.lane, kept.number, kept.envelope, terms);
        }
    }

    /// Queues a durable publish: it is sent, and sent again, until it is settled.
    ///
    /// # Errors
    /// [`CommandError::Closed`] or [`CommandError::OutboxFull`].
    pub fn publish(
        &mut self,
        now: Now,
        room: &str,
        lane: DurableLane,
        envelope: Bytes,
        ttl_ms: u32,
    ) -> Result<Ticket, CommandError> {
        let options = PublishOptions { ttl_ms, ..PublishOptions::default() };
        self.publish_with(now, room, lane, envelope, options).map(|queued| queued.ticket)
    }

    /// As [`Self::publish`], with all that can be asked for.
    ///
    /// # Errors
    /// [`CommandError::Closed`] or [`CommandError::OutboxFull`].
    pub fn publish_with(
        &mut self,
        now: Now,
        room: &str,
        lane: DurableLane,
        envelope: Bytes,
        options: PublishOptions,
    ) -> Result<Queued, CommandError> {
        if matches!(self.link, Link::Closed { .. }) {
            return Err(CommandError::Closed);
        }
        let ticket = self.ticket();
        let own = if options.ttl_ms == 0 { u64::MAX } else { options.ttl_ms.into() };
        let keep_ms = own.min(options.keep_ms.unwrap_or(self.options.outbox_ttl_ms));
        let give_up_at_ms = now.monotonic_ms.saturating_add(keep_ms);
        let terms = Terms {
            expires_at_ms: expires_at_ms(now, options.ttl_ms),
            ack: options.ack,
            give_up_at_ms,
            asked_at_ms: Some(now.monotonic_ms),
        };
        let number = self.publisher.push(ticket, room, lane, envelope, terms)?;
        self.ground.refresh();
        Ok(Queued { ticket, number, keep_ms })
    }

    /// A publish is in the outbox that outlives the process, and may be sent.
    pub fn written(&mut self, room: &str, lane: DurableLane, number: u64) {
        self.publisher.written(room, lane, number);
    }

    /// A publish could not be written, and is forgotten. False if it has ended already.
    pub fn withdraw(&mut self, room: &str, lane: DurableLane, number: u64) -> bool {
        self.publisher.withdraw(room, lane, number)
    }

    /// The end of a publish that was not stored is written down; what was published after it may be sent.
    pub fn end_written(&mut self, room: &str, lane: DurableLane) {
        self.publisher.end_written(room, lane);
    }

    /// Sends a transient event now or not at all.
    ///
    /// # Errors
    /// [`CommandError::NotConnected`] or [`CommandError::TooMany`].
    pub fn publish_transient(
        &mut self,
        now: Now,
        room: &str,
        lane: DurableLane,
        envelope: Bytes,
        ttl_ms: u32,
    ) -> Result<Ticket, CommandError> {
        let ticket = self.ticket();
        let publish = v1::Publish {
            room: room.to_owned(),
            lane: v1::Lane::from(lane).into(),
            delivery: v1::Delivery::Transient.into(),
            ttl_ms,
            envelope,
            ..Default::default()
        };
        self.request_until(Body::Publish(publish), Pending::Publish(ticket), expires_at_ms(now, ttl_ms))?;
        Ok(ticket)
    }

    /// The user of the connections so far, if the outbox outlives the process; `None`: not known.
    pub fn outbox_user(&self) -> Option<&str> {
        self.outbox_user.as_ref()?.0.as_deref()
    }

    /// Whether the outbox may be sent as this user. Publishes of one user must not become another's, and numbers count
    /// per user (LC-PUB-022).
    pub(super) fn is_outbox_of(&mut self, user: &str) -> bool {
        let Some(OutboxUser(known)) = &mut self.outbox_user else { return true };
        if self.publisher.unsettled() > 0 && known.as_ref().is_some_and(|known| known != user) {
            return false;
        }
        *known = Some(user.to_owned());
        true
    }

    /// Moves publishes into the outbox while their lanes have room.
    pub(super) fn fill_publishes(&mut self, now: Now) {
        let Link::Open(open) = &self.link else { return };
        let (in_flight_max, replicates) = (open.in_flight_max, open.replicates);
        self.publisher.set_node_ahead(self.node_time_ms(now) as i64 - now.monotonic_ms as i64);
        loop {
            let outbox = &self.outbox;
            let has_room = |lane: DurableLane| outbox.bytes(lane.into()) < UPLOAD_BYTES;
            let mut id = self.next_id;
            let next = || {
                id = id.wrapping_add(1).max(1);
                id
            };
            let Some((id, publish)) = self.publisher.poll(now.monotonic_ms, in_flight_max, has_room, next) else {
                break;
            };
            self.next_id = id;
            let is_served = replicates || publish.ack() != v1::AckLevel::Replicated;
            let expires_at_ms = expires_at_ms(now, publish.ttl_ms);
            let body = Body::Publish(publish);
            let (lane, record) = (Lane::of(&body), codec::encode_body(id, body));
            if !is_served {
                self.refuse(now, id, Code::Unimplemented, "the node cannot confirm that an event is replicated");
            } else if !self.fits(&record) {
                // The node would close the connection, and every next one.
                self.refuse(now, id, Code::MessageTooLarge, "larger than the node's limit of a record");
            } else {
                self.queue(lane, id, record, expires_at_ms);
            }
        }
    }

    /// A copy of an urgent publish whose answer is overdue: now, or not at all.
    pub(super) fn next_copy(&mut self, now: Now, lanes: Lanes) -> Option<Output> {
        let Link::Open(open) = &self.link else { return None };
        if !lanes.contains(Lane::Urgent) {
            return None;
        }
        let mut id = self.next_id;
        let next = || {
            id = id.wrapping_add(1).max(1);
            id
        };
        let (id, publish) = self.publisher.repeat(now.monotonic_ms, open.in_flight_max, next)?;
        self.next_id = id;
        let record = codec::encode_body(id, Body::Publish(publish));
        Some(Output { route: Route::Message, lane: Lane::Urgent, record, waited_ms: 0 })
    }

    /// Queues what has a time to live so that it is not sent late, and says as it leaves how much of it is left (L8).
    pub(super) fn queue(&mut self, lane: Lane, id: u32, record: Bytes, expires_at_ms: Option<u64>) {
        match expires_at_ms {
            Some(at_ms) => self.outbox.push_request(lane, id, record, at_ms),
            None => self.outbox.push(lane, record),
        }
    }

    /// Ends the publishes that were not sent in time.
    pub(super) fn settle_late(&mut self) {
        for id in self.outbox.take_late() {
            if !self.publisher.expired(id)
                && let Some(Pending::Publish(ticket)) = self.answered(id)
            {
                self.events.push_back(Event::Settled(ticket, Settled::GivenUp));
            }
        }
    }

    /// Ends a publish that the node would refuse.
    fn refuse(&mut self, now: Now, id: u32, code: Code, detail: &str) {
        let error = v1::Error { code: code.number().into(), detail: detail.to_owned(), ..Default::default() };
        self.publisher.refused(now.monotonic_ms, id, &error);
    }
}
