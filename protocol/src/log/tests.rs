use super::*;
use crate::position::Cursor;
use crate::v1::GapCause;
use DurableLane::{Bulk, Normal, Urgent};

const EPOCH: u64 = 7;
const KEEP_ALL: Retention = Retention { events_max: 1000, age_ms_max: u64::MAX };

fn log() -> RoomLog {
    RoomLog::new(EPOCH, KEEP_ALL)
}

fn append(lane: DurableLane, origin: Origin, time_ms: u64) -> Append {
    Append { lane, origin, time_ms, expires_at_ms: 0, event_type: "msg".into(), tail: Bytes::from("tail") }
}

fn numbered(instance: &str, number: u64, after: u64) -> Origin {
    Origin::Numbered { publisher: Publisher { user: "ann".into(), instance: instance.into() }, number, after }
}

fn keyed(api_key: &str, key: &str, body: u8) -> Origin {
    Origin::Keyed { api_key: api_key.into(), key: key.into(), body: [body; 32] }
}

fn store(log: &mut RoomLog, lanes: &[DurableLane]) {
    for lane in lanes {
        let outcome = log.append(0, append(*lane, Origin::Unmarked, 0));
        assert!(matches!(outcome, Outcome::Stored(_)));
    }
}

fn stored(outcome: Outcome) -> (u64, u64) {
    match outcome {
        Outcome::Stored(numbers) => (numbers.seq, numbers.order),
        other => panic!("expected Stored, got {other:?}"),
    }
}

fn position(text: &str) -> Position {
    text.parse().unwrap()
}

fn lost(epoch: u64, lane: DurableLane, from: u64, to: u64) -> RolledBack {
    RolledBack { epoch, lane, from, to: Some(to) }
}

mod appending {
    use super::*;

    #[test]
    fn lanes_count_by_themselves_and_order_counts_across() {
        // LC-PUB-012
        let mut log = log();
        let numbers =
            [Normal, Urgent, Normal, Bulk].map(|lane| stored(log.append(0, append(lane, Origin::Unmarked, 0))));
        assert_eq!(numbers, [(1, 1), (1, 2), (2, 3), (1, 4)]);
        assert_eq!(log.head().position, position("7-1-2-1"));
        assert_eq!(log.head().order, 4);
    }

    #[test]
    fn a_number_is_stored_once() {
        // LC-PUB-020
        let mut log = log();
        let first = Numbers { epoch: EPOCH, lane: Normal, seq: 1, order: 1 };
        assert_eq!(log.append(0, append(Normal, numbered("i", 1, 0), 0)), Outcome::Stored(first));
        store(&mut log, &[Normal]);
        assert_eq!(log.append(0, append(Normal, numbered("i", 1, 0), 0)), Outcome::Duplicate { first: Some(first) });
        assert_eq!(log.head().order, 2);
    }

    #[test]
    fn a_number_below_the_watermark_that_never_came_is_used_up() {
        // LC-PUB-020: 1 was given up, 2 stored; 1 arrives late from an old connection.
        let mut log = log();
        stored(log.append(0, append(Normal, numbered("i", 2, 0), 0)));
        assert_eq!(log.append(0, append(Normal, numbered("i", 1, 0), 0)), Outcome::Duplicate { first: None });
        assert_eq!(log.head().order, 1);
    }

    #[test]
    fn pipelined_publishes_keep_their_order_over_a_refusal() {
        // LC-PUB-021, LC-PUB-023: 1 never arrives, so 2 and 3 wait; re-sent with 1 settled they are stored in order.
        let mut log = log();
        assert_eq!(log.append(0, append(Normal, numbered("i", 2, 1), 0)), Outcome::OutOfOrder);
        assert_eq!(log.append(0, append(Normal, numbered("i", 3, 2), 0)), Outcome::OutOfOrder);
        assert_eq!(stored(log.append(0, append(Normal, numbered("i", 2, 0), 0))).0, 1);
        assert_eq!(stored(log.append(0, append(Normal, numbered("i", 3, 2), 0))).0, 2);
    }

