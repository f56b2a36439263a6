//! One room, without an engine.

use super::*;
use crate::hub::{Interest, Mark};
use lanecast_protocol::focus::Focus;
use lanecast_protocol::log::{self, Start};
use lanecast_protocol::lossy::SignalKey;

fn record(seq: u64) -> Record {
    Record {
        lane: DurableLane::Normal,
        seq,
        order: seq,
        time_ms: 0,
        expires_at_ms: 0,
        event_type: "t".into(),
        tail: Bytes::new(),
    }
}

fn transient() -> Transient {
    Transient { lane: DurableLane::Normal, expires_at_ms: 0, event_type: "t".into(), tail: Bytes::new() }
}

fn interest() -> Interest {
    Interest { start: Start::Live, transients: None, signals: true, types: TypeFilter::All, live: true }
}

fn opened(epoch: u64, transients: u64) -> Opened {
    let head = Position::new(epoch, PerLane::default());
    Opened {
        log: log::Opened { position: head, head, head_order: 0, recovered: false, rolled_back: Vec::new() },
        transients: v1::TransientMark { normal: transients, ..Default::default() },
        missed_transients: Default::default(),
    }
}

fn admit(room: &Room, mailbox: &Arc<Mailbox>, transients: u64) -> u64 {
    room.admit(mailbox, &opened(9, transients), &interest(), || 77).unwrap()
}

#[test]
fn an_event_stored_while_the_room_opens_is_not_slept_through() {
    let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
    room.enter(&mailbox);
    room.appended(9, &record(1));
    assert_eq!(mailbox.take_marks(), []);
    assert_eq!(admit(&room, &mailbox, 0), 77);
    let lanes = PerLane([false, true, false]);
    assert_eq!(mailbox.take_marks(), [Mark::Ready { handle: 77, lanes }]);
}

#[test]
fn transients_are_sent_from_the_moment_of_the_opening() {
    // LC-SUB-021
    let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
    room.enter(&mailbox);
    for count in 1..=3 {
        room.transient(&transient(), count);
    }
    admit(&room, &mailbox, 2);
    room.transient(&transient(), 4);
    let mut sent = 0;
    mailbox.take_lossy(0, |_| Focus::Default, |_| true, |_, _| sent += 1);
    assert_eq!(sent, 2, "the third and the fourth");
}

#[test]
fn a_new_epoch_ends_the_handle_for_everyone() {
    let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
    room.enter(&mailbox);
    admit(&room, &mailbox, 0);
    room.epoch_changed(10, 78);
    assert_eq!(mailbox.take_marks(), [Mark::Epoch { handle: 77 }]);
    assert!(matches!(room.cached(0, 77, DurableLane::Normal, 0, 100), Cached::EpochEnded));
}

#[test]
fn who_opened_in_an_epoch_that_has_ended_opens_again() {
    // LC-RES-010
    let (room, mailbox, late) = (Room::new("r".into(), Kept::default()), Arc::default(), Arc::default());
    room.enter(&mailbox);
    admit(&room, &mailbox, 0);
    room.enter(&late);
    room.epoch_changed(10, 78);
    assert_eq!(room.admit(&late, &opened(9, 0), &interest(), || 79), None);
}

#[test]
fn who_hears_of_an_epoch_first_tells_the_others() {
    // LC-RES-010
    let (room, mailbox, late) = (Room::new("r".into(), Kept::default()), Arc::default(), Arc::default());
    room.enter(&mailbox);
    admit(&room, &mailbox, 0);
    room.enter(&late);
    assert_eq!(room.admit(&late, &opened(10, 0), &interest(), || 78), Some(78));
    assert_eq!(mailbox.take_marks(), [Mark::Epoch { handle: 77 }]);
    room.epoch_changed(10, 79);
    assert_eq!(mailbox.take_marks(), [], "once");
}

