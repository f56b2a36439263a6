//! The checker on small histories written by hand, and on a recorded one with planted faults.

use super::*;
use crate::faults::history::{FaultTime, Line, Missed, Run};

/// A round of one publisher (client 0), one subscriber (client 1), one room, told step by step.
struct Story {
    histories: Histories,
    us: u64,
    numbers: [u32; 3],
    transients: u32,
}

fn position(text: &str) -> Position {
    text.parse().unwrap()
}

fn rolled_back(epoch: u64, from: u64, to: u64) -> Gap {
    Gap { lane: Lane::Normal, epoch, from, to, count: 0, cause: Cause::RolledBack }
}

fn subscribed(asked: Option<&str>, at: &str, head: &str, recovered: bool, rolled_back: Vec<Gap>) -> Entry {
    Entry::Subscribed(Subscribed {
        room: 0,
        asked: asked.map(position),
        unasked: false,
        position: position(at),
        head: position(head),
        recovered,
        degraded: false,
        rolled_back,
        missed: Missed::Unknown,
    })
}

impl Story {
    fn new() -> Self {
        let run = Run { rooms: vec!["r".into()], subscribers: [(1, vec![0])].into(), ..Run::default() };
        let logs = vec![RoomLog { room: 0, head: position("1-0-0-0"), ..RoomLog::default() }];
        let histories = Histories { run, clients: vec![Vec::new(), Vec::new()], logs };
        let mut story = Self { histories, us: 0, numbers: [0; 3], transients: 0 };
        story.see(subscribed(None, "1-0-0-0", "1-0-0-0", false, vec![]));
        story
    }

    fn line(&mut self, client: usize, entry: Entry) {
        self.us += 1000;
        self.histories.clients[client].push(Line { us: self.us, entry });
    }

    /// The subscriber sees something.
    fn see(&mut self, entry: Entry) -> &mut Self {
        self.line(1, entry);
        self
    }

    /// An event on lane normal is sent, stored and acknowledged, and comes if `comes`.
    fn event(&mut self, comes: bool) -> &mut Self {
        self.numbers[1] += 1;
        let payload = Payload { client: 0, room: 0, lane: Lane::Normal, transient: false, number: self.numbers[1] };
        let log = &mut self.histories.logs[0];
        log.head.seqs[1] += 1;
        let (epoch, seq) = (log.head.epoch, log.head.seqs[1]);
        // One lane only.
        let order = seq;
        log.events.push(Stored { epoch, seq, order, payload });
        self.line(0, Entry::Sent { payload, after: 0, connection: 1, ttl_ms: 0, again: false });
        self.line(0, Entry::Acknowledged { payload, epoch, seq, order, duplicate: false });
        if comes {
            self.see(Entry::Delivered { epoch, seq, order, payload });
        }
        self
    }

    fn events(&mut self, count: usize) -> &mut Self {
        for _ in 0..count {
            self.event(true);
        }
        self
    }

    fn missed(&mut self, count: usize) -> &mut Self {
        for _ in 0..count {
            self.event(false);
        }
        self
    }

    fn transient(&mut self, comes: bool) -> &mut Self {
        self.transients += 1;
        let payload = Payload { client: 0, room: 0, lane: Lane::Normal, transient: true, number: self.transients };
        self.line(0, Entry::Sent { payload, after: 0, connection: 1, ttl_ms: 0, again: false });
        self.line(0, Entry::Acknowledged { payload, epoch: 0, seq: 0, order: 0, duplicate: false });
        if comes {
            self.see(Entry::Transient { payload });
        }
        self
    }

    fn gap(&mut self, from: u64, to: u64, count: u64, cause: Cause) -> &mut Self {
        let epoch = self.histories.logs[0].head.epoch;
        self.see(Entry::Gap { room: 0, gap: Gap { lane: Lane::Normal, epoch, from, to, count, cause } })
    }

    fn cut(&mut self) -> &mut Self {
        self.see(Entry::Cut { node: 0, why: "test".into() })
    }

