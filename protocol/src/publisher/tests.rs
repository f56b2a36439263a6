//! Order, refusals, bounds, and what an outbox brings back from an earlier process.

use super::*;
use DurableLane::{Normal, Urgent};

fn until(give_up_at_ms: u64) -> Terms {
    Terms { expires_at_ms: None, ack: v1::AckLevel::Stored, give_up_at_ms, asked_at_ms: None }
}

struct Fixture {
    publisher: Publisher,
    id: u32,
}

impl Fixture {
    fn new(pushes: &[DurableLane]) -> Self {
        let mut publisher = Publisher::new(Bounds { items_max: 8, bytes_max: 1000 });
        for (at, lane) in pushes.iter().enumerate() {
            publisher.push(Ticket(at as u64), "r", *lane, Bytes::from("x"), until(1000)).unwrap();
        }
        Self { publisher, id: 0 }
    }

    fn sent(&mut self, now_ms: u64) -> Vec<(u32, u64, u64)> {
        std::iter::from_fn(|| {
            let id = self.id + 1;
            let (id, publish) = self.publisher.poll(now_ms, 4, |_| true, || id)?;
            self.id = id;
            Some((id, publish.number, publish.after))
        })
        .collect()
    }

    fn error(&mut self, now_ms: u64, id: u32, code: Code, retry_after_ms: u32) {
        let error = v1::Error { code: code.number().into(), retry_after_ms, ..Default::default() };
        assert!(self.publisher.refused(now_ms, id, &error));
    }
}

#[test]
fn each_names_the_unsettled_number_before_it() {
    // LC-PUB-026
    let mut fixture = Fixture::new(&[Normal, Normal, Normal]);
    assert_eq!(fixture.sent(0), [(1, 1, 0), (2, 2, 1), (3, 3, 2)]);
    fixture.publisher.published(0, 1, v1::Published::default());
    fixture.publisher.disconnected();
    assert_eq!(fixture.sent(0), [(4, 2, 0), (5, 3, 2)]);
}

#[test]
fn a_refusal_for_good_is_skipped_and_the_rest_sent_in_order() {
    // LC-PUB-027
    let mut fixture = Fixture::new(&[Normal, Normal, Normal]);
    fixture.sent(0);
    fixture.error(0, 1, Code::MessageTooLarge, 0);
    fixture.error(0, 2, Code::OutOfOrder, 0);
    fixture.error(0, 3, Code::OutOfOrder, 0);
    assert_eq!(fixture.sent(0), [(4, 2, 0), (5, 3, 2)]);
    assert!(matches!(fixture.publisher.poll_settled(), Some((Ticket(0), Settled::Refused { code: 4306, .. }))));
}

#[test]
fn what_came_out_of_order_waits_for_the_answers_before_it() {
    // LC-PUB-027
    let mut fixture = Fixture::new(&[Normal, Normal, Normal]);
    fixture.sent(0);
    fixture.error(0, 2, Code::OutOfOrder, 0);
    assert_eq!(fixture.sent(0), [], "the first is not answered: sending on would only be refused again");
    fixture.error(0, 3, Code::OutOfOrder, 0);
    fixture.publisher.published(0, 1, v1::Published::default());
    assert_eq!(fixture.sent(0), [(4, 2, 0), (5, 3, 2)]);
}

#[test]
fn a_refusal_for_now_waits_as_long_as_it_says() {
    let mut fixture = Fixture::new(&[Normal]);
    fixture.sent(0);
    fixture.error(0, 1, Code::Unavailable, 300);
    assert_eq!(fixture.sent(299), []);
    assert_eq!(fixture.publisher.poll_timeout(0), Some(300));
    assert_eq!(fixture.sent(300), [(2, 1, 0)]);
}

#[test]
fn urgent_overtakes_and_the_window_holds() {
    let mut fixture = Fixture::new(&[Normal, Normal, Urgent, Normal, Normal]);
    assert_eq!(fixture.sent(0), [(1, 1, 0), (2, 1, 0), (3, 2, 1)]);
}

#[test]
fn the_outbox_is_bounded_and_gives_up() {
    let mut fixture = Fixture::new(&[Normal; 8]);
    assert_eq!(fixture.publisher.push(Ticket(9), "r", Normal, Bytes::new(), until(0)), Err(OutboxFull));
    fixture.publisher.handle_timeout(1000);
    assert_eq!(fixture.publisher.unsettled(), 0);
    assert_eq!(std::iter::from_fn(|| fixture.publisher.poll_settled()).count(), 8);
    // Numbers go on; what was given up is settled and is not named in `after`.
    fixture.publisher.push(Ticket(9), "r", Normal, Bytes::new(), until(2000)).unwrap();
    assert_eq!(fixture.sent(1000), [(1, 9, 0)]);
}

