//! What a client keeps of a room: each seq once, gaps in their place, positions.

use serde_json::{Value, json};

use super::case;
use crate::client::short;
use crate::clients::trial::QUIET;
use crate::clients::{ALL, Case, STREAMS, Trial};
use crate::peer::{Conn, Frame, event, gap, position};
use crate::verdict::{Outcome, Stop, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-SDK-001"] "doubled", "An event that comes twice is handed over once.", ALL, [], doubled),
        case!(["LC-SDK-002", "LC-RES-005"] "hole-resubscribes", "Behind a hole the room is subscribed again, once, from received.", ALL, [],
            hole_resubscribes),
        case!(["LC-SDK-002"] "gap-beyond", "A gap beyond the next seq is dropped and the room subscribed again.", ALL, [], gap_beyond),
        case!(["LC-SDK-003"] "gap-in-place", "A gap is handed over in its place, without what was received.", ALL, [], gap_in_place),
        case!(["LC-SDK-003"] "filtered", "FILTERED moves the numbers and is not shown.", ALL, [], filtered),
        case!(["LC-SDK-005"] "resumes-at-received", "After a reconnect a room is resumed at received, in Hello.", ALL, [],
            resumes_at_received),
        case!(["LC-SDK-005"] "rooms-in-hello", "Hello holds as many rooms as limits.rooms allows.", ALL, [], rooms_in_hello),
        case!(["LC-SDK-005"] "stored-position", "After a restart a room is resumed at the stored position.", ALL, [], stored_position),
        case!(["LC-RES-004"] "position-is-taken", "The position moves when the application has acknowledged.", ALL, [], position_is_taken),
        case!(["LC-RES-005", "LC-QUIC-005"] "urgent-window", "An urgent seq more than 64 above received is dropped.", &[crate::client::Transport::Quic], [],
            urgent_window),
        case!(["LC-RES-005"] "urgent-copy", "An urgent event that comes again is dropped, also above received.", STREAMS, [], urgent_copy),
        case!(["LC-RES-005"] "window-kept", "The window of urgent seqs is kept across a reconnect.", STREAMS, [], window_kept),
        case!(["LC-SDK-007"] "transient-gaps", "Missed and dropped transients are gaps of a count.", ALL, [], transient_gaps),
        case!(["LC-SDK-007"] "unknown-missed", "An unknown number of missed transients is told as such.", ALL, [], unknown_missed),
        case!(["LC-RES-021"] "mark-kept", "The mark of transients counts on and is sent again.", ALL, [], mark_kept),
        case!(["LC-RES-021"] "mark-dropped", "A gap of unknown count drops the mark.", ALL, [], mark_dropped),
    ]
}

async fn events(conn: &mut Conn, seqs: &[u64]) -> Outcome {
    for seq in seqs {
        conn.send(&event(1, "normal", *seq)).await?;
    }
    Ok(())
}

async fn doubled(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    events(&mut conn, &[1, 2, 2, 1, 3, 3, 4]).await?;
    t.items(&["1", "2", "3", "4"]).await?;
    t.no_item().await?;
    conn.none("subscribe", QUIET).await
}

fn start(subscribe: &Frame) -> Value {
    subscribe.body["start"]["position"].clone()
}

async fn again_from(conn: &mut Conn, at: &str) -> Outcome<Frame> {
    let again = conn.frame("subscribe").await?;
    check(start(&again) == position(at), || format!("from {} instead of {at}", short(&again.body)))?;
    Ok(again)
}

async fn hole_resubscribes(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    events(&mut conn, &[1, 3, 4]).await?;
    t.items(&["1"]).await?;
    let again = again_from(&mut conn, "7-0-1-0").await?;
    events(&mut conn, &[5]).await?;
    conn.none("subscribe", QUIET).await?;
    t.no_item().await?;
    conn.subscribed(again.id, "r", 1, "7-0-1-0", json!({})).await?;
    if conn.has_streams() {
        // Events do not wait for the answer, which is on another stream.
        conn.listen(QUIET).await?;
    }
    events(&mut conn, &[2, 3, 4, 5]).await?;
    t.items(&["2", "3", "4", "5"]).await
}

