//! Who reads which room: at most one reader of its events, and one board for all readers of its signals.
//!
//! A room is subscribed while one of them is there. With signals alone its events are thrown away.

use std::collections::BTreeMap;
use std::sync::Arc;

use lanecast_protocol::session::client::{Client, RoomState as SessionState, SubscribeOptions};
use lanecast_protocol::v1;
use tokio::sync::{Notify, watch};

use crate::disk::Synced;
use crate::error::{SubscribeError, SubscribeErrorKind};
use crate::feed::{FEED_ITEMS, Feed};
use crate::positions::{Hold, Positions};
use crate::signal::{Board, Seat};
use crate::state::RoomState;

/// Rooms of a client; nodes allow fewer on a connection.
const ROOMS_MAX: usize = 1000;

struct Reader {
    feed: Arc<Feed>,
    state: watch::Sender<RoomState>,
    /// Keeps the board standing for a reader that asked for signals with its subscription.
    _seat: Option<Seat>,
}

#[derive(Default)]
struct Room {
    reader: Option<Reader>,
    board: Option<Arc<Board>>,
}

impl Room {
    fn is_wanted(&self) -> bool {
        self.reader.is_some() || self.board.is_some()
    }
}

/// The rooms of a client.
pub(super) struct Rooms {
    rooms: BTreeMap<Arc<str>, Room>,
    wake: Arc<Notify>,
    positions: Option<Hold>,
}

impl Rooms {
    pub(super) fn new(wake: Arc<Notify>, positions: Option<Positions>) -> Self {
        Self { rooms: BTreeMap::new(), wake, positions: positions.map(Hold) }
    }

    fn enter(&mut self, name: &Arc<str>) -> Result<&mut Room, SubscribeError> {
        if self.rooms.len() >= ROOMS_MAX && !self.rooms.contains_key(name) {
            return Err(SubscribeError::local(SubscribeErrorKind::TooManyRooms, "a client has at most 1,000 rooms"));
        }
        Ok(self.rooms.entry(name.clone()).or_default())
    }

    /// Subscribes for a reader of events.
    pub(super) fn subscribe(
        &mut self,
        session: &mut Client,
        name: &Arc<str>,
        mut options: SubscribeOptions,
        feed: Arc<Feed>,
        state: watch::Sender<RoomState>,
    ) -> Result<(), SubscribeError> {
        // The reader before may be gone without having been looked after yet.
        self.look_after(session);
        let wake = self.wake.clone();
        let room = self.enter(name)?;
        if room.reader.is_some() {
            return Err(SubscribeError::local(SubscribeErrorKind::AlreadySubscribed, ""));
        }
        let wants_signals = options.signals;
        options.signals |= room.board.is_some();
        if session.subscribe(name, options).is_err() {
            // The client is closed; the room goes with it.
            return Err(SubscribeError::local(SubscribeErrorKind::Closed, ""));
        }
        let _seat = wants_signals.then(|| room.board.get_or_insert_with(|| Board::new(wake)).seat());
        room.reader = Some(Reader { feed, state, _seat });
        Ok(())
    }

    /// A seat at the board of a room, which is subscribed to if nobody reads it.
    pub(super) fn signals(&mut self, session: &mut Client, name: &Arc<str>) -> Result<Seat, SubscribeError> {
        let wake = self.wake.clone();
        let room = self.enter(name)?;
        if let Some(board) = &room.board {
            return Ok(board.seat());
        }
        if room.reader.is_some() {
            session.set_signals(name, true);
        } else if session.subscribe(name, SubscribeOptions { start: None, signals: true }).is_err() {
            // The client is closed; the room goes with it.
            return Err(SubscribeError::local(SubscribeErrorKind::Closed, ""));
        }
        Ok(room.board.insert(Board::new(wake)).seat())
    }

