//! Credit: how much of lanes normal and bulk may be under way (LC-FLOW-010).
//!
//! Only what still waits in our own queues can be overtaken, so a sender lets no more of these lanes go than keeps the path
//! busy. On a path that it sees the transport knows how much that is; behind a proxy, or in a browser, nobody does but the
//! receiver, and it says what it took:
//!
//! ```text
//!  outbox ──▶ Gate ──▶ transport ═══ proxies, buffers, links ═══▶ transport ──▶ Meter ──▶ session
//!              ▲                                                                  │
//!              └───────────────── Credit {lane, consumed, window} ◀───────────────┘
//! ```
//!
//! What is sent and not consumed stays within the receiver's window, which bounds its memory and is generous, and within
//! a bound of the sender's own, which bounds the delay: what [`Pace`] measures, or twice what the transport says if that is
//! more. The receiver does not tune its window, since it cannot tell a sender that has nothing to send from one that it holds back.

mod meter;
mod pace;
#[cfg(test)]
mod tests;

pub use self::meter::{Meter, WINDOW_BYTES};
use self::pace::Pace;
use crate::codec::CodecError;
use crate::codes::Code;
use crate::lane::{Lane, Lanes};
use crate::v1;

/// What may be under way before the first Credit, bytes.
pub const FIRST_BYTES: u64 = 64 * 1024;
/// The least that a sender's own bound allows, bytes: some packets, so that a path that was measured in a bad moment can
/// show that it carries more.
const OWN_BYTES_MIN: u64 = 16 * 1024;
/// What a receiver may leave uncounted for as long as it likes, bytes; so a sender that has no more than this under way
/// may send a record of any size. Without it each lone event of a chat would be answered by a Credit.
pub const UNCOUNTED_BYTES: u64 = 4 * 1024;
/// The lanes that are counted.
const LANES: [Lane; 2] = [Lane::Normal, Lane::Bulk];

fn index(lane: Lane) -> Option<usize> {
    LANES.iter().position(|counted| *counted == lane)
}

/// What of one lane is under way.
#[derive(Debug)]
struct Flight {
    sent: u64,
    consumed: u64,
    window: u64,
    /// Made with the first record.
    pace: Option<Box<Pace>>,
}

impl Flight {
    fn new() -> Self {
        Self { sent: 0, consumed: 0, window: FIRST_BYTES, pace: None }
    }

    fn under_way(&self) -> u64 {
        self.sent - self.consumed
    }

    fn own(&self, path: Option<u64>) -> u64 {
        let measured = self.pace.as_ref().map_or(FIRST_BYTES, |pace| pace.bound());
        // Twice, since what waits to be sent again after a loss is not consumed: below once goodput collapses. And not less
        // than was measured, since on a short path the time until the next Credit is longer than the path.
        path.map_or(0, |window| window.saturating_mul(2)).max(measured).max(OWN_BYTES_MIN)
    }

    /// The window is kept to the byte. The own bound may be passed by a part of a record, or a lane of large ones would
    /// send one for each round trip, and never see that the path carries two.
    fn may_send(&self, path: Option<u64>, next: u64) -> bool {
        let under_way = self.under_way();
        under_way <= UNCOUNTED_BYTES || under_way < self.own(path) && under_way.saturating_add(next) <= self.window
    }
}

/// The sender's side of a connection.
///
/// Before each record ask [`Self::lanes`], after it call [`Self::sent`], and hand it each Credit.
#[derive(Debug, Default)]
pub struct Gate {
    /// `None`: not both sides named the capability, and everything may be sent.
    flights: Option<Box<[Flight; 2]>>,
    path: Option<u64>,
}

impl Gate {
    /// The gate of a connection on which both sides named the capability.
    pub fn counting() -> Self {
        Self { flights: Some(Box::new([Flight::new(), Flight::new()])), path: None }
    }

    /// Says how many bytes the path carries, as far as the transport sees it; `None`: it does not.
    pub fn set_window(&mut self, path: Option<u64>) {
        self.path = path;
    }

    /// The lanes of which the next record may be sent; `next` says how long it is.
    pub fn lanes(&self, next: impl Fn(Lane) -> usize) -> Lanes {
        let Some(flights) = &self.flights else { return Lanes::ALL };
        let shut = |(lane, flight): &(Lane, &Flight)| !flight.may_send(self.path, next(*lane) as u64);
        LANES.into_iter().zip(flights.iter()).filter(shut).fold(Lanes::ALL, |lanes, (lane, _)| lanes.without(lane))
    }

    /// A record of this many bytes was sent.
    pub fn sent(&mut self, now_ms: u64, lane: Lane, bytes: usize) {
        let (Some(flights), Some(at)) = (&mut self.flights, index(lane)) else { return };
        let flight = &mut flights[at];
        let own = flight.own(self.path);
        let (sent, consumed) = (flight.sent, flight.consumed);
        let pace = flight.pace.get_or_insert_with(|| Box::new(Pace::new(now_ms, sent)));
        pace.sent(now_ms, sent..sent + bytes as u64, consumed, own);
        flight.sent += bytes as u64;
    }

    /// Takes a Credit. Says of which lane more was consumed; `None`: of none, or there is nothing to count.
    ///
    /// # Errors
    /// PROTOCOL if it contradicts an earlier one or what was sent.
    pub fn credit(&mut self, now_ms: u64, credit: &v1::Credit) -> Result<Option<Lane>, CodecError> {
        let lane = Lane::from_wire(credit.lane);
        let (Some(flights), Some(lane), Some(at)) = (&mut self.flights, lane, lane.and_then(index)) else {
            return Ok(None);
        };
        let flight = &mut flights[at];
        // LC-FLOW-010
        if credit.consumed < flight.consumed || credit.consumed > flight.sent {
            return Err(CodecError { code: Code::Protocol, detail: "Credit for what was never sent, or taken back" });
        }
        let more = credit.consumed > flight.consumed;
        (flight.consumed, flight.window) = (credit.consumed, credit.window);
        if let Some(pace) = &mut flight.pace
            && more
        {
            pace.consumed(now_ms, flight.consumed, flight.sent);
        }
        Ok(more.then_some(lane))
    }

    /// Bytes of a lane that were sent and are not consumed, as far as this side knows.
    pub fn under_way(&self, lane: Lane) -> u64 {
        self.flights.as_ref().zip(index(lane)).map_or(0, |(flights, at)| flights[at].under_way())
    }

    /// The receiver's newest window and the bound of its own that this side keeps for a lane; `None`: nothing is counted.
    pub fn bounds(&self, lane: Lane) -> Option<(u64, u64)> {
        let flight = &self.flights.as_ref()?[index(lane)?];
        Some((flight.window, flight.own(self.path)))
    }
}
