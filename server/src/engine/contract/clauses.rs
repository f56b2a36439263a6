//! One function for each sentence of [`Engine`](crate::engine::Engine)'s docs. The number in the name is the
//! sentence's.

use bytes::Bytes;
use lanecast_protocol::codes::Code;
use lanecast_protocol::log::{Append, Direction, HistoryQuery, Origin, Outcome, Retention, RolledBack, Start};
use lanecast_protocol::position::{DurableLane, PerLane, Position};
use lanecast_protocol::v1;

use super::recorder::Told;
use super::{Bench, Found, KEEP, ROOM, holds, keyed, numbered, revocation, same, signal, stored};
use crate::engine::{
    EngineError, Glance, LEASE_MS, Lease, MemoryOptions, REVOCATIONS_PAGE, ROOM_IDLE_MS, Revocation, Signal, Signalled,
    Subject,
};
use DurableLane::{Bulk, Normal, Urgent};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn text(error: EngineError) -> String {
    error.to_string()
}

fn seqs(position: Position) -> [u64; 3] {
    position.seqs().0
}

pub(super) async fn e1_outcomes_are_one_for_each_item_in_order(bench: &Bench) -> Found {
    let items = [(1, 0), (1, 0), (3, 2), (2, 1)]
        .map(|(number, after)| bench.item_from(Normal, numbered("i", number, after)))
        .to_vec();
    let outcomes = bench.engine.append(ROOM, KEEP, items).await;
    let [Ok(first), Ok(again), Ok(early), Ok(second)] = outcomes[..] else {
        return Err(format!("four outcomes were expected, got {outcomes:?}"));
    };
    let first = stored(first)?;
    same("the first again", again, Outcome::Duplicate { first: Some(first) })?;
    same("before its predecessor", early, Outcome::OutOfOrder)?;
    same("seq of the second", stored(second)?.seq, 2)
}

pub(super) async fn e2_numbers_run_on_by_lane_and_room(bench: &Bench) -> Found {
    let numbers = bench.store(ROOM, &[Normal, Urgent, Normal, Bulk, Normal]).await?;
    let pairs: Vec<_> = numbers.iter().map(|numbers| (numbers.seq, numbers.order)).collect();
    same("seq and order", pairs, vec![(1, 1), (1, 2), (2, 3), (1, 4), (3, 5)])?;
    holds("one epoch", numbers.iter().all(|other| other.epoch == numbers[0].epoch && other.epoch > 0))?;
    let other = bench.store("other", &[Normal]).await?[0];
    same("another room", (other.seq, other.order), (1, 1))
}

pub(super) async fn e3_what_was_stored_is_there(bench: &Bench) -> Found {
    let mut written = Vec::new();
    for number in 0..50_u8 {
        let tail = Bytes::from(vec![number; 100]);
        let item = Append { tail: tail.clone(), expires_at_ms: u64::MAX / 2, ..bench.item(Normal) };
        let numbers = stored(bench.append(ROOM, item.clone()).await?)?;
        written.push((numbers.seq, numbers.order, item.time_ms, item.expires_at_ms, item.event_type, tail));
    }
    let read = bench.engine.read(ROOM, Normal, 0, 1000, usize::MAX).await.map_err(text)?;
    let found: Vec<_> = read
        .records
        .iter()
        .map(|r| (r.seq, r.order, r.time_ms, r.expires_at_ms, r.event_type.clone(), r.tail.clone()))
        .collect();
    same("what a read has", found, written)?;
    same("the head's order", bench.order(ROOM).await?, 50)
}

pub(super) async fn e4_a_used_number_is_a_duplicate(bench: &Bench) -> Found {
    let item = |number, after| bench.item_from(Normal, numbered("i", number, after));
    let first = stored(bench.append(ROOM, item(1, 0)).await?)?;
    stored(bench.append(ROOM, item(5, 0)).await?)?;
    same("the first again", bench.append(ROOM, item(1, 0)).await?, Outcome::Duplicate { first: Some(first) })?;
    same("a number that was left out", bench.append(ROOM, item(3, 0)).await?, Outcome::Duplicate { first: None })?;
    same("events", bench.order(ROOM).await?, 2)?;
    for (what, lane, origin) in [("instance", Normal, numbered("j", 1, 0)), ("lane", Urgent, numbered("i", 1, 0))] {
        let outcome = bench.append(ROOM, bench.item_from(lane, origin)).await?;
        stored(outcome).map_err(|wrong| format!("another {what}: {wrong}"))?;
    }
    bench.advance(DAY_MS - 1);
    let outcome = bench.append(ROOM, item(5, 0)).await?;
    holds("a watermark lives a day", matches!(outcome, Outcome::Duplicate { .. }))
}

