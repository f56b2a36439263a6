//! The signals of one room as they stand: what a newcomer sees, and what changed since a reader last looked.
//!
//! Each change gets a version. A key is on the board once, with its newest version, so that a slow reader skips what it
//! was too slow for and the board never holds a backlog. What is gone stays as a stone, so that readers learn of it and
//! a late, older signal does not bring it back (LC-SIG-011).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use lanecast_protocol::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::event::{Body, Content, Sender, time};

/// Keys on a board, stones included. Beyond them the one that changed longest ago makes room.
const KEYS_MAX: usize = 2048;

/// A signal that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize), serde(rename_all = "camelCase"))]
pub struct Signal {
    /// Who sent it.
    #[cfg_attr(feature = "json", serde(flatten))]
    pub from: Sender,
    /// Its type.
    pub r#type: String,
    /// Its key: with sender and type, what the newest one replaces.
    pub key: String,
    /// MIME type of the payload.
    pub content_type: String,
    /// The payload.
    pub body: Body,
    /// When it dies, by the node's clock.
    #[cfg_attr(feature = "json", serde(rename = "expiresAtMs", serialize_with = "crate::json::unix_ms"))]
    pub expires_at: SystemTime,
}

/// A change of a room's signals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalChange {
    /// A signal is new, or has a new value.
    Live(Signal),
    /// A signal is gone.
    Gone {
        /// Who sent it.
        from: Sender,
        /// Its type.
        r#type: String,
        /// Its key.
        key: String,
        /// True: its time ran out. False: its sender took it back.
        expired: bool,
    },
}

/// (user, service, instance, type, key)
type Key = (String, String, String, String, String);

#[derive(Debug)]
struct Entry {
    version: u64,
    /// (start, counter): what tells older from newer.
    age: (u64, u64),
    expires_at_ms: u64,
    /// The version since which it lives without a break.
    born: u64,
    change: SignalChange,
}

impl Entry {
    fn lives(&self) -> bool {
        matches!(self.change, SignalChange::Live(_))
    }
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    by_version: BTreeMap<u64, Key>,
    version: u64,
    readers: usize,
    waiting: Vec<Waker>,
    ended: bool,
}

/// The board of one room.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
    owner: Arc<Notify>,
}