    /// The log loses everything above `kept` and goes on in another epoch.
    fn roll_back(&mut self, kept: u64, epoch: u64) -> &mut Self {
        let log = &mut self.histories.logs[0];
        log.events.retain(|event| event.seq <= kept);
        log.head = Position { epoch, seqs: [0, kept, 0] };
        self
    }

    fn trim(&mut self, through: u64) -> &mut Self {
        let log = &mut self.histories.logs[0];
        log.events.retain(|event| event.seq > through);
        let epoch = log.head.epoch;
        log.gaps.push(Gap { lane: Lane::Normal, epoch, from: 1, to: through, count: 0, cause: Cause::Trimmed });
        self
    }

    #[track_caller]
    fn finds(&self, kinds: &[Kind]) {
        let report = check(&self.histories);
        let found: Vec<Kind> = report.totals.keys().copied().collect();
        let told: String = report.findings.iter().map(|finding| finding.explain(&self.histories)).collect();
        assert_eq!(found, kinds, "{told}");
    }
}

#[test]
fn a_clean_history_passes() {
    let mut story = Story::new();
    story.events(5).cut().see(subscribed(Some("1-0-5-0"), "1-0-5-0", "1-0-5-0", true, vec![])).events(3).finds(&[]);
}

#[test]
fn what_is_passed_over_or_never_comes_is_lost() {
    let mut story = Story::new();
    story.events(2).event(false).events(2).finds(&[Kind::Lost]);
    Story::new().events(2).event(false).finds(&[Kind::Lost]);
    // A resume that begins beyond what was asked for.
    let mut story = Story::new();
    story.events(2).cut().event(false);
    story.see(subscribed(Some("1-0-2-0"), "1-0-3-0", "1-0-3-0", false, vec![])).events(1);
    story.finds(&[Kind::Lost, Kind::WronglyRecovered]);
}

#[test]
fn what_comes_twice_is_doubled() {
    let mut story = Story::new();
    story.events(3);
    let again = story.histories.clients[1].last().unwrap().entry.clone();
    story.see(again).finds(&[Kind::Doubled]);
    // Stored twice under two seqs.
    let mut story = Story::new();
    story.event(true);
    let log = &mut story.histories.logs[0];
    let first = log.events[0];
    log.events.push(Stored { seq: 2, order: 2, ..first });
    log.head.seqs[1] = 2;
    story.see(Entry::Delivered { epoch: 1, seq: 2, order: 2, payload: first.payload }).finds(&[Kind::Doubled]);
}

#[test]
fn what_comes_late_is_reordered() {
    let mut story = Story::new();
    story.events(4);
    let lines = &mut story.histories.clients[1];
    let (a, b) = (lines[2].entry.clone(), lines[3].entry.clone());
    (lines[2].entry, lines[3].entry) = (b, a);
    story.finds(&[Kind::Reordered]);
}

#[test]
fn acknowledged_events_are_in_the_log_or_told_lost() {
    let mut story = Story::new();
    story.events(3).roll_back(2, 1);
    story.finds(&[Kind::AcknowledgedAbsent, Kind::Forked]);
    let mut story = Story::new();
    story.events(3).roll_back(2, 2).cut();
    story.see(subscribed(Some("1-0-3-0"), "2-0-2-0", "2-0-2-0", false, vec![rolled_back(1, 3, 3)])).finds(&[]);
}