#[test]
fn what_an_earlier_process_left_goes_first_under_its_numbers() {
    // LC-PUB-026, LC-PUB-027, LC-SDK-016
    let mut fixture = Fixture::new(&[]);
    fixture.publisher.outlive(20);
    for number in [4, 6, 7] {
        fixture.publisher.restore(Ticket(number), "r", Normal, number, Bytes::from("x"), until(1000));
    }
    assert_eq!(fixture.publisher.push(Ticket(30), "r", Normal, Bytes::new(), until(1000)), Ok(21));
    assert_eq!(fixture.publisher.push(Ticket(31), "other", Urgent, Bytes::new(), until(1000)), Ok(21));
    assert_eq!(fixture.sent(0), [(1, 4, 0), (2, 6, 4), (3, 7, 6)]);
    fixture.publisher.published(0, 1, v1::Published::default());
    fixture.publisher.written("r", Normal, 21);
    assert_eq!(fixture.sent(0), [(4, 21, 7)]);
}

#[test]
fn nothing_is_sent_before_it_is_written() {
    // LC-SDK-016
    let mut fixture = Fixture::new(&[]);
    fixture.publisher.outlive(0);
    for ticket in 1..=3 {
        fixture.publisher.push(Ticket(ticket), "r", Normal, Bytes::from("x"), until(1000)).unwrap();
    }
    assert_eq!(fixture.sent(0), []);
    fixture.publisher.disconnected();
    assert_eq!(fixture.sent(0), [], "a lost connection writes nothing");
    fixture.publisher.written("r", Normal, 1);
    assert_eq!(fixture.sent(0), [(1, 1, 0)]);
    assert!(fixture.publisher.withdraw("r", Normal, 2));
    assert!(!fixture.publisher.withdraw("r", Normal, 2));
    fixture.publisher.written("r", Normal, 3);
    assert_eq!(fixture.sent(0), [(2, 3, 1)]);
    assert_eq!(fixture.publisher.unsettled(), 2);
}

#[test]
fn nothing_is_sent_past_an_end_that_is_not_written() {
    // Were it sent with an `after` that skips the refused one and the process killed, the refused one would be sent
    // again and be answered as a duplicate: as stored (LC-PUB-028).
    let mut fixture = Fixture::new(&[]);
    fixture.publisher.outlive(0);
    for number in 1..=3 {
        fixture.publisher.push(Ticket(number), "r", Normal, Bytes::from("x"), until(1000)).unwrap();
        fixture.publisher.written("r", Normal, number);
    }
    fixture.sent(0);
    fixture.error(0, 1, Code::MessageTooLarge, 0);
    fixture.error(0, 2, Code::OutOfOrder, 0);
    fixture.error(0, 3, Code::OutOfOrder, 0);
    assert_eq!(fixture.sent(0), []);
    fixture.publisher.end_written("r", Normal);
    assert_eq!(fixture.sent(0), [(4, 2, 0), (5, 3, 2)]);
    fixture.publisher.disconnected();
    fixture.publisher.handle_timeout(1000);
    fixture.publisher.push(Ticket(4), "r", Normal, Bytes::from("x"), until(2000)).unwrap();
    fixture.publisher.written("r", Normal, 4);
    for ends in 0..2 {
        assert_eq!(fixture.sent(1000), [], "{ends} of two ends are written");
        fixture.publisher.end_written("r", Normal);
    }
    assert_eq!(fixture.sent(1000), [(6, 4, 0)]);
}

#[test]
fn forgotten_rooms_never_count_anew() {
    // LC-PUB-026
    let mut publisher = Publisher::new(Bounds { items_max: 2 * ROOMS_MAX, bytes_max: 1000 });
    let push =
        |publisher: &mut Publisher, room: &str| publisher.push(Ticket(0), room, Normal, Bytes::new(), until(1000));
    for _ in 0..3 {
        push(&mut publisher, "busy").unwrap();
    }
    publisher.handle_timeout(1000);
    assert_eq!(push(&mut publisher, "kept"), Ok(1));
    for room in 2..ROOMS_MAX {
        push(&mut publisher, &room.to_string()).unwrap();
    }
    // The room "busy" makes way, and nobody counts from 1 any more.
    assert_eq!(push(&mut publisher, "new"), Ok(4));
    assert_eq!(push(&mut publisher, "busy"), Err(OutboxFull), "every other room has a publish");
    assert_eq!(push(&mut publisher, "kept"), Ok(4));
}

