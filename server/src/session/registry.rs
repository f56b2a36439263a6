//! The connections of this node, by id and by user: for whoever has something to say to some of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lanecast_protocol::codes::Code;
use lanecast_protocol::session::Refusal;
use lanecast_protocol::v1;
use parking_lot::Mutex;

use crate::admission::UserSlot;
use crate::auth::TokenMark;
use crate::hub::Mailbox;

/// Commands that a connection has not read, at most. A connection that is so far behind is told to come back instead.
const COMMANDS_MAX: usize = 128;

/// What a connection is told from outside.
#[derive(Debug)]
pub enum Command {
    /// Send GoAway.
    GoAway(v1::GoAway),
    /// End the subscription to this room.
    Unsubscribe(Arc<str>),
    /// Close with this reason.
    Close(Refusal),
}

/// Who is on a connection, once the client was welcomed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user; empty for a service.
    pub user: Arc<str>,
    /// The device; empty: none was named.
    pub device: Box<str>,
    /// The instance; empty for a stream of server-sent events.
    pub instance: Box<str>,
}

/// A connection as others see it.
#[derive(Debug)]
pub struct Entry {
    /// Its id.
    pub id: Arc<str>,
    /// Where the hub leaves things for it.
    pub mailbox: Arc<Mailbox>,
    /// From where it came.
    pub peer: SocketAddr,
    /// Since when it is here, node's clock, ms.
    pub since_ms: u64,
    owner: Mutex<Option<Owner>>,
    /// The place among the connections of its user.
    slot: Mutex<Option<UserSlot>>,
    /// What its present token says of itself.
    mark: Mutex<TokenMark>,
    /// In the order in which they came. A Close is the only one, and the last.
    commands: Mutex<Vec<Command>>,
    closing: AtomicBool,
    sent_away: AtomicBool,
    /// Bytes per second that the connection may write; 0: no limit. For the page's bad network.
    rate: AtomicU64,
    /// Whether all lanes leave as one queue, to see what lanes are worth.
    one_queue: AtomicBool,
    /// Bytes that wait for the connection in its session, over all lanes.
    queued_bytes: AtomicU64,
}

impl Entry {
    /// Who is there; `None`: nobody was welcomed yet.
    pub fn owner(&self) -> Option<Owner> {
        self.owner.lock().clone()
    }

    /// Holds the place of its user until it ends, or another takes the place over.
    pub(crate) fn hold(&self, slot: UserSlot) {
        *self.slot.lock() = Some(slot);
    }

    /// Gives up the place of its user.
    pub(crate) fn take_slot(&self) -> Option<UserSlot> {
        self.slot.lock().take()
    }

    /// What its present token says of itself.
    pub fn mark(&self) -> TokenMark {
        self.mark.lock().clone()
    }

    /// The connection goes on with this token.
    pub(crate) fn set_mark(&self, mark: TokenMark) {
        *self.mark.lock() = mark;
    }

    /// Gives a command and wakes the connection. False: it is closing already, or was told the same.
    pub fn command(&self, command: Command) -> bool {
        if self.closing.load(Ordering::Acquire) {
            return false;
        }
        let mut commands = self.commands.lock();
        let repeats = match &command {
            Command::Close(_) => {
                commands.clear();
                self.closing.swap(true, Ordering::AcqRel)
            }
            Command::GoAway(_) => self.sent_away.swap(true, Ordering::AcqRel),
            Command::Unsubscribe(room) => {
                commands.iter().any(|known| matches!(known, Command::Unsubscribe(known) if known == room))
            }
        };
        if repeats {
            return false;
        }
        if commands.len() < COMMANDS_MAX {
            commands.push(command);
        } else {
            self.closing.store(true, Ordering::Release);
            *commands =
                vec![Command::Close(Refusal::new(Code::GoingAway, "the connection does not read its commands"))];
        }
        drop(commands);
        self.mailbox.wake();
        true
    }

    /// Takes the commands that were not read.
    pub(crate) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut *self.commands.lock())
    }

    /// Limits what the connection writes, bytes per second; `None` lifts the limit.
    pub fn set_rate(&self, bytes_per_second: Option<u64>) {
        self.rate.store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
        self.mailbox.wake();
    }

    /// What the connection may write, bytes per second; `None`: no limit.
    pub fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    /// Lets all lanes leave as one queue, or apart again.
    pub fn set_one_queue(&self, one_queue: bool) {
        self.one_queue.store(one_queue, Ordering::Relaxed);
        self.mailbox.wake();
    }

    /// Whether all lanes leave as one queue.
    pub fn has_one_queue(&self) -> bool {
        self.one_queue.load(Ordering::Relaxed)
    }

    /// Bytes that wait for the connection in its session, over all lanes: what a slow client costs the node.
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set_queued_bytes(&self, bytes: u64) {
        self.queued_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether the client was welcomed and nobody has told it to leave.
    pub(crate) fn is_staying(&self) -> bool {
        let told = self.sent_away.load(Ordering::Acquire) || self.closing.load(Ordering::Acquire);
        !told && self.owner.lock().is_some()
    }
}