async fn gap_beyond(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    events(&mut conn, &[1]).await?;
    conn.send(&gap(1, "normal", 7, 3, 5, "trimmed")).await?;
    t.items(&["1"]).await?;
    let again = again_from(&mut conn, "7-0-1-0").await?;
    conn.subscribed(again.id, "r", 1, "7-0-1-0", json!({})).await?;
    conn.listen(QUIET).await?;
    conn.send(&gap(1, "normal", 7, 2, 5, "trimmed")).await?;
    t.items(&["2-5 trimmed"]).await
}

async fn gap_in_place(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    events(&mut conn, &[1, 2]).await?;
    conn.send(&gap(1, "normal", 7, 1, 4, "expired")).await?;
    events(&mut conn, &[5]).await?;
    t.items(&["1", "2", "3-4 expired", "5"]).await
}

async fn filtered(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    events(&mut conn, &[1]).await?;
    conn.send(&gap(1, "normal", 7, 2, 6, "filtered")).await?;
    events(&mut conn, &[7]).await?;
    t.items(&["1", "7"]).await?;
    conn.none("subscribe", QUIET).await
}

/// Cuts the connection; the next one, with Hello taken.
async fn cut(t: &mut Trial, conn: Conn) -> Outcome<Conn> {
    conn.cut();
    let mut conn = t.accept().await?;
    conn.take_hello().await?;
    Ok(conn)
}

fn subscription(conn: &Conn) -> &Value {
    &conn.hello["subscriptions"][0]
}

async fn resumes_at_received(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    t.subscribe(&mut conn, json!({"onCommand": true, "batchMax": 1}), "7-0-0-0").await?;
    events(&mut conn, &[1, 2, 3]).await?;
    t.items(&["1"]).await?;
    conn.listen(QUIET).await?;
    let conn = cut(t, conn).await?;
    let at = &subscription(&conn)["start"]["position"];
    check(*at == position("7-0-3-0"), || format!("resumed with {} instead of 7-0-3-0", short(subscription(&conn))))
}

async fn rooms_in_hello(t: &mut Trial) -> Outcome {
    t.connect(json!({})).await?;
    let mut conn = t.welcomed(json!({"limits": {"rooms": 2}})).await?;
    for (handle, room) in [(1, "a"), (2, "b")] {
        t.ask_subscribe(json!({ "room": room })).await?;
        let subscribe = conn.frame("subscribe").await?;
        conn.subscribed(subscribe.id, room, handle, "7-0-0-0", json!({})).await?;
    }
    t.ask_subscribe(json!({"room": "c"})).await?;
    conn.listen(QUIET).await?;
    let conn = cut(t, conn).await?;
    let count = conn.hello["subscriptions"].as_array().map_or(0, Vec::len);
    check(count == 2, || format!("{count} rooms in Hello, where the former Welcome allowed 2"))
}

async fn stored_position(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    t.ask_subscribe(json!({"start": "position", "position": "7-4-20-1"})).await?;
    again_from(&mut conn, "7-4-20-1").await?;
    Ok(())
}

async fn position_is_taken(t: &mut Trial) -> Outcome {
    let mut conn = t.live().await?;
    t.subscribe(&mut conn, json!({"onCommand": true, "batchMax": 1}), "7-0-0-0").await?;
    events(&mut conn, &[1]).await?;
    conn.send(&gap(1, "normal", 7, 2, 4, "trimmed")).await?;
    events(&mut conn, &[5]).await?;
    for (item, wanted) in [("1", "7-0-1-0"), ("2-4 trimmed", "7-0-4-0"), ("5", "7-0-5-0")] {
        t.items(&[item]).await?;
        t.no_report("position").await?;
        let command = t.tell(json!({"acknowledge": {"room": "r"}})).await?;
        let told = t.report("position").await?;
        check(told["position"] == wanted, || format!("position {} after {item}", told["position"]))?;
        t.ends(command, "done").await?;
    }
    Ok(())
}

async fn urgent_window(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    conn.send(&event(1, "urgent", 64)).await?;
    t.items(&["urgent 64"]).await?;
    conn.send(&event(1, "urgent", 65)).await?;
    again_from(&mut conn, "7-0-0-0").await?;
    t.no_item().await
}

