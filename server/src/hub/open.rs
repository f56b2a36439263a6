//! How a subscription is opened: from what the node has of the room where that is certain, else from the engine, which
//! is asked once for all who want the same at that time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lanecast_protocol::log::{self, Start};

use super::{Hub, Interest, Mailbox, Room, Subscription};
use crate::engine::{EngineError, Opened, missed_since};
use crate::telemetry::labels::Source;

/// Openings after one another whose epoch had ended when they were answered, after which a subscriber has to come back.
const TRIES_MAX: usize = 4;
/// When it may, ms.
const AGAIN_MS: u32 = 500;

/// A mailbox in a room whose opening is under way. Unless it became live it leaves again.
struct Entered<'a> {
    hub: &'a Hub,
    room: Arc<Room>,
    mailbox: &'a Arc<Mailbox>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if !self.room.is_live(self.mailbox) {
            self.hub.leave(&self.room, self.mailbox);
        }
    }
}

impl Hub {
    /// Subscribes a mailbox to a room; one that is subscribed begins anew.
    ///
    /// Cancel safety: if the future is dropped before it is ready, the mailbox is subscribed only if it was before.
    ///
    /// # Errors
    /// Whatever the engine says; the mailbox is not subscribed then, if it was not before.
    pub async fn subscribe(
        &self,
        name: &str,
        interest: Interest,
        mailbox: &Arc<Mailbox>,
    ) -> Result<Subscription, EngineError> {
        let entered = Entered { hub: self, room: self.enter(name, mailbox), mailbox };
        let room = &entered.room;
        for _ in 0..TRIES_MAX {
            let (mut opened, source) = match self.glimpse(room, interest.start) {
                Some(opened) => (opened, Source::Cache),
                None => self.ask(room, interest.start).await?,
            };
            opened.missed_transients = missed_since(opened.transients, interest.transients);
            if let Some(handle) = room.admit(mailbox, &opened, &interest, || self.next_handle()) {
                self.metrics.room_opens.of(source).inc();
                return Ok(Subscription { room: Arc::clone(room), handle, opened });
            }
        }
        Err(EngineError::Unavailable { retry_after_ms: AGAIN_MS })
    }

    /// The opening at a position, if the room's cache has everything after it (LC-RES-001, LC-RES-002): then nothing
    /// between it and the head can be trimmed or revoked.
    ///
    /// The mailbox has entered: what happens after the glance waits for it, as after an answer of the engine.
    fn glimpse(&self, room: &Room, start: Start) -> Option<Opened> {
        let Start::Position(asked) = start else { return None };
        if !room.followed.load(Ordering::Acquire) {
            return None;
        }
        let glance = self.engine().glance(room.name())?;
        room.covers(self.clock.now_ms(), asked, glance.head).then(|| Opened {
            log: log::Opened {
                position: asked,
                head: glance.head,
                head_order: glance.order,
                recovered: true,
                rolled_back: Vec::new(),
            },
            transients: glance.transients,
            missed_transients: Default::default(),
        })
    }

    async fn ask(&self, room: &Room, start: Start) -> Result<(Opened, Source), EngineError> {
        let question = async {
            if !room.followed.load(Ordering::Acquire) {
                // The sink is attached before the log is read: what is stored in between is marked, and waits in the
                // mailbox.
                self.engine().subscribe(room.name()).await?;
                room.followed.store(true, Ordering::Release);
            }
            self.engine().open(room.name(), start, None).await
        };
        let (opened, shared) = room.openings.ask(start, question).await?;
        Ok((opened, if shared { Source::Shared } else { Source::Engine }))
    }

    /// Lets a room without a subscriber go.
    pub(super) async fn forget(&self, room: &Arc<Room>) {
        let unused = || {
            let shard = self.shard(room.name()).lock();
            let known = shard.get(room.name()).is_some_and(|known| Arc::ptr_eq(known, room));
            // Inside the shard's lock: whoever enters later sees it, and follows the room again after this.
            let unused = known && room.is_empty();
            if unused {
                room.followed.store(false, Ordering::Release);
            }
            (shard, unused)
        };
        let let_go = async {
            if !unused().1 {
                return;
            }
            if let Err(error) = self.engine().unsubscribe(room.name()).await {
                tracing::warn!(room = &**room.name(), %error, "the engine did not let a room go");
            }
            let (mut shard, unused) = unused();
            if unused {
                shard.remove(room.name());
            }
        };
        // Somebody who asks has entered, so the room is not unused.
        let _ = room.openings.alone(let_go).await;
    }

    /// Leaves the live signals of a room for a mailbox that subscribed with [`Interest::live`] (LC-SIG-006); those that
    /// came since wait for this.
    ///
    /// # Errors
    /// Whatever the engine says; what came since is then left all the same.
    pub async fn enliven(&self, room: &Room, mailbox: &Arc<Mailbox>) -> Result<(), EngineError> {
        let live = self.engine().live_signals(room.name()).await;
        room.enliven(mailbox, live.as_deref().unwrap_or_default(), |pushed| self.count_pushed(pushed));
        live.map(drop)
    }
}