/// User, device, id.
type OwnerKey = (Arc<str>, Box<str>, Arc<str>);

#[derive(Debug, Default)]
struct Tables {
    by_id: BTreeMap<Arc<str>, Arc<Entry>>,
    /// Those of users, so that a look-up walks over that user's connections only.
    by_owner: BTreeMap<OwnerKey, Arc<Entry>>,
}

/// The connections of this node: WebSockets and streams of server-sent events. Bounded by the listener's cap on
/// connections.
#[derive(Debug, Default)]
pub struct Registry {
    tables: Mutex<Tables>,
    watched: bool,
}

impl Registry {
    /// An empty one; `watched`: what the lanes of each connection do is written down.
    pub fn new(watched: bool) -> Self {
        Self { watched, ..Self::default() }
    }

    /// Adds a connection under a fresh random id.
    pub(crate) fn add(&self, peer: SocketAddr, now_ms: u64) -> Arc<Entry> {
        let id: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
        let entry = Arc::new(Entry {
            id: Arc::clone(&id),
            mailbox: Arc::new(Mailbox::of(Arc::clone(&id), self.watched)),
            peer,
            since_ms: now_ms,
            owner: Mutex::default(),
            slot: Mutex::default(),
            mark: Mutex::default(),
            commands: Mutex::default(),
            closing: AtomicBool::new(false),
            sent_away: AtomicBool::new(false),
            rate: AtomicU64::new(0),
            one_queue: AtomicBool::new(false),
            queued_bytes: AtomicU64::new(0),
        });
        self.tables.lock().by_id.insert(id, Arc::clone(&entry));
        entry
    }

    /// The client of a connection was welcomed. From now on it is found by its user.
    pub(crate) fn welcome(&self, entry: &Arc<Entry>, owner: Owner) {
        let mut tables = self.tables.lock();
        if !owner.user.is_empty() {
            let key = (Arc::clone(&owner.user), owner.device.clone(), Arc::clone(&entry.id));
            tables.by_owner.insert(key, Arc::clone(entry));
        }
        *entry.owner.lock() = Some(owner);
    }

    /// The connection has ended.
    pub(crate) fn remove(&self, entry: &Entry) {
        // Others may hold the entry for longer.
        drop(entry.take_slot());
        let mut tables = self.tables.lock();
        tables.by_id.remove(&entry.id);
        if let Some(Owner { user, device, .. }) = entry.owner() {
            tables.by_owner.remove(&(user, device, Arc::clone(&entry.id)));
        }
    }

    /// The connection with that id.
    pub fn find(&self, id: &str) -> Option<Arc<Entry>> {
        self.tables.lock().by_id.get(id).cloned()
    }

    /// The connections of a user, or of one device of the user.
    pub fn of_user(&self, user: &str, device: Option<&str>) -> Vec<Arc<Entry>> {
        let first: OwnerKey = (user.into(), device.unwrap_or_default().into(), Arc::from(""));
        let tables = self.tables.lock();
        let range = tables.by_owner.range(first..);
        range
            .take_while(|((of, on, _), _)| **of == *user && device.is_none_or(|device| **on == *device))
            .map(|(_, entry)| Arc::clone(entry))
            .collect()
    }

    /// At most `max` connections whose client was welcomed, by id, after an id.
    pub fn after(&self, id: &str, max: usize) -> Vec<Arc<Entry>> {
        let tables = self.tables.lock();
        let range = tables.by_id.range::<str, _>((Bound::Excluded(id), Bound::Unbounded));
        range.map(|(_, entry)| entry).filter(|entry| entry.owner.lock().is_some()).take(max).cloned().collect()
    }

    /// All connections whose client was welcomed.
    pub fn welcomed(&self) -> Vec<Arc<Entry>> {
        let tables = self.tables.lock();
        tables.by_id.values().filter(|entry| entry.owner.lock().is_some()).cloned().collect()
    }