#[test]
fn forks_revoke_exactly_what_they_say() {
    let fork = |gap: Option<Gap>, at: &str| {
        let mut story = Story::new();
        story.events(105).roll_back(100, 2).cut();
        story.see(subscribed(Some("1-0-105-0"), at, "2-0-100-0", false, gap.into_iter().collect()));
        story.events(3);
        story
    };
    fork(Some(rolled_back(1, 101, 105)), "2-0-100-0").finds(&[]);
    fork(Some(rolled_back(1, 101, 107)), "2-0-100-0").finds(&[]);
    fork(Some(rolled_back(1, 101, 0)), "2-0-100-0").finds(&[]);
    fork(Some(rolled_back(1, 101, 104)), "2-0-100-0").finds(&[Kind::AcknowledgedAbsent, Kind::BadGap]);
    // Too much is revoked: what survived.
    let mut story = Story::new();
    story.events(10).roll_back(8, 2).cut();
    story.see(subscribed(Some("1-0-10-0"), "2-0-5-0", "2-0-8-0", false, vec![rolled_back(1, 6, 10)]));
    let survived = story.histories.logs[0].events[5..].to_vec();
    for Stored { seq, order, payload, .. } in survived {
        story.see(Entry::Delivered { epoch: 2, seq, order, payload });
    }
    story.finds(&[Kind::BadGap]);
    // Told to a client that had not come so far: those seqs will never reach it.
    let mut story = Story::new();
    story.events(2).event(false).roll_back(2, 2).cut();
    story
        .see(subscribed(Some("1-0-2-0"), "2-0-2-0", "2-0-2-0", false, vec![rolled_back(1, 3, 3)]))
        .events(2)
        .finds(&[]);
}

#[test]
fn a_fork_in_silence_is_found() {
    let mut story = Story::new();
    story.events(5).roll_back(3, 2).cut();
    story.see(subscribed(Some("1-0-5-0"), "2-0-5-0", "2-0-5-0", true, vec![]));
    story.events(2);
    let report = check(&story.histories);
    assert!(report.totals.contains_key(&Kind::Forked), "{:?}", report.totals);
    assert!(report.totals.contains_key(&Kind::AcknowledgedAbsent), "{:?}", report.totals);
}

#[test]
fn a_log_that_is_not_known_any_more_begins_anew() {
    let mut story = Story::new();
    story.events(5).roll_back(0, 9).cut();
    let open = |lane| Gap {
        lane,
        epoch: 1,
        from: if lane == Lane::Normal { 6 } else { 1 },
        to: 0,
        count: 0,
        cause: Cause::RolledBack,
    };
    story.see(subscribed(Some("1-0-5-0"), "9-0-0-0", "9-0-0-0", false, Lane::ALL.map(open).to_vec()));
    story.events(7).finds(&[]);
}

#[test]
fn an_unasked_change_counts_the_former_handle_up_to_its_position() {
    let mut story = Story::new();
    story.events(3).event(false).event(false);
    let waiting = story.histories.logs[0].events[3..].to_vec();
    story.histories.logs[0].head.epoch = 2;
    let Entry::Subscribed(mut change) = subscribed(None, "2-0-5-0", "2-0-5-0", false, vec![]) else { unreachable!() };
    change.unasked = true;
    story.see(Entry::Subscribed(change));
    for Stored { seq, order, payload, .. } in waiting {
        story.see(Entry::Delivered { epoch: 1, seq, order, payload });
    }
    story.events(2).finds(&[]);
    story.see(Entry::Delivered { epoch: 1, seq: 8, order: 8, payload: story.histories.logs[0].events[0].payload });
    story.finds(&[Kind::Broken]);
}

#[test]
fn trimmed_gaps_must_be_true_and_fit() {
    let paused = |from, to| {
        let mut story = Story::new();
        story.events(3).cut();
        story.missed(5);
        story.trim(6).see(subscribed(Some("1-0-3-0"), "1-0-3-0", "1-0-8-0", false, vec![]));
        story.gap(from, to, 0, Cause::Trimmed);
        let rest = story.histories.logs[0].events.clone();
        for Stored { seq, order, payload, .. } in rest {
            story.see(Entry::Delivered { epoch: 1, seq, order, payload });
        }
        story
    };
    paused(4, 6).finds(&[]);
    paused(4, 5).finds(&[Kind::Lost]);
    paused(3, 6).finds(&[Kind::BadGap]);
    paused(4, 7).finds(&[Kind::BadGap]);
}