#[test]
fn lanes_leave_answers_to_those_above_them() {
    // LC-LANE-009
    let mut publisher = Publisher::new(Bounds { items_max: 1_000, bytes_max: 100_000 });
    for lane in DurableLane::ALL {
        for _ in 0..100 {
            publisher.push(Ticket(0), "r", lane, Bytes::from("x"), until(1000)).unwrap();
        }
    }
    let mut id = 0;
    let mut sent = |publisher: &mut Publisher, lane: DurableLane| {
        let polls = std::iter::from_fn(|| {
            id += 1;
            publisher.poll(0, 40, |of| of == lane, || id)
        });
        polls.count()
    };
    let counts = DurableLane::ALL.map(|lane| sent(&mut publisher, lane));
    assert_eq!(counts, [40, 0, 0], "urgent needs leave nothing");
    publisher.disconnected();
    let counts = [DurableLane::Bulk, Normal, Urgent].map(|lane| sent(&mut publisher, lane));
    assert_eq!(counts, [20, 10, 10], "a bulk import leaves half, and all others a quarter");
}

#[test]
fn rooms_of_a_lane_take_turns() {
    let mut publisher = Publisher::new(Bounds { items_max: 1_000, bytes_max: 100_000 });
    for room in ["a", "a", "a", "b", "c", "c"] {
        publisher.push(Ticket(0), room, Normal, Bytes::from("x"), until(1000)).unwrap();
    }
    let rooms: Vec<String> =
        std::iter::from_fn(|| publisher.poll(0, 100, |_| true, || 1)).map(|(_, publish)| publish.room).collect();
    assert_eq!(rooms, ["a", "b", "c", "a", "c", "a"]);
}

/// A fixture with these urgent publishes in flight since 0 ms, on a path of 60 ms that loses packets.
fn in_flight(count: usize) -> Fixture {
    let mut fixture = Fixture::new(&vec![Urgent; count]);
    fixture.publisher.set_round_trip(Some(60));
    fixture.sent(0);
    fixture
}

impl Fixture {
    /// The id, number and after of the copy that is made now.
    fn copy(&mut self, now_ms: u64, may_copy: bool) -> Option<(u32, u64, u64)> {
        self.publisher.note_overdue(now_ms, may_copy);
        let id = self.id + 1;
        let (id, publish) = self.publisher.repeat(now_ms, 4, || id)?;
        self.id = id;
        Some((id, publish.number, publish.after))
    }

    fn settled(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.publisher.poll_settled()).map(|(ticket, _)| ticket.0).collect()
    }
}

#[test]
fn the_first_overdue_urgent_publish_is_copied_once() {
    // LC-QUIC-015
    let mut fixture = in_flight(2);
    assert_eq!(fixture.publisher.poll_timeout(0), Some(68));
    assert_eq!(fixture.copy(67, true), None);
    assert_eq!(fixture.copy(68, true), Some((3, 1, 0)));
    assert_eq!(fixture.copy(1_000, true), None, "once, and none of those behind it");
    // The first answer settles it, the second one is known and changes nothing.
    assert!(fixture.publisher.published(70, 3, v1::Published::default()));
    assert_eq!(fixture.settled(), [0]);
    assert!(fixture.publisher.published(90, 1, v1::Published::default()));
    assert!(fixture.settled().is_empty());
    assert_eq!(fixture.copy(90, true), Some((4, 2, 0)), "now it is the first");
    fixture.publisher.published(91, 2, v1::Published::default());
    assert_eq!((fixture.settled(), fixture.publisher.unsettled()), (vec![1], 0));
    assert!(fixture.publisher.published(92, 4, v1::Published::default()), "the id of the copy was in use until then");
}

#[test]
fn a_refused_copy_leaves_the_publish_to_its_own_answer() {
    // LC-QUIC-015
    for code in [Code::OutOfOrder, Code::RateLimited, Code::Forbidden] {
        let mut fixture = in_flight(1);
        assert_eq!(fixture.copy(68, true), Some((2, 1, 0)));
        fixture.error(70, 2, code, 0);
        assert!(fixture.settled().is_empty() && fixture.sent(70).is_empty());
        assert_eq!(fixture.copy(1_000, true), None);
        fixture.publisher.published(71, 1, v1::Published::default());
        assert_eq!(fixture.settled(), [0]);
    }
    // The other way round the copy's answer counts, though the first was refused for now.
    let mut fixture = in_flight(1);
    assert_eq!(fixture.copy(68, true), Some((2, 1, 0)));
    fixture.error(70, 1, Code::RateLimited, 100);
    fixture.publisher.published(71, 2, v1::Published::default());
    assert_eq!((fixture.settled(), fixture.sent(1_000).len()), (vec![0], 0));
}