    #[test]
    fn users_instances_and_lanes_have_their_own_watermarks() {
        // LC-PUB-022
        let mut log = log();
        let bob =
            Origin::Numbered { publisher: Publisher { user: "bob".into(), instance: "i".into() }, number: 1, after: 0 };
        stored(log.append(0, append(Normal, numbered("i", 1, 0), 0)));
        stored(log.append(0, append(Normal, numbered("j", 1, 0), 0)));
        stored(log.append(0, append(Urgent, numbered("i", 1, 0), 0)));
        stored(log.append(0, append(Normal, bob, 0)));
    }

    #[test]
    fn a_watermark_lives_its_time_after_the_last_publish() {
        // LC-PUB-024
        let mut log = log();
        stored(log.append(0, append(Normal, numbered("i", 5, 0), 0)));
        stored(log.append(WATERMARK_MS / 2, append(Urgent, numbered("i", 1, 0), 0)));
        let last = WATERMARK_MS / 2 + WATERMARK_MS;
        assert!(matches!(log.append(last - 1, append(Normal, numbered("i", 5, 0), 0)), Outcome::Duplicate { .. }));
        // Afterwards the publisher is one that never published: what names an unsettled number must wait for it.
        assert_eq!(log.append(last, append(Normal, numbered("i", 7, 6), 0)), Outcome::OutOfOrder);
        stored(log.append(last, append(Normal, numbered("i", 6, 0), 0)));
        assert_eq!(log.watermarks_evicted(), 0);
    }

    #[test]
    fn the_publisher_that_was_silent_longest_makes_room_and_is_counted() {
        // LC-PUB-024
        let mut log = RoomLog::new(EPOCH, Retention { events_max: 1, age_ms_max: u64::MAX });
        for at in 0..PUBLISHERS_MAX as u64 {
            stored(log.append(at, append(Normal, numbered(&at.to_string(), 1, 0), 0)));
        }
        let now_ms = PUBLISHERS_MAX as u64;
        stored(log.append(now_ms, append(Normal, numbered("0", 2, 0), 0)));
        assert_eq!(log.watermarks_evicted(), 0);
        stored(log.append(now_ms, append(Normal, numbered("new", 1, 0), 0)));
        assert_eq!(log.watermarks_evicted(), 1);
        assert!(matches!(log.append(now_ms, append(Normal, numbered("0", 2, 0), 0)), Outcome::Duplicate { .. }));
        stored(log.append(now_ms, append(Normal, numbered("1", 1, 0), 0)));
    }

    #[test]
    fn only_so_many_numbers_are_remembered_with_their_seq() {
        let mut log = log();
        let last = NUMBERS_REMEMBERED_MAX as u64 + 1;
        for number in 1..=last {
            stored(log.append(0, append(Normal, numbered("i", number, number - 1), 0)));
        }
        assert_eq!(log.append(0, append(Normal, numbered("i", 1, 0), 0)), Outcome::Duplicate { first: None });
        let Outcome::Duplicate { first: Some(first) } = log.append(0, append(Normal, numbered("i", 2, 1), 0)) else {
            panic!("the second is still remembered");
        };
        assert_eq!((first.seq, first.order), (2, 2));
    }

    #[test]
    fn an_idempotency_key_gives_the_first_answer_for_a_day() {
        // LC-API-005, LC-API-006
        let mut log = log();
        let Outcome::Stored(first) = log.append(0, append(Normal, keyed("k", "a", 1), 0)) else { panic!("stored") };
        let later = IDEMPOTENCY_MS - 1;
        assert_eq!(log.append(later, append(Normal, keyed("k", "a", 1), 0)), Outcome::Replayed(first));
        assert_eq!(log.append(later, append(Normal, keyed("k", "a", 2), 0)), Outcome::KeyConflict);
        stored(log.append(later, append(Normal, keyed("other", "a", 2), 0)));
        stored(log.append(IDEMPOTENCY_MS, append(Normal, keyed("k", "a", 2), 0)));
    }

