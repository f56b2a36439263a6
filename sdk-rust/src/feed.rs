//! What the owner task hands to the one reader of a room, and how the reader asks for more.
//!
//! The reader takes everything that is there in one step and without an await, so a cancelled read loses nothing: an
//! event is either still in the feed or in the reader's hands. The owner fills an empty feed only, with at most
//! [`FEED_ITEMS`]; what comes meanwhile waits in the session's inbox, which is bounded too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use lanecast_protocol::inbox::Placed;
use lanecast_protocol::position::Position;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Most items that the owner puts into a feed at a time.
pub(crate) const FEED_ITEMS: usize = 256;

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Placed>,
    /// Where the subscription begins; known once the node answered.
    start: Option<Position>,
    /// Nothing follows.
    ended: bool,
    /// The reader is gone.
    abandoned: bool,
    reader: Option<Waker>,
}

/// The place between the owner task and a reader.
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<State>,
    owner: Arc<Notify>,
}

impl Feed {
    pub(crate) fn new(owner: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), owner })
    }

    // The owner's side.

    /// Whether the reader has taken everything.
    pub(crate) fn is_hungry(&self) -> bool {
        let state = self.state.lock();
        state.items.is_empty() && !state.abandoned && !state.ended
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.state.lock().abandoned
    }

    pub(crate) fn fill(&self, items: Vec<Placed>) {
        if !items.is_empty() {
            self.change(|state| state.items.extend(items));
        }
    }

    /// The subscription begins here. Returns whether that is news.
    pub(crate) fn begin(&self, position: Position) -> bool {
        let mut state = self.state.lock();
        let is_news = state.start.is_none();
        state.start.get_or_insert(position);
        is_news
    }

    pub(crate) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    // The reader's side.

    /// Takes everything; `None`: nothing follows.
    pub(crate) fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<VecDeque<Placed>>> {
        let mut state = self.state.lock();
        if !state.items.is_empty() {
            let items = std::mem::take(&mut state.items);
            drop(state);
            self.owner.notify_one();
            return Poll::Ready(Some(items));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) fn start(&self) -> Option<Position> {
        self.state.lock().start
    }

    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        state.items.clear();
        drop(state);
        self.owner.notify_one();
    }
}
