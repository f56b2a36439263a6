//! The publishes that are not settled: who waits for them, and the file that keeps them.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::Arc;

use lanecast_protocol::publisher::{Settled, Ticket};
use lanecast_protocol::session::Now;
use lanecast_protocol::session::client::{Client, Kept, OldOutbox, PublishOptions, Queued};
use lanecast_protocol::v1;
use tokio::sync::{mpsc, oneshot, watch};

use super::command::{Publication, Replies};
use crate::Lane;
use crate::disk::Synced;
use crate::error::{FlushError, FlushErrorKind, PublishError, PublishErrorKind};
use crate::event::Content;
use crate::outbox::{Contents, Item, Outcome, Report, Writer};
use crate::publish::Published;

/// Callers that wait in `flush` at a time.
const FLUSHES_MAX: usize = 1024;

type Answer = Result<Published, PublishError>;

/// Where a publish stands in the session.
#[derive(Clone)]
struct Place {
    room: Arc<str>,
    lane: Lane,
    number: u64,
}

/// Who wants to know how a publish ends.
enum Waiter {
    /// The holder of its receipt.
    Receipt(oneshot::Sender<Answer>),
    /// Whoever reads the outcomes of what an earlier run left.
    Outcomes(Box<Content>),
}

struct Unsettled {
    waiter: Waiter,
    /// The file keeps it.
    kept: Option<Place>,
    /// Who waits until it is in the file.
    queued: Option<oneshot::Sender<Result<(), PublishError>>>,
}

/// The publishes of a client that are not settled.
pub(super) struct Publishes {
    /// Bounded by the session's outbox and its pending requests.
    unsettled: BTreeMap<Ticket, Unsettled>,
    /// The newest publish so far.
    last: Ticket,
    /// Who waits for the publishes up to a ticket, in their order; at most [`FLUSHES_MAX`].
    flushes: VecDeque<(Ticket, oneshot::Sender<Result<(), FlushError>>)>,
    /// `None`: the outbox is in memory.
    writer: Option<Writer>,
    /// Ended without being stored, which is not in the file yet; bounded by the session's outbox.
    ends: BTreeMap<u64, Place>,
    /// For what an earlier run left; `None` after the last of them.
    outcomes: Option<mpsc::UnboundedSender<Outcome>>,
    /// Publishes of an earlier run that are not settled.
    restored: usize,
    /// The user in the file.
    user: Option<String>,
    pending: watch::Sender<usize>,
}

impl Publishes {
    pub(super) fn new(pending: watch::Sender<usize>, outcomes: mpsc::UnboundedSender<Outcome>) -> Self {
        Self {
            unsettled: BTreeMap::new(),
            last: Ticket(0),
            flushes: VecDeque::new(),
            writer: None,
            ends: BTreeMap::new(),
            outcomes: Some(outcomes),
            restored: 0,
            user: None,
            pending,
        }
    }

    /// Takes over what an outbox file holds, before anything else is published.
    pub(super) fn take_over(&mut self, session: &mut Client, now: Now, contents: Contents, writer: Writer) {
        let Contents { instance: _, start, floor, user, items } = contents;
        let publishes = items.into_iter().map(|item| self.restore(now, item)).collect();
        self.user.clone_from(&user);
        self.writer = Some(writer);
        session.take_over(now, OldOutbox { start, floor, user, publishes });
    }

    fn restore(&mut self, now: Now, item: Item) -> Kept {
        let ticket = Ticket(item.id);
        let lane = Lane::from_wire(item.lane).unwrap_or(Lane::Normal);
        let place = Place { room: item.room.as_str().into(), lane, number: item.number };
        let waiter = Waiter::Outcomes(Box::new(Content::decode(item.envelope.clone())));
        self.unsettled.insert(ticket, Unsettled { waiter, kept: Some(place), queued: None });
        self.restored += 1;
        self.last = self.last.max(ticket);
        let waited_ms = now.wall_ms.saturating_sub(item.queued_at_ms);
        Kept {
            ticket,
            room: item.room,
            lane,
            number: item.number,
            envelope: item.envelope,
            ttl_ms: match item.ttl_ms {
                0 => 0,
                // One that has nothing left is not kept either, so it is never sent with this.
                ttl_ms => u32::try_from(u64::from(ttl_ms).saturating_sub(waited_ms)).unwrap_or(ttl_ms).max(1),
            },
            ack: v1::AckLevel::try_from(item.ack).unwrap_or(v1::AckLevel::Stored),
            // A clock that went back gives it its whole time anew, and not more.
            keep_ms: item.keep_ms.saturating_sub(waited_ms),
        }
    }