    #[test]
    fn no_idempotency_key_is_forgotten_early() {
        // LC-API-007
        let mut log = RoomLog::new(EPOCH, Retention { events_max: 1, age_ms_max: u64::MAX });
        for at in 0..IDEMPOTENCY_KEYS_MAX as u64 {
            stored(log.append(at, append(Normal, keyed("k", &at.to_string(), 1), 0)));
        }
        let full = log.append(20_000, append(Normal, keyed("k", "one more", 1), 0));
        assert_eq!(full, Outcome::KeysFull { retry_after_ms: IDEMPOTENCY_MS - 20_000 });
        assert!(matches!(log.append(20_000, append(Normal, keyed("k", "0", 1), 0)), Outcome::Replayed(_)));
        stored(log.append(IDEMPOTENCY_MS, append(Normal, keyed("k", "one more", 1), 0)));
    }

    #[test]
    fn costs_come_and_go_with_what_they_are_for() {
        let mut log = log();
        assert!(log.is_idle());
        stored(log.append(0, append(Normal, numbered("i", 1, 0), 0)));
        stored(log.append(0, append(Bulk, keyed("k", "a", 1), 0)));
        assert!(log.cost() > 0 && !log.is_idle());
        log.set_retention(Retention { events_max: 10, age_ms_max: 1 });
        log.trim(WATERMARK_MS.max(IDEMPOTENCY_MS));
        assert_eq!(log.cost(), 0);
        assert!(log.is_idle());
        assert_eq!(log.head().position, position("7-0-1-1"));
    }
}

mod trimming_and_reading {
    use super::*;

    #[test]
    fn each_lane_keeps_so_many() {
        let mut log = RoomLog::new(EPOCH, Retention { events_max: 2, age_ms_max: u64::MAX });
        store(&mut log, &[Urgent, Normal, Normal, Normal, Normal]);
        let read = log.read(Normal, 0, 10, usize::MAX);
        assert_eq!((read.epoch, read.first, read.head), (EPOCH, 3, 4));
        assert_eq!(read.records.iter().map(|record| record.seq).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(log.head().oldest, position("7-0-2-0"));
    }

    #[test]
    fn what_is_too_old_goes_and_its_seqs_are_not_used_again() {
        let mut log = RoomLog::new(EPOCH, Retention { events_max: 10, age_ms_max: 100 });
        for time_ms in [0, 50, 99] {
            stored(log.append(time_ms, append(Normal, Origin::Unmarked, time_ms)));
        }
        log.trim(150);
        assert_eq!(log.read(Normal, 0, 10, usize::MAX).first, 3);
        log.trim(1000);
        let read = log.read(Normal, 0, 10, usize::MAX);
        assert_eq!((read.first, read.head, read.records.len()), (4, 3, 0));
        assert_eq!(stored(log.append(1000, append(Normal, Origin::Unmarked, 1000))), (4, 4));
    }

    #[test]
    fn a_read_is_bounded_and_makes_progress() {
        let mut log = log();
        store(&mut log, &[Normal; 5]);
        let seqs = |after, records_max, bytes_max| {
            let read = log.read(Normal, after, records_max, bytes_max);
            read.records.iter().map(|record| record.seq).collect::<Vec<_>>()
        };
        assert_eq!(seqs(1, 2, usize::MAX), [2, 3]);
        assert_eq!(seqs(1, 10, 1), [2]);
        let cost = log.read(Normal, 0, 1, 1).records[0].cost();
        assert_eq!(seqs(1, 10, 3 * cost), [2, 3, 4]);
        assert_eq!(seqs(5, 10, usize::MAX), [0; 0]);
        assert_eq!(seqs(99, 10, usize::MAX), [0; 0]);
    }
}

mod starting {
    use super::*;