    /// Readers have taken something, or are gone.
    pub(super) fn look_after(&mut self, session: &mut Client) {
        let mut unwanted = Vec::new();
        for (name, room) in &mut self.rooms {
            if room.reader.as_ref().is_some_and(|reader| reader.feed.is_abandoned()) {
                room.reader = None;
                // What waits in the session would wait for ever.
                discard(session, name);
            }
            if room.board.as_ref().is_some_and(|board| !board.has_readers()) {
                room.board = None;
                if room.reader.is_some() {
                    session.set_signals(name, false);
                }
            }
            if let Some(reader) = &room.reader {
                feed(session, name, reader);
            }
            if !room.is_wanted() {
                unwanted.push(name.clone());
            }
        }
        for name in unwanted {
            self.rooms.remove(&name);
            session.unsubscribe(&name);
        }
    }

    /// Something waits in the session's inbox of a room.
    pub(super) fn supply(&mut self, session: &mut Client, name: &str) {
        match self.rooms.get(name) {
            Some(Room { reader: Some(reader), .. }) => feed(session, name, reader),
            Some(Room { reader: None, .. }) => discard(session, name),
            None => {}
        }
    }

    /// A room's state changed.
    pub(super) fn state(&mut self, session: &mut Client, name: &str, state: SessionState) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if state == (SessionState::Ended { code: None }) {
            // Our own unsubscribing, and the room may have a new reader since.
            return;
        }
        let ended = matches!(state, SessionState::Ended { .. });
        if let Some(reader) = &room.reader {
            // Kept before anything is handed out, or a process that is killed then would begin live again.
            if let Some(position) = session.position(name)
                && reader.feed.begin(position)
                && let Some(Hold(positions)) = &self.positions
            {
                positions.store(&name.into(), position);
            }
            if ended {
                drain(session, name, &reader.feed);
                reader.feed.end();
            }
            reader.state.send_replace(state.into());
        }
        if ended {
            if let Some(board) = &room.board {
                board.end();
            }
            self.rooms.remove(name);
            session.unsubscribe(name);
        }
    }

    /// A signal came.
    pub(super) fn signal(&self, name: &str, node_ms: u64, signal: v1::Signal) {
        if let Some(Room { board: Some(board), .. }) = self.rooms.get(name) {
            board.put(node_ms, signal);
        }
    }

    /// Takes down the signals that have expired.
    pub(super) fn expire(&self, node_ms: u64) {
        for board in self.rooms.values().filter_map(|room| room.board.as_ref()) {
            if board.next_expiry_ms().is_some_and(|at_ms| at_ms <= node_ms) {
                board.expire(node_ms);
            }
        }
    }

    /// When the next signal expires, by the node's clock.
    pub(super) fn next_expiry_ms(&self) -> Option<u64> {
        self.rooms.values().filter_map(|room| room.board.as_ref()?.next_expiry_ms()).min()
    }

    /// Puts the positions on the disk; `None`: they are in no file.
    pub(super) fn sync(&self) -> Option<Synced> {
        self.positions.as_ref().map(|Hold(positions)| positions.sync())
    }

    /// Ends the file of positions, once what was acknowledged is in it.
    pub(super) async fn finish(&self) {
        if let Some(Hold(positions)) = &self.positions {
            positions.finish().wait().await;
        }
    }

    /// The client is over: readers get what is still there, and then the end.
    pub(super) fn end_all(&mut self, session: &mut Client) {
        for (name, room) in &std::mem::take(&mut self.rooms) {
            if let Some(reader) = &room.reader {
                drain(session, name, &reader.feed);
                reader.feed.end();
                if !matches!(*reader.state.borrow(), RoomState::Ended(_)) {
                    reader.state.send_replace(RoomState::Ended(None));
                }
            }
            if let Some(board) = &room.board {
                board.end();
            }
        }
    }
}

/// Fills an empty feed.
fn feed(session: &mut Client, name: &str, reader: &Reader) {
    if reader.feed.is_hungry() {
        reader.feed.fill(session.next_placed(name, FEED_ITEMS));
    }
}

/// Moves everything that waits into the feed: no more will come, and it is bounded.
fn drain(session: &mut Client, name: &str, feed: &Feed) {
    loop {
        let items = session.next_placed(name, FEED_ITEMS);
        if items.is_empty() {
            return;
        }
        if !feed.is_abandoned() {
            feed.fill(items);
        }
    }
}

fn discard(session: &mut Client, name: &str) {
    while !session.next_batch(name, FEED_ITEMS).is_empty() {}
}