pub(super) async fn e5_a_missing_number_is_waited_for(bench: &Bench) -> Found {
    let item = |number, after| bench.item_from(Normal, numbered("i", number, after));
    same("before its predecessor", bench.append(ROOM, item(2, 1)).await?, Outcome::OutOfOrder)?;
    same("events", bench.order(ROOM).await?, 0)?;
    stored(bench.append(ROOM, item(1, 0)).await?)?;
    stored(bench.append(ROOM, item(2, 1)).await?)?;
    same("with two missing", bench.append(ROOM, item(9, 8)).await?, Outcome::OutOfOrder)?;
    stored(bench.append(ROOM, item(9, 2)).await?).map(drop)
}

pub(super) async fn e6_an_idempotency_key_is_used_once(bench: &Bench) -> Found {
    let item = |api_key, key, body| bench.item_from(Normal, keyed(api_key, key, body));
    let first = stored(bench.append(ROOM, item("k", "a", 1)).await?)?;
    bench.advance(1000);
    same("the same body", bench.append(ROOM, item("k", "a", 1)).await?, Outcome::Replayed(first))?;
    same("another body", bench.append(ROOM, item("k", "a", 2)).await?, Outcome::KeyConflict)?;
    same("events", bench.order(ROOM).await?, 1)?;
    stored(bench.append(ROOM, item("k", "b", 2)).await?)?;
    stored(bench.append(ROOM, item("other", "a", 2)).await?)?;
    bench.advance(DAY_MS);
    stored(bench.append(ROOM, item("k", "a", 2)).await?).map(drop)
}

pub(super) async fn e7_retention_keeps_so_many(bench: &Bench) -> Found {
    bench.store(ROOM, &[Normal; 9]).await?;
    bench.store(ROOM, &[Urgent]).await?;
    let narrow = Retention { events_max: 3, ..KEEP };
    let outcomes = bench.engine.append(ROOM, narrow, vec![bench.item(Normal)]).await;
    same("the tenth", stored(outcomes[0].map_err(text)?)?.seq, 10)?;
    same("what is left", bench.read(Normal, 0).await?, (8, vec![8, 9, 10]))?;
    same("the other lane", bench.read(Urgent, 0).await?, (1, vec![1]))
}

pub(super) async fn e7_retention_keeps_so_long(bench: &Bench) -> Found {
    bench.store(ROOM, &[Normal]).await?;
    bench.advance(KEEP.age_ms_max / 2);
    bench.store(ROOM, &[Normal]).await?;
    bench.advance(KEEP.age_ms_max / 2);
    same("what is left", bench.read(Normal, 0).await?, (2, vec![2]))?;
    bench.advance(KEEP.age_ms_max);
    same("nothing is left", bench.read(Normal, 0).await?, (3, vec![]))?;
    same("the numbers go on", bench.store(ROOM, &[Normal]).await?[0].seq, 3)
}

pub(super) async fn e8_a_read_has_no_hole_and_is_bounded(bench: &Bench) -> Found {
    bench.store(ROOM, &[Normal, Urgent, Normal, Normal, Normal]).await?;
    same("all", bench.read(Normal, 0).await?, (1, vec![1, 2, 3, 4]))?;
    same("after 2", bench.read(Normal, 2).await?, (1, vec![3, 4]))?;
    same("after the last", bench.read(Normal, 4).await?, (1, vec![]))?;
    for (records_max, bytes_max, expected) in [(2, usize::MAX, vec![2, 3]), (9, 1, vec![2])] {
        let read = bench.engine.read(ROOM, Normal, 1, records_max, bytes_max).await.map_err(text)?;
        let found = read.records.iter().map(|record| record.seq).collect::<Vec<_>>();
        same(&format!("{records_max} records and {bytes_max} bytes"), found, expected)?;
        same("head", read.head, 4)?;
    }
    Ok(())
}

pub(super) async fn e8_what_was_trimmed_is_seen(bench: &Bench) -> Found {
    let narrow = Retention { events_max: 2, ..KEEP };
    bench.engine.append(ROOM, narrow, vec![bench.item(Normal); 5]).await;
    let read = bench.engine.read(ROOM, Normal, 1, 9, usize::MAX).await.map_err(text)?;
    same("first", read.first, 4)?;
    same("the records begin there", read.records.first().map(|record| record.seq), Some(4))
}

fn page_of(direction: Direction) -> HistoryQuery {
    HistoryQuery { direction, cursor: None, lanes: PerLane([true; 3]), events_max: 2, bytes_max: usize::MAX }
}

pub(super) async fn e9_history_merges_the_lanes(bench: &Bench) -> Found {
    bench.store(ROOM, &[Normal, Urgent, Bulk, Normal, Urgent]).await?;
    let lanes = PerLane([true, true, false]);
    for (direction, expected) in [(Direction::Backward, [5, 4, 2, 1]), (Direction::Forward, [1, 2, 4, 5])] {
        let mut query = HistoryQuery { lanes, ..page_of(direction) };
        let mut orders = Vec::new();
        loop {
            let page = bench.engine.history(ROOM, query).await.map_err(text)?;
            holds("a page is bounded", page.events.len() <= 2)?;
            same("head order", page.head_order, 5)?;
            orders.extend(page.events.iter().map(|event| event.record.order));
            query.cursor = page.next;
            if page.next.is_none() {
                break;
            }
        }
        same(&format!("{direction:?}"), orders, expected.to_vec())?;
    }
    Ok(())
}