async fn urgent_copy(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    for (seqs, fresh) in [(&[2, 2][..], "urgent 2"), (&[1], "urgent 1"), (&[1, 2, 3], "urgent 3")] {
        for seq in seqs {
            conn.send(&event(1, "urgent", *seq)).await?;
        }
        t.items(&[fresh]).await?;
    }
    t.no_item().await?;
    conn.none("subscribe", QUIET).await
}

async fn window_kept(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    conn.send(&event(1, "urgent", 2)).await?;
    t.items(&["urgent 2"]).await?;
    let mut conn = cut(t, conn).await?;
    check(subscription(&conn)["start"]["position"] == position("7-0-0-0"), || short(subscription(&conn)))?;
    conn.welcome(json!({})).await?;
    conn.subscribed(0, "r", 1, "7-0-0-0", json!({})).await?;
    conn.send(&event(1, "urgent", 1)).await?;
    t.items(&["urgent 1"]).await?;
    conn.send(&event(1, "urgent", 2)).await?;
    conn.send(&event(1, "urgent", 3)).await?;
    t.items(&["urgent 3"]).await
}

fn transient_gap(count: u64, cause: &str) -> Value {
    json!({"gap": {"handle": 1, "lane": "LANE_NORMAL", "epoch": 7, "count": count, "cause": crate::peer::cause(cause)}})
}

/// A client whose Subscribed bears a mark of transients.
async fn marked(t: &mut Trial, over: Value) -> Outcome<Conn> {
    let mut conn = t.live().await?;
    t.ask_subscribe(json!({})).await?;
    let subscribe = conn.frame("subscribe").await?;
    let mut with = json!({"transients": {"source": 5, "urgent": 1, "normal": 10, "bulk": 2}});
    crate::peer::lay_over(&mut with, &over);
    conn.subscribed(subscribe.id, "r", 1, "7-0-0-0", with).await?;
    Ok(conn)
}

async fn transient_gaps(t: &mut Trial) -> Outcome {
    let over = json!({"missedTransients": {"knowledge": "MISSED_KNOWLEDGE_COUNT", "count": 4}});
    let mut conn = marked(t, over).await?;
    missed(t, 4).await?;
    conn.send(&event(1, "normal", 0)).await?;
    conn.send(&transient_gap(2, "dropped")).await?;
    conn.send(&transient_gap(0, "unknown")).await?;
    t.items(&["t", "count 2 dropped", "count 0 unknown"]).await
}

async fn unknown_missed(t: &mut Trial) -> Outcome {
    let conn = marked(t, json!({"missedTransients": {"knowledge": "MISSED_KNOWLEDGE_UNKNOWN"}})).await?;
    missed(t, 0).await?;
    conn.cut();
    Ok(())
}

/// Missed transients have to be told, by whatever word the SDK has for the cause.
async fn missed(t: &mut Trial, count: u64) -> Outcome {
    let gap = t.report("gap").await?;
    check(gap["count"] == count && gap["from"] == 0, || format!("not {count} transients: {}", short(&gap)))
}

async fn mark_kept(t: &mut Trial) -> Outcome {
    let mut conn = marked(t, json!({})).await?;
    conn.send(&event(1, "normal", 0)).await?;
    conn.send(&event(1, "normal", 0)).await?;
    conn.send(&transient_gap(3, "dropped")).await?;
    t.items(&["t", "t", "count 3 dropped"]).await?;
    let conn = cut(t, conn).await?;
    let mark = &subscription(&conn)["transients"];
    let wanted = json!({"source": 5, "urgent": 1, "normal": 15, "bulk": 2});
    check(*mark == wanted, || format!("the mark is {mark} instead of {wanted}"))
}

async fn mark_dropped(t: &mut Trial) -> Outcome {
    let mut conn = marked(t, json!({})).await?;
    conn.send(&transient_gap(0, "unknown")).await?;
    t.items(&["count 0 unknown"]).await?;
    let conn = cut(t, conn).await?;
    let subscription = subscription(&conn);
    if subscription["room"] != "r" {
        return Err(Stop::fail(format!("not resumed: {}", short(&conn.hello))));
    }
    let dropped = subscription["transients"].is_null() || subscription["transients"]["source"] == 0;
    check(dropped, || format!("the mark is kept: {}", subscription["transients"]))
}
