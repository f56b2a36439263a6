//! What a connection waits for: futures that it owns, so that a slow answer about one room delays no other room, no
//! input and no Pong; and what it will try again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::stream::{FuturesUnordered, StreamExt};
use lanecast_protocol::log::Start;
use lanecast_protocol::position::{DurableLane, PerLane};
use lanecast_protocol::session::Refusal;
use lanecast_protocol::session::server::{Asked, Read};
use lanecast_protocol::v1;

use crate::auth::Identity;
use crate::auth::rights::TypeFilter;
use crate::auth::token::TokenError;
use crate::engine::EngineError;
use crate::hub::{ReadOut, Subscription};

/// Reads of logs that are under way at once; further rooms wait, unless their cache has what they need.
pub(super) const READS_MAX: usize = 8;
/// Bytes of such a read: what is under way comes on top of what the lane holds.
pub(super) const READ_BYTES_MAX: usize = 16 * 1024;
/// Signals on their way to the engine; further ones are refused.
pub(super) const SIGNALS_MAX: usize = 64;
/// How long a call that failed waits before it is made again, ms; at random, so that not all come at once.
const AGAIN_MS: std::ops::RangeInclusive<u64> = 250..=1_000;
/// How long the opening of a room waits that cannot begin yet, ms, unless another one ends before.
const BLOCKED_MS: u64 = 100;

/// What the engine said to a publish, or why it was refused.
pub(super) struct Published {
    pub(super) id: u32,
    pub(super) room: Box<str>,
    pub(super) result: Result<v1::Published, Refusal>,
}

/// Why a room was opened.
pub(super) enum Why {
    /// The client asked.
    Asked(Asked),
    /// The epoch of this handle ended.
    Epoch(u64),
}

/// A room was opened, or not.
pub(super) struct Opened {
    pub(super) why: Why,
    pub(super) room: Arc<str>,
    pub(super) start: Start,
    pub(super) signals: bool,
    pub(super) types: TypeFilter,
    pub(super) result: Result<Subscription, EngineError>,
}

/// What a future of a connection came to.
pub(super) enum Done {
    /// The token of Hello was judged.
    Authenticated {
        hello: Box<v1::Hello>,
        result: Result<Identity, TokenError>,
    },
    /// A newer token was judged.
    Refreshed {
        id: u32,
        result: Result<Identity, TokenError>,
    },
    Published(Published),
    Signalled {
        id: u32,
        room: Box<str>,
        result: Result<(), Refusal>,
    },
    Paged {
        id: u32,
        room: Box<str>,
        result: Result<v1::HistoryPage, Refusal>,
    },
    Opened(Box<Opened>),
    /// The live signals of a room wait in the mailbox.
    Enlivened,
    Read {
        read: Read,
        result: Result<ReadOut, EngineError>,
    },
    /// What will be read next is at hand, or was not worth it.
    ReadAhead(DurableLane),
}

/// A future of a connection.
pub(super) type Task = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What is tried again.
pub(super) enum Again {
    /// A read that failed: the lane stays ready.
    Read(Read),
    /// The opening of a room whose epoch ended, under its former handle.
    Open(u64),
}

struct Later {
    at_ms: u64,
    /// The call was made before and failed; else it could not begin.
    failed: bool,
    what: Again,
}

/// What a connection waits for. Publishes are bounded by the limit that clients are told, openings and pages by the
/// session, reads and signals here.
#[derive(Default)]
pub(super) struct Pending {
    tasks: FuturesUnordered<Task>,
    pub(super) reads: usize,
    /// Whether the next page of a log is read ahead, by lane: of one room at a time, and no lane waits for another.
    pub(super) reads_ahead: PerLane<bool>,
    pub(super) signals: usize,
    /// One for each lane of a room, and one for each room, at most.
    later: Vec<Later>,
}

impl Pending {
    /// Polls a task once: the usual case of an engine in memory needs no queue and no wake-up. What is not ready is kept.
    pub(super) fn begin(&mut self, mut task: Task) -> Option<Done> {
        match task.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => {
                self.tasks.push(task);
                None
            }
        }
    }

    /// The next that is done.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        match self.tasks.poll_next_unpin(cx) {
            Poll::Ready(Some(done)) => Poll::Ready(done),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Tries again what failed.
    pub(super) fn retry(&mut self, now_ms: u64, what: Again) {
        self.later.push(Later { at_ms: now_ms + rand::random_range(AGAIN_MS), failed: true, what });
    }

    /// Opens a room again as soon as that can begin.
    pub(super) fn open(&mut self, handle: u64) {
        self.later.push(Later { at_ms: 0, failed: false, what: Again::Open(handle) });
    }

    /// What cannot begin now is looked at again soon.
    pub(super) fn block(&mut self, now_ms: u64, what: Again) {
        self.later.push(Later { at_ms: now_ms + BLOCKED_MS, failed: false, what });
    }

    /// Something ended: what could not begin may.
    pub(super) fn unblock(&mut self) {
        self.later.iter_mut().filter(|later| !later.failed).for_each(|later| later.at_ms = 0);
    }

    /// What is due, and whether it was tried before.
    pub(super) fn due(&mut self, now_ms: u64) -> Vec<(Again, bool)> {
        self.later.extract_if(.., |later| later.at_ms <= now_ms).map(|later| (later.what, later.failed)).collect()
    }

    /// When something is due, monotonic ms.
    pub(super) fn due_at_ms(&self) -> Option<u64> {
        self.later.iter().map(|later| later.at_ms).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.later.is_empty()
    }
}