pub(super) async fn e9_history_says_what_is_missing(bench: &Bench) -> Found {
    bench.store(ROOM, &[Urgent]).await?;
    let narrow = Retention { events_max: 1, ..KEEP };
    let expiring = Append { expires_at_ms: bench.clock.now_ms() + 1, ..bench.item(Bulk) };
    bench.engine.append(ROOM, narrow, vec![bench.item(Normal), bench.item(Normal), expiring]).await;
    bench.advance(1);
    let query = HistoryQuery { events_max: 9, ..page_of(Direction::Forward) };
    let page = bench.engine.history(ROOM, query).await.map_err(text)?;
    same("events", page.events.iter().map(|event| event.record.order).collect(), vec![1, 3])?;
    let mut gaps: Vec<_> = page.gaps.iter().map(|gap| (gap.lane, gap.from, gap.to, gap.cause)).collect();
    gaps.sort_unstable();
    let expected = vec![(Normal, 1, Some(1), v1::GapCause::Trimmed), (Bulk, 1, Some(1), v1::GapCause::Expired)];
    same("gaps", gaps, expected)
}

pub(super) async fn e10_a_new_room_is_there_and_empty(bench: &Bench) -> Found {
    let head = bench.engine.head("new").await.map_err(text)?;
    holds("it has an epoch", head.position.epoch > 0)?;
    same("its head", (seqs(head.position), head.order), ([0; 3], 0))?;
    let opened = bench.engine.open("new", Start::Live, None).await.map_err(text)?;
    same("it opens there", opened.log.position, head.position)?;
    same("its epoch stays", bench.store("new", &[Normal]).await?[0].epoch, head.position.epoch)?;
    let page = bench.engine.history("newer", page_of(Direction::Backward)).await.map_err(text)?;
    holds("its history is empty", page.events.is_empty() && page.gaps.is_empty() && page.next.is_none())
}

pub(super) async fn e11_the_head_and_the_oldest_position(bench: &Bench) -> Found {
    bench.store(ROOM, &[Urgent]).await?;
    let narrow = Retention { events_max: 2, ..KEEP };
    bench.engine.append(ROOM, narrow, vec![bench.item(Normal); 5]).await;
    let head = bench.engine.head(ROOM).await.map_err(text)?;
    same("head", (seqs(head.position), head.order), ([1, 5, 0], 6))?;
    same("oldest", seqs(head.oldest), [0, 3, 0])?;
    same("one epoch", head.position.epoch, head.oldest.epoch)
}

pub(super) async fn e12_live_beginning_count_and_duration(bench: &Bench) -> Found {
    let narrow = Retention { events_max: 3, ..KEEP };
    for lane in [Normal, Urgent, Normal, Normal, Urgent, Normal] {
        bench.engine.append(ROOM, narrow, vec![bench.item(lane)]).await;
        bench.advance(10);
    }
    for (start, expected) in [
        (Start::Live, [2, 4, 0]),
        (Start::Beginning, [0, 1, 0]),
        (Start::Count(0), [2, 4, 0]),
        (Start::Count(3), [1, 2, 0]),
        (Start::Count(99), [0, 1, 0]),
        (Start::Duration(0), [2, 4, 0]),
        (Start::Duration(25), [1, 3, 0]),
        (Start::Duration(DAY_MS), [0, 1, 0]),
    ] {
        let opened = bench.open(start).await?;
        same(&format!("{start:?}"), seqs(opened.log.position), expected)?;
        same("head", (seqs(opened.log.head), opened.log.head_order), ([2, 4, 0], 6))?;
        holds("nothing was asked to be recovered", !opened.log.recovered && opened.log.rolled_back.is_empty())?;
    }
    Ok(())
}

pub(super) async fn e13_a_position_of_the_epoch(bench: &Bench) -> Found {
    let epoch = bench.store(ROOM, &[Urgent]).await?[0].epoch;
    let narrow = Retention { events_max: 2, ..KEEP };
    bench.engine.append(ROOM, narrow, vec![bench.item(Normal); 5]).await;
    for (normal, recovered) in [(5, true), (4, true), (3, true), (2, false), (0, false)] {
        let asked = Position { epoch, urgent: 1, normal, bulk: 0 };
        let opened = bench.open(Start::Position(asked)).await?.log;
        same("position", opened.position, asked)?;
        same(&format!("recovered at {asked}"), opened.recovered, recovered)?;
        holds("nothing was rolled back", opened.rolled_back.is_empty())?;
    }
    Ok(())
}