    fn opened(log: &RoomLog, start: Start) -> String {
        log.open(1000, start).position.to_string()
    }

    #[test]
    fn live_beginning_count_and_duration() {
        // LC-SUB-002, LC-SUB-003, LC-SUB-004
        let mut log = log();
        for (time_ms, lane) in [(100, Normal), (200, Urgent), (300, Normal), (400, Normal)] {
            stored(log.append(time_ms, append(lane, Origin::Unmarked, time_ms)));
        }
        assert_eq!(opened(&log, Start::Live), "7-1-3-0");
        assert_eq!(opened(&log, Start::Beginning), "7-0-0-0");
        assert_eq!(opened(&log, Start::Count(0)), "7-1-3-0");
        assert_eq!(opened(&log, Start::Count(2)), "7-1-1-0");
        assert_eq!(opened(&log, Start::Count(3)), "7-0-1-0");
        assert_eq!(opened(&log, Start::Count(99)), "7-0-0-0");
        assert_eq!(opened(&log, Start::Duration(0)), "7-1-3-0");
        assert_eq!(opened(&log, Start::Duration(700)), "7-1-1-0");
        assert_eq!(opened(&log, Start::Duration(u64::MAX)), "7-0-0-0");
    }

    #[test]
    fn what_was_trimmed_is_left_out_without_a_gap() {
        // LC-SUB-003, LC-SUB-004
        let mut log = RoomLog::new(EPOCH, Retention { events_max: 2, age_ms_max: u64::MAX });
        store(&mut log, &[Normal; 5]);
        for start in [Start::Beginning, Start::Count(4), Start::Duration(u64::MAX)] {
            assert_eq!(opened(&log, start), "7-0-3-0");
        }
    }

    #[test]
    fn a_position_of_the_epoch_is_the_answer() {
        // LC-RES-001, LC-RES-002: also where nothing happened since, and in an empty room.
        let mut log = log();
        let empty = log.resume(position("7-0-0-0"));
        assert!(empty.recovered);
        store(&mut log, &[Normal, Normal]);
        for text in ["7-0-1-0", "7-0-2-0"] {
            let opened = log.open(0, Start::Position(position(text)));
            assert_eq!((opened.position, opened.recovered), (position(text), true));
            assert_eq!(opened.head, position("7-0-2-0"));
        }
        assert!(!log.open(0, Start::Live).recovered, "nothing was asked to be recovered");
    }

    #[test]
    fn a_position_older_than_the_log_is_kept_and_not_recovered() {
        // LC-RES-003
        let mut log = RoomLog::new(EPOCH, Retention { events_max: 2, age_ms_max: u64::MAX });
        store(&mut log, &[Normal; 5]);
        let resumed = log.resume(position("7-0-2-0"));
        assert_eq!(resumed.position, position("7-0-2-0"));
        assert!(!resumed.recovered && resumed.rolled_back.is_empty());
        assert!(log.resume(position("7-0-3-0")).recovered);
    }

    #[test]
    fn an_unknown_epoch_is_lost_without_upper_end() {
        // LC-RES-011
        let mut log = RoomLog::new(EPOCH, Retention { events_max: 2, age_ms_max: u64::MAX });
        store(&mut log, &[Normal; 5]);
        let resumed = log.resume(position("3-1-20-0"));
        assert_eq!(resumed.position, position("7-0-3-0"));
        let open = |lane, from| RolledBack { epoch: 3, lane, from, to: None };
        assert_eq!(resumed.rolled_back, [open(Urgent, 2), open(Normal, 21), open(Bulk, 1)]);
        assert!(!resumed.recovered);
    }