    /// At most `max` connections that nobody has told to leave, and how many of them there are.
    pub fn staying(&self, max: usize) -> (Vec<Arc<Entry>>, usize) {
        let tables = self.tables.lock();
        let mut staying = tables.by_id.values().filter(|entry| entry.is_staying());
        let some: Vec<_> = staying.by_ref().take(max).cloned().collect();
        let all = some.len() + staying.count();
        (some, all)
    }

    /// Wakes every connection for something that it finds elsewhere.
    pub fn wake_all(&self) {
        self.tables.lock().by_id.values().for_each(|entry| entry.mailbox.wake());
    }

    /// Connections now.
    pub fn len(&self) -> usize {
        self.tables.lock().by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcomed(registry: &Registry, user: &str, device: &str) -> Arc<Entry> {
        let entry = registry.add(([127, 0, 0, 1], 9).into(), 5);
        registry.welcome(&entry, Owner { user: user.into(), device: device.into(), instance: "i".into() });
        entry
    }

    fn ids(entries: &[Arc<Entry>]) -> Vec<Arc<str>> {
        let mut ids: Vec<_> = entries.iter().map(|entry| Arc::clone(&entry.id)).collect();
        ids.sort();
        ids
    }

    #[test]
    fn a_user_is_found_with_all_devices_or_one_and_nobody_else_is() {
        let registry = Registry::default();
        let [phone, tablet] = ["phone", "tablet"].map(|device| welcomed(&registry, "ann", device));
        let nameless = welcomed(&registry, "ann", "");
        let neighbours = ["an", "anna", "bob", ""].map(|user| welcomed(&registry, user, "phone"));
        let _unknown = registry.add(([127, 0, 0, 1], 9).into(), 5);
        assert_eq!(ids(&registry.of_user("ann", None)), ids(&[phone.clone(), tablet.clone(), nameless.clone()]));
        assert_eq!(ids(&registry.of_user("ann", Some("phone"))), ids(std::slice::from_ref(&phone)));
        assert_eq!(ids(&registry.of_user("ann", Some("pho"))), ids(&[]));
        registry.remove(&phone);
        assert_eq!(ids(&registry.of_user("ann", None)), ids(&[tablet, nameless]));
        assert_eq!(ids(&registry.of_user("anna", None)), ids(&neighbours[1..2]));
        assert!(registry.find(&phone.id).is_none());
    }

    #[test]
    fn pages_by_id_leave_out_who_was_not_welcomed() {
        let registry = Registry::default();
        let all: Vec<_> = (0..7).map(|_| welcomed(&registry, "u", "")).collect();
        let _unknown = registry.add(([127, 0, 0, 1], 9).into(), 5);
        let (mut found, mut last) = (Vec::new(), Arc::from(""));
        while let page @ [.., end] = registry.after(&last, 3).as_slice() {
            last = Arc::clone(&end.id);
            found.extend_from_slice(page);
        }
        assert_eq!(found.iter().map(|entry| &entry.id).collect::<Vec<_>>(), ids(&all).iter().collect::<Vec<_>>());
    }

    #[test]
    fn commands_are_read_in_order_once_and_a_close_is_the_last() {
        let registry = Registry::default();
        let entry = welcomed(&registry, "u", "");
        let leave = |room: &str| Command::Unsubscribe(room.into());
        let close = || Command::Close(Refusal::new(Code::Disconnected, "out"));
        assert!(entry.command(leave("a")) && entry.command(leave("b")) && !entry.command(leave("a")));
        assert!(entry.command(Command::GoAway(v1::GoAway::default())));
        assert!(!entry.is_staying() && !entry.command(Command::GoAway(v1::GoAway::default())));
        let words = entry.take_commands();
        assert!(
            matches!(words.as_slice(), [Command::Unsubscribe(_), Command::Unsubscribe(_), Command::GoAway(_)]),
            "{words:?}"
        );
        assert!(entry.command(leave("a")) && entry.command(close()) && !entry.command(close()));
        assert!(!entry.command(leave("b")));
        assert!(matches!(entry.take_commands().as_slice(), [Command::Close(_)]));
        assert!(!entry.command(close()), "it is closing");
    }

    #[test]
    fn a_connection_that_reads_no_commands_is_sent_away() {
        let registry = Registry::default();
        let entry = welcomed(&registry, "u", "");
        for room in 0..=COMMANDS_MAX {
            assert!(entry.command(Command::Unsubscribe(format!("r{room}").into())));
        }
        assert!(matches!(&entry.take_commands()[..], [Command::Close(why)] if why.code == Code::GoingAway));
    }
}
