//! The connections of this node, by id: for whoever has something to say to one of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lanecast_protocol::session::Refusal;
use lanecast_protocol::v1;
use parking_lot::Mutex;

use crate::hub::Mailbox;

/// What a connection is told from outside.
#[derive(Debug)]
pub enum Command {
    /// Send GoAway.
    GoAway(v1::GoAway),
    /// Close with this reason.
    Close(Refusal),
}

/// A connection as others see it.
#[derive(Debug)]
pub struct Entry {
    /// Its id.
    pub id: Arc<str>,
    /// Where the hub leaves things for it.
    pub mailbox: Arc<Mailbox>,
    /// The user and instance, once the client was welcomed.
    pub owner: Mutex<Option<(Arc<str>, Box<str>)>>,
    /// The last command; a later one replaces an earlier one that was not read.
    command: Mutex<Option<Command>>,
    /// Bytes per second that the connection may write; 0: no limit. For the page's bad network.
    rate: AtomicU64,
}

impl Entry {
    /// Gives a command and wakes the connection.
    pub fn command(&self, command: Command) {
        *self.command.lock() = Some(command);
        self.mailbox.wake();
    }

    pub(super) fn take_command(&self) -> Option<Command> {
        self.command.lock().take()
    }

    /// Limits what the connection writes, bytes per second; `None` lifts the limit.
    pub fn set_rate(&self, bytes_per_second: Option<u64>) {
        self.rate.store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
        self.mailbox.wake();
    }

    pub(super) fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }
}

/// The connections of this node. Bounded by the listener's cap on connections.
#[derive(Debug, Default)]
pub struct Registry {
    entries: Mutex<HashMap<Arc<str>, Arc<Entry>>>,
}

impl Registry {
    /// Adds a connection under a fresh random id.
    pub(super) fn add(&self, mailbox: Arc<Mailbox>) -> Arc<Entry> {
        let id: Arc<str> = format!("{:032x}", rand::random::<u128>()).into();
        let entry = Arc::new(Entry {
            id: Arc::clone(&id),
            mailbox,
            owner: Mutex::default(),
            command: Mutex::default(),
            rate: AtomicU64::new(0),
        });
        self.entries.lock().insert(id, Arc::clone(&entry));
        entry
    }

    pub(super) fn remove(&self, id: &str) {
        self.entries.lock().remove(id);
    }

    /// The connection with that id.
    pub fn find(&self, id: &str) -> Option<Arc<Entry>> {
        self.entries.lock().get(id).cloned()
    }

    /// Gives every connection a command of its own.
    pub fn command_all(&self, mut command: impl FnMut() -> Command) {
        for entry in self.entries.lock().values() {
            entry.command(command());
        }
    }

    /// Connections now.
    pub fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
