//! What a client has learned about the network that it is in: which of two transports goes first.
//!
//! ```text
//!           WebSocket won, QUIC had its chance           rest is over: QUIC goes first again
//!  Unknown ────────────────────────────────▶ WebSocket ─────────────────────────────────────▶ a race
//!     │                                          ▲
//!     │ QUIC won                                 │ QUIC failed twice in a row
//!     └────────────────▶ QUIC ───────────────────┘
//! ```
//!
//! Everything is forgotten when the network changed, and a winner when it failed twice in a row: by not opening, or by a
//! connection that was lost within seconds.

use std::time::Duration;

use tokio::time::Instant;

/// How long QUIC may try alone.
const HEAD_START: Duration = Duration::from_millis(500);
/// How long WebSocket may try alone where QUIC did not get through: QUIC is not begun at each reconnect, but where TCP is
/// blocked it is the only way.
const WEBSOCKET_START: Duration = Duration::from_secs(2);
/// For how long QUIC is not tried first after it did not get through. It doubles up to the second number.
const REST: Duration = Duration::from_secs(60);
const REST_MAX: Duration = Duration::from_secs(3600);
/// Failures in a row after which a winner is one no more.
const FAILURES_MAX: u32 = 2;

/// What can race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Quic,
    WebSocket,
}

/// Who goes first, and for how long alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) first: Wire,
    pub(super) lead: Duration,
}

/// The memory of one network.
#[derive(Debug)]
pub(super) struct Memory {
    winner: Option<Wire>,
    /// Failures of the winner in a row.
    failures: u32,
    quic_rests_until: Option<Instant>,
    /// How long QUIC rests when it fails next.
    rest: Duration,
}

impl Default for Memory {
    fn default() -> Self {
        Self { winner: None, failures: 0, quic_rests_until: None, rest: REST }
    }
}

impl Memory {
    /// How to connect now.
    pub(super) fn plan(&self, now: Instant) -> Plan {
        let rests = self.quic_rests_until.is_some_and(|until| now < until);
        match rests && self.winner == Some(Wire::WebSocket) {
            true => Plan { first: Wire::WebSocket, lead: WEBSOCKET_START },
            false => Plan { first: Wire::Quic, lead: HEAD_START },
        }
    }

    /// A race that went by the plan has a winner.
    pub(super) fn won(&mut self, now: Instant, plan: Plan, wire: Wire) {
        match (plan.first, wire) {
            (Wire::Quic, Wire::WebSocket) if self.winner == Some(Wire::Quic) => self.failed(now),
            (Wire::Quic, Wire::WebSocket) => self.quic_failed(now),
            (_, Wire::Quic) if self.winner != Some(Wire::Quic) => (self.winner, self.failures) = (Some(wire), 0),
            _ => {}
        }
    }

    /// A connection over this wire ended; `early`: before it had proved itself.
    pub(super) fn ended(&mut self, now: Instant, wire: Wire, early: bool) {
        if self.winner != Some(wire) {
            return;
        }
        if early {
            return self.failed(now);
        }
        self.failures = 0;
        if wire == Wire::Quic {
            self.rest = REST;
        }
    }

    /// The winner failed: it did not open, or its connection did not last.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures += 1;
        if self.failures < FAILURES_MAX {
            return;
        }
        match self.winner {
            Some(Wire::Quic) => self.quic_failed(now),
            Some(Wire::WebSocket) | None => *self = Self::default(),
        }
    }

    fn quic_failed(&mut self, now: Instant) {
        (self.winner, self.failures) = (Some(Wire::WebSocket), 0);
        self.quic_rests_until = Some(now + self.rest);
        self.rest = (self.rest * 2).min(REST_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIC_FIRST: Plan = Plan { first: Wire::Quic, lead: HEAD_START };
    const WEBSOCKET_FIRST: Plan = Plan { first: Wire::WebSocket, lead: WEBSOCKET_START };

    /// Races by the plan, with that outcome.
    fn race(memory: &mut Memory, now: Instant, wire: Wire) -> Plan {
        let plan = memory.plan(now);
        memory.won(now, plan, wire);
        plan
    }

    #[test]
    fn where_quic_is_blocked_it_is_tried_again_in_growing_intervals() {
        let (mut memory, mut now) = (Memory::default(), Instant::now());
        let mut rest = REST;
        for _ in 0..10 {
            assert_eq!(race(&mut memory, now, Wire::WebSocket), QUIC_FIRST);
            memory.ended(now, Wire::WebSocket, false);
            now += rest - Duration::from_secs(1);
            assert_eq!(race(&mut memory, now, Wire::WebSocket), WEBSOCKET_FIRST, "{rest:?}");
            now += Duration::from_secs(1);
            rest = (rest * 2).min(REST_MAX);
        }
        assert_eq!(race(&mut memory, now, Wire::Quic), QUIC_FIRST);
        memory.ended(now, Wire::Quic, false);
        assert_eq!(race(&mut memory, now, Wire::WebSocket), QUIC_FIRST, "one lost race proves nothing");
        assert_eq!(race(&mut memory, now, Wire::WebSocket), QUIC_FIRST);
        assert_eq!(memory.plan(now + REST - Duration::from_secs(1)), WEBSOCKET_FIRST);
        assert_eq!(memory.plan(now + REST), QUIC_FIRST, "a life of QUIC shortens the rest");
    }

    #[test]
    fn a_winner_that_fails_twice_in_a_row_is_one_no_more() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        race(&mut memory, now, Wire::Quic);
        memory.ended(now, Wire::Quic, true);
        memory.ended(now, Wire::Quic, false);
        race(&mut memory, now, Wire::Quic);
        memory.ended(now, Wire::Quic, true);
        assert_eq!(race(&mut memory, now, Wire::Quic), QUIC_FIRST, "not in a row");
        memory.ended(now, Wire::Quic, true);
        assert_eq!(memory.plan(now), WEBSOCKET_FIRST, "it opens and does not last");
        memory.ended(now, Wire::WebSocket, true);
        assert_eq!(memory.plan(now), WEBSOCKET_FIRST);
        memory.failed(now);
        assert_eq!(memory.plan(now), QUIC_FIRST, "forgotten");
    }

    #[test]
    fn where_tcp_is_blocked_quic_takes_over() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        race(&mut memory, now, Wire::WebSocket);
        assert_eq!(race(&mut memory, now, Wire::Quic), WEBSOCKET_FIRST);
        assert_eq!(memory.plan(now), QUIC_FIRST);
    }
}
