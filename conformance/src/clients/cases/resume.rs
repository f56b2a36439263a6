//! Other epochs, and what else Subscribed can say.

use serde_json::{Value, json};

use super::case;
use crate::client::short;
use crate::clients::trial::QUIET;
use crate::clients::{ALL, Case, QUIC, Trial};
use crate::peer::{Conn, event, gap, position};
use crate::verdict::{Outcome, check};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(["LC-RES-014", "LC-SDK-006"] "rolled-back", "A new epoch revokes what it lost and goes on above it.", ALL, [], rolled_back),
        case!(["LC-RES-014"] "nothing-lost", "A new epoch that lost nothing is not shown.", ALL, [], nothing_lost),
        case!(["LC-RES-014"] "no-upper-end", "Without an upper end the old handle is ignored.", ALL, [], no_upper_end),
        case!(["LC-RES-014"] "old-handle-counts", "Below position the old handle counts on.", ALL, [], old_handle_counts),
        case!(["LC-SDK-006"] "goes-back-to-the-fork", "After a rollback received goes back to the fork.", ALL, [], back_to_the_fork),
        case!(["LC-RES-015"] "window-over-fork", "Urgent seqs above position are kept only below what is revoked.", QUIC, [],
            window_over_fork),
        case!(["LC-RES-016"] "only-its-answer", "While a Subscribe is unanswered an unasked Subscribed is ignored.", ALL, [],
            only_its_answer),
        case!(["LC-SUB-024"] "degraded", "A Subscribed with cause DEGRADED moves nothing.", ALL, [], degraded),
    ]
}

async fn events(conn: &mut Conn, handle: u64, seqs: &[u64]) -> Outcome {
    for seq in seqs {
        conn.send(&event(handle, "normal", *seq)).await?;
    }
    Ok(())
}

fn lost(lane: &str, from: u64, to: u64) -> Value {
    gap(0, lane, 7, from, to, "rolled_back")["gap"].clone()
}

/// Says unasked that epoch 8 begins, with handle 2.
async fn new_epoch(conn: &mut Conn, at: &str, rolled_back: Value) -> Outcome {
    let over = json!({"cause": "SUBSCRIBED_CAUSE_EPOCH", "recovered": false, "rolledBack": rolled_back});
    conn.subscribed(0, "r", 2, at, over).await
}

/// A client that has the normal seqs 1 to 5 of epoch 7.
async fn with_five(t: &mut Trial) -> Outcome<Conn> {
    let mut conn = t.live_room().await?;
    events(&mut conn, 1, &[1, 2, 3, 4, 5]).await?;
    t.items(&["1", "2", "3", "4", "5"]).await?;
    Ok(conn)
}

async fn rolled_back(t: &mut Trial) -> Outcome {
    let mut conn = with_five(t).await?;
    new_epoch(&mut conn, "8-0-3-0", json!([lost("normal", 4, 5)])).await?;
    t.items(&["4-5 rolled_back"]).await?;
    events(&mut conn, 2, &[4]).await?;
    let item = t.item().await?;
    check(item["event"]["seq"] == 4 && item["event"]["epoch"] == 8, || short(&item))?;
    conn.none("subscribe", QUIET).await
}

async fn nothing_lost(t: &mut Trial) -> Outcome {
    let mut conn = with_five(t).await?;
    new_epoch(&mut conn, "8-0-5-0", json!([])).await?;
    conn.listen(QUIET).await?;
    events(&mut conn, 2, &[6]).await?;
    t.items(&["6"]).await
}

async fn no_upper_end(t: &mut Trial) -> Outcome {
    let mut conn = with_five(t).await?;
    let lanes = [lost("urgent", 1, 0), lost("normal", 6, 0), lost("bulk", 1, 0)];
    new_epoch(&mut conn, "8-0-0-0", json!(lanes)).await?;
    // One for each lane, in whatever order.
    for _ in 0..3 {
        let gap = t.report("gap").await?;
        check(gap["cause"] == "rolled_back" && gap["to"] == 0, || short(&gap))?;
    }
    events(&mut conn, 1, &[6]).await?;
    events(&mut conn, 2, &[1, 2]).await?;
    let item = t.item().await?;
    check(item["event"]["seq"] == 1 && item["event"]["epoch"] == 8, || short(&item))?;
    t.items(&["2"]).await
}

async fn old_handle_counts(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    events(&mut conn, 1, &[1, 2]).await?;
    t.items(&["1", "2"]).await?;
    new_epoch(&mut conn, "8-0-4-0", json!([])).await?;
    conn.listen(QUIET).await?;
    events(&mut conn, 1, &[3, 4]).await?;
    events(&mut conn, 2, &[5]).await?;
    t.items(&["3", "4", "5"]).await?;
    conn.none("subscribe", QUIET).await
}

async fn back_to_the_fork(t: &mut Trial) -> Outcome {
    let mut conn = with_five(t).await?;
    new_epoch(&mut conn, "8-0-3-0", json!([lost("normal", 4, 5)])).await?;
    t.items(&["4-5 rolled_back"]).await?;
    conn.cut();
    let mut conn = t.accept().await?;
    let hello = conn.take_hello().await?;
    let at = &hello["subscriptions"][0]["start"]["position"];
    check(*at == position("8-0-3-0"), || format!("resumed at {at} instead of 8-0-3-0"))
}

async fn window_over_fork(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    for seq in [1, 3, 5] {
        conn.send(&event(1, "urgent", seq)).await?;
        let item = t.item().await?;
        check(item["event"]["seq"] == seq, || short(&item))?;
    }
    new_epoch(&mut conn, "8-1-0-0", json!([lost("urgent", 4, 6)])).await?;
    t.items(&["urgent 4-6 rolled_back"]).await?;
    for seq in [2, 3, 4] {
        conn.send(&event(2, "urgent", seq)).await?;
        conn.listen(QUIET / 5).await?;
    }
    t.items(&["urgent 2", "urgent 4"]).await
}

async fn only_its_answer(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    events(&mut conn, 1, &[1, 3]).await?;
    t.items(&["1"]).await?;
    let again = conn.frame("subscribe").await?;
    let unasked = json!({"cause": "SUBSCRIBED_CAUSE_SERVER"});
    conn.subscribed(0, "r", 9, "7-0-40-0", unasked).await?;
    conn.listen(QUIET).await?;
    conn.subscribed(again.id, "r", 1, "7-0-1-0", json!({})).await?;
    conn.listen(QUIET).await?;
    events(&mut conn, 1, &[2, 3]).await?;
    t.items(&["2", "3"]).await?;
    conn.none("subscribe", QUIET).await
}

async fn degraded(t: &mut Trial) -> Outcome {
    let mut conn = t.live_room().await?;
    events(&mut conn, 1, &[1]).await?;
    t.items(&["1"]).await?;
    let said = |degraded: bool| json!({"cause": "SUBSCRIBED_CAUSE_DEGRADED", "degraded": degraded, "recovered": false});
    conn.subscribed(0, "r", 1, "7-0-50-0", said(true)).await?;
    t.room_state("degraded").await?;
    events(&mut conn, 1, &[2]).await?;
    conn.subscribed(0, "r", 1, "7-0-60-0", said(false)).await?;
    t.room_state("live").await?;
    events(&mut conn, 1, &[3]).await?;
    t.items(&["2", "3"]).await?;
    conn.none("subscribe", QUIET).await
}