#[test]
fn recovered_promises_that_nothing_is_missing() {
    let resumed = |recovered| {
        let mut story = Story::new();
        story.events(3).cut();
        story.missed(5);
        story.trim(8).see(subscribed(Some("1-0-3-0"), "1-0-3-0", "1-0-8-0", recovered, vec![]));
        story.gap(4, 8, 0, Cause::Trimmed);
        story
    };
    resumed(false).events(1).finds(&[]);
    resumed(true).events(1).finds(&[Kind::WronglyRecovered]);
    let mut story = Story::new();
    story.events(3).cut().see(subscribed(Some("1-0-3-0"), "1-0-3-0", "1-0-3-0", false, vec![]));
    story.finds(&[Kind::WronglyRecovered]);
}

#[test]
fn causes_must_be_true() {
    // No connection to the log was broken.
    let mut story = Story::new();
    story.events(1).event(false).gap(2, 2, 0, Cause::Unknown).events(1).finds(&[Kind::BadGap]);
    let effect = Ok(String::new());
    let fault = FaultTime { name: "x".into(), began_us: 0, repaired_us: 0, breaks_log: true, effect };
    story.histories.run.faults.push(fault);
    story.finds(&[]);
    // An event without a time to live does not expire.
    let expired = |ttl_ms| {
        let mut story = Story::new();
        story.events(1).event(false).gap(2, 2, 0, Cause::Expired).events(1);
        for line in &mut story.histories.clients[0] {
            if let Entry::Sent { ttl_ms: own, .. } = &mut line.entry {
                *own = ttl_ms;
            }
        }
        story
    };
    expired(5).finds(&[]);
    expired(0).finds(&[Kind::BadGap]);
}

#[test]
fn transients_are_counted() {
    Story::new().transient(true).transient(false).transient(true).finds(&[Kind::TransientLost]);
    let mut story = Story::new();
    story.transient(true).transient(false).gap(0, 0, 1, Cause::Dropped).transient(true).finds(&[]);
    let mut story = Story::new();
    story.transient(true).transient(false).gap(0, 0, 0, Cause::Unknown).transient(true).finds(&[]);
    let resumed = |missed| {
        let mut story = Story::new();
        story.transient(true).cut().transient(false).transient(false);
        let Entry::Subscribed(mut answer) = subscribed(Some("1-0-0-0"), "1-0-0-0", "1-0-0-0", true, vec![]) else {
            unreachable!()
        };
        answer.missed = missed;
        story.see(Entry::Subscribed(answer)).transient(true);
        story
    };
    resumed(Missed::Count(2)).finds(&[]);
    resumed(Missed::Unknown).finds(&[]);
    resumed(Missed::Count(1)).finds(&[Kind::TransientLost]);
    resumed(Missed::None).finds(&[Kind::TransientLost]);
    let mut story = Story::new();
    story.transient(true);
    let again = story.histories.clients[1].last().unwrap().entry.clone();
    story.see(again).finds(&[Kind::Doubled]);
}

#[test]
fn subscribers_must_be_current_again() {
    let mut story = Story::new();
    story.events(1);
    let fault = |repaired_us| {
        let effect = Ok(String::new());
        FaultTime { name: "x".into(), began_us: 0, repaired_us, breaks_log: false, effect }
    };
    story.histories.run.faults = vec![fault(story.us)];
    story.finds(&[Kind::NotCurrent]);
    let repaired_us = story.us;
    story.us += 9_000_000;
    story.events(1).finds(&[]);
    assert_eq!(check(&story.histories).current, [Some(Duration::from_micros(story.us - repaired_us))]);
    story.us += 11_000_000;
    story.histories.run.faults = vec![fault(repaired_us + 1_000_000)];
    story.finds(&[]);
    story.histories.run.faults = vec![fault(story.us - 10_500_000)];
    story.events(1).finds(&[Kind::NotCurrent]);
    story.histories.run.faults[0].effect = Err("nothing happened".into());
    story.finds(&[Kind::NoEffect]);
}