pub(super) async fn e14_a_position_of_an_unknown_epoch(bench: &Bench) -> Found {
    let epoch = bench.store(ROOM, &[Normal, Normal]).await?[0].epoch;
    let asked = Position { epoch: epoch - 1, urgent: 7, normal: 1, bulk: 0 };
    let opened = bench.open(Start::Position(asked)).await?.log;
    same("position", opened.position, Position { epoch, ..Position::default() })?;
    holds("not recovered", !opened.recovered)?;
    let lost =
        DurableLane::ALL.map(|lane| RolledBack { epoch: asked.epoch, lane, from: asked.seq(lane) + 1, to: None });
    same("rolled back", opened.rolled_back, lost.to_vec())
}

pub(super) async fn e15_a_position_beyond_the_head(bench: &Bench) -> Found {
    let epoch = bench.store(ROOM, &[Normal, Normal]).await?[0].epoch;
    let asked = Position { epoch, urgent: 0, normal: 9, bulk: 0 };
    let opened = bench.open(Start::Position(asked)).await?.log;
    same("the head's seqs", seqs(opened.position), [0, 2, 0])?;
    holds("not recovered", !opened.recovered)?;
    let [RolledBack { epoch: lost_epoch, lane: Normal, from: 3, to }] = opened.rolled_back[..] else {
        return Err(format!("one range of lane normal from 3 was expected, got {:?}", opened.rolled_back));
    };
    holds("the range covers the claim", lost_epoch == epoch && to.is_none_or(|to| to >= 9))?;
    same("the log goes on", bench.store(ROOM, &[Normal]).await?[0].seq, 3)
}

pub(super) async fn e16_a_forgotten_room_has_a_greater_epoch(bench: &Bench) -> Found {
    let epoch = bench.store(ROOM, &[Normal]).await?[0].epoch;
    bench.advance(ROOM_IDLE_MS + DAY_MS);
    bench.engine.sweep();
    let head = bench.engine.head(ROOM).await.map_err(text)?;
    let is_kept = head.position == Position { epoch, urgent: 0, normal: 1, bulk: 0 };
    holds("a forgotten room is in a greater epoch", is_kept || head.position.epoch > epoch)?;
    let anew = bench.bounded(MemoryOptions::default()).await;
    let after = anew.engine.head(ROOM).await.map_err(text)?.position.epoch;
    holds("an engine without its past is in a greater epoch", after > epoch)
}

pub(super) async fn e20_what_is_stored_is_told_once_in_order(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    let numbers = bench.store(ROOM, &[Normal, Urgent, Normal, Bulk]).await?;
    let told = bench.told().await;
    let mut records = Vec::new();
    for lane in DurableLane::ALL {
        records.extend(bench.engine.read(ROOM, lane, 0, 9, usize::MAX).await.map_err(text)?.records);
    }
    records.sort_by_key(|record| record.order);
    let expected: Vec<Told> = records
        .into_iter()
        .map(|record| Told::Appended { room: ROOM.into(), epoch: numbers[0].epoch, record })
        .collect();
    same("told", told, expected)
}

pub(super) async fn e20_what_is_not_stored_is_not_told(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    for origin in [numbered("i", 1, 0), numbered("i", 1, 0), numbered("i", 3, 2), keyed("k", "a", 1)] {
        bench.append(ROOM, bench.item_from(Normal, origin)).await?;
    }
    for body in [1, 2] {
        bench.append(ROOM, bench.item_from(Normal, keyed("k", "a", body))).await?;
    }
    same("told", bench.told().await.len(), 2)
}

pub(super) async fn e21_only_subscribed_rooms_are_told(bench: &Bench) -> Found {
    bench.store(ROOM, &[Normal]).await?;
    same("before subscribing", bench.told().await, vec![])?;
    bench.subscribe(ROOM).await?;
    bench.subscribe(ROOM).await?;
    bench.store(ROOM, &[Normal]).await?;
    bench.store("other", &[Normal]).await?;
    let told = bench.told().await;
    same("rooms told", told.iter().map(Told::room).collect(), vec![ROOM])?;
    bench.engine.unsubscribe(ROOM).await.map_err(text)?;
    bench.store(ROOM, &[Normal]).await?;
    bench.transient(Normal).await?;
    let live = signal("k", 0, 1, bench.clock.now_ms() + 1000);
    bench.engine.signal(ROOM, live).await.map_err(text)?;
    same("after unsubscribing", bench.told().await, vec![])
}

pub(super) async fn e22_events_are_told_in_the_epoch_that_was_told(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    let mut present = bench.open(Start::Live).await?.log.position.epoch;
    bench.store(ROOM, &[Normal, Urgent]).await?;
    for told in bench.told().await {
        match told {
            Told::Epoch { epoch, .. } => present = epoch,
            Told::Appended { epoch, .. } => same("epoch of an event", epoch, present)?,
            Told::Jumped { .. } | Told::Transient { .. } | Told::Signal { .. } | Told::Missed { .. } => {}
        }
    }
    same("epoch of the head", bench.engine.head(ROOM).await.map_err(text)?.position.epoch, present)
}