    #[test]
    fn a_position_beyond_the_head_is_cut_back() {
        // LC-RES-012
        let mut log = log();
        store(&mut log, &[Normal, Urgent]);
        let claimed = position("7-1-9-0");
        assert!(log.is_beyond_head(claimed) && !log.is_beyond_head(position("7-1-1-0")));
        let resumed = log.resume(claimed);
        assert_eq!(resumed.position, position("7-1-1-0"));
        assert_eq!(resumed.rolled_back, [lost(7, Normal, 2, 9)]);
        assert_eq!(log.head().position, position("7-1-1-0"), "a claim changes nothing");
    }
}

mod forking {
    use super::*;

    /// A log that had `kept` and `lost`, and was rolled back to `kept`.
    fn rolled_back(kept: &[DurableLane], lost: &[DurableLane], seen: &[Position]) -> (RoomLog, u64) {
        let mut log = log();
        store(&mut log, kept);
        let mut survivor = log.clone();
        store(&mut log, lost);
        let epoch = survivor.open_epoch(20, seen);
        (survivor, epoch)
    }

    #[test]
    fn a_fork_goes_on_from_what_survived() {
        // LC-RES-013: at 105 with the fork at 101.
        let (mut log, epoch) = rolled_back(&[Normal; 100], &[Normal; 5], &[position("7-0-105-0")]);
        assert_eq!(epoch, 20);
        store(&mut log, &[Normal]);
        assert_eq!(log.read(Normal, 100, 9, usize::MAX).records[0].order, 101);
        assert_eq!((log.epoch_of(Normal, 100), log.epoch_of(Normal, 101)), (7, 20));
        let resumed = log.resume(position("7-0-103-0"));
        assert_eq!(resumed.position, position("20-0-100-0"));
        assert_eq!(resumed.rolled_back, [lost(7, Normal, 101, 105)]);
        assert!(!resumed.recovered);
        // Who was before the fork gets what survived, and hears what he will never see.
        let resumed = log.resume(position("7-0-90-0"));
        assert_eq!(resumed.position, position("20-0-90-0"));
        assert_eq!(resumed.rolled_back, [lost(7, Normal, 101, 105)]);
    }

    #[test]
    fn what_only_the_client_saw_is_revoked_too() {
        let (log, _) = rolled_back(&[Normal, Urgent], &[Normal, Urgent], &[]);
        let resumed = log.resume(position("7-2-2-0"));
        assert_eq!(resumed.position, position("20-1-1-0"));
        assert_eq!(resumed.rolled_back, [lost(7, Urgent, 2, 2), lost(7, Normal, 2, 2)]);
    }

    #[test]
    fn nothing_lost_is_nothing_reported() {
        // LC-RES-013: a new replica took over that had everything.
        let (log, _) = rolled_back(&[Normal, Normal], &[], &[position("7-0-2-0")]);
        let resumed = log.resume(position("7-0-1-0"));
        assert_eq!(resumed.position, position("20-0-1-0"));
        assert!(resumed.rolled_back.is_empty() && resumed.recovered);
    }

    #[test]
    fn a_later_node_raises_what_was_lost() {
        let (mut log, _) = rolled_back(&[Normal], &[Normal; 4], &[position("7-0-2-0")]);
        assert_eq!(log.resume(position("7-0-1-0")).rolled_back, [lost(7, Normal, 2, 2)]);
        log.raise_lost_through(&[position("7-0-5-0"), position("20-0-9-0"), position("3-0-9-0")]);
        assert_eq!(log.resume(position("7-0-1-0")).rolled_back, [lost(7, Normal, 2, 5)]);
    }

    #[test]
    fn several_forks_are_crossed_one_after_the_other() {
        let (mut log, _) = rolled_back(&[Normal; 10], &[Normal; 5], &[position("7-0-15-0")]);
        store(&mut log, &[Normal; 10]);
        let mut survivor = log.clone();
        store(&mut log, &[Normal; 3]);
        assert_eq!(survivor.open_epoch(1, &[position("20-0-22-0")]), 21, "epochs rise whatever the candidate says");
        let resumed = survivor.resume(position("7-0-12-0"));
        assert_eq!(resumed.position, position("21-0-10-0"));
        assert_eq!(resumed.rolled_back, [lost(7, Normal, 11, 15), lost(20, Normal, 21, 22)]);
        let resumed = survivor.resume(position("20-0-23-0"));
        assert_eq!(resumed.position, position("21-0-20-0"));
        assert_eq!(resumed.rolled_back, [lost(20, Normal, 21, 23)]);
    }

