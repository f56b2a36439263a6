//! Notices a path that leads nowhere any more.
//!
//! QUIC acknowledges what asks for it, and repeats what is not acknowledged. So a node that is there answers something
//! within a few round trips whenever we have sent something. If we have, and nothing at all has come since for 2 s (or four
//! round trips, where those are longer), the path is dead: another network, a mapping that a router has forgotten, a
//! balancer that sends us elsewhere. The connection is over then, and the client opens a new one and resumes (LC-QUIC-012).
//! It looks only while something is sent or comes: an idle connection has no timer here, its heartbeat asks for it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::{Connection, ConnectionStats};
use tokio::time::{Instant, Sleep};

use super::super::Turn;

/// How long nothing may come while something is unanswered.
const SILENCE: Duration = Duration::from_secs(2);
/// The same in round trips, for paths that are slow.
const SILENCE_RTTS: u32 = 4;
/// How often it looks.
const TICK: Duration = Duration::from_millis(250);
/// It looks on for so long after something was last sent: QUIC repeats within this time what was not acknowledged.
const LOOK_ON: Duration = Duration::from_secs(2);

/// What a connection has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    received: u64,
    /// Frames that have to be acknowledged.
    asked: u64,
}

impl Counts {
    fn of(stats: &ConnectionStats) -> Self {
        let sent = &stats.frame_tx;
        // Probes for larger packets may get lost on a path that is well. Each is a ping, and wants an answer at once where
        // the node can do that; so does what QUIC sends when no acknowledgement comes.
        let sizes = stats.path.sent_plpmtud_probes;
        let pings = sent.ping.saturating_sub(sizes) + sent.immediate_ack.saturating_sub(sizes);
        let windows = sent.max_data + sent.max_stream_data + sent.max_streams_uni;
        let asked = sent.stream + sent.datagram + sent.reset_stream + sent.stop_sending + windows + pings;
        Self { received: stats.udp_rx.datagrams, asked }
    }
}

/// The judgement, apart from the clock and the connection.
#[derive(Debug)]
struct Silence {
    counts: Counts,
    asked_at: Instant,
    /// When something was handed to QUIC first since the last look.
    wrote_at: Option<Instant>,
    /// Since when something is unanswered and nothing has come.
    since: Option<Instant>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    LookOn,
    Rest,
    Dead,
}

impl Silence {
    fn judge(&mut self, now: Instant, counts: Counts, rtt: Duration) -> Verdict {
        let (came, asked) = (counts.received != self.counts.received, counts.asked != self.counts.asked);
        self.counts = counts;
        let wrote_at = self.wrote_at.take();
        if asked {
            self.asked_at = now;
        }
        if came {
            self.since = None;
        } else if asked {
            self.since.get_or_insert(wrote_at.unwrap_or(now));
        }
        match self.since {
            Some(since) if now - since >= SILENCE.max(rtt * SILENCE_RTTS) => Verdict::Dead,
            None if now - self.asked_at >= LOOK_ON => Verdict::Rest,
            _ => Verdict::LookOn,
        }
    }
}

/// Looks at one connection.
pub(super) struct Watch {
    silence: Silence,
    /// `None`: it rests.
    tick: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(super) fn new(connection: &Connection) -> Self {
        let counts = Counts::of(&connection.stats());
        Self { silence: Silence { counts, asked_at: Instant::now(), wrote_at: None, since: None }, tick: None }
    }

    /// Something is about to be sent, or has come, which may be answered by QUIC itself.
    pub(super) fn arm(&mut self, connection: &Connection) {
        let now = Instant::now();
        self.silence.asked_at = now;
        self.silence.wrote_at.get_or_insert(now);
        if self.tick.is_none() {
            self.silence.counts = Counts::of(&connection.stats());
            self.tick = Some(Box::pin(tokio::time::sleep(TICK)));
        }
    }

    /// Ready when the path is dead.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, connection: &Connection) -> Poll<Turn> {
        while let Some(tick) = &mut self.tick {
            ready!(tick.as_mut().poll(cx));
            let (now, stats) = (Instant::now(), connection.stats());
            match self.silence.judge(now, Counts::of(&stats), stats.path.rtt) {
                Verdict::LookOn => tick.as_mut().reset(now + TICK),
                Verdict::Rest => self.tick = None,
                Verdict::Dead => {
                    let detail = "the node was silent while something was unanswered".to_owned();
                    return Poll::Ready(Turn::Over { code: None, detail });
                }
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    struct Scene {
        silence: Silence,
        now: Instant,
        counts: Counts,
        rtt: Duration,
    }

    impl Scene {
        fn new() -> Self {
            let now = Instant::now();
            let silence = Silence { counts: Counts::default(), asked_at: now, wrote_at: None, since: None };
            Self { silence, now, counts: Counts::default(), rtt: RTT }
        }

        /// A tick in which so much was received and asked for.
        fn tick(&mut self, received: u64, asked: u64) -> Verdict {
            self.now += TICK;
            self.counts.received += received;
            self.counts.asked += asked;
            self.silence.judge(self.now, self.counts, self.rtt)
        }
    }

    #[test]
    fn silence_counts_from_what_is_unanswered() {
        // LC-QUIC-012
        let mut scene = Scene::new();
        assert_eq!(scene.tick(0, 1), Verdict::LookOn);
        for _ in 0..7 {
            assert_eq!(scene.tick(0, 1), Verdict::LookOn);
        }
        assert_eq!(scene.tick(0, 0), Verdict::Dead, "after 2 s");
    }

    #[test]
    fn whatever_comes_is_an_answer() {
        let mut scene = Scene::new();
        for _ in 0..100 {
            for _ in 0..7 {
                assert_eq!(scene.tick(0, 1), Verdict::LookOn);
            }
            assert_eq!(scene.tick(1, 1), Verdict::LookOn);
        }
    }

    #[test]
    fn a_connection_that_asked_for_nothing_is_not_watched() {
        let mut scene = Scene::new();
        scene.tick(1, 1);
        for _ in 0..7 {
            assert_eq!(scene.tick(0, 0), Verdict::LookOn);
        }
        assert_eq!(scene.tick(0, 0), Verdict::Rest);
        assert_eq!(scene.tick(5, 0), Verdict::Rest, "a reader acknowledges, and asks for nothing");
    }

    #[test]
    fn a_slow_path_has_more_time() {
        let mut scene = Scene::new();
        scene.rtt = Duration::from_secs(1);
        for _ in 0..16 {
            assert_eq!(scene.tick(0, 1), Verdict::LookOn);
        }
        assert_eq!(scene.tick(0, 1), Verdict::Dead, "after four round trips");
    }
}
