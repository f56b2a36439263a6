//! The session state machines of both roles.
//!
//! Bytes and time go in; records, requests and deadlines come out. After every input, drain every output: the
//! types say in which order.

pub mod client;
pub mod server;

/// The time at which something happens, from the caller's clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// A clock that never goes back, ms from any origin: for deadlines.
    pub monotonic_ms: u64,
    /// The calendar, ms since the Unix epoch: for what is stamped and what expires.
    pub wall_ms: u64,
}

/// A request that is refused, or the reason for closing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code of the table.
    pub code: crate::codes::Code,
    /// One sentence for developers.
    pub detail: String,
    /// The room that the request named; empty: none.
    pub room: String,
    /// When to try again, ms; 0: not said.
    pub retry_after_ms: u32,
}

impl Refusal {
    /// A refusal that names no room and no time.
    pub fn new(code: crate::codes::Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), room: String::new(), retry_after_ms: 0 }
    }

    /// Names the room.
    pub fn in_room(mut self, room: impl Into<String>) -> Self {
        self.room = room.into();
        self
    }

    /// Names the time after which to try again.
    pub fn retry_after(mut self, ms: u32) -> Self {
        self.retry_after_ms = ms;
        self
    }
}