pub(super) async fn e30_transients_are_told_and_counted(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    let before = bench.open(Start::Live).await?.transients;
    for lane in [Normal, Urgent, Normal] {
        bench.transient(lane).await?;
    }
    let mut marks = Vec::new();
    for told in bench.told().await {
        let Told::Transient { lane, mark, .. } = told else { return Err(format!("a transient, not {told:?}")) };
        same("source", mark.source, before.source)?;
        marks.push((lane, mark.urgent - before.urgent, mark.normal - before.normal, mark.bulk - before.bulk));
    }
    same("told", marks, vec![(Normal, 0, 1, 0), (Urgent, 1, 1, 0), (Normal, 1, 2, 0)])
}

pub(super) async fn e30_transients_leave_no_trace_in_the_log(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    bench.store(ROOM, &[Normal]).await?;
    bench.transient(Normal).await?;
    let numbers = bench.store(ROOM, &[Normal]).await?[0];
    same("seq and order", (numbers.seq, numbers.order), (2, 2))?;
    same("a read", bench.read(Normal, 0).await?, (1, vec![1, 2]))
}

pub(super) async fn e31_opening_gives_the_mark_of_its_moment(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    bench.open(Start::Live).await?;
    bench.transient(Normal).await?;
    bench.transient(Bulk).await?;
    let mark = bench.open(Start::Live).await?.transients;
    let told = bench.told().await;
    let Some(Told::Transient { mark: last, .. }) = told.last() else { return Err("two transients were told".into()) };
    same("the mark after the last", mark, *last)?;
    holds("a source", mark.source > 0)
}

pub(super) async fn e32_missed_transients_are_known_exactly_or_not_at_all(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    let opened = bench.open(Start::Live).await?;
    let unspecified = v1::MissedKnowledge::Unspecified as i32;
    same("without a mark", opened.missed_transients.knowledge, unspecified)?;
    let mark = opened.transients;
    for (publish, asked, knowledge, count) in [
        (0, mark, v1::MissedKnowledge::None, 0),
        (3, mark, v1::MissedKnowledge::Count, 3),
        (0, v1::TransientMark { normal: mark.normal + 1, ..mark }, v1::MissedKnowledge::Count, 2),
        (0, v1::TransientMark { normal: mark.normal + 99, ..mark }, v1::MissedKnowledge::Unknown, 0),
        (0, v1::TransientMark { source: mark.source ^ 1, ..mark }, v1::MissedKnowledge::Unknown, 0),
    ] {
        for _ in 0..publish {
            bench.transient(Normal).await?;
        }
        let missed = bench.engine.open(ROOM, Start::Live, Some(asked)).await.map_err(text)?.missed_transients;
        same(&format!("{asked:?}"), missed, v1::MissedTransients { knowledge: knowledge.into(), count })?;
    }
    Ok(())
}

async fn signalled(bench: &Bench, signal: Signal, expected: Signalled) -> Found {
    let what = format!("{} at {:?}", signal.key.key, signal.age());
    same(&what, bench.engine.signal(ROOM, signal).await.map_err(text)?, expected)
}

pub(super) async fn e40_the_newest_signal_wins(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    let alive = bench.clock.now_ms() + 1000;
    for (start, counter, expected) in [
        (0, 5, Signalled::Newest),
        (0, 4, Signalled::Stale),
        (0, 5, Signalled::Stale),
        (0, 6, Signalled::Newest),
        (1, 1, Signalled::Newest),
        (0, 9, Signalled::Stale),
    ] {
        signalled(bench, signal("k", start, counter, alive), expected).await?;
    }
    let told: Vec<_> = bench
        .told()
        .await
        .into_iter()
        .filter_map(|told| if let Told::Signal { signal, .. } = told { Some(signal.age()) } else { None })
        .collect();
    same("told", told, vec![(0, 5), (0, 6), (1, 1)])?;
    same("live", bench.live().await?, vec![1])
}

pub(super) async fn e41_live_signals_are_the_newest_of_each_key(bench: &Bench) -> Found {
    let alive = bench.clock.now_ms() + 1000;
    for (key, counter) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
        signalled(bench, signal(key, 0, counter, alive), Signalled::Newest).await?;
    }
    let mut other = signal("a", 0, 1, alive);
    other.key.sender = "bob".into();
    signalled(bench, other, Signalled::Newest).await?;
    same("oldest first", bench.live().await?, vec![2, 3, 4, 1])
}

pub(super) async fn e42_a_clear_ends_the_value_for_good(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    let alive = bench.clock.now_ms() + 1000;
    signalled(bench, signal("k", 0, 1, alive), Signalled::Newest).await?;
    let clear = Signal { clear: true, ..signal("k", 0, 3, alive) };
    signalled(bench, clear, Signalled::Newest).await?;
    same("told", bench.told().await.len(), 2)?;
    signalled(bench, signal("k", 0, 2, alive), Signalled::Stale).await?;
    same("live", bench.live().await?, vec![])
}