    #[test]
    fn a_rollback_takes_later_forks_along() {
        // Epoch 20 was opened at 3 and is lost with its fork: who was in it is in an unknown epoch.
        let mut log = log();
        store(&mut log, &[Normal; 2]);
        let mut survivor = log.clone();
        log.open_epoch(20, &[]);
        store(&mut log, &[Normal]);
        survivor.open_epoch(30, &[position("20-0-3-0")]);
        assert_eq!(survivor.resume(position("20-0-3-0")).rolled_back[1].to, None);
        assert_eq!(survivor.resume(position("7-0-2-0")).position, position("30-0-2-0"));
    }

    #[test]
    fn watermarks_roll_back_with_the_events() {
        let mut log = log();
        stored(log.append(0, append(Normal, numbered("i", 1, 0), 0)));
        let mut survivor = log.clone();
        stored(log.append(0, append(Normal, numbered("i", 2, 0), 0)));
        survivor.open_epoch(20, &[]);
        assert_eq!(stored(survivor.append(0, append(Normal, numbered("i", 2, 0), 0))).0, 2);
        let Outcome::Duplicate { first: Some(first) } = survivor.append(0, append(Normal, numbered("i", 1, 0), 0))
        else {
            panic!("number 1 survived");
        };
        assert_eq!(first.epoch, 7, "the epoch whose range holds the event");
    }

    #[test]
    fn the_table_of_forks_is_bounded() {
        let mut log = log();
        for _ in 0..=FORKS_MAX {
            log.open_epoch(0, &[]);
        }
        assert_eq!(log.forks().count(), FORKS_MAX);
        assert_eq!(log.resume(position("7-0-0-0")).rolled_back.len(), 3, "the first epoch is forgotten");
        assert!(log.resume(position("8-0-0-0")).recovered);
    }
}

mod paging {
    use super::*;

    fn query(direction: Direction, events_max: usize) -> HistoryQuery {
        HistoryQuery { direction, cursor: None, lanes: PerLane([true; 3]), events_max, bytes_max: usize::MAX }
    }

    fn orders(page: &Page) -> Vec<u64> {
        page.events.iter().map(|event| event.record.order).collect()
    }

    fn walk(log: &RoomLog, mut query: HistoryQuery) -> Vec<Vec<u64>> {
        let mut pages = Vec::new();
        loop {
            let page = log.history(0, &query);
            pages.push(orders(&page));
            query.cursor = page.next;
            if page.next.is_none() {
                return pages;
            }
        }
    }

    #[test]
    fn pages_merge_the_lanes_by_order_in_both_directions() {
        // LC-HIST-001, LC-HIST-002, LC-HIST-003, LC-HIST-005
        let mut log = log();
        store(&mut log, &[Normal, Urgent, Normal, Bulk, Urgent]);
        assert_eq!(walk(&log, query(Direction::Backward, 2)), [vec![5, 4], vec![3, 2], vec![1]]);
        assert_eq!(walk(&log, query(Direction::Forward, 3)), [vec![1, 2, 3], vec![4, 5]]);
        let urgent = HistoryQuery { lanes: PerLane([true, false, false]), ..query(Direction::Forward, 1) };
        assert_eq!(walk(&log, urgent), [vec![2], vec![5]]);
        let narrow = HistoryQuery { bytes_max: 1, ..query(Direction::Forward, 9) };
        assert_eq!(log.history(0, &narrow).events.len(), 1);
        let page = log.history(0, &query(Direction::Backward, 9));
        assert_eq!((page.head, page.head_order, page.next), (position("7-2-2-1"), 5, None));
    }