#[test]
fn transients_missed_while_a_room_opens_are_reported() {
    // LC-SUB-021: whether the opening counted them is not known.
    let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
    room.enter(&mailbox);
    room.transients_missed(DurableLane::Normal, Some(2));
    admit(&room, &mailbox, 2);
    let mut gaps = Vec::new();
    mailbox.take_lossy(0, |_| Focus::Default, |_| true, |_, popped| gaps.push(popped.record));
    let expected = lanecast_protocol::lossy::transient_gap_record(
        Under { handle: 77, epoch: 9 },
        DurableLane::Normal,
        0,
        v1::GapCause::Unknown,
    );
    assert_eq!(gaps, [expected]);
}

#[test]
fn a_large_room_is_marked_in_rounds_and_nobody_is_passed_over() {
    let room = Room::new("r".into(), Kept::default());
    let mailboxes: Vec<Arc<Mailbox>> = (0..3 * MARKED_AT_ONCE_MAX).map(|_| Arc::default()).collect();
    for mailbox in &mailboxes {
        room.enter(mailbox);
        admit(&room, mailbox, 0);
    }
    let marked = || mailboxes.iter().filter(|mailbox| !mailbox.take_marks().is_empty()).count();
    assert!(room.appended(9, &record(1)), "somebody has to go on");
    assert_eq!(marked(), 0, "nobody is marked while the engine tells");
    assert!(!room.appended(9, &record(2)), "one round for many events");
    assert!(room.mark_some());
    assert_eq!(marked(), MARKED_AT_ONCE_MAX);
    // One that was marked leaves: the others move up.
    room.leave(&mailboxes[0]);
    while room.mark_some() {}
    assert_eq!(marked(), mailboxes.len() - 1, "the rest, and once more for what came meanwhile");
    assert!(room.appended(9, &record(3)));
    while room.mark_some() {}
    assert_eq!(marked(), mailboxes.len() - 1);
}

#[test]
fn a_jump_is_not_read_from_what_was_before_it() {
    // E24
    let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
    room.enter(&mailbox);
    admit(&room, &mailbox, 0);
    room.appended(9, &record(1));
    room.jumped(DurableLane::Normal);
    assert!(matches!(room.cached(0, 77, DurableLane::Normal, 0, 100), Cached::Miss));
    assert!(!mailbox.take_marks().is_empty());
}

#[test]
fn an_older_live_signal_does_not_come_behind_a_newer_one() {
    // LC-SIG-009
    let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
    room.enter(&mailbox);
    admit(&room, &mailbox, 0);
    let signal = |counter: u64| Signal {
        key: SignalKey { sender: "u".into(), kind: "cursor".into(), key: "k".into() },
        start: 0,
        counter,
        expires_at_ms: 100,
        clear: false,
        tail: Bytes::from(counter.to_string()),
    };
    let sent = || {
        let mut sent = Vec::new();
        mailbox.take_lossy(0, |_| Focus::Default, |_| true, |_, popped| sent.push(popped.record));
        sent
    };
    room.signal(&signal(2), |_| ());
    assert!(sent().is_empty(), "it waits for the live ones");
    room.enliven(&mailbox, &[signal(1)], |_| {});
    assert_eq!(sent(), [live_signal(77, &signal(2)).record]);
    room.signal(&signal(3), |_| ());
    assert_eq!(sent(), [live_signal(77, &signal(3)).record]);
}

#[test]
fn nothing_overtakes_the_frame_that_names_a_new_epochs_handle() {
    // LC-SUB-009
    let (room, mailbox) = (Room::new("r".into(), Kept::default()), Arc::new(Mailbox::default()));
    room.enter(&mailbox);
    admit(&room, &mailbox, 0);
    let taken = || {
        let mut taken = 0;
        mailbox.take_lossy(0, |_| Focus::Default, |_| true, |_, _| taken += 1);
        taken
    };
    for epoch in [10, 11] {
        room.epoch_changed(epoch, epoch + 100);
        room.transient(&transient(), 1);
        assert_eq!(taken(), 0, "the subscriber does not know the handle");
    }
    assert!(room.admit(&mailbox, &opened(11, 0), &interest(), || 0).is_some());
    assert_eq!(taken(), 2, "a gap of unknown count for what epoch 10 had, and the event of epoch 11");
}