pub(super) async fn e43_an_expired_signal_is_gone(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    let now_ms = bench.clock.now_ms();
    signalled(bench, signal("late", 0, 1, now_ms), Signalled::Stale).await?;
    same("told", bench.told().await, vec![])?;
    signalled(bench, signal("k", 0, 5, now_ms + 10), Signalled::Newest).await?;
    bench.advance(10);
    same("live", bench.live().await?, vec![])?;
    bench.engine.sweep();
    signalled(bench, signal("k", 0, 4, now_ms + 1000), Signalled::Stale).await?;
    signalled(bench, signal("k", 0, 6, now_ms + 1000), Signalled::Newest).await
}

pub(super) async fn e44_a_full_table_refuses_further_keys(bench: &Bench) -> Found {
    let bench = bench.bounded(MemoryOptions { room_signals_max: 2, ..MemoryOptions::default() }).await;
    bench.subscribe(ROOM).await?;
    let alive = bench.clock.now_ms() + 1000;
    signalled(&bench, signal("a", 0, 1, alive), Signalled::Newest).await?;
    signalled(&bench, signal("b", 0, 2, alive), Signalled::Newest).await?;
    let refused = bench.engine.signal(ROOM, signal("c", 0, 3, alive)).await;
    same("a third key", refused.map_err(EngineError::code), Err(Code::RateLimited))?;
    signalled(&bench, signal("a", 0, 4, alive), Signalled::Newest).await?;
    same("told", bench.told().await.len(), 3)?;
    bench.advance(60_000);
    let alive = bench.clock.now_ms() + 1000;
    signalled(&bench, signal("c", 0, 5, alive), Signalled::Newest).await
}

pub(super) async fn e50_rooms_are_bounded(bench: &Bench) -> Found {
    let bench = bench.bounded(MemoryOptions { rooms_max: 2, ..MemoryOptions::default() }).await;
    for room in ["a", "b"] {
        bench.store(room, &[Normal]).await?;
    }
    let refused = bench.engine.open("c", Start::Live, None).await.map(drop);
    same("a third room", refused.map_err(EngineError::code), Err(Code::RateLimited))?;
    let outcomes = bench.engine.append("c", KEEP, vec![bench.item(Normal); 2]).await;
    holds("one answer for each item", outcomes.len() == 2 && outcomes.iter().all(Result::is_err))?;
    same("a room that exists", bench.store("a", &[Normal]).await?[0].seq, 2)
}

pub(super) async fn e51_bytes_are_bounded(bench: &Bench) -> Found {
    let bench = bench.bounded(MemoryOptions { bytes_max: 100_000, ..MemoryOptions::default() }).await;
    let item = |bytes| Append { tail: Bytes::from(vec![0; bytes]), ..bench.item(Normal) };
    let outcomes = bench.engine.append(ROOM, KEEP, vec![item(60_000), item(60_000), item(1)]).await;
    let [Ok(first), Err(refused), Ok(small)] = outcomes[..] else {
        return Err(format!("only the second does not fit, got {outcomes:?}"));
    };
    same("code", refused.code(), Code::RateLimited)?;
    same("seqs", (stored(first)?.seq, stored(small)?.seq), (1, 2))?;
    bench.advance(KEEP.age_ms_max);
    bench.engine.sweep();
    stored(bench.append(ROOM, item(60_000)).await?).map(drop)
}

pub(super) async fn e52_sweep_forgets_only_what_nobody_needs(bench: &Bench) -> Found {
    let short = Retention { events_max: 9, age_ms_max: 1 };
    bench.subscribe("subscribed").await?;
    bench.engine.open("opened", Start::Live, None).await.map_err(text)?;
    let alive = bench.clock.now_ms() + 1000;
    bench.engine.signal("signalled", signal("k", 0, 1, alive)).await.map_err(text)?;
    bench.engine.append("numbered", short, vec![bench.item_from(Normal, numbered("i", 1, 0))]).await;
    bench.engine.append("keyed", short, vec![bench.item_from(Normal, keyed("k", "a", 1))]).await;
    bench.engine.append("stored", short, vec![bench.item_from(Normal, Origin::Unmarked)]).await;
    bench.advance(2);
    bench.engine.sweep();
    same("rooms: all but the one that was only opened", bench.engine.stats().rooms, 5)?;
    bench.advance(DAY_MS / 2);
    bench.engine.sweep();
    let again = bench.engine.append("numbered", short, vec![bench.item_from(Normal, numbered("i", 1, 0))]).await;
    holds("a watermark is needed", matches!(again[..], [Ok(Outcome::Duplicate { .. })]))?;
    bench.advance(ROOM_IDLE_MS + DAY_MS);
    bench.engine.sweep();
    let stats = bench.engine.stats();
    same("rooms: only the subscribed one", stats.rooms, 1)?;
    holds("bytes go with their rooms", stats.bytes < 10_000)
}