    /// Publishes an event.
    pub(super) fn publish(&mut self, session: &mut Client, now: Now, publication: Publication, replies: Replies) {
        let Replies { settled, queued } = replies;
        let waiter = Waiter::Receipt(settled);
        let published = match publication.transient {
            true => publish_transient(session, now, publication).map(|ticket| (ticket, None)),
            false => self.publish_durable(session, now, publication),
        };
        match (published, waiter, queued) {
            (Ok((ticket, kept)), waiter, queued) => {
                self.last = ticket;
                self.unsettled.insert(ticket, Unsettled { waiter, kept, queued });
            }
            // A caller that does not wait does not want to know.
            (Err(error), _, Some(queued)) => drop(queued.send(Err(error))),
            (Err(error), waiter, None) => self.answer(waiter, None, Err(error)),
        }
    }

    fn publish_durable(
        &self,
        session: &mut Client,
        now: Now,
        publication: Publication,
    ) -> Result<(Ticket, Option<Place>), PublishError> {
        let Publication { room, lane, transient: _, ttl_ms, keep_ms, ack, envelope } = publication;
        let options = PublishOptions { ttl_ms, keep_ms, ack };
        let queued = session.publish_with(now, &room, lane, envelope.clone(), options)?;
        let Queued { ticket, number, keep_ms } = queued;
        let Some(writer) = &self.writer else { return Ok((ticket, None)) };
        writer.queue(Item {
            id: ticket.0,
            room: room.to_string(),
            lane: v1::Lane::from(lane).into(),
            number,
            envelope,
            ttl_ms,
            ack: ack.into(),
            queued_at_ms: now.wall_ms,
            keep_ms,
        });
        Ok((ticket, Some(Place { room, lane, number })))
    }

    /// What the file's thread says next. Cancel safe. `None`: the thread is gone.
    pub(super) async fn report(&mut self) -> Option<Report> {
        match &mut self.writer {
            Some(writer) => writer.report().await,
            None => pending().await,
        }
    }

    /// Takes a report. Returns false when there is no thread any more, without which nothing can be published.
    pub(super) fn reported(&mut self, session: &mut Client, report: Option<Report>) -> bool {
        match report {
            Some(Report::Written(id)) => {
                // One that was given up meanwhile has ended, and its end follows it into the file.
                let Some(unsettled) = self.unsettled.get_mut(&Ticket(id)) else { return true };
                let queued = unsettled.queued.take();
                if let Some(place) = &unsettled.kept {
                    session.written(&place.room, place.lane, place.number);
                }
                let _ = queued.map(|queued| queued.send(Ok(())));
            }
            Some(Report::Failed(id, detail)) => {
                let Some(Unsettled { waiter, kept, queued }) = self.unsettled.remove(&Ticket(id)) else { return true };
                if let Some(place) = kept
                    && !session.withdraw(&place.room, place.lane, place.number)
                {
                    // It ended in this very moment, and of what is not in the file no end has to be.
                    session.end_written(&place.room, place.lane);
                }
                let error = PublishError::local(PublishErrorKind::NotKept, detail).may_retry();
                match queued {
                    Some(queued) => drop(queued.send(Err(error))),
                    None => self.answer(waiter, None, Err(error)),
                }
                self.settle_flushes();
            }
            Some(Report::Ended(id)) => {
                if let Some(place) = self.ends.remove(&id) {
                    session.end_written(&place.room, place.lane);
                }
            }
            None => {
                self.writer = None;
                return false;
            }
        }
        true
    }