#[test]
fn nothing_else_is_copied() {
    // LC-QUIC-015
    let mut fixture = in_flight(1);
    assert_eq!(fixture.copy(68, false), None, "urgent waits on this side");
    assert_eq!((fixture.copy(70, true), fixture.publisher.next_overdue()), (None, None), "each is looked at once");
    let mut fixture = in_flight(1);
    fixture.publisher.set_round_trip(None);
    assert_eq!((fixture.copy(10_000, true), fixture.publisher.next_overdue()), (None, None), "the path is reliable");
    let mut fixture = in_flight(1);
    fixture.publisher.note_overdue(68, true);
    assert!(fixture.publisher.repeat(1_000, 4, || 9).is_none(), "L8: it is late by now");
    let mut fixture = in_flight(1);
    fixture.publisher.note_overdue(68, true);
    fixture.publisher.disconnected();
    fixture.publisher.set_round_trip(Some(60));
    assert!(fixture.publisher.repeat(68, 4, || 9).is_none());
    assert_eq!(fixture.sent(70), [(2, 1, 0)]);
    assert_eq!(fixture.copy(137, true), None);
    assert_eq!(fixture.copy(138, true), Some((3, 1, 0)), "sent at 70");
    let mut fixture = Fixture::new(&[Normal]);
    fixture.publisher.set_round_trip(Some(60));
    fixture.sent(0);
    assert_eq!(fixture.copy(10_000, true), None, "only lane urgent");
    let mut publisher = Publisher::new(Bounds { items_max: 1, bytes_max: 2_000 });
    publisher.push(Ticket(0), "r", Urgent, Bytes::from(vec![0; 1_000]), until(1_000)).unwrap();
    let mut fixture = Fixture { publisher, id: 0 };
    fixture.publisher.set_round_trip(Some(60));
    fixture.sent(0);
    assert_eq!(fixture.copy(68, true), None, "no packet holds it");
}

#[test]
fn a_slow_store_makes_answers_later_and_not_overdue() {
    // LC-QUIC-015
    let mut fixture = Fixture::new(&[Urgent; 8]);
    fixture.publisher.set_round_trip(Some(60));
    for (id, answered_ms) in [(1, 400), (2, 800)] {
        assert_eq!(fixture.publisher.poll(answered_ms - 400, 1, |_| true, || id).unwrap().0, id);
        fixture.publisher.published(answered_ms, id, v1::Published::default());
    }
    fixture.publisher.poll(800, 1, |_| true, || 3).unwrap();
    assert_eq!(fixture.publisher.next_overdue(), Some(800 + 400 + 50));
    // Of the last 64 answers at most the quickest counts.
    for _ in 0..64 {
        fixture.publisher.copies.answered(100);
    }
    assert_eq!(fixture.publisher.next_overdue(), Some(800 + 100 + 12));
}

#[test]
fn few_copies_are_under_way() {
    // LC-QUIC-015
    let mut publisher = Publisher::new(Bounds { items_max: 100, bytes_max: 1_000 });
    publisher.set_round_trip(Some(60));
    let mut id = 0;
    let mut next_id = || {
        id += 1;
        id
    };
    let mut copies_at = |publisher: &mut Publisher, rooms: std::ops::Range<u64>, now_ms: u64| {
        for room in rooms {
            publisher.push(Ticket(room), &format!("r{room}"), Urgent, Bytes::from("x"), until(9_000)).unwrap();
            publisher.poll(now_ms - 68, 100, |_| true, &mut next_id).unwrap();
        }
        publisher.note_overdue(now_ms, true);
        let copies = std::iter::from_fn(|| publisher.repeat(now_ms, 100, &mut next_id));
        copies.map(|(id, _)| id).collect::<Vec<_>>()
    };
    let copies = copies_at(&mut publisher, 0..20, 68);
    assert_eq!(copies.len(), 8);
    assert!(copies_at(&mut publisher, 20..30, 200).is_empty(), "none is answered");
    publisher.published(210, copies[0], v1::Published::default());
    publisher.refused(210, copies[1], &v1::Error { code: Code::OutOfOrder.number().into(), ..Default::default() });
    assert_eq!(copies_at(&mut publisher, 30..40, 300).len(), 2);
    publisher.disconnected();
    publisher.set_round_trip(Some(60));
    assert_eq!(copies_at(&mut publisher, 40..41, 400).len(), 1, "the next connection begins anew");
}