pub(super) async fn e23_a_glance_is_what_was_told(bench: &Bench) -> Found {
    bench.store(ROOM, &[Normal]).await?;
    same("a room that is not subscribed", bench.engine.glance(ROOM), None)?;
    bench.subscribe(ROOM).await?;
    bench.open(Start::Live).await?;
    bench.store(ROOM, &[Urgent, Normal]).await?;
    bench.transient(Normal).await?;
    bench.told().await;
    let opened = bench.open(Start::Live).await?;
    let expected = Glance { head: opened.log.head, order: opened.log.head_order, transients: opened.transients };
    same("a glance", bench.engine.glance(ROOM), Some(expected))?;
    bench.engine.unsubscribe(ROOM).await.map_err(text)?;
    same("after unsubscribing", bench.engine.glance(ROOM), None)
}

pub(super) async fn e24_nothing_is_jumped_over_while_all_is_well(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    for _ in 0..5 {
        bench.engine.append(ROOM, KEEP, vec![bench.item(Normal); 900]).await;
    }
    let told = bench.told().await;
    same("told one by one", told.iter().filter(|told| matches!(told, Told::Appended { .. })).count(), 4500)?;
    same("all that was told", told.len(), 4500)
}

pub(super) async fn e33_no_transient_is_missed_in_silence(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    let before = bench.open(Start::Live).await?.transients;
    for _ in 0..5 {
        bench.transient(Normal).await?;
    }
    let (mut told, mut missed) = (0, 0);
    for event in bench.told().await {
        match event {
            Told::Transient { mark, .. } => {
                told += 1;
                same("told and missed", told + missed, mark.normal - before.normal)?;
            }
            Told::Missed { count: Some(count), .. } => missed += count,
            other => return Err(format!("expected transients, got {other:?}")),
        }
    }
    same("all", told + missed, 5)
}

pub(super) async fn e60_that_the_store_is_there_is_told_once(bench: &Bench) -> Found {
    bench.store(ROOM, &[Normal]).await?;
    bench.told().await;
    same("the store", bench.sink.reachable(), vec![true])
}

pub(super) async fn e61_that_a_node_follows_the_store_is_told_once(bench: &Bench) -> Found {
    bench.subscribe(ROOM).await?;
    bench.store(ROOM, &[Normal]).await?;
    bench.told().await;
    same("following", bench.sink.following(), vec![true])
}

fn lease(node: &str, connections: u64) -> Lease {
    Lease { node: node.into(), connections, ..Lease::default() }
}

pub(super) async fn e70_leases_are_listed_until_they_end(bench: &Bench) -> Found {
    bench.engine.announce(lease("n", 1)).await.map_err(text)?;
    bench.engine.announce(lease("n", 2)).await.map_err(text)?;
    same("nodes", bench.engine.nodes().await.map_err(text)?, vec![lease("n", 2)])?;
    bench.engine.retire("n").await.map_err(text)?;
    same("after retiring", bench.engine.nodes().await.map_err(text)?, vec![])?;
    bench.engine.announce(lease("n", 3)).await.map_err(text)?;
    bench.advance(LEASE_MS);
    same("after the lease", bench.engine.nodes().await.map_err(text)?, vec![])
}

pub(super) async fn e71_messages_reach_the_nodes_once(bench: &Bench) -> Found {
    bench.engine.announce(lease("n", 1)).await.map_err(text)?;
    for (node, message) in [(None, "all"), (Some("n"), "one"), (Some("other"), "none")] {
        bench.engine.tell(node, Bytes::from(message)).await.map_err(text)?;
    }
    bench.told().await;
    same("messages", bench.sink.messages(), vec![Bytes::from("all"), Bytes::from("one")])
}

pub(super) async fn e80_a_revocation_takes_the_place_of_earlier_ones(bench: &Bench) -> Found {
    let now_ms = bench.clock.now_ms();
    let first = bench.engine.revoke(revocation("ann", now_ms, now_ms + 9_000)).await.map_err(text)?;
    same("first", (first.issued_through_ms, first.until_ms, first.lifted), (now_ms, now_ms + 9_000, false))?;
    let second = bench.engine.revoke(revocation("ann", now_ms - 5, now_ms + 10)).await.map_err(text)?;
    same("reach and end", (second.issued_through_ms, second.until_ms), (now_ms, now_ms + 9_000))?;
    holds("the second one is newer", second.changed_ms > first.changed_ms)?;
    let lift = Revocation { lifted: true, ..revocation("ann", 0, 0) };
    let lifted = bench.engine.revoke(lift).await.map_err(text)?;
    holds("lifted, and newer still", lifted.lifted && lifted.changed_ms > second.changed_ms)?;
    same("a lift lasts as long", lifted.until_ms, now_ms + 9_000)?;
    let again = bench.engine.revoke(revocation("ann", now_ms - 5, now_ms + 10)).await.map_err(text)?;
    same("after a lift", (again.issued_through_ms, again.until_ms, again.lifted), (now_ms - 5, now_ms + 10, false))?;
    for subject in [Subject::Device("ann".into(), "a b".into()), Subject::Token("t:1".into())] {
        let asked = Revocation { subject, ..revocation("", 7, now_ms + 9_000) };
        let kept = bench.engine.revoke(asked.clone()).await.map_err(text)?;
        same("subject", kept.subject, asked.subject)?;
    }
    Ok(())
}