    /// Puts what the file holds on the disk; `None`: there is none.
    pub(super) fn sync(&self) -> Option<Synced> {
        self.writer.as_ref().map(Writer::sync)
    }

    /// A node welcomed the client.
    pub(super) fn connected(&mut self, session: &Client) {
        let user = session.outbox_user();
        if let (Some(user), Some(writer)) = (user, &self.writer)
            && self.user.as_deref() != Some(user)
        {
            writer.user(user);
            self.user = Some(user.to_owned());
        }
    }

    /// A publish ended.
    pub(super) fn settled(&mut self, ticket: Ticket, settled: Settled) {
        let answer = match settled {
            Settled::Stored(published) => Ok(Published::new(published)),
            Settled::Refused { code, detail } => Err(PublishError::refused(PublishErrorKind::Refused, code, detail)),
            Settled::GivenUp => Err(PublishError::local(PublishErrorKind::GivenUp, "")),
        };
        let Some(Unsettled { waiter, kept, queued }) = self.unsettled.remove(&ticket) else { return };
        let _ = queued.map(|queued| queued.send(Ok(())));
        if let (Some(place), Some(writer)) = (&kept, &self.writer) {
            if answer.is_ok() {
                writer.stored(ticket.0);
            } else {
                self.ends.insert(ticket.0, place.clone());
                writer.ended(ticket.0);
            }
        }
        self.answer(waiter, kept.as_ref(), answer);
        self.settle_flushes();
    }

    /// Tells whoever waits; that nobody does any more is no matter.
    fn answer(&mut self, waiter: Waiter, place: Option<&Place>, answer: Answer) {
        match (waiter, place) {
            (Waiter::Receipt(reply), _) => drop(reply.send(answer)),
            (Waiter::Outcomes(content), Some(place)) => {
                if let Some(outcomes) = &self.outcomes {
                    let _ = outcomes.send(Outcome::new(&place.room, place.lane, *content, answer));
                }
                self.restored -= 1;
            }
            (Waiter::Outcomes(_), None) => {}
        }
    }

    /// Answers when every publish so far is settled.
    pub(super) fn flush(&mut self, reply: oneshot::Sender<Result<(), FlushError>>) {
        if self.flushes.len() == FLUSHES_MAX {
            // Callers that gave up make room.
            self.flushes.retain(|(_, reply)| !reply.is_closed());
        }
        if self.flushes.len() == FLUSHES_MAX {
            let error = FlushError::local(FlushErrorKind::TooMany, "").may_retry();
            return drop(reply.send(Err(error)));
        }
        self.flushes.push_back((self.last, reply));
        self.settle_flushes();
    }

    fn settle_flushes(&mut self) {
        let oldest = self.unsettled.first_key_value().map(|(ticket, _)| *ticket);
        while let Some((ticket, _)) = self.flushes.front()
            && oldest.is_none_or(|oldest| oldest > *ticket)
            && let Some((_, reply)) = self.flushes.pop_front()
        {
            let _ = reply.send(Ok(()));
        }
    }

    /// Shows what has changed.
    pub(super) fn show(&mut self, session: &Client) {
        if self.restored == 0 {
            self.outcomes = None;
        }
        let unsettled = session.unsettled();
        self.pending.send_if_modified(|pending| std::mem::replace(pending, unsettled) != unsettled);
    }

    /// The client is over: writes the last changes, and unlocks the file.
    pub(super) async fn finish(&mut self, session: &mut Client) {
        if let Some(writer) = &mut self.writer {
            writer.finish();
        }
        while self.writer.is_some() {
            let report = self.report().await;
            self.reported(session, report);
        }
    }
}

fn publish_transient(session: &mut Client, now: Now, publication: Publication) -> Result<Ticket, PublishError> {
    let Publication { room, lane, ttl_ms, envelope, .. } = publication;
    Ok(session.publish_transient(now, &room, lane, envelope, ttl_ms)?)
}