    #[test]
    fn an_empty_room_is_an_empty_page() {
        // LC-HIST-011
        let page = log().history(0, &query(Direction::Backward, 9));
        assert!(page.events.is_empty() && page.gaps.is_empty() && page.next.is_none());
        assert_eq!((page.head, page.head_order), (position("7-0-0-0"), 0));
    }

    #[test]
    fn what_was_trimmed_between_the_events_is_a_gap() {
        // LC-HIST-006
        let mut log = RoomLog::new(EPOCH, Retention { events_max: 2, age_ms_max: u64::MAX });
        store(&mut log, &[Normal, Normal, Urgent, Normal, Normal, Normal]);
        let trimmed = PageGap { epoch: EPOCH, lane: Normal, from: 1, to: Some(3), cause: GapCause::Trimmed };
        let page = log.history(0, &query(Direction::Backward, 9));
        assert_eq!((orders(&page), &page.gaps[..]), (vec![6, 5, 3], &[trimmed][..]));
        let page = log.history(0, &query(Direction::Backward, 1));
        assert_eq!((orders(&page), &page.gaps[..]), (vec![6], &[][..]), "not in the range of this page");
        let normal = HistoryQuery { lanes: PerLane([false, true, false]), ..query(Direction::Forward, 1) };
        let first = log.history(0, &normal);
        assert_eq!((orders(&first), &first.gaps[..]), (vec![5], &[trimmed][..]));
        let second = log.history(0, &HistoryQuery { cursor: first.next, ..normal });
        assert_eq!((orders(&second), &second.gaps[..]), (vec![6], &[][..]));
    }

    #[test]
    fn what_expired_is_a_gap() {
        // LC-HIST-012
        let mut log = log();
        for expires_at_ms in [0, 10, 10, 0] {
            log.append(0, Append { expires_at_ms, ..append(Normal, Origin::Unmarked, 0) });
        }
        let expired = PageGap { epoch: EPOCH, lane: Normal, from: 2, to: Some(3), cause: GapCause::Expired };
        for direction in [Direction::Backward, Direction::Forward] {
            let page = log.history(10, &query(direction, 2));
            assert_eq!((page.events.len(), &page.gaps[..], page.next), (2, &[expired][..], None));
            assert_eq!(log.history(9, &query(direction, 9)).events.len(), 4);
        }
    }

    #[test]
    fn a_cursor_follows_the_forks() {
        // LC-HIST-013
        let mut log = log();
        store(&mut log, &[Normal; 3]);
        log.open_epoch(20, &[position("7-0-5-0")]);
        store(&mut log, &[Normal; 2]);
        let at = |direction, epoch, order| {
            log.history(0, &HistoryQuery { cursor: Some(Cursor { epoch, order }), ..query(direction, 9) })
        };
        let revoked = PageGap { epoch: 7, lane: Normal, from: 4, to: Some(5), cause: GapCause::RolledBack };
        let page = at(Direction::Backward, 7, 6);
        assert_eq!((orders(&page), &page.gaps[..]), (vec![3, 2, 1], &[revoked][..]));
        let page = at(Direction::Forward, 7, 5);
        assert_eq!((orders(&page), &page.gaps[..]), (vec![4, 5], &[revoked][..]));
        let page = at(Direction::Forward, 7, 3);
        assert_eq!((orders(&page), page.gaps.len()), (vec![4, 5], 0));
        let epochs: Vec<u64> = at(Direction::Backward, 20, 99).events.iter().map(|event| event.epoch).collect();
        assert_eq!(epochs, [20, 20, 7, 7, 7]);
        // LC-HIST-009
        let page = at(Direction::Forward, 3, 1);
        let unknown = |lane| PageGap { epoch: 3, lane, from: 1, to: None, cause: GapCause::RolledBack };
        assert_eq!((page.events.len(), page.gaps), (5, DurableLane::ALL.map(unknown).to_vec()));
    }
}