pub(super) async fn e81_changes_are_read_once_in_their_order(bench: &Bench) -> Found {
    let until_ms = bench.clock.now_ms() + 9_000;
    let none = bench.engine.revocations(None).await.map_err(text)?;
    same("an empty store", (none.changes.len(), none.more, none.anew), (0, false, false))?;
    let revoke = async |user: &str, lifted| {
        let change = Revocation { lifted, ..revocation(user, 1, until_ms) };
        bench.engine.revoke(change).await.map_err(text)
    };
    let mut kept = Vec::new();
    for (user, lifted) in [("ann", false), ("bob", false), ("ann", true), ("eve", false)] {
        kept.push(revoke(user, lifted).await?);
    }
    let page = bench.engine.revocations(Some(&none.cursor)).await.map_err(text)?;
    same("each subject once", page.changes, vec![kept[1].clone(), kept[2].clone(), kept[3].clone()])?;
    let nothing = bench.engine.revocations(Some(&page.cursor)).await.map_err(text)?;
    same("after them", (nothing.changes.len(), nothing.anew, nothing.cursor == page.cursor), (0, false, true))?;
    let last = revoke("bob", false).await?;
    let page = bench.engine.revocations(Some(&page.cursor)).await.map_err(text)?;
    same("what changed since", page.changes, vec![last.clone()])?;
    let all = bench.engine.revocations(None).await.map_err(text)?;
    same("all", all.changes, vec![kept[2].clone(), kept[3].clone(), last])
}

pub(super) async fn e81_many_changes_come_in_pages(bench: &Bench) -> Found {
    let until_ms = bench.clock.now_ms() + 9_000;
    let count = REVOCATIONS_PAGE + 3;
    for user in 0..count {
        bench.engine.revoke(revocation(&user.to_string(), 1, until_ms)).await.map_err(text)?;
    }
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = bench.engine.revocations(cursor.as_ref()).await.map_err(text)?;
        holds("a page", page.changes.len() <= REVOCATIONS_PAGE)?;
        found.extend(page.changes);
        cursor = Some(page.cursor);
        if !page.more {
            break;
        }
    }
    let expected: Vec<_> = (0..count).map(|user| Subject::User(user.to_string().into())).collect();
    same("subjects", found.into_iter().map(|change| change.subject).collect(), expected)
}

pub(super) async fn e82_revocations_are_bounded_and_never_forgotten_early(bench: &Bench) -> Found {
    let bench = bench.bounded(MemoryOptions { revocations_max: 2, ..MemoryOptions::default() }).await;
    let now_ms = bench.clock.now_ms();
    for (user, life_ms) in [("ann", 1_000), ("bob", 2_000)] {
        bench.engine.revoke(revocation(user, 1, now_ms + life_ms)).await.map_err(text)?;
    }
    let refused = async || bench.engine.revoke(revocation("eve", 1, now_ms + 9_000)).await.map(drop);
    same("a third subject", refused().await.map_err(EngineError::code), Err(Code::RateLimited))?;
    bench.engine.revoke(revocation("bob", 2, now_ms + 2_000)).await.map_err(text)?;
    bench.advance(999);
    same("before the first one ends", refused().await.map_err(EngineError::code), Err(Code::RateLimited))?;
    bench.advance(1);
    refused().await.map_err(text)?;
    let page = bench.engine.revocations(None).await.map_err(text)?;
    let subjects: Vec<_> = page.changes.into_iter().map(|change| change.subject).collect();
    same("subjects", subjects, vec![Subject::User("bob".into()), Subject::User("eve".into())])
}

pub(super) async fn e83_what_is_handed_in_is_taken_where_it_is_newer(bench: &Bench) -> Found {
    let until_ms = bench.clock.now_ms() + 9_000;
    let older = bench.engine.revoke(revocation("ann", 1, until_ms)).await.map_err(text)?;
    let newer = bench.engine.revoke(revocation("ann", 2, until_ms)).await.map_err(text)?;
    let cursor = bench.engine.revocations(None).await.map_err(text)?.cursor;
    let lost = Revocation { changed_ms: 77, ..revocation("bob", 5, until_ms) };
    bench.engine.restore(vec![older, lost.clone()]).await.map_err(text)?;
    let page = bench.engine.revocations(Some(&cursor)).await.map_err(text)?;
    same("taken", page.changes, vec![lost.clone()])?;
    let newest = Revocation { changed_ms: newer.changed_ms + 1, lifted: true, ..newer };
    bench.engine.restore(vec![newest.clone(), lost]).await.map_err(text)?;
    let page = bench.engine.revocations(Some(&page.cursor)).await.map_err(text)?;
    same("newer", page.changes, vec![newest])
}