impl Board {
    pub(crate) fn new(owner: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), owner })
    }

    // The owner's side.

    /// Takes a signal off the wire.
    pub(crate) fn put(&self, now_ms: u64, wire: v1::Signal) {
        if wire.expires_at_ms <= now_ms && !wire.clear {
            return;
        }
        let content = Content::decode(wire.envelope);
        let from: Sender = wire.from.unwrap_or_default().into();
        let Sender { user, service, instance } = from.clone();
        let key = (user, service, instance, content.r#type.clone(), content.key.clone());
        let age = (wire.start, wire.counter);
        self.change(|state| {
            let before = state.entries.get(&key);
            if before.is_some_and(|before| before.age >= age) {
                return;
            }
            let (r#type, key_name) = (content.r#type, content.key);
            let change = if wire.clear {
                SignalChange::Gone { from, r#type, key: key_name, expired: false }
            } else {
                let (content_type, body) = (content.content_type, content.body);
                let expires_at = time(wire.expires_at_ms);
                SignalChange::Live(Signal { from, r#type, key: key_name, content_type, body, expires_at })
            };
            state.set(key, age, wire.expires_at_ms, change);
        });
    }

    /// Takes down what has expired by the node's clock.
    pub(crate) fn expire(&self, now_ms: u64) {
        self.change(|state| {
            let dead: Vec<Key> = (state.entries.iter())
                .filter(|(_, entry)| entry.lives() && entry.expires_at_ms <= now_ms)
                .map(|(key, _)| key.clone())
                .collect();
            for key in dead {
                let Some(Entry { change: SignalChange::Live(signal), age, .. }) = state.entries.get(&key) else {
                    continue;
                };
                let (from, r#type) = (signal.from.clone(), signal.r#type.clone());
                let change = SignalChange::Gone { from, r#type, key: signal.key.clone(), expired: true };
                let age = *age;
                state.set(key, age, 0, change);
            }
        });
    }

    /// When the next one expires, by the node's clock.
    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        let state = self.state.lock();
        state.entries.values().filter(|entry| entry.lives()).map(|entry| entry.expires_at_ms).min()
    }

    pub(crate) fn has_readers(&self) -> bool {
        self.state.lock().readers > 0
    }

    pub(crate) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Counts a reader in.
    pub(crate) fn seat(self: &Arc<Self>) -> Seat {
        let mut state = self.state.lock();
        state.readers += 1;
        Seat { began: state.version, board: self.clone() }
    }

    // The reader's side.

    pub(crate) fn live(&self) -> Vec<Signal> {
        let state = self.state.lock();
        let signals = state.entries.values().filter_map(|entry| match &entry.change {
            SignalChange::Live(signal) => Some(signal.clone()),
            SignalChange::Gone { .. } => None,
        });
        signals.collect()
    }

    /// The oldest change after `seen`, for a reader that began at `began`: stones older than that say nothing to it, nor
    /// does the end of what was born after it last looked.
    pub(crate) fn poll_after(&self, cx: &Context<'_>, seen: u64, began: u64) -> Poll<Option<(u64, SignalChange)>> {
        let mut state = self.state.lock();
        let news = state.by_version.range(seen + 1..).find_map(|(version, key)| {
            let entry = state.entries.get(key)?;
            let known = entry.born <= seen.max(began);
            (entry.lives() || (known && *version > began)).then(|| (*version, entry.change.clone()))
        });
        if news.is_some() {
            return Poll::Ready(news);
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.waiting.retain(|waker| !waker.will_wake(cx.waker()));
        if state.waiting.len() > state.readers {
            // Some are of readers that are gone or moved to another task; a needless wake sorts them out.
            state.waiting.drain(..).for_each(Waker::wake);
        }
        state.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

/// A reader's place at a board. The board stands while one is taken.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) board: Arc<Board>,
    /// The board's version when the reader came.
    pub(crate) began: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.board.state.lock();
        state.readers = state.readers.saturating_sub(1);
        drop(state);
        self.board.owner.notify_one();
    }
}

impl State {
    fn set(&mut self, key: Key, age: (u64, u64), expires_at_ms: u64, change: SignalChange) {
        self.version += 1;
        let version = self.version;
        let before = self.entries.remove(&key);
        if let Some(before) = &before {
            self.by_version.remove(&before.version);
        }
        let born = match &before {
            Some(before) if before.lives() => before.born,
            // The end of something that was never here.
            _ => version,
        };
        self.by_version.insert(version, key.clone());
        self.entries.insert(key, Entry { version, age, expires_at_ms, born, change });
        if self.entries.len() > KEYS_MAX
            && let Some((_, oldest)) = self.by_version.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn board() -> Arc<Board> {
        Board::new(Arc::default())
    }

    fn signal(counter: u64, key: &str, text: &str, expires_at_ms: u64) -> v1::Signal {
        let content = Content { r#type: "cursor".into(), key: key.into(), body: text.into(), ..Content::default() };
        let from = Some(v1::Sender { user: "ann".into(), instance: "i".into(), ..Default::default() });
        v1::Signal { counter, expires_at_ms, from, envelope: content.encode(), ..Default::default() }
    }

    struct Reader {
        seen: u64,
        seat: Seat,
    }

    impl Reader {
        fn of(board: &Arc<Board>) -> Self {
            Self { seen: 0, seat: board.seat() }
        }

        fn news(&mut self, board: &Board) -> Vec<String> {
            let mut news = Vec::new();
            let cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some((version, change))) = board.poll_after(&cx, self.seen, self.seat.began) {
                self.seen = version;
                news.push(match change {
                    SignalChange::Live(signal) => format!("{}={}", signal.key, signal.body.as_text().unwrap()),
                    SignalChange::Gone { key, expired, .. } => {
                        format!("{key} {}", if expired { "expired" } else { "cleared" })
                    }
                });
            }
            news
        }
    }

    #[test]
    fn only_newer_ones_count_and_a_slow_reader_sees_the_newest() {
        // LC-SIG-011
        let board = board();
        let mut reader = Reader::of(&board);
        board.put(0, signal(2, "a", "two", 100));
        board.put(0, signal(1, "a", "one", 100));
        board.put(0, signal(2, "a", "again", 100));
        board.put(0, signal(3, "b", "three", 100));
        board.put(0, signal(4, "a", "four", 100));
        assert_eq!(reader.news(&board), ["b=three", "a=four"]);
        board.put(0, v1::Signal { clear: true, ..signal(5, "a", "", 0) });
        board.put(0, signal(4, "a", "late", 100));
        assert_eq!(reader.news(&board), ["a cleared"]);
        assert_eq!(board.live().len(), 1);
    }

    #[test]
    fn what_expires_is_told_once_and_newcomers_see_what_lives() {
        // LC-SIG-011
        let board = board();
        let mut early = Reader::of(&board);
        board.put(0, signal(1, "a", "x", 100));
        board.put(0, signal(2, "b", "y", 200));
        board.put(100, signal(3, "c", "dead", 100));
        assert_eq!(early.news(&board), ["a=x", "b=y"]);
        assert_eq!(board.next_expiry_ms(), Some(100));
        board.expire(100);
        assert_eq!(early.news(&board), ["a expired"]);
        assert_eq!(Reader::of(&board).news(&board), ["b=y"]);
        assert_eq!(board.next_expiry_ms(), Some(200));
    }

    #[test]
    fn a_board_stands_while_a_seat_is_taken() {
        let board = board();
        let (first, second) = (board.seat(), board.seat());
        drop(first);
        assert!(board.has_readers());
        drop(second);
        assert!(!board.has_readers());
    }

    #[test]
    fn the_end_of_what_a_reader_never_saw_is_no_news() {
        let board = board();
        let mut reader = Reader::of(&board);
        board.put(0, signal(1, "a", "x", 100));
        board.expire(100);
        board.put(0, v1::Signal { clear: true, ..signal(1, "b", "", 0) });
        assert_eq!(reader.news(&board), Vec::<String>::new());
    }

    #[test]
    fn a_board_is_bounded() {
        let board = board();
        for number in 0..KEYS_MAX as u64 + 10 {
            board.put(0, signal(number + 1, &number.to_string(), "x", 100));
        }
        assert_eq!(board.live().len(), KEYS_MAX);
    }
}
